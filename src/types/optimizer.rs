//! Optimizers of models, and parameters of their steps.

use serde_json::{Map, Value};

use super::AdamParams;
use crate::error::{Error, Result};

/// Optimizer of a model (PROTOCOL §3.3 #10), chosen when the model is created.
///
/// # Example: Dimuon
/// ```
/// use tinkex::types::{ModelOptions, OptimizerConfig};
///
/// let options = ModelOptions { optimizer: OptimizerConfig::Dimuon { version: 1 }, ..Default::default() };
/// assert_ne!(options.optimizer, OptimizerConfig::AdamW);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum OptimizerConfig {
    /// Adam with decoupled weight decay. Steps take [`AdamParams`].
    #[default]
    AdamW,
    /// Dimuon. Steps take [`DimuonParams`].
    Dimuon {
        /// Version of the algorithm, from 1.
        version: u32,
    },
    /// An optimizer of any other name, which is sent unchanged. Steps take [`OptimizerParams::Other`].
    Other {
        /// Name of the optimizer, the field `type` on the wire.
        kind: String,
        /// Settings of the optimizer.
        more: Map<String, Value>,
    },
}

impl OptimizerConfig {
    /// The name on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            OptimizerConfig::AdamW => "adamw",
            OptimizerConfig::Dimuon { .. } => "dimuon",
            OptimizerConfig::Other { kind, .. } => kind,
        }
    }

    pub(crate) fn into_parts(self) -> (String, Map<String, Value>) {
        let kind = self.as_str().to_string();
        let more = match self {
            OptimizerConfig::AdamW => Map::new(),
            OptimizerConfig::Dimuon { version } => Map::from_iter([("version".into(), version.into())]),
            OptimizerConfig::Other { more, .. } => more,
        };
        (kind, more)
    }

    pub(crate) fn validate(&self, path: &str) -> Result<()> {
        match self {
            OptimizerConfig::AdamW => Ok(()),
            OptimizerConfig::Dimuon { version } => match version {
                0 => Err(Error::invalid(format!("{path}.version"), "must be at least 1")),
                _ => Ok(()),
            },
            OptimizerConfig::Other { kind, more } => check_free_form(path, kind, more),
        }
    }
}

/// Parameters of one step of the model's optimizer (PROTOCOL §6.5). Methods that take steps also accept [`AdamParams`]
/// and [`DimuonParams`], which convert with `into`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum OptimizerParams {
    /// For models with AdamW.
    Adam(AdamParams),
    /// For models with Dimuon.
    Dimuon(DimuonParams),
    /// For any other optimizer.
    Other {
        /// Name of the optimizer, the field `type` on the wire.
        kind: String,
        /// Parameters of the step.
        more: Map<String, Value>,
    },
}

impl From<AdamParams> for OptimizerParams {
    fn from(params: AdamParams) -> Self {
        OptimizerParams::Adam(params)
    }
}

impl From<DimuonParams> for OptimizerParams {
    fn from(params: DimuonParams) -> Self {
        OptimizerParams::Dimuon(params)
    }
}

impl OptimizerParams {
    pub(crate) fn validate(&self) -> Result<()> {
        match self {
            OptimizerParams::Adam(params) => params.validate(),
            OptimizerParams::Dimuon(params) => params.validate(),
            OptimizerParams::Other { kind, more } => check_free_form("optimizer_params", kind, more),
        }
    }
}

/// Parameters of one Dimuon step (PROTOCOL §6.5). End the literal with `..DimuonParams::new(…)`: a minor version may
/// add fields.
///
/// # Example: the defaults, with a learning rate
/// ```
/// use tinkex::types::DimuonParams;
///
/// let dimuon = DimuonParams::new(1e-3);
/// assert_eq!((dimuon.learning_rate, dimuon.grad_clip_norm, dimuon.beta1), (1e-3, 0.0, 0.9));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DimuonParams {
    /// Step size, at least 0.
    pub learning_rate: f64,
    /// Largest global norm of the gradients; larger gradients are scaled down to it. 0 or less: no limit. Default 0.
    pub grad_clip_norm: f64,
    /// Decay rate of the mean of gradients, in `[0, 1)`. Default 0.9.
    pub beta1: f64,
}

impl DimuonParams {
    /// The defaults with a learning rate, which has no default.
    pub fn new(learning_rate: f64) -> Self {
        DimuonParams { learning_rate, grad_clip_norm: 0.0, beta1: 0.9 }
    }

    pub(crate) fn to_json(self) -> Value {
        serde_json::json!({
            "type": "dimuon",
            "learning_rate": self.learning_rate,
            "grad_clip_norm": self.grad_clip_norm,
            "beta1": self.beta1,
        })
    }

    fn validate(&self) -> Result<()> {
        let rules = [
            (
                "learning_rate",
                self.learning_rate,
                self.learning_rate.is_finite() && 0.0 <= self.learning_rate,
                "finite and at least 0",
            ),
            ("grad_clip_norm", self.grad_clip_norm, self.grad_clip_norm.is_finite(), "finite"),
            ("beta1", self.beta1, (0.0..1.0).contains(&self.beta1), "in [0, 1)"),
        ];
        match rules.iter().find(|rule| !rule.2) {
            Some((name, value, _, rule)) => {
                Err(Error::invalid(format!("optimizer_params.{name}"), format!("must be {rule}, is {value}")))
            }
            None => Ok(()),
        }
    }
}

/// Refuses an empty name, and a second name (a field `type`) in `more`. Numbers need no check: JSON numbers are finite.
fn check_free_form(path: &str, kind: &str, more: &Map<String, Value>) -> Result<()> {
    if kind.is_empty() {
        return Err(Error::invalid(format!("{path}.type"), "is empty"));
    }
    if more.contains_key("type") {
        return Err(Error::invalid(format!("{path}.type"), "is given twice"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_outside_their_range_are_refused_by_name() {
        let dimuon = DimuonParams::new;
        let other = |kind: &str, more| OptimizerParams::Other { kind: kind.into(), more };
        let twice = Map::from_iter([("type".to_string(), Value::from("x"))]);
        let table: [(OptimizerParams, &str); 8] = [
            (AdamParams { beta1: 1.0, ..Default::default() }.into(), "adam_params.beta1"),
            (dimuon(-1e-9).into(), "optimizer_params.learning_rate"),
            (dimuon(f64::NAN).into(), "optimizer_params.learning_rate"),
            (DimuonParams { beta1: 1.0, ..dimuon(1.0) }.into(), "optimizer_params.beta1"),
            (DimuonParams { beta1: f64::NAN, ..dimuon(1.0) }.into(), "optimizer_params.beta1"),
            (
                DimuonParams { grad_clip_norm: f64::INFINITY, ..dimuon(1.0) }.into(),
                "optimizer_params.grad_clip_norm",
            ),
            (other("", Map::new()), "optimizer_params.type"),
            (other("sgd", twice), "optimizer_params.type"),
        ];
        for (params, path) in table {
            let error = params.validate().expect_err("a refusal");
            assert_eq!(error.violation().expect("a path").path, path, "{params:?}");
        }
        let off = DimuonParams { grad_clip_norm: -1.0, learning_rate: 0.0, ..dimuon(1.0) };
        OptimizerParams::from(off).validate().expect("no limit of the norm");
        other("sgd", Map::new()).validate().expect("an optimizer that the client does not know");
    }

    #[test]
    fn a_version_below_one_is_refused() {
        let error = OptimizerConfig::Dimuon { version: 0 }.validate("optimizer").expect_err("a refusal");
        assert_eq!(error.violation().expect("a path").path, "optimizer.version");
    }
}
