//! The client that trains a model.
//!
//! [`TrainingClient`] puts operations into the mailbox of an actor. The actor sends the requests of one operation after
//! the other (`submit`); pool threads wait for the results. The other modules have one kind of operation each: `pass`
//! (forward and backward passes), `custom` (passes whose loss the client computes), `train_step`, `save`, `load` and
//! `unload`.

use std::sync::Arc;
use std::time::Instant;

use crate::client::create::CreatedModel;
use crate::client::{Client, ClientOwner, Kind};
use crate::error::{Error, ErrorKind, Result};
use crate::http::endpoint;
use crate::loss::linear;
use crate::pending::{OwnThread, Pending};
use crate::session::{Owner, Session, Ticket};
use crate::sync::actor::Actor;
use crate::sync::process::forked;
use crate::tokenizer::{Tokenizer, tokenizer_of};
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

use custom::CustomPass;
use pass::Pass;
use submit::{Sequencer, SingleRequest};

const FORWARD_BACKWARD: &str = "TrainingClient.forward_backward";
const OPTIM_STEP: &str = "TrainingClient.optim_step";

/// Trains one model. Operations run on the server in the order in which they were submitted, also if several threads
/// submit.
///
/// Cheap to clone; all clones are the same client. Each method that submits an operation returns a
/// [`Pending`], so that the next operation can be submitted before the previous one has finished.
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
    actor: ClientOwner<Msg>,
    /// The thread that currently runs a loss function of the caller, if any.
    loss_thread: OwnThread,
    owner: Arc<Owner>,
}

/// Operations of a training client.
enum Msg {
    Pass(AnyPass),
    OptimStep(SingleRequest<OptimStepOutput>),
    TrainStep(AnyPass, SingleRequest<OptimStepOutput>),
    SaveState(SingleRequest<SaveStateOutput>),
    LoadState(SingleRequest<LoadStateOutput>),
    SaveWeights(SingleRequest<json::SaveWeightsForSamplerResponse>),
    SaveExternal(SingleRequest<SaveWeightsExternalOutput>),
    Unload(SingleRequest<()>),
}

/// A pass. The variant tells where its loss is computed: by the server or by the client.
enum AnyPass {
    ServerLoss(Box<Pass>),
    ClientLoss(Box<CustomPass>),
}

struct TrainingActor {
    sequencer: Sequencer,
}

impl TrainingActor {
    fn submit_pass(&mut self, pass: AnyPass) -> Result<()> {
        match pass {
            AnyPass::ServerLoss(pass) => self.sequencer.submit_pass(*pass),
            AnyPass::ClientLoss(pass) => self.sequencer.submit_custom_pass(*pass),
        }
    }
}

impl Actor for TrainingActor {
    type Msg = Msg;

    fn turn(&mut self, msg: Msg) {
        match msg {
            // Ignore a failure: the ticket has already reported it to the caller.
            Msg::Pass(pass) => drop(self.submit_pass(pass)),
            Msg::TrainStep(pass, request) => match self.submit_pass(pass) {
                Ok(()) => self.sequencer.submit_request(request),
                Err(error) => request.ticket.answer(Err(train_step::not_sent(error))),
            },
            Msg::OptimStep(request) => self.sequencer.submit_request(request),
            Msg::SaveState(request) => self.sequencer.submit_request(request),
            Msg::LoadState(request) => self.sequencer.submit_request(request),
            Msg::SaveWeights(request) => self.sequencer.submit_request(request),
            Msg::SaveExternal(request) => self.sequencer.submit_request(request),
            Msg::Unload(request) => self.sequencer.submit_request(request),
        }
    }
}

impl TrainingClient {
    pub(super) fn start(owner: Arc<Owner>, created: CreatedModel) -> Result<Self> {
        let CreatedModel { info, first_seq_id } = created;
        let session = owner.session();
        let sequencer = Sequencer::new(session.clone(), info.model_id.clone(), first_seq_id);
        let actor = Client::start(session, Kind::Training, TrainingActor { sequencer })?;
        let loss_thread = OwnThread::default();
        Ok(TrainingClient { inner: Arc::new(Inner { info, actor, loss_thread, owner }) })
    }

    /// Properties of the model, as the server reported them when the client was created. Nothing is sent.
    pub fn get_info(&self) -> &ModelInfo {
        &self.inner.info
    }

    /// The model's id, which is also the id of its training run.
    pub fn model_id(&self) -> &str {
        &self.inner.info.model_id
    }

    /// The tokenizer of the model, as [`get_info`](Self::get_info) reports it: that of the engine's own model without any
    /// feature; with the feature `text` one in a folder or in the cache of the Hugging Face hub on this machine; with the
    /// feature `hub` it is also downloaded, with the settings of the environment ([`Bpe::download`] takes others).
    ///
    /// The process loads each tokenizer once and keeps the last 32.
    ///
    /// [`Bpe::download`]: crate::tokenizer
    ///
    /// # Errors
    /// `Config` names the feature that is missing. `InvalidInput`: the server did not report the model's name, or the
    /// tokenizer is not on the hub, as for some models of Thinking Machines. Otherwise the errors of `Bpe::from_hf_cache`
    /// or, with the feature `hub`, of `Bpe::download`.
    ///
    /// # Blocking
    /// Until the tokenizer is loaded: seconds, and the time of its download, at most ten minutes.
    ///
    /// # Example: encode with the tokenizer of the model
    /// ```
    /// # #[cfg(feature = "local")] {
    /// # let server = tinkex::local::Server::start(Default::default())?;
    /// # let service = tinkex::ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build()?;
    /// let training = service.create_lora_training_client("tinkex/nano", Default::default())?;
    /// let tokenizer = training.tokenizer()?;
    /// assert_eq!(tokenizer.encode_ordinary("hi")?, [104, 105]);
    /// # }
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub fn tokenizer(&self) -> Result<Arc<dyn Tokenizer>> {
        let ModelInfo { base_model, tokenizer_id, .. } = self.get_info();
        tokenizer_of(base_model.as_deref(), tokenizer_id.as_deref())
    }

    /// Computes the loss and the log-probabilities of the targets, without gradients (PROTOCOL §3.3 #12). Large data is
    /// split into several requests, and their results are joined.
    ///
    /// # Errors
    /// Through the [`Pending`]: invalid data, with the path of the value (nothing is sent, the client stays usable), or
    /// an error of the server; [`Decode`](crate::ErrorKind::Decode) if the server returned a wrong number of outputs or
    /// of log-probabilities.
    ///
    /// # Blocking
    /// Only while the mailbox is full, that is, while 1024 operations wait to be submitted.
    pub fn forward(&self, data: Vec<Datum>, loss: impl Into<Loss>) -> Pending<ForwardBackwardOutput> {
        self.pass("TrainingClient.forward", data, loss.into(), true)
    }

    /// As [`forward`](Self::forward), and adds the gradients of the loss to the accumulated gradients for the next
    /// [`optim_step`](Self::optim_step).
    ///
    /// # Errors
    /// As for [`forward`](Self::forward). If data was split and only some parts were accepted,
    /// [`Error::accepted_parts`] is the number of accepted parts. The gradients of these parts stay on the server.
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

    /// Updates the weights with the accumulated gradients and clears the gradients (PROTOCOL §3.3 #14). `params` must
    /// fit the model's optimizer: [`AdamParams`](crate::types::AdamParams), unless
    /// [`ModelOptions`](crate::types::ModelOptions) chose another optimizer.
    ///
    /// # Errors
    /// Through the [`Pending`]: a parameter out of range (nothing is sent), or an error of the server.
    ///
    /// # Blocking
    /// As for [`forward`](Self::forward).
    pub fn optim_step(&self, params: impl Into<OptimizerParams>) -> Pending<OptimStepOutput> {
        let params = params.into();
        if let Err(error) = params.validate() {
            return Pending::failed(OPTIM_STEP, error);
        }
        self.submit_request(OPTIM_STEP, Msg::OptimStep, |ticket| optim_step_request(ticket, params))
    }

    /// Ends this client: its queued and running operations and all later calls return an error. The model stays on the
    /// server; the session and its other clients continue. A second call does nothing.
    ///
    /// # Blocking
    /// Until the client's thread has ended, at most `Timeouts::close`.
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
            let problem = format!(
                "belongs to another session: {}; create it with this session's service client",
                handle.name()
            );
            return Err(Error::invalid("loss", problem));
        }
        check_data(data)?;
        if self.session().config.dense_tensors {
            let mut room = dense_room(data);
            for (i, datum) in data.iter().enumerate() {
                datum.take_room(&mut room, &format!("data[{i}]"))?;
            }
        }
        for (i, datum) in data.iter().enumerate() {
            loss.loss_fn.check(datum, &format!("data[{i}]"))?;
        }
        match &loss.loss_fn {
            LossFn::Traced(handle) => {
                handle.graph().rehearse(data)?;
                match handle.loss_id() {
                    Some(_) => Ok(()),
                    None => linear::check_room(data, &mut dense_room(data)),
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
        self.submit(verb, |ticket| Msg::Pass(self.new_pass(ticket, data, loss, forward_only)))
    }

    /// Makes a pass. A traced loss runs on the server if its handle has a server id, else in the client.
    fn new_pass(
        &self,
        ticket: Ticket<ForwardBackwardOutput>,
        mut data: Vec<Datum>,
        loss: Loss,
        forward_only: bool,
    ) -> AnyPass {
        if let LossFn::Traced(handle) = &loss.loss_fn {
            data.iter_mut().for_each(|datum| handle.keep_inputs(datum));
        }
        match loss.resolve() {
            Ok(loss) => {
                let data = self.pack(data);
                AnyPass::ServerLoss(Box::new(Pass { ticket, data, loss, forward_only }))
            }
            Err(graph) => {
                let session = self.session().clone();
                let loss = Box::new(move |data: &[Datum], logprobs: &[&[f32]]| {
                    let work = graph.work(logprobs.iter().map(|logprobs| logprobs.len()).sum());
                    session.compute(work, |parallel| graph.evaluate_shared(data, logprobs, parallel))
                });
                AnyPass::ClientLoss(Box::new(CustomPass { ticket, data, loss, forward_only }))
            }
        }
    }

    /// Makes each tensor dense or sparse, as it will be sent.
    fn pack(&self, mut data: Vec<Datum>) -> Vec<Datum> {
        let dense = self.session().config.dense_tensors;
        data.iter_mut().for_each(|datum| datum.pack(dense));
        data
    }

    fn submit_request<T: Send + 'static>(
        &self,
        verb: &'static str,
        wrap: fn(SingleRequest<T>) -> Msg,
        request: impl FnOnce(Ticket<T>) -> SingleRequest<T>,
    ) -> Pending<T> {
        self.submit(verb, |ticket| wrap(request(ticket)))
    }

    /// Makes a message with a ticket and puts it into the mailbox.
    fn submit<T: Send + 'static>(
        &self,
        verb: &'static str,
        message: impl FnOnce(Ticket<T>) -> Msg,
    ) -> Pending<T> {
        if self.session().is_forked_child() {
            return Pending::failed(verb, forked());
        }
        let (ticket, pending) = self.session().ticket(verb, &self.inner.actor.cancel);
        match self.enqueue(message(ticket), pending.deadline()) {
            Ok(()) => self.submitted(pending),
            Err(error) => Pending::failed(verb, error),
        }
    }

    /// Puts a message into the mailbox, and waits while the mailbox is full. On the thread of a loss function, fails
    /// instead of waiting: the actor takes no message until the loss function has returned.
    fn enqueue(&self, msg: Msg, deadline: Option<Instant>) -> Result<()> {
        let (actor, session) = (&self.inner.actor, self.session());
        if !self.inner.loss_thread.is_this() {
            return actor.send(session, msg, deadline);
        }
        actor.try_send(session, msg).map_err(|error| {
            if !error.is_timeout() {
                return error;
            }
            let text = "a custom loss cannot submit to its own client while the client's mailbox is full, because the \
                        mailbox is not emptied before the loss is computed";
            Error::new(ErrorKind::CustomLoss, text)
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

fn optim_step_request(
    ticket: Ticket<OptimStepOutput>,
    params: OptimizerParams,
) -> SingleRequest<OptimStepOutput> {
    SingleRequest {
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

/// Memory limit for the dense tensors of all data of one call.
fn dense_room(data: &[Datum]) -> DenseRoom {
    DenseRoom::of(data.iter().map(Datum::n_bytes).sum())
}

fn check_data(data: &[Datum]) -> Result<()> {
    if data.is_empty() {
        return Err(Error::invalid("data", "is empty"));
    }
    data.iter().enumerate().try_for_each(|(i, datum)| datum.validate(&format!("data[{i}]")))
}
