//! Optimizers: which one a model has, and the parameters of its steps.

use serde_json::{Map, Value};

use super::AdamParams;
use crate::error::{Error, Result};

/// Which optimizer a model is trained with (PROTOCOL §3.3 #10). It is chosen when the model is made.
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
    /// Adam with decoupled weight decay; its steps take [`AdamParams`].
    #[default]
    AdamW,
    /// Dimuon; its steps take [`DimuonParams`].
    Dimuon {
        /// The version of the algorithm, from 1.
        version: u32,
    },
    /// Any other; the server decides whether it knows it. Its steps take [`OptimizerParams::Other`].
    Other {
        /// Its name: what the server calls `type`.
        kind: String,
        /// Its settings.
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

/// The parameters of one step, for the optimizer that the model was made with (PROTOCOL §6.5). [`AdamParams`] and
/// [`DimuonParams`] turn into it by themselves where a step takes it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum OptimizerParams {
    /// For models with AdamW.
    Adam(AdamParams),
    /// For models with Dimuon.
    Dimuon(DimuonParams),
    /// For any other optimizer.
    Other {
        /// Its name: what the server calls `type`.
        kind: String,
        /// Its parameters.
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
            OptimizerParams::Adam(it) => it.validate(),
            OptimizerParams::Dimuon(it) => it.validate(),
            OptimizerParams::Other { kind, more } => check_free_form("optimizer_params", kind, more),
        }
    }
}

/// The parameters of one Dimuon step (PROTOCOL §6.5).
///
/// # Example: the defaults, with a learning rate
/// ```
/// use tinkex::types::DimuonParams;
///
/// let dimuon = DimuonParams::new(1e-3);
/// assert_eq!((dimuon.learning_rate, dimuon.grad_clip_norm, dimuon.beta1), (1e-3, 0.0, 0.9));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct DimuonParams {
    /// The step size, at least 0.
    pub learning_rate: f64,
    /// Gradients of a greater global norm are scaled down to it; 0 or less = never. Default 0.
    pub grad_clip_norm: f64,
    /// The decay of the mean of gradients, in `[0, 1)`. Default 0.9.
    pub beta1: f64,
}

impl DimuonParams {
    /// The defaults with a learning rate, which has none.
    pub fn new(learning_rate: f64) -> Self {
        DimuonParams { learning_rate, grad_clip_norm: 0.0, beta1: 0.9 }
    }

    pub(crate) fn to_json(&self) -> Value {
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
        match rules.iter().find(|it| !it.2) {
            Some((name, value, _, rule)) => {
                Err(Error::invalid(format!("optimizer_params.{name}"), format!("must be {rule}, is {value}")))
            }
            None => Ok(()),
        }
    }
}

/// The name stands apart from the rest, so that there is one of it. Numbers need no check: JSON has only finite ones.
fn check_free_form(path: &str, kind: &str, more: &Map<String, Value>) -> Result<()> {
    if kind.is_empty() {
        return Err(Error::invalid(format!("{path}.type"), "is empty"));
    }
    match more.contains_key("type") {
        true => Err(Error::invalid(format!("{path}.type"), "is given twice")),
        false => Ok(()),
    }
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
        OptimizerParams::from(off).validate().expect("no clipping");
        other("sgd", Map::new()).validate().expect("the server decides");
    }

    #[test]
    fn a_version_below_one_is_refused() {
        let error = OptimizerConfig::Dimuon { version: 0 }.validate("optimizer").expect_err("a refusal");
        assert_eq!(error.violation().expect("a path").path, "optimizer.version");
    }
}
