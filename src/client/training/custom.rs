//! A pass whose loss the caller computes: forward, the caller's function, backward, in one turn (PROTOCOL §9.6).

use std::sync::Arc;

use super::pass::{Accepted, collect};
use super::submit::Sequencer;
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::pending::Progress;
use crate::policy::surrogate;
use crate::session::{Session, Ticket};
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
        let (accepted, computed) = match self.send_custom(&ticket, data, loss) {
            Ok(it) => it,
            Err(error) => {
                ticket.answer(Err(error.clone()));
                return Err(error);
            }
        };
        let session = self.session.clone();
        // A pool that is closed drops the job, and with it the ticket, which then answers by itself.
        let _answered_by_its_ticket = self.session.waiters.spawn(move || {
            let output = collect(&session, &ticket.progress, &ticket.cancel, accepted, false);
            let CustomLoss { loss, metrics, .. } = computed;
            ticket.answer(output.map(|it| surrogate::output(it, loss, metrics)));
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
        let forward = self.surrogate(&data, None);
        let accepted = match self.send(&ticket, forward, LossFn::CrossEntropy.into(), true) {
            Ok(it) => it,
            Err(error) => {
                ticket.answer(Err(error.clone()));
                return Err(error);
            }
        };
        let session = self.session.clone();
        // A pool that is closed drops the job, and with it the ticket, which then answers by itself.
        let _answered_by_its_ticket = self.session.losses.spawn(move || {
            let computed = evaluate(&session, &ticket.progress, &ticket.cancel, accepted, data, loss);
            let report = |it: Computed| surrogate::output(it.output, it.loss.loss, it.loss.metrics);
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
        let parts = self.parts(&forward);
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
        let _answered_by_its_reply = self.session.losses.spawn(move || {
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
pub(super) fn failed(error: Box<dyn std::error::Error + Send + Sync>) -> Error {
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
