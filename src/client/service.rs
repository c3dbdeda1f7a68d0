//! The client that opens the session and creates the other clients.

use std::sync::Arc;
use std::time::Instant;

use crate::client::blocking_call::{Caller, RestRequest};
use crate::client::create::{self, SamplingSource};
use crate::client::loss;
use crate::client::{
    AdminClient, Client, ClientOwner, Kind, RestClient, SamplingClient, ServiceClientBuilder, TrainingClient,
};
use crate::error::{Error, Result};
use crate::http::endpoint;
use crate::metrics::Metrics;
use crate::pending::Pending;
use crate::policy::telemetry::TelemetryCounts;
use crate::session::{CloseStatus, Dump, Owner, Session, Ticket};
use crate::sync::actor::Actor;
use crate::types::{
    CheckpointPath, CopyOptions, FromStateOptions, LoraConfig, LossGraph, LossHandle, ModelOptions,
    ServerCapabilities, TrainingPath,
};
use crate::wire::json::ServerCapabilitiesResponse;

/// Web console of the Tinker service.
const CONSOLE: &str = "https://tinker.thinkingmachines.ai";

/// Opens a session on a server and creates the clients that train and sample in it.
///
/// Cheap to clone; all clones are the same client. The first call that needs the session opens it, and a thread keeps
/// the session alive with heartbeats. The session ends with [`close`](Self::close). It also ends when the last handle
/// of this client, of all clients created by it, and of their pending operations is dropped.
///
/// # Example: list the server's models
/// ```
/// # #[cfg(feature = "local")] {
/// let server = tinkex::local::Server::start(Default::default())?;
/// let service = tinkex::ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build()?;
/// let models = service.get_server_capabilities()?.supported_models;
/// assert_eq!(models[0].model_name.as_deref(), Some("tinkex/nano"));
/// # }
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone)]
pub struct ServiceClient {
    inner: Arc<Inner>,
}

struct Inner {
    actor: ClientOwner<Asked>,
    owner: Arc<Owner>,
}

/// Messages of the service client's actor. For each message the actor first fetches the server's flags or opens the
/// session, if that has not been done yet.
enum Msg {
    /// Fetch the server's flags.
    Flags(Ticket<()>),
    /// Create a model.
    CreateModel(Box<create::NewModel>),
    /// Create a sampling session.
    CreateSampler(Box<create::NewSampler>),
    /// Create a custom loss.
    CreateLoss(loss::CustomLoss),
}

/// A message with the time at which it was sent.
struct Asked {
    at: Instant,
    msg: Msg,
}

struct ServiceActor {
    session: Arc<Session>,
    losses: Arc<loss::CustomLosses>,
    /// The last failures to fetch the flags, and to open the session.
    flags: LastFailure,
    opening: LastFailure,
}

impl ServiceActor {
    fn fetch_flags(&mut self, asked: Instant) -> Result<()> {
        let session = &self.session;
        self.flags.unless_shared(asked, session, || session.flags().map(|_| ()))
    }

    fn open(&mut self, asked: Instant) -> Result<Arc<str>> {
        self.fetch_flags(asked)?;
        let session = &self.session;
        self.opening.unless_shared(asked, session, || session.open())
    }
}

/// When work failed that later calls need, too, and how. A call that has waited meanwhile fails with the same error: one
/// after the other, many calls to a server that is gone would each wait for all attempts.
#[derive(Default)]
struct LastFailure(Option<(Instant, Error)>);

impl LastFailure {
    /// Does the work, unless it failed since the call was `asked`.
    fn unless_shared<T>(
        &mut self,
        asked: Instant,
        session: &Session,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        if let Some((_, error)) = self.0.as_ref().filter(|(at, _)| asked < *at) {
            return Err(error.clone());
        }
        let result = work();
        // What the server refuses, it refuses at once, and perhaps not to the next call.
        let error = result.as_ref().err().filter(|error| error.is_retryable());
        self.0 = error.map(|error| (session.clock.now(), error.clone()));
        result
    }
}

impl Actor for ServiceActor {
    type Msg = Asked;

    fn turn(&mut self, Asked { at, msg }: Asked) {
        // The actor itself only opens the session. A creation may take minutes: it runs on a pool thread, so that other
        // messages need not wait for it.
        match msg {
            Msg::Flags(ticket) => ticket.answer(self.fetch_flags(at)),
            Msg::CreateModel(job) => match self.open(at) {
                Ok(id) => create::spawn_model(self.session.clone(), id, *job),
                Err(error) => job.ticket.answer(Err(error)),
            },
            Msg::CreateSampler(job) => match self.open(at) {
                Ok(id) => create::spawn_sampler(self.session.clone(), id, *job),
                Err(error) => job.ticket.answer(Err(error)),
            },
            Msg::CreateLoss(job) => match self.open(at) {
                Ok(id) => loss::custom_loss(&self.session, &self.losses, id, job),
                Err(error) => job.ticket.answer(Err(error)),
            },
        }
    }
}

impl ServiceClient {
    /// Returns a builder with default settings.
    pub fn builder() -> ServiceClientBuilder {
        ServiceClientBuilder::default()
    }

    /// Makes a client with all settings from the environment: `TINKER_API_KEY`, `TINKER_BASE_URL` and so on.
    ///
    /// # Errors
    /// As for [`ServiceClientBuilder::build`].
    pub fn from_env() -> Result<Self> {
        Self::builder().build()
    }

    pub(super) fn start(session: Arc<Session>) -> Result<Self> {
        // Create the owner first: if the actor cannot be started, dropping the owner ends the session.
        let owner = Owner::new(session.clone());
        let actor = ServiceActor {
            session: session.clone(),
            losses: Arc::default(),
            flags: LastFailure::default(),
            opening: LastFailure::default(),
        };
        let actor = Client::start(&session, Kind::Service, actor)?;
        Ok(ServiceClient { inner: Arc::new(Inner { actor, owner }) })
    }

    /// Reads the server's capabilities, such as its models (PROTOCOL §3.1 #6).
    ///
    /// # Errors
    /// No connection, a refused key, an account that cannot pay, a closed client;
    /// [`Incompatible`](crate::ErrorKind::Incompatible) from a server without the endpoint.
    ///
    /// # Blocking
    /// For one request, retried for at most `Timeouts::submit`. If the server has never answered, retries end earlier:
    /// after `Timeouts::connect` if no connection can be made, else after `Timeouts::first_contact`.
    pub fn get_server_capabilities(&self) -> Result<ServerCapabilities> {
        const VERB: &str = "ServiceClient.get_server_capabilities";
        let request = RestRequest::new(&endpoint::SERVER_CAPABILITIES, endpoint::SERVER_CAPABILITIES.path());
        Caller::new(self).json::<ServerCapabilitiesResponse>(VERB, request).map(Into::into)
    }

    /// Creates a model to train: a new LoRA adapter on a base model (PROTOCOL §3.3 #10).
    ///
    /// # Errors
    /// A configuration without trainable layers (nothing is sent), a rank or a base model that the server rejects, no
    /// connection.
    ///
    /// # Blocking
    /// Until the server has created the model, at most `Timeouts::operation`.
    ///
    /// # Example: a small adapter
    /// ```
    /// # #[cfg(feature = "local")] {
    /// # let server = tinkex::local::Server::start(Default::default())?;
    /// # let service = tinkex::ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build()?;
    /// use tinkex::types::LoraConfig;
    ///
    /// let lora = LoraConfig { rank: 8, ..Default::default() };
    /// let training = service.create_lora_training_client("tinkex/nano", lora)?;
    /// assert_eq!(training.get_info().lora_rank, Some(8));
    /// # }
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub fn create_lora_training_client(&self, base_model: &str, lora: LoraConfig) -> Result<TrainingClient> {
        self.create_lora_training_client_with(base_model, lora, &ModelOptions::default())
    }

    /// As [`create_lora_training_client`](Self::create_lora_training_client), with metadata, another optimizer, or
    /// additional fields for servers that need them.
    ///
    /// # Errors
    /// As for [`create_lora_training_client`](Self::create_lora_training_client); also an unknown version of an
    /// optimizer, or an extra field that replaces a regular one (nothing is sent).
    ///
    /// # Blocking
    /// As for [`create_lora_training_client`](Self::create_lora_training_client).
    ///
    /// # Example: metadata to find the run by
    /// ```
    /// # #[cfg(feature = "local")] {
    /// # let server = tinkex::local::Server::start(Default::default())?;
    /// # let service = tinkex::ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build()?;
    /// use tinkex::types::ModelOptions;
    ///
    /// let note = Some([("recipe".to_string(), "pig latin".to_string())].into());
    /// let options = ModelOptions { user_metadata: note, ..Default::default() };
    /// let training = service.create_lora_training_client_with("tinkex/nano", Default::default(), &options)?;
    /// let run = service.create_rest_client().get_training_run(training.model_id())?;
    /// assert_eq!(run.user_metadata["recipe"], "pig latin");
    /// # }
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub fn create_lora_training_client_with(
        &self,
        base_model: &str,
        lora: LoraConfig,
        options: &ModelOptions,
    ) -> Result<TrainingClient> {
        self.create_training(create::ModelSource::new(base_model, lora, options)?)
    }

    /// Creates a model to train from saved weights, with a new optimizer state. The adapter has the same rank and
    /// layers as the saved adapter.
    ///
    /// # Errors
    /// A path that is not the path of a training state (nothing is sent), a checkpoint that does not exist, no
    /// connection.
    ///
    /// # Blocking
    /// As for [`create_lora_training_client`](Self::create_lora_training_client).
    pub fn create_training_client_from_state<P>(&self, path: P) -> Result<TrainingClient>
    where
        P: TryInto<TrainingPath>,
        Error: From<P::Error>,
    {
        self.create_training_client_from_state_with(path, &FromStateOptions::default())
    }

    /// As [`create_training_client_from_state`](Self::create_training_client_from_state), with metadata, an access
    /// token of the checkpoint's owner, another optimizer, or the saved optimizer state.
    ///
    /// # Errors
    /// As for [`create_training_client_from_state`](Self::create_training_client_from_state); also a request for
    /// another optimizer together with the saved optimizer state (nothing is sent).
    ///
    /// # Blocking
    /// As for [`create_lora_training_client`](Self::create_lora_training_client).
    pub fn create_training_client_from_state_with<P>(
        &self,
        path: P,
        options: &FromStateOptions,
    ) -> Result<TrainingClient>
    where
        P: TryInto<TrainingPath>,
        Error: From<P::Error>,
    {
        self.create_training(create::ModelSource::saved(path.try_into()?, options)?)
    }

    /// Creates a model to train from saved weights and the saved optimizer state: training continues as if it had not
    /// been interrupted.
    ///
    /// # Errors
    /// As for [`create_training_client_from_state`](Self::create_training_client_from_state).
    ///
    /// # Blocking
    /// As for [`create_lora_training_client`](Self::create_lora_training_client).
    pub fn create_training_client_from_state_with_optimizer<P>(&self, path: P) -> Result<TrainingClient>
    where
        P: TryInto<TrainingPath>,
        Error: From<P::Error>,
    {
        let options = FromStateOptions { restore_optimizer: true, ..FromStateOptions::default() };
        self.create_training_client_from_state_with(path, &options)
    }

    /// Creates a client that samples from a base model, given by name, or from saved weights, given by their
    /// `tinker://` path. Some servers also accept the path of a training state.
    ///
    /// # Errors
    /// A malformed path (nothing is sent), an unknown model, no connection;
    /// [`Incompatible`](crate::ErrorKind::Incompatible) from a server without sampling. On a server without the
    /// endpoint `samplers/{id}` this call may succeed for a path that does not exist; the first sample then fails.
    ///
    /// # Blocking
    /// For one or two requests, each retried for at most `Timeouts::submit`.
    pub fn create_sampling_client<M>(&self, model: M) -> Result<SamplingClient>
    where
        M: TryInto<SamplingSource>,
        Error: From<M::Error>,
    {
        let created = self.submit_sampler(model.try_into()?)?.wait()?;
        SamplingClient::start_at(self.inner.owner.clone(), created, 0)
    }

    /// Registers a custom loss with the session (PROTOCOL §9.6). A server that supports custom losses computes the loss
    /// in one pass. For other servers the client computes the loss between two passes, with the same result. Use the
    /// returned handle like any other loss: [`forward_backward(data, &loss)`](TrainingClient::forward_backward).
    ///
    /// Each loss is created once per session: a later call with the same graph returns the same handle.
    ///
    /// # Errors
    /// Through the [`Pending`]: a graph that the server rejects, no connection.
    ///
    /// # Blocking
    /// Only while the mailbox is full. If the session is not open yet, it is opened in the background.
    ///
    /// # Example: the negative log-likelihood
    /// ```
    /// # #[cfg(feature = "local")] {
    /// # let server = tinkex::local::Server::start(Default::default())?;
    /// # let service = tinkex::ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build()?;
    /// # let training = service.create_lora_training_client("tinkex/nano", Default::default())?;
    /// use tinkex::types::{Datum, LossFn, LossGraph};
    ///
    /// let graph = LossGraph::trace("neg_ll", &[("logprobs", 1), ("weights", 1)], |it| {
    ///     let loss = -(it.logprobs() * it.input("weights")).sum();
    ///     it.metric("custom/neg_ll:sum", loss);
    ///     loss
    /// })?;
    /// let loss = service.create_custom_loss(graph).wait()?;
    /// let data = || vec![Datum::cross_entropy(&[1, 2], &[3, 4])];
    /// let mine = training.forward(data(), &loss).wait()?;
    /// let same = training.forward(data(), LossFn::CrossEntropy).wait()?;
    /// let [mine_sum, same_sum] = [&mine, &same].map(|it| it.loss().unwrap_or(f64::NAN));
    /// assert!((mine_sum - same_sum).abs() < 1e-3);
    /// assert_eq!(mine.metrics.get("custom/neg_ll:sum"), Some(&mine_sum));
    /// # }
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub fn create_custom_loss(&self, graph: impl Into<Arc<LossGraph>>) -> Pending<LossHandle> {
        const VERB: &str = "ServiceClient.create_custom_loss";
        let session = self.session();
        if let Err(error) = session.check_open() {
            return Pending::failed(VERB, error);
        }
        let (ticket, pending) = session.ticket(VERB, &session.cancel);
        let job = loss::CustomLoss { graph: graph.into(), ticket };
        match self.send(Msg::CreateLoss(job), pending.deadline()) {
            Ok(()) => pending.keeping(self.inner.owner.clone()),
            Err(error) => Pending::failed(VERB, error),
        }
    }

    /// Creates a client that lists and manages training runs, checkpoints and sessions. Nothing is sent. Neither this
    /// call nor the calls of the new client open a session.
    pub fn create_rest_client(&self) -> RestClient {
        RestClient::new(self)
    }

    /// Creates a client that reads the audit log, usage and costs. Nothing is sent, and no session is opened.
    pub fn create_admin_client(&self) -> AdminClient {
        AdminClient::new(self)
    }

    /// Copies a checkpoint into this client's project or another one, and returns the path of the copy (PROTOCOL §3.5
    /// #36). The copy has the same kind as the original and shares its storage. It belongs to a new training run, which
    /// cannot be trained.
    ///
    /// # Errors
    /// As for [`RestClient::copy_weights`].
    ///
    /// # Blocking
    /// As for [`RestClient::copy_weights`].
    ///
    /// # Example: copy into another project
    /// ```no_run
    /// # fn example(service: tinkex::ServiceClient) -> tinkex::Result<()> {
    /// use tinkex::types::CopyOptions;
    ///
    /// let options = CopyOptions { destination_project_id: Some("team".into()), ..Default::default() };
    /// let copy = service.copy_weights("tinker://run/sampler_weights/final", &options)?;
    /// println!("{copy}");
    /// # Ok(())
    /// # }
    /// ```
    pub fn copy_weights<P>(&self, path: P, options: &CopyOptions) -> Result<CheckpointPath>
    where
        P: TryInto<CheckpointPath>,
        Error: From<P::Error>,
    {
        self.create_rest_client().copy("ServiceClient.copy_weights", path.try_into()?, options)
    }

    /// Returns the address of the session's page in the web console, or of the page of all sessions if the session is
    /// not open yet. The address is that of the Tinker service's console, even if the client uses another server
    /// (PROTOCOL §1.1). Nothing is sent.
    ///
    /// # Example: before the session is open
    /// ```
    /// # let service = tinkex::ServiceClient::builder().api_key("tml-x").base_url("http://127.0.0.1:9").build()?;
    /// assert_eq!(service.get_console_url(), "https://tinker.thinkingmachines.ai/sessions");
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub fn get_console_url(&self) -> String {
        match self.session().id() {
            Some(id) => format!("{CONSOLE}/sessions/{id}"),
            None => format!("{CONSOLE}/sessions"),
        }
    }

    /// Metrics of this client: requests, latencies, operations in flight.
    pub fn metrics(&self) -> &Metrics {
        &self.session().config.seeing.metrics
    }

    /// Takes a snapshot of the operations in flight of all clients of this service, and of its threads. Print it when
    /// the program seems to hang. Nothing is sent, and the call does not block.
    ///
    /// # Example: print it
    /// ```
    /// # let service = tinkex::ServiceClient::builder().api_key("tml-x").base_url("http://127.0.0.1:9").build()?;
    /// println!("{}", service.dump());
    /// assert!(service.dump().operations.is_empty());
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub fn dump(&self) -> Dump {
        self.session().dump()
    }

    /// Counts of queued, delivered and dropped telemetry events. `None` unless [`ServiceClientBuilder::telemetry`] or
    /// `TINKER_TELEMETRY` enables telemetry.
    pub fn telemetry(&self) -> Option<TelemetryCounts> {
        self.session().telemetry.as_ref().map(|telemetry| telemetry.counts())
    }

    /// Ends the session on the server and all its clients: all operations in flight return an error. A second call does
    /// nothing; if the first call is still in progress on another thread, it waits for the end of that call.
    ///
    /// # Errors
    /// The end of the session could not be reported to the server. The client is closed nevertheless.
    ///
    /// # Blocking
    /// At most `Timeouts::finish` (10 s). If the server does not answer, or answers 408, 429 or 5xx, the report is
    /// retried for 8 s.
    pub fn close(&self, status: CloseStatus) -> Result<()> {
        self.session().close(status, None)
    }

    /// As [`close`](Self::close), with a text for the server's records, such as the reason of a failure.
    ///
    /// # Errors
    /// The end of the session could not be reported to the server. The client is closed nevertheless.
    ///
    /// # Blocking
    /// At most `Timeouts::finish` (10 s). If the server does not answer, or answers 408, 429 or 5xx, the report is
    /// retried for 8 s.
    ///
    /// # Example: report a failure
    /// ```
    /// # #[cfg(feature = "testing")] {
    /// # let server = tinkex::testing::FakeServer::new();
    /// # let service = server.in_memory().build()?;
    /// use tinkex::CloseStatus;
    ///
    /// service.close_with(CloseStatus::Errored, "the data set ended early")?;
    /// # }
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub fn close_with(&self, status: CloseStatus, detail: impl AsRef<str>) -> Result<()> {
        self.session().close(status, Some(detail.as_ref()))
    }

    /// As [`create_lora_training_client_with`](Self::create_lora_training_client_with), without waiting for the server.
    #[cfg(feature = "ffi")]
    pub(crate) fn start_lora_training_client(
        &self,
        base_model: &str,
        lora: LoraConfig,
        options: &ModelOptions,
    ) -> Result<Pending<TrainingClient>> {
        self.start_training(create::ModelSource::new(base_model, lora, options)?)
    }

    /// As [`create_training_client_from_state_with`](Self::create_training_client_from_state_with), without waiting for
    /// the server.
    pub(crate) fn start_training_client_from_state(
        &self,
        path: &str,
        options: &FromStateOptions,
    ) -> Result<Pending<TrainingClient>> {
        self.start_training(create::ModelSource::saved(path.try_into()?, options)?)
    }

    /// Starts the client on the thread that delivers the created model.
    fn start_training(&self, source: create::ModelSource) -> Result<Pending<TrainingClient>> {
        let owner = self.inner.owner.clone();
        Ok(self.submit_model(source)?.and_then(|created| TrainingClient::start(owner, created)))
    }

    fn create_training(&self, source: create::ModelSource) -> Result<TrainingClient> {
        let created = self.submit_model(source)?.wait()?;
        TrainingClient::start(self.inner.owner.clone(), created)
    }

    fn submit_model(&self, source: create::ModelSource) -> Result<Pending<create::CreatedModel>> {
        let session = self.session();
        session.check_open()?;
        let (ticket, pending) = session.ticket(source.verb(), &session.cancel);
        self.send(Msg::CreateModel(Box::new(create::NewModel { source, ticket })), pending.deadline())?;
        Ok(pending)
    }

    /// As [`create_sampling_client`](Self::create_sampling_client), without waiting for the server.
    #[cfg(feature = "ffi")]
    pub(crate) fn start_sampling_client(&self, source: SamplingSource) -> Result<Pending<SamplingClient>> {
        let owner = self.inner.owner.clone();
        let started = self.submit_sampler(source)?;
        Ok(started.and_then(|created| SamplingClient::start_at(owner, created, 0)))
    }

    fn submit_sampler(&self, source: SamplingSource) -> Result<Pending<create::CreatedSampler>> {
        let session = self.session();
        session.check_open()?;
        let (ticket, pending) = session.ticket("ServiceClient.create_sampling_client", &session.cancel);
        self.send(Msg::CreateSampler(Box::new(create::NewSampler { source, ticket })), pending.deadline())?;
        Ok(pending)
    }

    /// The id of the session, if it is open.
    #[cfg(feature = "ffi")]
    pub(crate) fn session_id(&self) -> Option<String> {
        self.session().id().map(|id| id.to_string())
    }

    /// Waits until the server's flags, which decide how requests are authenticated, have been fetched.
    pub(super) fn fetch_flags(&self, verb: &'static str) -> Result<()> {
        let session = self.session();
        session.check_open()?;
        let (ticket, flags) = session.part(verb, &session.cancel);
        self.send(Msg::Flags(ticket), flags.deadline())?;
        flags.wait()
    }

    fn send(&self, msg: Msg, deadline: Option<Instant>) -> Result<()> {
        let session = self.session();
        self.inner.actor.send(session, Asked { at: session.clock.now(), msg }, deadline)
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        self.inner.owner.session()
    }
}

impl std::fmt::Debug for ServiceClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ServiceClient").field(self.session()).finish()
    }
}
