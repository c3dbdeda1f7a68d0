//! Passes whose loss the client computes (PROTOCOL §9.6). The client sends a forward pass, computes the loss and its
//! gradients from the log-probabilities in the result, and sends a backward pass with these gradients. The actor
//! handles no other operation of the client until the backward pass is sent.

use std::sync::Arc;
use std::time::Instant;

use super::pass::{Accepted, collect, or_answer};
use super::submit::Sequencer;
use super::{AnyPass, Msg, TrainingClient};
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::loss::linear;
use crate::pending::{Pending, Progress};
use crate::policy::loss_sum::n_tokens;
use crate::session::{Job, Session, Ticket};
use crate::sync::cancel::Wake;
use crate::sync::oneshot::{Slot, oneshot};
use crate::sync::{CancelToken, unwind};
use crate::types::{CustomLoss, Datum, ForwardBackwardOutput, LossFn};

/// A loss function of the data and of the log-probabilities of each datum.
pub(super) type LossFunction = Box<dyn FnOnce(&[Datum], &[&[f32]]) -> Result<CustomLoss> + Send>;

/// A pass whose loss the client computes.
pub(super) struct CustomPass {
    pub(super) ticket: Ticket<ForwardBackwardOutput>,
    pub(super) data: Vec<Datum>,
    pub(super) loss: LossFunction,
    /// True to report the loss only, without a backward pass.
    pub(super) forward_only: bool,
}

/// Result of the loss function, with the data and the output of the forward pass.
struct Computed {
    data: Vec<Datum>,
    loss: CustomLoss,
    output: ForwardBackwardOutput,
}

/// Ends the wait for the loss function when the operation is cancelled.
struct Interrupt(Slot<Computed>);

impl Wake for Interrupt {
    fn wake(&self) {
        self.0.settle(Err(Error::cancelled()));
    }
}

impl TrainingClient {
    /// As [`forward_backward`](Self::forward_backward), with a loss that the caller computes (PROTOCOL §9.6). The
    /// function gets the data and, for each datum, the log-probabilities of its `target_tokens` (row-major if they have
    /// two dimensions). It returns the loss and its derivatives with respect to the log-probabilities. The server runs
    /// two passes: a forward pass, and a backward pass that uses these derivatives. Operations that are submitted in
    /// the meantime run after both passes.
    ///
    /// The result is the output of the second pass. Its metric `loss:sum` is the caller's loss, and
    /// `surrogate_loss:sum` is the loss that the server reports, if any. The metrics that the loss function returned
    /// are added.
    ///
    /// A loss written as tensor operations needs no gradients by hand, and can run on the server: see
    /// [`ServiceClient::create_custom_loss`](crate::ServiceClient::create_custom_loss).
    ///
    /// The function runs on a separate thread. It must not wait for an operation that is submitted to this client after
    /// this call, because that operation runs only after the function has returned. If the function itself submitted
    /// the operation, waiting for it returns an error immediately. If another thread submitted it, the wait lasts until
    /// the deadline of the operation. Submitting in the function returns an error if the client's mailbox is full.
    ///
    /// # Errors
    /// As for [`forward_backward`](Self::forward_backward); also
    /// [`ErrorKind::CustomLoss`](crate::ErrorKind::CustomLoss) if the function returns an error,
    /// [`ErrorKind::Panicked`](crate::ErrorKind::Panicked) if it panics, and a violation such as `gradients[2]` if the
    /// gradients do not match the data, or if a gradient or the loss is infinite or NaN. A failure between the two
    /// passes, including a cancellation, poisons the client, because later operations rely on the gradients. Dropping
    /// the [`Pending`] does not cancel the operation.
    ///
    /// # Blocking
    /// As for [`forward`](Self::forward).
    ///
    /// # Example: the sum of the squared log-probabilities
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
        self.custom_pass(data, |data, logprobs, _, _| loss(data, logprobs))
    }

    /// As [`forward_backward_custom`](Self::forward_backward_custom). A loss function that waits gets the token and the
    /// deadline that end the operation, so that it does not wait longer.
    pub(crate) fn custom_pass<F, E>(&self, data: Vec<Datum>, loss: F) -> Pending<ForwardBackwardOutput>
    where
        F: FnOnce(&[Datum], &[&[f32]], &CancelToken, Option<Instant>) -> std::result::Result<CustomLoss, E>
            + Send
            + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        const VERB: &str = "TrainingClient.forward_backward_custom";
        let checked = self.check_pass(&data, &LossFn::CrossEntropy.into());
        if let Err(error) = checked.and_then(|()| linear::check_room(&data, &mut super::dense_room(&data))) {
            return Pending::failed(VERB, error);
        }
        let thread = self.inner.loss_thread.clone();
        self.submit(VERB, |ticket| {
            let (cancel, deadline) = (ticket.cancel.clone(), ticket.progress.deadline());
            let operation = ticket.progress.id();
            let loss = Box::new(move |data: &[Datum], logprobs: &[&[f32]]| {
                let computed = thread.run(operation, || loss(data, logprobs, &cancel, deadline));
                computed.map_err(|error| custom_loss_failed(error.into()))
            });
            Msg::Pass(AnyPass::ClientLoss(Box::new(CustomPass { ticket, data, loss, forward_only: false })))
        })
    }
}

impl Sequencer {
    /// Sends the forward parts, waits for the loss function, and sends the backward parts. All these parts belong to
    /// one turn (defined in `submit`), so no other operation runs in between. The loss function runs on a pool thread
    /// of the class `Job::Loss`.
    ///
    /// # Errors
    /// The server did not accept all parts, or the loss function failed. The caller has already been answered with the
    /// same error.
    pub(super) fn submit_custom_pass(&mut self, pass: CustomPass) -> Result<()> {
        let CustomPass { ticket, data, loss, forward_only } = pass;
        if forward_only {
            return self.submit_custom_forward(ticket, data, loss);
        }
        let n_tokens = n_tokens(&data, &LossFn::CrossEntropy.into());
        let sent = self.send_custom(&ticket, data, loss);
        let (ticket, (accepted, computed)) = or_answer(ticket, sent)?;
        let session = self.session.clone();
        // A closed pool drops the job. Dropping the ticket in it answers the caller with an error.
        let _ = self.session.pool[Job::Wait].spawn(move || {
            let output = collect(&session, &ticket.progress, &ticket.cancel, accepted, false);
            let CustomLoss { loss, metrics, .. } = computed;
            ticket.answer(output.map(|output| linear::output(output, loss, metrics, n_tokens)));
        });
        Ok(())
    }

    /// Sends only the forward parts. The next operation can be sent when these parts are accepted; it does not wait for
    /// the loss function.
    fn submit_custom_forward(
        &mut self,
        ticket: Ticket<ForwardBackwardOutput>,
        data: Vec<Datum>,
        loss: LossFunction,
    ) -> Result<()> {
        let n_tokens = n_tokens(&data, &LossFn::CrossEntropy.into());
        let forward = self.linear_data(&data, None);
        let sent = self.send_pass(&ticket, forward, LossFn::CrossEntropy.into(), true);
        let (ticket, accepted) = or_answer(ticket, sent)?;
        let session = self.session.clone();
        // A closed pool drops the job. Dropping the ticket in it answers the caller with an error.
        let _ = self.session.pool[Job::Loss].spawn(move || {
            let computed = evaluate(&session, &ticket.progress, &ticket.cancel, accepted, data, loss);
            let output = |Computed { output, loss, .. }: Computed| {
                linear::output(output, loss.loss, loss.metrics, n_tokens)
            };
            ticket.answer(computed.map(output));
        });
        Ok(())
    }

    fn send_custom(
        &mut self,
        ticket: &Ticket<ForwardBackwardOutput>,
        data: Vec<Datum>,
        loss: LossFunction,
    ) -> Result<(Vec<Accepted>, CustomLoss)> {
        let forward = self.linear_data(&data, None);
        let parts = self.parts(linear::sizes(&forward));
        let range = self.begin(ticket, 2 * parts.len())?;
        let (first, n) = (range.start, parts.len() as u32);
        let forward =
            self.send_parts(ticket, forward, LossFn::CrossEntropy.into(), true, parts.clone(), first);
        let fates = forward.fates;
        let computed = forward.result.and_then(|parts| self.compute(ticket, parts, data, loss));
        let Computed { data, loss: computed, .. } = match computed {
            Ok(computed) => computed,
            Err(error) => return self.settle_custom(range, &fates, None, Err(error)),
        };
        let backward = self.linear_data(&data, Some(&computed.gradients));
        let sent = self.send_parts(ticket, backward, LossFn::CrossEntropy.into(), false, parts, first + n);
        let accepted = self.settle_custom(range, &fates, Some(&sent.fates), sent.result)?;
        Ok((accepted, computed))
    }

    /// Makes the data of the forward pass (`gradients` is `None`) or of the backward pass. The server computes a
    /// cross-entropy whose weights are the negative gradients; the gradients of this loss are then those of the custom
    /// loss.
    fn linear_data(&self, data: &[Datum], gradients: Option<&[Vec<f32>]>) -> Vec<Datum> {
        let mut data = linear::data(data, gradients);
        data.iter_mut().for_each(|datum| datum.pack(self.session.config.dense_tensors));
        data
    }

    /// Waits for the results of the forward parts and for the loss function, until the operation's deadline or its
    /// cancellation.
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
        // A closed pool drops the job. Dropping `reply` in it puts an error into `slot`.
        let _ = self.session.pool[Job::Loss].spawn(move || {
            reply.send(evaluate(&session, &progress, &cancel, accepted, data, loss));
        });
        slot.wait(ticket.progress.deadline()).unwrap_or_else(|| {
            Err(Error::timeout(Phase::Total, "the custom loss was not computed within Timeouts::operation"))
        })
    }
}

/// Wraps the error of a loss function. An error of this crate becomes the cause.
fn custom_loss_failed(error: Box<dyn std::error::Error + Send + Sync>) -> Error {
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
        let logprobs = linear::logprobs(&data, &output)?;
        unwind::catch(|| loss(&data, &logprobs))??
    };
    linear::check(&data, &loss)?;
    Ok(Computed { data, loss, output })
}
