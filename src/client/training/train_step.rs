//! Training steps: a pass and an optimizer step, submitted together.

use super::{FORWARD_BACKWARD, Msg, OPTIM_STEP, TrainingClient, optim_step_request};
use crate::error::{Error, Result};
use crate::pending::Pending;
use crate::sync::process::forked;
use crate::types::{Datum, ForwardBackwardOutput, Loss, OptimStepOutput, OptimizerParams};

/// The two submitted operations of [`TrainingClient::train_step`](crate::TrainingClient::train_step).
#[must_use = "the results of the two operations"]
#[derive(Debug)]
pub struct TrainStep {
    /// The forward and backward pass.
    pub forward_backward: Pending<ForwardBackwardOutput>,
    /// The update of the weights.
    pub optim_step: Pending<OptimStepOutput>,
}

impl TrainStep {
    /// Waits for both results.
    ///
    /// # Errors
    /// The failure of one operation; that of `forward_backward` if both fail.
    ///
    /// # Blocking
    /// As for [`Pending::wait`].
    pub fn wait(self) -> Result<(ForwardBackwardOutput, OptimStepOutput)> {
        let pass = self.forward_backward.wait();
        let update = self.optim_step.wait();
        Ok((pass?, update?))
    }
}

impl TrainingClient {
    /// Submits one training step: [`forward_backward`](Self::forward_backward) and [`optim_step`](Self::optim_step)
    /// together, so that the server can run them without a pause. No operation of another thread runs between them. If
    /// the data is not accepted, the optimizer step is not sent, because it would update the weights without these
    /// gradients.
    ///
    /// # Errors
    /// Through the two [`Pending`]s, as for the two methods.
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
    /// let first = training.train_step(batch(), LossFn::CrossEntropy, adam);
    /// let second = training.train_step(batch(), LossFn::CrossEntropy, adam);
    /// let before = first.wait()?.0.loss();
    /// let after = second.wait()?.0.loss();
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
        let process = if self.session().is_forked_child() { Err(forked()) } else { Ok(()) };
        let checked = process.and_then(|()| self.check_pass(&data, &loss)).and_then(|()| params.validate());
        if let Err(error) = checked {
            return TrainStep {
                forward_backward: Pending::failed(FORWARD_BACKWARD, error.clone()),
                optim_step: Pending::failed(OPTIM_STEP, error),
            };
        }
        let (session, actor) = (self.session(), &self.inner.actor);
        let (pass, forward_backward) = session.ticket(FORWARD_BACKWARD, &actor.cancel);
        let (update, step) = session.ticket(OPTIM_STEP, &actor.cancel);
        let msg = Msg::TrainStep(self.new_pass(pass, data, loss, false), optim_step_request(update, params));
        match self.enqueue(msg, step.deadline()) {
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
}

/// Error of an optimizer step that was not sent because its pass was not accepted.
pub(super) fn not_sent(error: Error) -> Error {
    let message = format!("not sent, because the data before it was not accepted: {}", error.message());
    let kind = error.kind().clone();
    error.renamed(kind, message)
}
