//! Regularizers: terms that are added to the loss of a graph. `term` computes their values from the log-probabilities.

mod term;

use super::graph::{LossTensor, LossTrace};
use crate::error::{Error, Result};

/// A term that is added to a loss, computed from the log-probabilities of a datum's targets. All terms are differentiable
/// with respect to them.
///
/// `x` stands for the log-probabilities or, with [`Measured::Probs`], the probabilities. If `target_tokens` has the shape
/// `[T, K]`, a *row* is the distribution over the `K` candidates of one position. If it has the shape `[T]`, each
/// position is a row of its own, which has only the term of its target.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Regularizer {
    /// `|x|`: pulls values to 0.
    L1 {
        /// What is measured.
        of: Measured,
    },
    /// `(x − center)²`: pulls values to a center.
    L2 {
        /// What is measured.
        of: Measured,
        /// The value to which the term pulls.
        center: Center,
        /// Largest distance from the center that counts. Values beyond it cost the same and have no gradient.
        clip: Option<f64>,
    },
    /// `l1_ratio · |x| + (1 − l1_ratio) · x²`.
    ElasticNet {
        /// What is measured.
        of: Measured,
        /// Share of the absolute value, from 0 to 1.
        l1_ratio: f64,
    },
    /// The entropy `H = −Σ p · log p` of each row.
    Entropy {
        /// Whether training lowers or raises the entropy.
        goal: EntropyGoal,
        /// Divides by `log K`, so that the entropy of a row is at most 1. Needs the shape `[T, K]`.
        normalize: bool,
        /// Divides the log-probabilities before they are normalised again, if it is not 1. Needs the shape `[T, K]`.
        temperature: f64,
    },
    /// The Kullback-Leibler divergence of each row from a reference, `q`.
    Kl {
        /// The loss input with the log-probabilities of the reference, in the shape of `target_tokens`.
        reference: String,
        /// Which distribution comes first.
        direction: KlDirection,
    },
    /// The distance from other log-probabilities of the same targets, such as those of a rephrased prompt.
    Consistency {
        /// The loss input with the other log-probabilities, in the shape of `target_tokens`.
        pair: String,
        /// How the distance is measured.
        distance: Distance,
    },
}

/// What a [`Regularizer`] measures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Measured {
    /// The log-probabilities.
    #[default]
    Logprobs,
    /// The probabilities.
    Probs,
}

/// The value to which [`Regularizer::L2`] pulls.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Center {
    /// 0.
    #[default]
    Zero,
    /// The mean of the datum's values.
    Mean,
    /// A number.
    Value(f64),
}

/// What [`Regularizer::Entropy`] trains for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntropyGoal {
    /// Adds the entropy, so that training lowers it.
    Minimize,
    /// Subtracts the entropy, so that training raises it.
    Maximize,
}

/// The order of the distributions in [`Regularizer::Kl`]: `p` is that of the model, `q` the reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KlDirection {
    /// `Σ p · (log p − log q)`.
    Forward,
    /// `Σ q · (log q − log p)`.
    Reverse,
    /// Half of the sum of both.
    Symmetric,
}

/// How [`Regularizer::Consistency`] measures a distance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distance {
    /// Squares of the differences.
    Squared,
    /// Absolute differences.
    Absolute,
    /// 1 − the cosine of the angle between all values of the datum. The reduction has no effect.
    Cosine,
    /// The symmetric Kullback-Leibler divergence of each row.
    Kl,
}

/// How a [`Regularizer`] combines the values of one datum. The loss of a batch adds its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TermReduction {
    /// Their mean.
    #[default]
    Mean,
    /// Their sum.
    Sum,
}

/// Regularizers with their weights, which are added to a loss.
///
/// Each term reports two metrics: `custom/<name>:sum` is its value, `custom/<name>/weighted:sum` what it adds to the loss.
/// The loss without the terms is the metric `custom/base_loss:sum`.
///
/// # Example: keep the model near a reference
/// ```
/// use tinkex::types::{Datum, KlDirection, LossGraph, Regularizer, Regularizers};
///
/// let near = Regularizer::Kl { reference: "reference".into(), direction: KlDirection::Reverse };
/// let terms = Regularizers::new().with("kl", 0.1, near)?.masked_by("weights");
/// let inputs = [("logprobs", 1), ("weights", 1), ("reference", 1)];
/// let graph = LossGraph::trace("near", &inputs, |trace| {
///     let base = -(trace.logprobs() * trace.input("weights")).sum();
///     terms.add_to(trace, base)
/// })?;
/// let data = [Datum::cross_entropy(&[1], &[2, 3]).with("reference", vec![-1.0f32, -1.0])];
/// let loss = graph.evaluate(&data, &[&[-1.0, -2.0]])?;
/// // (e⁻¹ · (−1 + 1) + e⁻¹ · (−1 + 2)) / 2
/// assert!((loss.metrics["custom/kl:sum"] - 0.18394).abs() < 1e-5);
/// assert!((loss.loss - 3.018394).abs() < 1e-5);
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Regularizers {
    terms: Vec<Term>,
    mask: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
struct Term {
    name: String,
    weight: f64,
    reduction: TermReduction,
    regularizer: Regularizer,
}

impl Regularizers {
    /// No terms.
    pub fn new() -> Self {
        Regularizers::default()
    }

    /// Adds a term: the mean of its values, multiplied by `weight`.
    ///
    /// # Errors
    /// `InvalidInput` if another term has the name, the name is not usable in a metric (1 to 55 characters of a-z, 0-9,
    /// `_`, `.` and `-`), the weight is not a finite number of at least 0, or a setting of the term is out of its range.
    pub fn with(self, name: &str, weight: f64, regularizer: Regularizer) -> Result<Self> {
        self.with_reduction(name, weight, TermReduction::Mean, regularizer)
    }

    /// As [`with`](Self::with), with the given reduction.
    ///
    /// # Errors
    /// As for [`with`](Self::with).
    pub fn with_reduction(
        mut self,
        name: &str,
        weight: f64,
        reduction: TermReduction,
        regularizer: Regularizer,
    ) -> Result<Self> {
        let path = |field: &str| format!("regularizers[{name:?}]{field}");
        let is_usable =
            |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || "_.-".contains(char);
        if name.is_empty() || MAX_NAME < name.len() || !name.chars().all(is_usable) {
            let problem = format!("must have 1 to {MAX_NAME} characters of a-z, 0-9, _, . and -");
            return Err(Error::invalid(path(""), problem));
        }
        if name == BASE || self.terms.iter().any(|term| term.name == name) {
            return Err(Error::invalid(
                path(""),
                "is the name of another term; its metrics need their own name",
            ));
        }
        if !weight.is_finite() || weight < 0.0 {
            let problem = format!("is {weight}; it must be a finite number of at least 0");
            return Err(Error::invalid(path(".weight"), problem));
        }
        if let Some((field, problem)) = regularizer.mistake() {
            return Err(Error::invalid(path(field), problem));
        }
        self.terms.push(Term { name: name.into(), weight, reduction, regularizer });
        Ok(self)
    }

    /// Multiplies the values of each position by a loss input of the shape `[T]`, such as `weights`. Means divide by its
    /// sum. So prompts and padding can be left out. By default every position counts.
    #[must_use]
    pub fn masked_by(mut self, input: &str) -> Self {
        self.mask = Some(input.into());
        self
    }

    /// Adds the terms to `base`, and reports the metrics. For use in [`LossGraph::trace`](super::LossGraph::trace), which
    /// must list the loss inputs that the terms read.
    pub fn add_to<'g>(&self, trace: &'g LossTrace, base: LossTensor<'g>) -> LossTensor<'g> {
        trace.metric(&format!("custom/{BASE}:sum"), base);
        let mask = self.mask.as_ref().map(|input| trace.input(input));
        self.terms.iter().fold(base, |loss, term| {
            let value = term.regularizer.value(trace, term.reduction, mask);
            let weighted = value * term.weight;
            trace.metric(&format!("custom/{}:sum", term.name), value);
            trace.metric(&format!("custom/{}/weighted:sum", term.name), weighted);
            loss + weighted
        })
    }
}

/// The metric of the loss without terms.
const BASE: &str = "base_loss";

/// A metric's name has at most 64 characters, of which `/weighted` needs 9.
const MAX_NAME: usize = 55;

impl Regularizer {
    /// The setting that is out of its range, and what is wrong with it.
    fn mistake(&self) -> Option<(&'static str, String)> {
        let out_of_range =
            |field, value: f64, range: &str| Some((field, format!("is {value}; it must be {range}")));
        match self {
            Regularizer::L2 { center: Center::Value(center), .. } if !center.is_finite() => {
                out_of_range(".center", *center, "a finite number")
            }
            Regularizer::L2 { clip: Some(clip), .. } if !(clip.is_finite() && 0.0 < *clip) => {
                out_of_range(".clip", *clip, "a finite number above 0")
            }
            Regularizer::ElasticNet { l1_ratio, .. } if !(0.0..=1.0).contains(l1_ratio) => {
                out_of_range(".l1_ratio", *l1_ratio, "from 0 to 1")
            }
            Regularizer::Entropy { temperature, .. } if !(temperature.is_finite() && 0.0 < *temperature) => {
                out_of_range(".temperature", *temperature, "a finite number above 0")
            }
            _ => None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
