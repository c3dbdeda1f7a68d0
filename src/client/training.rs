//! The client that trains a model.

use std::sync::Arc;

use crate::client::create::CreatedModel;
use crate::client::{Client, Hold};
use crate::error::{Error, Result};
use crate::pending::{OwnThread, Pending};
use crate::session::{Owner, Session, Ticket};
use crate::sync::actor::Actor;
use crate::types::{
    CustomLoss, Datum, ForwardBackwardOutput, LoadStateOutput, Loss, LossFn, ModelInfo, OptimStepOutput,
    OptimizerParams, SaveStateOutput, SaveWeightsExternalOutput, TrainingPath,
};
use crate::wire::json;

mod custom;
mod pass;
mod save;
mod submit;
mod train_step;

pub use train_step::TrainStep;

use custom::Custom;
use pass::Pass;
use submit::{Ask, Sequencer};

const FORWARD_BACKWARD: &str = "TrainingClient.forward_backward";
const OPTIM_STEP: &str = "TrainingClient.optim_step";

/// Trains one model. Operations run on the server in the order of the calls that submitted them, whichever threads
/// made them.
///
/// Cheap to clone; all clones are the same client. Each verb submits and returns a [`Pending`] at once, so that the
/// next operation can be submitted before the result of the last one is there.
///
/// # Example: one step
/// ```
/// # #[cfg(feature = "local")] {
/// # let server = tinkex::local::Server::start(Default::default())?;
/// # let service = tinkex::ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build()?;
/// use tinkex::types::{AdamParams, Datum, LossFn};
///
/// let training = service.create_lora_training_client("tinkex/nano", Default::default())?;
/// let data = vec![Datum::cross_entropy(&[1, 2], &[3, 4])];
/// let step = training.forward_backward(data, LossFn::CrossEntropy);
/// let update = training.optim_step(AdamParams { learning_rate: 1e-3, ..Default::default() });
/// let loss = step.wait()?.metrics["loss:sum"];
/// update.wait()?;
/// assert!(0.0 < loss);
/// # }
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone)]
pub struct TrainingClient {
    inner: Arc<Inner>,
}

struct Inner {
    info: ModelInfo,
    actor: Hold<Msg>,
    /// Where the caller's own loss function runs, if it does.
    loss_thread: OwnThread,
    owner: Arc<Owner>,
}

/// Everything that a training client can be asked to do.
enum Msg {
    Pass(Step),
    OptimStep(Ask<OptimStepOutput>),
    TrainStep(Step, Ask<OptimStepOutput>),
    SaveState(Ask<SaveStateOutput>),
    LoadState(Ask<LoadStateOutput>),
    SaveWeights(Ask<json::SaveWeightsForSamplerResponse>),
    SaveExternal(Ask<SaveWeightsExternalOutput>),
}

/// A pass, with a loss of the server's or with one that is computed here.
enum Step {
    Pass(Box<Pass>),
    Custom(Box<Custom>),
}

struct TrainingActor {
    sequencer: Sequencer,
}

impl TrainingActor {
    fn step(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Pass(pass) => self.sequencer.pass(*pass),
            Step::Custom(custom) => self.sequencer.custom(*custom),
        }
    }
}

impl Actor for TrainingActor {
    type Msg = Msg;

    fn turn(&mut self, msg: Msg) {
        match msg {
            // Whoever waits for it is told of a failure.
            Msg::Pass(step) => drop(self.step(step)),
            Msg::TrainStep(step, ask) => match self.step(step) {
                Ok(()) => self.sequencer.ask(ask),
                Err(error) => ask.ticket.answer(Err(train_step::not_sent(error))),
            },
            Msg::OptimStep(ask) => self.sequencer.ask(ask),
            Msg::SaveState(ask) => self.sequencer.ask(ask),
            Msg::LoadState(ask) => self.sequencer.ask(ask),
            Msg::SaveWeights(ask) => self.sequencer.ask(ask),
            Msg::SaveExternal(ask) => self.sequencer.ask(ask),
        }
    }
}

impl TrainingClient {
    pub(super) fn start(owner: Arc<Owner>, created: CreatedModel) -> Result<Self> {
        let CreatedModel { info, first_seq_id } = created;
        let session = owner.session();
        let sequencer = Sequencer::new(session.clone(), info.model_id.clone(), first_seq_id);
        let actor = Client::start(session, "train", TrainingActor { sequencer })?;
        let loss_thread = OwnThread::default();
        Ok(TrainingClient { inner: Arc::new(Inner { info, actor, loss_thread, owner }) })
    }

    /// What the server knows of the model. Nothing is sent: it was asked when the client was made.
    pub fn get_info(&self) -> &ModelInfo {
        &self.inner.info
    }

    /// The model's id, which is also the id of its training run.
    pub fn model_id(&self) -> &str {
        &self.inner.info.model_id
    }

    /// Runs the model on data and reports the loss and the log-probabilities of the targets, without gradients
    /// (PROTOCOL §3.3 #12). Large data is split into several requests and their results are joined.
    ///
    /// # Errors
    /// Through the [`Pending`]: bad data with the path of the value (nothing is sent, the client stays usable), or
    /// what the server says of it.
    ///
    /// # Blocking
    /// Only while the mailbox is full, that is, while 1024 operations wait to be submitted.
    pub fn forward(&self, data: Vec<Datum>, loss: impl Into<Loss>) -> Pending<ForwardBackwardOutput> {
        self.pass("TrainingClient.forward", data, loss.into(), true)
    }

    /// As [`forward`](Self::forward), and adds the gradients of the loss to those that the next
    /// [`optim_step`](Self::optim_step) will use.
    ///
    /// # Errors
    /// As for [`forward`](Self::forward). If data was split and only some parts were accepted, the error says how many
    /// ([`Error::accepted_parts`]): their gradients stay on the server.
    ///
    /// # Blocking
    /// As for [`forward`](Self::forward).
    pub fn forward_backward(
        &self,
        data: Vec<Datum>,
        loss: impl Into<Loss>,
    ) -> Pending<ForwardBackwardOutput> {
        self.pass(FORWARD_BACKWARD, data, loss.into(), false)
    }

    /// As [`forward_backward`](Self::forward_backward), with a loss that the caller computes (PROTOCOL §9.6). The function
    /// gets the data and, for each, the log-probabilities of its `target_tokens` (row-major if they have two dimensions),
    /// and returns the loss with its derivative by each of them. That takes two passes on the server, a forward one and
    /// one that applies the gradients; operations that are submitted meanwhile keep their place behind both.
    ///
    /// The result is that of the second pass. Among its metrics, `loss:sum` is the caller's loss, `surrogate_loss:sum` the
    /// server's, and the caller's own are added.
    ///
    /// A loss that can be written as tensor operations needs no gradients by hand, and runs on servers that support it: see
    /// [`ServiceClient::create_custom_loss`](crate::ServiceClient::create_custom_loss).
    ///
    /// The function runs on a thread of its own. It must not wait for an operation that is submitted to this client behind it.
    /// Waiting for one that it submitted itself is an error at once; one of another thread's would be waited for until the
    /// deadline.
    ///
    /// # Errors
    /// As for [`forward_backward`](Self::forward_backward); also [`ErrorKind::CustomLoss`](crate::ErrorKind::CustomLoss) if the function returns an error,
    /// [`ErrorKind::Panicked`](crate::ErrorKind::Panicked) if it panics, and a violation such as `gradients[2]` if its gradients do not fit the data.
    /// A failure between the two passes, cancelling included, poisons the client, because what was submitted behind
    /// the call counts on its gradients. Dropping the [`Pending`] changes nothing.
    ///
    /// # Blocking
    /// As for [`forward`](Self::forward).
    ///
    /// # Example: cross-entropy with a square
    /// ```
    /// # #[cfg(feature = "local")] {
    /// # let server = tinkex::local::Server::start(Default::default())?;
    /// # let service = tinkex::ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build()?;
    /// # let training = service.create_lora_training_client("tinkex/nano", Default::default())?;
    /// use tinkex::types::{CustomLoss, Datum};
    ///
    /// let data = vec![Datum::cross_entropy(&[1, 2], &[3, 4])];
    /// let step = training.forward_backward_custom(data, |_data, logprobs| {
    ///     let loss = logprobs.iter().flat_map(|it| it.iter()).map(|it| f64::from(it * it)).sum();
    ///     let gradients = logprobs.iter().map(|it| it.iter().map(|it| 2.0 * it).collect()).collect();
    ///     Ok::<_, tinkex::Error>(CustomLoss::new(loss, gradients))
    /// });
    /// assert!(0.0 < step.wait()?.metrics["loss:sum"]);
    /// # }
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub fn forward_backward_custom<F, E>(&self, data: Vec<Datum>, loss: F) -> Pending<ForwardBackwardOutput>
    where
        F: FnOnce(&[Datum], &[&[f32]]) -> std::result::Result<CustomLoss, E> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        const VERB: &str = "TrainingClient.forward_backward_custom";
        if let Err(error) = self.check_pass(&data, &LossFn::CrossEntropy.into()) {
            return Pending::failed(VERB, error);
        }
        let thread = self.inner.loss_thread.clone();
        let loss = Box::new(move |data: &[Datum], logprobs: &[&[f32]]| {
            thread.run(|| loss(data, logprobs)).map_err(|it| custom::failed(it.into()))
        });
        self.submit(VERB, |ticket| {
            Msg::Pass(Step::Custom(Box::new(Custom { ticket, data, loss, forward_only: false })))
        })
    }

    /// Changes the weights by the gradients that were gathered, and clears those (PROTOCOL §3.3 #14). The parameters are
    /// those of the optimizer that the model was made with: [`AdamParams`](crate::types::AdamParams) unless
    /// [`ModelOptions`](crate::types::ModelOptions) said otherwise.
    ///
    /// # Errors
    /// Through the [`Pending`]: a parameter out of its range (nothing is sent), or what the server says.
    ///
    /// # Blocking
    /// As for [`forward`](Self::forward).
    pub fn optim_step(&self, params: impl Into<OptimizerParams>) -> Pending<OptimStepOutput> {
        let params = params.into();
        if let Err(error) = params.validate() {
            return Pending::failed(OPTIM_STEP, error);
        }
        self.ask(OPTIM_STEP, Msg::OptimStep, |ticket| optim_step(ticket, params))
    }

    /// One training step: [`forward_backward`](Self::forward_backward) and [`optim_step`](Self::optim_step), both
    /// submitted before this returns, so that the server can do them in one go. No operation of another thread comes
    /// between them. If the data is not accepted, the optimizer's step is not sent either: it would move the weights
    /// without the gradients.
    ///
    /// # Errors
    /// Through the two [`Pending`]s, as for the two verbs.
    ///
    /// # Blocking
    /// As for [`forward`](Self::forward).
    ///
    /// # Example: submit the next step before reading the last one
    /// ```
    /// # #[cfg(feature = "local")] {
    /// # let server = tinkex::local::Server::start(Default::default())?;
    /// # let service = tinkex::ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build()?;
    /// # let training = service.create_lora_training_client("tinkex/nano", Default::default())?;
    /// use tinkex::types::{AdamParams, Datum, LossFn};
    ///
    /// let adam = AdamParams { learning_rate: 1e-2, ..Default::default() };
    /// let batch = || vec![Datum::cross_entropy(&[1, 2], &[3, 4])];
    /// let first = training.train_step(batch(), LossFn::CrossEntropy, adam.clone());
    /// let second = training.train_step(batch(), LossFn::CrossEntropy, adam);
    /// let before = first.wait()?.0.metrics["loss:sum"];
    /// let after = second.wait()?.0.metrics["loss:sum"];
    /// assert!(after < before);
    /// # }
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub fn train_step(
        &self,
        data: Vec<Datum>,
        loss: impl Into<Loss>,
        params: impl Into<OptimizerParams>,
    ) -> TrainStep {
        let (loss, params) = (loss.into(), params.into());
        let fine = self.check_pass(&data, &loss).and_then(|()| params.validate());
        if let Err(error) = fine {
            return TrainStep {
                forward_backward: Pending::failed(FORWARD_BACKWARD, error.clone()),
                optim_step: Pending::failed(OPTIM_STEP, error),
            };
        }
        let (session, actor) = (self.session(), &self.inner.actor);
        let (pass, forward_backward) = session.ticket(FORWARD_BACKWARD, &actor.cancel);
        let (update, step) = session.ticket(OPTIM_STEP, &actor.cancel);
        let msg = Msg::TrainStep(self.step(pass, data, loss, false), optim_step(update, params));
        match actor.mailbox.send(msg, step.deadline()) {
            Ok(()) => TrainStep {
                forward_backward: self.submitted(forward_backward),
                optim_step: self.submitted(step),
            },
            Err(error) => TrainStep {
                forward_backward: Pending::failed(FORWARD_BACKWARD, error.clone()),
                optim_step: Pending::failed(OPTIM_STEP, error),
            },
        }
    }

    /// Loads saved weights into this model; the optimizer starts afresh. Servers allow it only as a model's first
    /// operation; `ServiceClient::create_training_client_from_state` is the better way.
    ///
    /// # Errors
    /// Through the [`Pending`]: a path that is not a training state (nothing is sent), or what the server says.
    ///
    /// # Blocking
    /// As for [`forward`](Self::forward).
    pub fn load_state<P>(&self, path: P) -> Pending<LoadStateOutput>
    where
        P: TryInto<TrainingPath>,
        Error: From<P::Error>,
    {
        self.load("TrainingClient.load_state", path.try_into().map_err(Error::from), false)
    }

    /// As [`load_state`](Self::load_state), with the optimizer's state.
    ///
    /// # Errors
    /// As for [`load_state`](Self::load_state).
    ///
    /// # Blocking
    /// As for [`forward`](Self::forward).
    pub fn load_state_with_optimizer<P>(&self, path: P) -> Pending<LoadStateOutput>
    where
        P: TryInto<TrainingPath>,
        Error: From<P::Error>,
    {
        self.load("TrainingClient.load_state_with_optimizer", path.try_into().map_err(Error::from), true)
    }

    /// Ends this client and nothing else: operations that are queued or in flight return an error, later calls
    /// return one at once. The model stays on the server. Closing again does nothing.
    ///
    /// # Blocking
    /// Until the client's thread ended, at most `Timeouts::close`.
    pub fn close(&self) {
        self.inner.actor.close(self.session());
    }

    fn session(&self) -> &Arc<Session> {
        self.inner.owner.session()
    }

    fn check_pass(&self, data: &[Datum], loss: &Loss) -> Result<()> {
        loss.validate()?;
        if let LossFn::Traced(handle) = &loss.loss_fn
            && self.session().id().as_deref() != Some(handle.session_id())
        {
            let problem = format!("{} was created in another session", handle.name());
            return Err(Error::invalid("loss", problem));
        }
        check_data(data)?;
        data.iter().enumerate().try_for_each(|(i, it)| loss.loss_fn.check(it, &format!("data[{i}]")))?;
        match &loss.loss_fn {
            LossFn::Traced(handle) => handle.graph().rehearse(data),
            _ => Ok(()),
        }
    }

    fn pass(
        &self,
        verb: &'static str,
        data: Vec<Datum>,
        loss: Loss,
        forward_only: bool,
    ) -> Pending<ForwardBackwardOutput> {
        if let Err(error) = self.check_pass(&data, &loss) {
            return Pending::failed(verb, error);
        }
        self.submit(verb, |ticket| Msg::Pass(self.step(ticket, data, loss, forward_only)))
    }

    /// A traced loss runs where its handle says.
    fn step(
        &self,
        ticket: Ticket<ForwardBackwardOutput>,
        data: Vec<Datum>,
        loss: Loss,
        forward_only: bool,
    ) -> Step {
        match loss.resolve() {
            Ok(loss) => {
                let data = self.pack(data);
                Step::Pass(Box::new(Pass { ticket, data, loss, forward_only }))
            }
            Err(graph) => {
                let loss =
                    Box::new(move |data: &[Datum], logprobs: &[&[f32]]| graph.evaluate(data, logprobs));
                Step::Custom(Box::new(Custom { ticket, data, loss, forward_only }))
            }
        }
    }

    /// Makes the tensors those that are sent.
    fn pack(&self, mut data: Vec<Datum>) -> Vec<Datum> {
        let dense = self.session().config.dense_tensors;
        data.iter_mut().for_each(|it| it.pack(dense));
        data
    }

    fn load(
        &self,
        verb: &'static str,
        path: Result<TrainingPath>,
        optimizer: bool,
    ) -> Pending<LoadStateOutput> {
        let path = match path {
            Ok(it) => it,
            Err(error) => return Pending::failed(verb, error),
        };
        self.ask(verb, Msg::LoadState, |ticket| Ask {
            ticket,
            path: "/api/v1/load_weights",
            request_type: "LoadWeights",
            body: Box::new(move |model_id, seq_id| {
                json::encode(&json::LoadWeightsRequest::into_model(
                    model_id,
                    seq_id,
                    path.as_str(),
                    optimizer,
                ))
            }),
            read: |body| {
                Ok(LoadStateOutput { path: json::response::<json::LoadWeightsResponse>(body)?.path })
            },
        })
    }

    fn ask<T: Send + 'static>(
        &self,
        verb: &'static str,
        wrap: fn(Ask<T>) -> Msg,
        ask: impl FnOnce(Ticket<T>) -> Ask<T>,
    ) -> Pending<T> {
        self.submit(verb, |ticket| wrap(ask(ticket)))
    }

    /// Puts a message into the mailbox. Whatever happens to it, its ticket answers.
    fn submit<T: Send + 'static>(
        &self,
        verb: &'static str,
        message: impl FnOnce(Ticket<T>) -> Msg,
    ) -> Pending<T> {
        let actor = &self.inner.actor;
        let (ticket, pending) = self.session().ticket(verb, &actor.cancel);
        match actor.mailbox.send(message(ticket), pending.deadline()) {
            Ok(()) => self.submitted(pending),
            Err(error) => Pending::failed(verb, error),
        }
    }

    fn submitted<T: Send + 'static>(&self, pending: Pending<T>) -> Pending<T> {
        pending.keeping(self.inner.owner.clone()).behind(&self.inner.loss_thread)
    }
}

impl std::fmt::Debug for TrainingClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrainingClient").field("info", &self.inner.info).finish_non_exhaustive()
    }
}

fn optim_step(ticket: Ticket<OptimStepOutput>, params: OptimizerParams) -> Ask<OptimStepOutput> {
    Ask {
        ticket,
        path: "/api/v1/optim_step",
        request_type: "OptimStep",
        body: Box::new(|model_id, seq_id| {
            json::encode(&json::OptimStepRequest::new(model_id, seq_id, params))
        }),
        read: |body| Ok(json::response::<json::OptimStepResponse>(body)?.into()),
    }
}

fn check_data(data: &[Datum]) -> Result<()> {
    if data.is_empty() {
        return Err(Error::invalid("data", "is empty"));
    }
    data.iter().enumerate().try_for_each(|(i, it)| it.validate(&format!("data[{i}]")))
}
