//! A pass whose loss the caller computes: forward, the caller's function, backward, in one turn (PROTOCOL §9.6).

use std::sync::Arc;

use super::pass::{Accepted, collect, or_told};
use super::submit::Sequencer;
use super::{Msg, Step, TrainingClient};
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::loss::linear as surrogate;
use crate::pending::{Pending, Progress};
use crate::policy::loss_sum::n_tokens;
use crate::session::{Job, Session, Ticket};
use crate::sync::cancel::Wake;
use crate::sync::oneshot::{Slot, oneshot};
use crate::sync::{CancelToken, unwind};
use crate::types::{CustomLoss, Datum, ForwardBackwardOutput, LossFn};

/// The caller's function, of the data and of the log-probabilities of each.
pub(super) type LossFunction = Box<dyn FnOnce(&[Datum], &[&[f32]]) -> Result<CustomLoss> + Send>;

/// A pass with a custom loss.
pub(super) struct Custom {
    pub(super) ticket: Ticket<ForwardBackwardOutput>,
    pub(super) data: Vec<Datum>,
    pub(super) loss: LossFunction,
    /// Only report the loss.
    pub(super) forward_only: bool,
}

/// What the caller's function made of the data that were given to it, and the output of the pass that it was given.
struct Computed {
    data: Vec<Datum>,
    loss: CustomLoss,
    output: ForwardBackwardOutput,
}

/// Ends the wait for the caller's function.
struct Interrupt(Slot<Computed>);

impl Wake for Interrupt {
    fn wake(&self) {
        self.0.settle(Err(Error::cancelled()));
    }
}

impl TrainingClient {
    /// As [`forward_backward`](Self::forward_backward), with a loss that the caller computes (PROTOCOL §9.6). The function
    /// gets the data and, for each, the log-probabilities of its `target_tokens` (row-major if they have two dimensions),
    /// and returns the loss with its derivative by each of them. That takes two passes on the server, a forward one and
    /// one that applies the gradients; operations that are submitted meanwhile keep their place behind both.
    ///
    /// The result is that of the second pass. Among its metrics, `loss:sum` is the caller's loss, `surrogate_loss:sum` the
    /// server's if it reports it, and the caller's own are added.
    ///
    /// A loss that can be written as tensor operations needs no gradients by hand, and runs on servers that support it: see
    /// [`ServiceClient::create_custom_loss`](crate::ServiceClient::create_custom_loss).
    ///
    /// The function runs on a thread of its own. It must not wait for an operation that is submitted to this client behind it.
    /// Waiting for one that it submitted itself is an error at once, and so is submitting while the client's mailbox is full; an
    /// operation of another thread's would be waited for until the deadline.
    ///
    /// # Errors
    /// As for [`forward_backward`](Self::forward_backward); also [`ErrorKind::CustomLoss`](crate::ErrorKind::CustomLoss) if the function returns an error,
    /// [`ErrorKind::Panicked`](crate::ErrorKind::Panicked) if it panics, and a violation such as `gradients[2]` if its gradients do not fit the data, or
    /// if they or the loss are infinite or NaN.
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
    /// assert!(step.wait()?.loss().is_some_and(|it| 0.0 < it));
    /// # }
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub fn forward_backward_custom<F, E>(&self, data: Vec<Datum>, loss: F) -> Pending<ForwardBackwardOutput>
    where
        F: FnOnce(&[Datum], &[&[f32]]) -> std::result::Result<CustomLoss, E> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        const VERB: &str = "TrainingClient.forward_backward_custom";
        let fine = self.check_pass(&data, &LossFn::CrossEntropy.into());
        if let Err(error) = fine.and_then(|()| surrogate::check_room(&data, &mut super::room(&data))) {
            return Pending::failed(VERB, error);
        }
        let thread = self.inner.loss_thread.clone();
        let loss = Box::new(move |data: &[Datum], logprobs: &[&[f32]]| {
            thread.run(|| loss(data, logprobs)).map_err(|it| failed(it.into()))
        });
        self.submit(VERB, |ticket| {
            Msg::Pass(Step::Custom(Box::new(Custom { ticket, data, loss, forward_only: false })))
        })
    }
}

impl Sequencer {
    /// Sends the forward parts, has the loss computed, and sends the backward parts. The turn lasts until then, so that
    /// nothing can come between; the caller's function runs on a thread made for that.
    ///
    /// # Errors
    /// Why the backward parts were not all accepted; whoever waits for the pass has been told.
    pub(super) fn custom(&mut self, custom: Custom) -> Result<()> {
        let Custom { ticket, data, loss, forward_only } = custom;
        if forward_only {
            return self.custom_forward(ticket, data, loss);
        }
        let n_tokens = n_tokens(&data, &LossFn::CrossEntropy.into());
        let sent = self.send_custom(&ticket, data, loss);
        let (ticket, (accepted, computed)) = or_told(ticket, sent)?;
        let session = self.session.clone();
        // If the pool is closed, the ticket in the dropped job answers.
        let _ = self.session.pool[Job::Wait].spawn(move || {
            let output = collect(&session, &ticket.progress, &ticket.cancel, accepted, false);
            let CustomLoss { loss, metrics, .. } = computed;
            ticket.answer(output.map(|it| surrogate::output(it, loss, metrics, n_tokens)));
        });
        Ok(())
    }

    /// Sends the forward parts alone. Nothing has to follow them, so the turn ends when they are accepted.
    fn custom_forward(
        &mut self,
        ticket: Ticket<ForwardBackwardOutput>,
        data: Vec<Datum>,
        loss: LossFunction,
    ) -> Result<()> {
        let n_tokens = n_tokens(&data, &LossFn::CrossEntropy.into());
        let forward = self.surrogate(&data, None);
        let sent = self.send(&ticket, forward, LossFn::CrossEntropy.into(), true);
        let (ticket, accepted) = or_told(ticket, sent)?;
        let session = self.session.clone();
        // If the pool is closed, the ticket in the dropped job answers.
        let _ = self.session.pool[Job::Loss].spawn(move || {
            let computed = evaluate(&session, &ticket.progress, &ticket.cancel, accepted, data, loss);
            let report = |it: Computed| surrogate::output(it.output, it.loss.loss, it.loss.metrics, n_tokens);
            ticket.answer(computed.map(report));
        });
        Ok(())
    }

    fn send_custom(
        &mut self,
        ticket: &Ticket<ForwardBackwardOutput>,
        data: Vec<Datum>,
        loss: LossFunction,
    ) -> Result<(Vec<Accepted>, CustomLoss)> {
        let forward = self.surrogate(&data, None);
        let parts = self.parts(surrogate::sizes(&forward));
        let range = self.begin(ticket, 2 * parts.len())?;
        let (first, n) = (range.start, parts.len() as u32);
        let forward = self.transmit(ticket, forward, LossFn::CrossEntropy.into(), true, parts.clone(), first);
        let fates = forward.fates;
        let computed = forward.result.and_then(|it| self.compute(ticket, it, data, loss));
        let Computed { data, loss: computed, .. } = match computed {
            Ok(it) => it,
            Err(error) => {
                self.settle_custom(range, &fates, None, Some(&error));
                return Err(error);
            }
        };
        let backward = self.surrogate(&data, Some(&computed.gradients));
        let sent = self.transmit(ticket, backward, LossFn::CrossEntropy.into(), false, parts, first + n);
        self.settle_custom(range, &fates, Some(&sent.fates), sent.result.as_ref().err());
        Ok((sent.result?, computed))
    }

    fn surrogate(&self, data: &[Datum], gradients: Option<&[Vec<f32>]>) -> Vec<Datum> {
        let mut data = surrogate::data(data, gradients);
        data.iter_mut().for_each(|it| it.pack(self.session.config.dense_tensors));
        data
    }

    /// Waits for the results of the forward parts and for the caller's function, at most until the operation's deadline
    /// or until it is given up.
    fn compute(
        &self,
        ticket: &Ticket<ForwardBackwardOutput>,
        accepted: Vec<Accepted>,
        data: Vec<Datum>,
        loss: LossFunction,
    ) -> Result<Computed> {
        let (reply, slot) = oneshot();
        let _registration = ticket.cancel.on_cancel(Arc::new(Interrupt(slot.clone())));
        let (session, progress, cancel) =
            (self.session.clone(), ticket.progress.clone(), ticket.cancel.clone());
        // A pool that is closed drops the job, and with it the reply, which then answers by itself.
        let _ = self.session.pool[Job::Loss].spawn(move || {
            reply.send(evaluate(&session, &progress, &cancel, accepted, data, loss));
        });
        slot.wait(ticket.progress.deadline()).unwrap_or_else(|| {
            Err(Error::timeout(
                Phase::Total,
                "the custom loss was not computed before the operation's deadline",
            ))
        })
    }
}

/// What the caller's function failed of. An error of this crate becomes the cause.
fn failed(error: Box<dyn std::error::Error + Send + Sync>) -> Error {
    let failed = Error::new(ErrorKind::CustomLoss, format!("the custom loss failed: {error}"));
    match error.downcast::<Error>() {
        Ok(cause) => failed.caused_by(*cause),
        Err(_) => failed,
    }
}

fn evaluate(
    session: &Arc<Session>,
    progress: &Progress,
    cancel: &CancelToken,
    accepted: Vec<Accepted>,
    data: Vec<Datum>,
    loss: LossFunction,
) -> Result<Computed> {
    let output = collect(session, progress, cancel, accepted, true)?;
    let loss = {
        let logprobs = surrogate::logprobs(&data, &output)?;
        unwind::catch(|| loss(&data, &logprobs))??
    };
    surrogate::check(&data, &loss)?;
    Ok(Computed { data, loss, output })
}
