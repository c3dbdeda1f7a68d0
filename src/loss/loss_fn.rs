//! Loss functions and their options.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::{LossGraph, LossHandle};
use crate::error::{Error, Result};
use crate::types::Datum;

/// Option that holds the id of a custom loss.
const LOSS_ID: &str = "loss_id";

/// A loss function that the server computes (PROTOCOL §7), and the inputs that each datum needs for it. Every loss is a
/// sum over tokens and data. In the formulas, `logp` are the log-probabilities of the targets under the model, `w` the
/// weights, `A` the advantages, and `q` the log-probabilities at which the tokens were sampled.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LossFn {
    /// `−Σ w·logp`. Inputs: `target_tokens`, `weights`. [`Datum::cross_entropy`] makes such data.
    CrossEntropy,
    /// `−Σ r·A` with `r = exp(logp − q)`. Inputs: `target_tokens`, `logprobs` (`q`, at temperature 1), `advantages`.
    /// [`Datum::importance_sampling`] makes such data.
    ImportanceSampling,
    /// Clipped policy gradient. Inputs as for importance sampling. [`Datum::ppo`] makes such data.
    Ppo,
    /// Clipped importance weights. Inputs as for importance sampling. [`Datum::cispo`] makes such data.
    Cispo,
    /// Direct reward optimisation. Inputs as for importance sampling. [`Datum::dro`] makes such data.
    Dro,
    /// Sequence-level ratios. Inputs as for importance sampling, and `sequence_ratio_mask`. [`Datum::gspo`] makes such
    /// data.
    Gspo,
    /// A variant of REINFORCE. Inputs: `target_tokens`, `advantages`, and the [`Provenance`](crate::types::Provenance)
    /// of each datum. The sampling client must have recorded stability info. [`Datum::stable_reinforce`] makes such
    /// data.
    StableReinforce,
    /// A loss that was uploaded to the server. Inputs: `target_tokens`, and the inputs that the loss names.
    Custom {
        /// The server's id of the loss.
        loss_id: String,
    },
    /// A traced loss ([`LossGraph`](super::LossGraph)) that was created in this session. Inputs: `target_tokens`, and
    /// the inputs that the loss names. Other inputs of the data are not sent.
    Traced(LossHandle),
    /// A loss with any other name. The name is sent unchanged, and the server checks the inputs.
    Other(String),
}

impl LossFn {
    /// Name of the loss in requests.
    pub fn as_str(&self) -> &str {
        match self {
            LossFn::CrossEntropy => "cross_entropy",
            LossFn::ImportanceSampling => "importance_sampling",
            LossFn::Ppo => "ppo",
            LossFn::Cispo => "cispo",
            LossFn::Dro => "dro",
            LossFn::Gspo => "gspo",
            LossFn::StableReinforce => "stable_reinforce",
            LossFn::Custom { .. } | LossFn::Traced(_) => "custom",
            LossFn::Other(name) => name,
        }
    }

    /// Parses the name and the options of a request.
    pub(crate) fn parse(name: &str, config: &BTreeMap<String, LossValue>) -> Self {
        let named = [
            LossFn::CrossEntropy,
            LossFn::ImportanceSampling,
            LossFn::Ppo,
            LossFn::Cispo,
            LossFn::Dro,
            LossFn::Gspo,
            LossFn::StableReinforce,
        ];
        if let ("custom", Some(LossValue::Text(loss_id))) = (name, config.get(LOSS_ID)) {
            return LossFn::Custom { loss_id: loss_id.clone() };
        }
        named.into_iter().find(|it| it.as_str() == name).unwrap_or_else(|| LossFn::Other(name.into()))
    }

    /// Inputs that the loss needs.
    fn required(&self) -> &'static [&'static str] {
        match self {
            LossFn::CrossEntropy | LossFn::Custom { .. } | LossFn::Traced(_) => &["target_tokens"],
            LossFn::ImportanceSampling | LossFn::Ppo | LossFn::Cispo | LossFn::Dro => {
                &["target_tokens", "logprobs", "advantages"]
            }
            LossFn::Gspo => &["target_tokens", "logprobs", "advantages", "sequence_ratio_mask"],
            LossFn::StableReinforce => &["target_tokens", "advantages"],
            LossFn::Other(_) => &[],
        }
    }

    /// Inputs that must have the shape of `target_tokens`.
    fn shaped_like_targets(&self) -> &'static [&'static str] {
        match self {
            LossFn::CrossEntropy => &["weights"],
            LossFn::Custom { .. } | LossFn::Traced(_) | LossFn::Other(_) => &[],
            _ => &["logprobs", "advantages", "sequence_ratio_mask"],
        }
    }

    /// Refuses a datum that lacks an input of the loss or has an input of a wrong shape. `path` is the path of the
    /// datum. The error has the path of the input, which begins with `path`.
    pub(crate) fn check(&self, datum: &Datum, path: &str) -> Result<()> {
        if let LossFn::Traced(handle) = self {
            return handle.check(datum, path);
        }
        let inputs = &datum.loss_fn_inputs;
        if let Some(name) = self.required().iter().find(|name| !inputs.contains_key(**name)) {
            let problem = format!("is missing; {self} needs it");
            return Err(Error::invalid(format!("{path}.loss_fn_inputs[{name:?}]"), problem));
        }
        if *self == LossFn::StableReinforce && datum.provenance.is_none() {
            return Err(Error::invalid(format!("{path}.provenance"), format!("is missing; {self} needs it")));
        }
        let Some(targets) = inputs.get("target_tokens") else { return Ok(()) };
        for name in self.shaped_like_targets() {
            if let Some(tensor) = inputs.get(*name)
                && tensor.shape() != targets.shape()
            {
                let problem =
                    format!("has the shape {:?}, but target_tokens {:?}", tensor.shape(), targets.shape());
                return Err(Error::invalid(format!("{path}.loss_fn_inputs[{name:?}]"), problem));
            }
        }
        Ok(())
    }

    /// Adds an option.
    ///
    /// # Example: narrower clip thresholds
    /// ```
    /// use tinkex::types::LossFn;
    ///
    /// let loss = LossFn::Ppo.with("clip_low_threshold", 0.9).with("clip_high_threshold", 1.1);
    /// assert_eq!(loss.config.len(), 2);
    /// ```
    #[must_use]
    pub fn with(self, option: impl Into<String>, value: impl Into<LossValue>) -> Loss {
        Loss::from(self).with(option, value)
    }
}

impl fmt::Display for LossFn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A loss function and its options. Build it from a [`LossFn`] with `into` or [`LossFn::with`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Loss {
    /// Loss function.
    pub loss_fn: LossFn,
    /// Options by name. Clip thresholds are values of the ratio `r = exp(logp − q)` (see [`LossFn`]), not distances
    /// from 1: a `clip_low_threshold` of 0.9 clips at `r = 0.9`.
    pub config: BTreeMap<String, LossValue>,
}

/// Value of a loss option.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
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
        let mut config = BTreeMap::new();
        if let LossFn::Custom { loss_id } = &loss_fn {
            config.insert(LOSS_ID.to_string(), loss_id.as_str().into());
        }
        Loss { loss_fn, config }
    }
}

impl Loss {
    /// Returns `Ok` with the loss to request from the server, or `Err` with the graph of a traced loss that the client
    /// must compute, because the server does not run custom losses.
    pub(crate) fn resolve(self) -> std::result::Result<Loss, Arc<LossGraph>> {
        match self.loss_fn {
            LossFn::Traced(handle) => match handle.loss_id() {
                Some(id) => Ok(LossFn::Custom { loss_id: id.into() }.into()),
                None => Err(handle.graph().clone()),
            },
            _ => Ok(self),
        }
    }

    /// Adds an option.
    #[must_use]
    pub fn with(mut self, option: impl Into<String>, value: impl Into<LossValue>) -> Self {
        self.config.insert(option.into(), value.into());
        self
    }

    pub(crate) fn validate(&self) -> Result<()> {
        if self.loss_fn.as_str().is_empty() {
            return Err(Error::invalid("loss_fn", "is empty"));
        }
        if let LossFn::Custom { loss_id } = &self.loss_fn
            && self.config.get(LOSS_ID) != Some(&LossValue::Text(loss_id.clone()))
        {
            return Err(Error::invalid(
                format!("loss_fn_config[{LOSS_ID:?}]"),
                "differs from the id in loss_fn",
            ));
        }
        if matches!(self.loss_fn, LossFn::Traced(_))
            && let Some(name) = self.config.keys().next()
        {
            return Err(Error::invalid(format!("loss_fn_config[{name:?}]"), "a traced loss has no options"));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Provenance, ProvenanceSpan, TensorData};

    fn policy_gradient_datum() -> Datum {
        let mut datum = Datum::cross_entropy(&[1], &[2, 3]);
        datum.loss_fn_inputs.remove("weights");
        datum.with("logprobs", vec![-1.0f32, -2.0]).with("advantages", vec![1.0f32, 0.5])
    }

    #[test]
    fn every_loss_is_parsed_from_its_own_name_and_options() {
        let all = [
            LossFn::CrossEntropy,
            LossFn::ImportanceSampling,
            LossFn::Ppo,
            LossFn::Cispo,
            LossFn::Dro,
            LossFn::Gspo,
            LossFn::StableReinforce,
            LossFn::Custom { loss_id: "loss-1".into() },
            LossFn::Other("dppo".into()),
        ];
        for loss_fn in all {
            let loss = Loss::from(loss_fn.clone());
            loss.validate().expect("a loss");
            assert_eq!(LossFn::parse(loss_fn.as_str(), &loss.config), loss_fn);
        }
        let mut loss = Loss::from(LossFn::Custom { loss_id: "loss-1".into() });
        loss.config.clear();
        let error = loss.validate().expect_err("a refusal");
        assert_eq!(error.violation().expect("a path").path, "loss_fn_config[\"loss_id\"]");
    }

    #[test]
    fn a_datum_that_lacks_an_input_of_the_loss_is_refused_by_name() {
        let refused = |loss: LossFn, datum: &Datum| {
            let error = loss.check(datum, "data[2]").expect_err("a refusal");
            error.violation().expect("a path").path.clone()
        };
        let input = |name: &str| format!("data[2].loss_fn_inputs[{name:?}]");
        for loss in [LossFn::ImportanceSampling, LossFn::Ppo, LossFn::Cispo, LossFn::Dro] {
            loss.check(&policy_gradient_datum(), "data[2]").expect("all inputs");
            for name in ["target_tokens", "logprobs", "advantages"] {
                let mut datum = policy_gradient_datum();
                datum.loss_fn_inputs.remove(name);
                assert_eq!(refused(loss.clone(), &datum), input(name), "{loss}");
            }
        }
        assert_eq!(refused(LossFn::Gspo, &policy_gradient_datum()), input("sequence_ratio_mask"));
        LossFn::Gspo
            .check(&policy_gradient_datum().with("sequence_ratio_mask", vec![1.0f32, 0.0]), "data[2]")
            .expect("all inputs");
        assert_eq!(refused(LossFn::StableReinforce, &policy_gradient_datum()), "data[2].provenance");
        let spans = vec![ProvenanceSpan::sampled("s", 0, 2)];
        let provenance = Provenance { model_input: spans.clone(), loss_fn_inputs: spans };
        LossFn::StableReinforce
            .check(&policy_gradient_datum().with_provenance(provenance), "data[2]")
            .expect("all inputs");
        let bare = Datum::default();
        assert_eq!(refused(LossFn::CrossEntropy, &bare), input("target_tokens"));
        assert_eq!(refused(LossFn::Custom { loss_id: "x".into() }, &bare), input("target_tokens"));
        LossFn::Other("dppo".into()).check(&bare, "data[2]").expect("the server checks it");
    }

    #[test]
    fn inputs_of_another_shape_than_the_targets_are_refused() {
        let rows = |n: usize| TensorData::from(vec![0.5f32; 2 * n]).with_shape([2, n]).expect("a shape");
        let wide = Datum::cross_entropy(&[1], &[2, 3]).with(
            "target_tokens",
            TensorData::from(vec![1i64, 2, 3, 4]).with_shape([2, 2]).expect("a shape"),
        );
        LossFn::CrossEntropy.check(&wide.clone().with("weights", rows(2)), "d").expect("the same shape");
        for wrong in [rows(1), vec![1.0f32, 1.0].into()] {
            let error = LossFn::CrossEntropy.check(&wide.clone().with("weights", wrong), "d");
            let error = error.expect_err("a refusal");
            assert_eq!(error.violation().expect("a path").path, "d.loss_fn_inputs[\"weights\"]");
        }
        let error = LossFn::Ppo
            .check(&policy_gradient_datum().with("advantages", rows(1)), "d")
            .expect_err("a refusal");
        assert_eq!(error.violation().expect("a path").path, "d.loss_fn_inputs[\"advantages\"]");
    }
}
