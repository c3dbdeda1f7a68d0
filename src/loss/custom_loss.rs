//! The result of a custom loss function.

use std::collections::BTreeMap;

/// Result of a custom loss function: the loss and its gradients.
///
/// # Example: the sum of the squares of two data
/// ```
/// use tinkex::types::CustomLoss;
///
/// let logprobs: [&[f32]; 2] = [&[-1.0, -2.0], &[-3.0]];
/// let loss = logprobs.iter().flat_map(|datum| datum.iter()).map(|logprob| f64::from(logprob * logprob)).sum();
/// let gradients = logprobs.iter().map(|datum| datum.iter().map(|logprob| 2.0 * logprob).collect()).collect();
/// let custom = CustomLoss::new(loss, gradients).with_metric("squares:sum", loss);
/// assert_eq!((custom.loss, &custom.gradients[1]), (14.0, &vec![-6.0]));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct CustomLoss {
    /// Value of the loss, reported as `loss:sum`. It has no effect on training; only the gradients have.
    pub loss: f64,
    /// For each datum, the derivative of the loss with respect to each of its log-probabilities, in the same order:
    /// row-major, one value for each element of `target_tokens`. All values must be finite.
    pub gradients: Vec<Vec<f32>>,
    /// Further metrics, added to those of the server.
    pub metrics: BTreeMap<String, f64>,
}

impl CustomLoss {
    /// A loss with its gradients and without metrics.
    pub fn new(loss: f64, gradients: Vec<Vec<f32>>) -> Self {
        CustomLoss { loss, gradients, metrics: BTreeMap::new() }
    }

    /// Adds a metric.
    #[must_use]
    pub fn with_metric(mut self, name: impl Into<String>, value: f64) -> Self {
        self.metrics.insert(name.into(), value);
        self
    }
}
