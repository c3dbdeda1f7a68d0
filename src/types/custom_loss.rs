//! A loss that the caller computes.

use std::collections::BTreeMap;

/// What a custom loss function returns: the loss and its gradients.
///
/// # Example: the sum of the squares of two data
/// ```
/// use tinkex::types::CustomLoss;
///
/// let logprobs: [&[f32]; 2] = [&[-1.0, -2.0], &[-3.0]];
/// let loss = logprobs.iter().flat_map(|it| it.iter()).map(|it| f64::from(it * it)).sum();
/// let gradients = logprobs.iter().map(|it| it.iter().map(|it| 2.0 * it).collect()).collect();
/// let custom = CustomLoss::new(loss, gradients).with_metric("squares:sum", loss);
/// assert_eq!((custom.loss, &custom.gradients[1]), (14.0, &vec![-6.0]));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CustomLoss {
    /// The value of the loss, reported as `loss:sum`. Only its gradients train.
    pub loss: f64,
    /// For each datum the derivative of the loss by each of its log-probabilities, in the same order: row-major, as many as
    /// `target_tokens` has elements. All finite.
    pub gradients: Vec<Vec<f32>>,
    /// What else is to be reported, added to the metrics of the server.
    pub metrics: BTreeMap<String, f64>,
}

impl CustomLoss {
    /// A loss and its gradients.
    pub fn new(loss: f64, gradients: Vec<Vec<f32>>) -> Self {
        CustomLoss { loss, gradients, metrics: BTreeMap::new() }
    }

    /// This loss with something else to be reported.
    pub fn with_metric(mut self, name: impl Into<String>, value: f64) -> Self {
        self.metrics.insert(name.into(), value);
        self
    }
}
