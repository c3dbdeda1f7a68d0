//! The client that makes the others.

use std::sync::Arc;
use std::time::Instant;

use crate::client::asking::{Ask, Asker};
use crate::client::create::{self, SamplingSource};
use crate::client::loss;
use crate::client::{
    AdminClient, Client, Hold, RestClient, SamplingClient, ServiceClientBuilder, TrainingClient,
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
use crate::wire::json::{CreateModelRequest, ServerCapabilitiesResponse};

/// Where people look at their sessions.
const CONSOLE: &str = "https://tinker.thinkingmachines.ai";

/// The entry to a server: opens a session there and makes the clients that train and sample in it.
///
/// Cheap to clone; all clones are the same client. The session is opened by the first call that needs it, is kept
/// alive by heartbeats from a thread of its own, and ends with [`close`](Self::close) or with the last handle of it
/// and of every client and pending operation made from it.
///
/// # Example: what does the server offer?
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
    actor: Hold<Msg>,
    owner: Arc<Owner>,
}

/// What the service's actor does: everything that must happen once and in order at the start of a session.
enum Msg {
    /// Learn the server's flags.
    Flags(Ticket<()>),
    /// Make a model.
    CreateModel(Box<create::Model>),
    /// Make a sampling session.
    CreateSampler(Box<create::Sampler>),
    /// Make a custom loss.
    CreateLoss(loss::CustomLoss),
}

struct ServiceActor {
    session: Arc<Session>,
    losses: Arc<loss::CustomLosses>,
}

impl Actor for ServiceActor {
    type Msg = Msg;

    fn turn(&mut self, msg: Msg) {
        // Only the start of the session happens here. Making a client may take minutes and runs on the pool, so that
        // it never holds up another.
        match msg {
            Msg::Flags(ticket) => ticket.answer(self.session.flags().map(|_| ())),
            Msg::CreateModel(job) => match self.session.open() {
                Ok(id) => create::model(self.session.clone(), id, *job),
                Err(error) => job.ticket.answer(Err(error)),
            },
            Msg::CreateSampler(job) => match self.session.open() {
                Ok(id) => create::sampler(self.session.clone(), id, *job),
                Err(error) => job.ticket.answer(Err(error)),
            },
            Msg::CreateLoss(job) => match self.session.open() {
                Ok(id) => loss::custom_loss(&self.session, &self.losses, id, job),
                Err(error) => job.ticket.answer(Err(error)),
            },
        }
    }
}

impl ServiceClient {
    /// Sets up a client.
    pub fn builder() -> ServiceClientBuilder {
        ServiceClientBuilder::default()
    }

    /// A client with everything from the environment: `TINKER_API_KEY`, `TINKER_BASE_URL` and so on.
    ///
    /// # Errors
    /// As for [`ServiceClientBuilder::build`].
    pub fn from_env() -> Result<Self> {
        Self::builder().build()
    }

    pub(super) fn start(session: Arc<Session>) -> Result<Self> {
        // Made first, so that the session is ended if there is no thread.
        let owner = Owner::new(session.clone());
        let actor = ServiceActor { session: session.clone(), losses: Arc::default() };
        let actor = Client::start(&session, "serv", actor)?;
        Ok(ServiceClient { inner: Arc::new(Inner { actor, owner }) })
    }

    /// What the server offers (PROTOCOL §3.1 #6).
    ///
    /// # Errors
    /// No connection, a refused key, an account that cannot pay, a closed client;
    /// [`Incompatible`](crate::ErrorKind::Incompatible) from a server that does not say what it offers.
    ///
    /// # Blocking
    /// For one request, repeated for at most `Timeouts::submit`; a server that was never reached is given up after
    /// `Timeouts::connect`.
    pub fn get_server_capabilities(&self) -> Result<ServerCapabilities> {
        const VERB: &str = "ServiceClient.get_server_capabilities";
        let ask = Ask::new(&endpoint::SERVER_CAPABILITIES, endpoint::SERVER_CAPABILITIES.path());
        Asker::new(self).json::<ServerCapabilitiesResponse>(VERB, ask).map(Into::into)
    }

    /// Makes a model to train: a new LoRA adapter on a base model (PROTOCOL §3.3 #10).
    ///
    /// # Errors
    /// Nothing to train (nothing is sent), a rank or a base model that the server does not take, no connection.
    ///
    /// # Blocking
    /// Until the server made the model, at most `Timeouts::operation`.
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
    /// what a server wants to know besides.
    ///
    /// # Errors
    /// As there; also a version of an optimizer that does not exist, or an extra field that is not one (nothing is sent).
    ///
    /// # Blocking
    /// As for [`create_lora_training_client`](Self::create_lora_training_client).
    ///
    /// # Example: a note to find the run by
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
        const VERB: &str = "ServiceClient.create_lora_training_client";
        lora.validate()?;
        options.validate(&CreateModelRequest::FIELDS)?;
        if base_model.is_empty() {
            return Err(Error::invalid("base_model", "is empty"));
        }
        let options = options.clone();
        self.create_training(VERB, create::Start::New { base_model: base_model.into(), lora, options })
    }

    /// Makes a model to train from the weights of a saved one; the optimizer starts afresh. The adapter has the shape
    /// of the saved one.
    ///
    /// # Errors
    /// A path that is not a training state (nothing is sent), a checkpoint that does not exist, no connection.
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

    /// As [`create_training_client_from_state`](Self::create_training_client_from_state), with metadata, an owner's
    /// permission, another optimizer or the saved one.
    ///
    /// # Errors
    /// As there; also another optimizer together with the saved one (nothing is sent).
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
        let path = path.try_into()?;
        options.validate()?;
        let verb = match options.restore_optimizer {
            true => "ServiceClient.create_training_client_from_state_with_optimizer",
            false => "ServiceClient.create_training_client_from_state",
        };
        self.create_training(verb, create::Start::From { path, options: options.clone() })
    }

    /// Makes a model to train from a saved one, with the state of its optimizer: training goes on as if it had never
    /// stopped.
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

    /// Makes a client that samples, from a base model's name or from the `tinker://` path of saved weights. Whether it can also
    /// be that of a training state is left to the server.
    ///
    /// # Errors
    /// What is no path of weights (nothing is sent), an unknown model, no connection;
    /// [`Incompatible`](crate::ErrorKind::Incompatible) from a server that does not sample. One that does not tell about
    /// samplers (`samplers/{id}`) says only to the first sample that a path does not exist.
    ///
    /// # Blocking
    /// For one or two requests, each repeated for at most `Timeouts::submit`.
    pub fn create_sampling_client<M>(&self, model: M) -> Result<SamplingClient>
    where
        M: TryInto<SamplingSource>,
        Error: From<M::Error>,
    {
        let source = model.try_into()?;
        let session = self.session();
        session.check_open()?;
        let (ticket, pending) = session.ticket("ServiceClient.create_sampling_client", &session.cancel);
        self.tell(Msg::CreateSampler(Box::new(create::Sampler { source, ticket })), pending.deadline())?;
        let sampler = pending.wait()?;
        SamplingClient::start_at(self.inner.owner.clone(), sampler, 0)
    }

    /// Makes a loss of one's own known to the session (PROTOCOL §9.6). Where the server supports it, it then runs there, in one
    /// pass; otherwise it is computed here, in two passes, with the same result. Train with it as with any other loss:
    /// [`forward_backward(data, &loss)`](TrainingClient::forward_backward).
    ///
    /// A loss is created once in a session: the same graph again gives the same handle.
    ///
    /// # Errors
    /// Through the [`Pending`]: what the server has against the graph, no connection.
    ///
    /// # Blocking
    /// Only while the mailbox is full. The first call of a session opens it, for which the [`Pending`] waits.
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
        match self.tell(Msg::CreateLoss(job), pending.deadline()) {
            Ok(()) => pending.keeping(self.inner.owner.clone()),
            Err(error) => Pending::failed(VERB, error),
        }
    }

    /// Makes a client that lists and manages training runs, checkpoints and sessions. Nothing is sent, and no session is
    /// opened, not even by its calls.
    pub fn create_rest_client(&self) -> RestClient {
        RestClient::new(self)
    }

    /// Makes a client that reads the audit log and what was used. Nothing is sent, and no session is opened.
    pub fn create_admin_client(&self) -> AdminClient {
        AdminClient::new(self)
    }

    /// Copies a checkpoint into this client's project, or another one: storage is shared, the copy keeps its kind and belongs
    /// to a run of its own that cannot be trained (PROTOCOL §3.5 #36). Returns where the copy is.
    ///
    /// # Errors
    /// As for [`RestClient::copy_weights`].
    ///
    /// # Blocking
    /// As for [`RestClient::copy_weights`].
    ///
    /// # Example: a copy for the team
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

    /// Where the session can be looked at in a browser, for people; before there is a session, where all of them can. It is
    /// an address of the Tinker service, whatever the server (PROTOCOL §1.1). Nothing is sent.
    ///
    /// # Example: print it
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

    /// The numbers that this client keeps: requests, latencies, operations in flight.
    pub fn metrics(&self) -> &Metrics {
        &self.session().config.seeing.metrics
    }

    /// Everything that is in flight now, of all clients of this service, and the threads that work for it: what to print
    /// when something seems to hang. Nothing is sent and nothing is waited for.
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

    /// How many events this client reported of its own use, and what became of them. `None` unless
    /// [`ServiceClientBuilder::telemetry`] or `TINKER_TELEMETRY` asks for reports.
    pub fn telemetry(&self) -> Option<TelemetryCounts> {
        self.session().telemetry.as_ref().map(|it| it.counts())
    }

    /// Ends the session on the server and everything here: every operation that is still in flight, of any client of
    /// this service, returns an error. Closing again does nothing, but waits for a thread that is at it.
    ///
    /// # Errors
    /// The server could not be told. The client is closed all the same.
    ///
    /// # Blocking
    /// At most `Timeouts::finish` (10 s): a server that does not answer, or answers 408, 429 or 5xx, is told again for 8 s of it.
    pub fn close(&self, status: CloseStatus) -> Result<()> {
        self.session().close(status, None)
    }

    /// As [`close`](Self::close), with a word about the end for the server's records.
    ///
    /// # Errors
    /// The server could not be told. The client is closed all the same.
    ///
    /// # Blocking
    /// At most `Timeouts::finish` (10 s): a server that does not answer, or answers 408, 429 or 5xx, is told again for 8 s of it.
    ///
    /// # Example: say why
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

    fn create_training(&self, verb: &'static str, start: create::Start) -> Result<TrainingClient> {
        let session = self.session();
        session.check_open()?;
        let (ticket, pending) = session.ticket(verb, &session.cancel);
        self.tell(Msg::CreateModel(Box::new(create::Model { start, ticket })), pending.deadline())?;
        let created = pending.wait()?;
        TrainingClient::start(self.inner.owner.clone(), created)
    }

    /// Waits until the server's flags are known, which decide what credential it wants.
    pub(super) fn learn_flags(&self, verb: &'static str) -> Result<()> {
        let session = self.session();
        session.check_open()?;
        let (ticket, flags) = session.part(verb, &session.cancel);
        self.tell(Msg::Flags(ticket), flags.deadline())?;
        flags.wait()
    }

    fn tell(&self, msg: Msg, deadline: Option<Instant>) -> Result<()> {
        self.inner.actor.mailbox.send(msg, deadline)
    }

    pub(super) fn session(&self) -> &Arc<Session> {
        self.inner.owner.session()
    }
}

impl std::fmt::Debug for ServiceClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ServiceClient").field(self.session()).finish()
    }
}
