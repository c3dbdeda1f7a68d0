//! What to minimise.

use std::collections::BTreeMap;
use std::fmt;

use crate::error::{Error, Result};

/// A loss function of the server (PROTOCOL §7). All of them are sums over tokens and data.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LossFn {
    /// `−Σ w·logp`: `target_tokens`, `weights`.
    CrossEntropy,
    /// `−Σ r·A` with `r = exp(logp − q)`: `target_tokens`, `logprobs`, `advantages`.
    ImportanceSampling,
    /// Clipped policy gradient: inputs as for importance sampling.
    Ppo,
    /// Clipped importance weights: inputs as for importance sampling.
    Cispo,
    /// Direct reward optimisation: inputs as for importance sampling.
    Dro,
    /// Sequence-level ratios: additionally `sequence_ratio_mask`.
    Gspo,
    /// Any other name; the server decides whether it knows it.
    Other(String),
}

impl LossFn {
    /// The name on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            LossFn::CrossEntropy => "cross_entropy",
            LossFn::ImportanceSampling => "importance_sampling",
            LossFn::Ppo => "ppo",
            LossFn::Cispo => "cispo",
            LossFn::Dro => "dro",
            LossFn::Gspo => "gspo",
            LossFn::Other(name) => name,
        }
    }

    /// This loss with an option.
    ///
    /// # Example: a tighter clip
    /// ```
    /// use tinkex::types::LossFn;
    ///
    /// let loss = LossFn::Ppo.with("clip_low_threshold", 0.9).with("clip_high_threshold", 1.1);
    /// assert_eq!(loss.config.len(), 2);
    /// ```
    pub fn with(self, option: impl Into<String>, value: impl Into<LossValue>) -> Loss {
        Loss::from(self).with(option, value)
    }
}

impl fmt::Display for LossFn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A loss function and its options.
#[derive(Clone, Debug, PartialEq)]
pub struct Loss {
    /// The function.
    pub loss_fn: LossFn,
    /// Its options, by name. Thresholds are absolute ratios: 0.9 means `r ≥ 0.9`.
    pub config: BTreeMap<String, LossValue>,
}

/// The value of a loss option.
#[derive(Clone, Debug, PartialEq)]
pub enum LossValue {
    /// A number.
    Number(f64),
    /// A text.
    Text(String),
}

impl From<f64> for LossValue {
    fn from(value: f64) -> Self {
        LossValue::Number(value)
    }
}

impl From<&str> for LossValue {
    fn from(value: &str) -> Self {
        LossValue::Text(value.into())
    }
}

impl From<LossFn> for Loss {
    fn from(loss_fn: LossFn) -> Self {
        Loss { loss_fn, config: BTreeMap::new() }
    }
}

impl Loss {
    /// This loss with a further option.
    pub fn with(mut self, option: impl Into<String>, value: impl Into<LossValue>) -> Self {
        self.config.insert(option.into(), value.into());
        self
    }

    pub(crate) fn validate(&self) -> Result<()> {
        if self.loss_fn.as_str().is_empty() {
            return Err(Error::invalid("loss_fn", "is empty"));
        }
        for (name, value) in &self.config {
            if let LossValue::Number(number) = value
                && !number.is_finite()
            {
                let path = format!("loss_fn_config[{name:?}]");
                return Err(Error::invalid(path, format!("{number} is not a finite number")));
            }
        }
        Ok(())
    }
}
