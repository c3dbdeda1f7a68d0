//! A pass and the optimizer's step behind it, as one submission.

use crate::error::{Error, Result};
use crate::pending::Pending;
use crate::types::{ForwardBackwardOutput, OptimStepOutput};

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

/// Why an optimizer's step was not sent whose pass was not accepted.
pub(super) fn not_sent(error: Error) -> Error {
    let message = format!("not sent, because the data before it was not accepted: {}", error.message());
    let kind = error.kind().clone();
    error.renamed(kind, message)
}
