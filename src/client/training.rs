//! The client that trains a model.

use std::sync::Arc;
use std::time::Instant;

use crate::client::create::CreatedModel;
use crate::client::{Client, Hold};
use crate::error::{Error, ErrorKind, Result};
use crate::http::endpoint;
use crate::loss::linear as surrogate;
use crate::pending::{OwnThread, Pending};
use crate::session::{Owner, Session, Ticket};
use crate::sync::actor::Actor;
use crate::sync::process::forked;
use crate::types::{
    Datum, DenseRoom, ForwardBackwardOutput, LoadStateOutput, Loss, LossFn, ModelInfo, OptimStepOutput,
    OptimizerParams, SaveStateOutput, SaveWeightsExternalOutput,
};
use crate::wire::json;

mod custom;
mod load;
mod pass;
mod save;
mod submit;
mod train_step;
mod unload;

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
/// let loss = step.wait()?.loss_per_token();
/// update.wait()?;
/// assert!(loss.is_some_and(|it| 0.0 < it));
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
    Unload(Ask<()>),
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
            Msg::Unload(ask) => self.sequencer.ask(ask),
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
    /// what the server says of it; [`Decode`](crate::ErrorKind::Decode) if it sent another number of outputs than of data, or of
    /// log-probabilities than of targets.
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
        if self.session().config.dense_tensors {
            let mut room = room(data);
            data.iter().enumerate().try_for_each(|(i, it)| it.take_room(&mut room, &format!("data[{i}]")))?;
        }
        data.iter().enumerate().try_for_each(|(i, it)| loss.loss_fn.check(it, &format!("data[{i}]")))?;
        match &loss.loss_fn {
            LossFn::Traced(handle) => {
                handle.graph().rehearse(data)?;
                match handle.loss_id() {
                    Some(_) => Ok(()),
                    None => surrogate::check_room(data, &mut room(data)),
                }
            }
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
        mut data: Vec<Datum>,
        loss: Loss,
        forward_only: bool,
    ) -> Step {
        if let LossFn::Traced(handle) = &loss.loss_fn {
            data.iter_mut().for_each(|it| handle.keep_inputs(it));
        }
        match loss.resolve() {
            Ok(loss) => {
                let data = self.pack(data);
                Step::Pass(Box::new(Pass { ticket, data, loss, forward_only }))
            }
            Err(graph) => {
                let session = self.session().clone();
                let loss = Box::new(move |data: &[Datum], logprobs: &[&[f32]]| {
                    let work = graph.work(logprobs.iter().map(|it| it.len()).sum());
                    session.compute(work, |parallel| graph.evaluate_shared(data, logprobs, parallel))
                });
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
        if self.session().is_foreign() {
            return Pending::failed(verb, forked());
        }
        let (ticket, pending) = self.session().ticket(verb, &self.inner.actor.cancel);
        match self.put(message(ticket), pending.deadline()) {
            Ok(()) => self.submitted(pending),
            Err(error) => Pending::failed(verb, error),
        }
    }

    /// Puts a message into the mailbox, for which room is waited for, except by a loss function that keeps the actor from making
    /// room.
    fn put(&self, msg: Msg, deadline: Option<Instant>) -> Result<()> {
        let mailbox = &self.inner.actor.mailbox;
        if !self.inner.loss_thread.is_this() {
            return mailbox.send(msg, deadline);
        }
        mailbox.try_send(msg).map_err(|it| match it.is_timeout() {
            true => Error::new(
                ErrorKind::CustomLoss,
                "a custom loss cannot submit to its own client while the client's mailbox is full: there will be room only \
                 when the loss is there",
            ),
            false => it,
        })
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
        endpoint: &endpoint::OPTIM_STEP,
        request_type: "OptimStep",
        body: Box::new(|model_id, seq_id| {
            json::encode(&json::OptimStepRequest::new(model_id, seq_id, params))
        }),
        read: |body| Ok(body.read::<json::OptimStepResponse>()?.into()),
        named: None,
    }
}

/// The memory that all data of a call may take with the zeros of their tensors written out.
fn room(data: &[Datum]) -> DenseRoom {
    DenseRoom::of(data.iter().map(Datum::n_bytes).sum())
}

fn check_data(data: &[Datum]) -> Result<()> {
    if data.is_empty() {
        return Err(Error::invalid("data", "is empty"));
    }
    data.iter().enumerate().try_for_each(|(i, it)| it.validate(&format!("data[{i}]")))
}
