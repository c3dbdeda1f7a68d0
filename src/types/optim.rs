//! Parameters and results of optimizer steps.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Parameters of one AdamW step (PROTOCOL §6.5). End the literal with `..Default::default()`: a minor version may add
/// fields.
///
/// # Example: the defaults, with another learning rate
/// ```
/// use tinkex::types::AdamParams;
///
/// let adam = AdamParams { learning_rate: 3e-4, ..Default::default() };
/// assert_eq!((adam.beta1, adam.beta2, adam.eps, adam.weight_decay, adam.grad_clip_norm), (0.9, 0.95, 1e-12, 0.0, 0.0));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdamParams {
    /// Step size, at least 0. Default 1e-4.
    pub learning_rate: f64,
    /// Decay rate of the mean of gradients, in `[0, 1)`. Default 0.9.
    pub beta1: f64,
    /// Decay rate of the mean of squared gradients, in `[0, 1)`. Default 0.95.
    pub beta2: f64,
    /// Constant added to the square root in the denominator, at least 0; some servers refuse 0. Default 1e-12.
    pub eps: f64,
    /// Decoupled weight decay, at least 0. Default 0.
    pub weight_decay: f64,
    /// Largest global norm of the gradients; larger gradients are scaled down to it. 0 or less: no limit. Default 0.
    pub grad_clip_norm: f64,
}

impl Default for AdamParams {
    fn default() -> Self {
        AdamParams {
            learning_rate: 1e-4,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-12,
            weight_decay: 0.0,
            grad_clip_norm: 0.0,
        }
    }
}

impl AdamParams {
    pub(crate) fn validate(&self) -> Result<()> {
        let at_least_0 = |value: f64| value.is_finite() && 0.0 <= value;
        let beta = |value: f64| (0.0..1.0).contains(&value);
        let rules = [
            ("learning_rate", self.learning_rate, at_least_0(self.learning_rate), "finite and at least 0"),
            ("beta1", self.beta1, beta(self.beta1), "in [0, 1)"),
            ("beta2", self.beta2, beta(self.beta2), "in [0, 1)"),
            ("eps", self.eps, at_least_0(self.eps), "finite and at least 0"),
            ("weight_decay", self.weight_decay, at_least_0(self.weight_decay), "finite and at least 0"),
            ("grad_clip_norm", self.grad_clip_norm, self.grad_clip_norm.is_finite(), "finite"),
        ];
        match rules.iter().find(|rule| !rule.2) {
            Some((name, value, _, rule)) => {
                Err(Error::invalid(format!("adam_params.{name}"), format!("must be {rule}, is {value}")))
            }
            None => Ok(()),
        }
    }
}

/// Result of an optimizer step.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct OptimStepOutput {
    /// Metrics by name. The server decides which metrics it reports.
    pub metrics: BTreeMap<String, f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_outside_their_range_are_refused_by_name() {
        let refused = |change: fn(&mut AdamParams)| {
            let mut adam = AdamParams::default();
            change(&mut adam);
            adam.validate().expect_err("a refusal").violation().expect("a path").path.clone()
        };
        AdamParams::default().validate().expect("valid defaults");
        assert_eq!(refused(|it| it.learning_rate = f64::NAN), "adam_params.learning_rate");
        assert_eq!(refused(|it| it.beta1 = 1.0), "adam_params.beta1");
        assert_eq!(refused(|it| it.beta2 = -0.1), "adam_params.beta2");
        assert_eq!(refused(|it| it.eps = -1e-12), "adam_params.eps");
        assert_eq!(refused(|it| it.weight_decay = -1.0), "adam_params.weight_decay");
        assert_eq!(refused(|it| it.grad_clip_norm = f64::INFINITY), "adam_params.grad_clip_norm");
        let unusual = AdamParams { eps: 0.0, grad_clip_norm: -1.0, learning_rate: 0.0, ..Default::default() };
        unusual.validate().expect("values that only some servers refuse");
    }
}
