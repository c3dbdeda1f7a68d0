//! A pass and the optimizer's step behind it, as one submission.

use super::{FORWARD_BACKWARD, Msg, OPTIM_STEP, TrainingClient, optim_step};
use crate::error::{Error, Result};
use crate::pending::Pending;
use crate::sync::process::forked;
use crate::types::{Datum, ForwardBackwardOutput, Loss, OptimStepOutput, OptimizerParams};

/// The two operations of [`TrainingClient::train_step`](crate::TrainingClient::train_step), both submitted.
#[must_use = "the results of the two operations"]
#[derive(Debug)]
pub struct TrainStep {
    /// The loss and its gradients.
    pub forward_backward: Pending<ForwardBackwardOutput>,
    /// The change of the weights.
    pub optim_step: Pending<OptimStepOutput>,
}

impl TrainStep {
    /// Waits for both results.
    ///
    /// # Errors
    /// Whatever made one of the two fail; of two failures the first.
    ///
    /// # Blocking
    /// As for [`Pending::wait`].
    pub fn wait(self) -> Result<(ForwardBackwardOutput, OptimStepOutput)> {
        let passed = self.forward_backward.wait();
        let updated = self.optim_step.wait();
        Ok((passed?, updated?))
    }
}

impl TrainingClient {
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
        let here = if self.session().is_foreign() { Err(forked()) } else { Ok(()) };
        let fine = here.and_then(|()| self.check_pass(&data, &loss)).and_then(|()| params.validate());
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
        match self.put(msg, step.deadline()) {
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

/// Why an optimizer's step was not sent whose pass was not accepted.
pub(super) fn not_sent(error: Error) -> Error {
    let message = format!("not sent, because the data before it was not accepted: {}", error.message());
    let kind = error.kind().clone();
    error.renamed(kind, message)
}
