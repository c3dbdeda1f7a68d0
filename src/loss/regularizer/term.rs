//! The value of a regularizer as operations of a graph.

use super::{Center, Distance, EntropyGoal, KlDirection, Measured, Regularizer, TermReduction};
use crate::error::Error;
use crate::loss::graph::{LossTensor, LossTrace};

/// Log-probabilities of at most this value add nothing to an entropy.
const NEVER: f64 = -50.0;

/// Rows whose first distribution has at most this probability add nothing to a divergence.
const MIN_PROB: f64 = 1e-10;

/// Largest difference of two log-probabilities in a divergence.
const MAX_DIFFERENCE: f64 = 100.0;

impl Regularizer {
    /// The value for one datum.
    pub(super) fn value<'g>(
        &self,
        trace: &'g LossTrace,
        reduction: TermReduction,
        mask: Option<LossTensor<'g>>,
    ) -> LossTensor<'g> {
        let logprobs = trace.logprobs();
        let scope = Scope { trace, reduction, mask };
        match self {
            Regularizer::L1 { of } => scope.reduce(measured(logprobs, *of).abs()),
            Regularizer::L2 { of, center, clip } => {
                let x = measured(logprobs, *of);
                let distance = match center {
                    Center::Zero => x,
                    Center::Mean => x - Scope { reduction: TermReduction::Mean, ..scope }.reduce(x),
                    Center::Value(center) => x - *center,
                };
                let clipped = clip.map_or(distance, |clip| distance.clamp(Some(-clip), Some(clip)));
                scope.reduce(clipped.square())
            }
            Regularizer::ElasticNet { of, l1_ratio } => {
                let x = measured(logprobs, *of);
                scope.reduce(x.abs() * *l1_ratio + x.square() * (1.0 - l1_ratio))
            }
            Regularizer::Entropy { goal, normalize, temperature } => {
                let entropy = scope.reduce(entropy(scope, logprobs, *normalize, *temperature));
                match goal {
                    EntropyGoal::Minimize => entropy,
                    EntropyGoal::Maximize => -entropy,
                }
            }
            Regularizer::Kl { reference, direction } => {
                let reference = trace.input(reference);
                let (forward, reverse) = (clipped_kl(logprobs, reference), clipped_kl(reference, logprobs));
                scope.reduce(rows(match direction {
                    KlDirection::Forward => forward,
                    KlDirection::Reverse => reverse,
                    KlDirection::Symmetric => (forward + reverse) * 0.5,
                }))
            }
            Regularizer::Consistency { pair, distance } => {
                scope.distance(logprobs, trace.input(pair), *distance)
            }
        }
    }
}

/// What belongs to the value of one term besides the tensors.
#[derive(Clone, Copy)]
struct Scope<'g> {
    trace: &'g LossTrace,
    reduction: TermReduction,
    mask: Option<LossTensor<'g>>,
}

impl<'g> Scope<'g> {
    /// Multiplies by the mask, if there is one.
    fn masked(self, values: LossTensor<'g>) -> LossTensor<'g> {
        match self.mask {
            // A mask has one value for each position, all of whose candidates it covers.
            Some(mask) if values.rank() == 2 => values * mask.unsqueeze(1),
            Some(mask) => values * mask,
            None => values,
        }
    }

    fn reduce(self, values: LossTensor<'g>) -> LossTensor<'g> {
        match (self.reduction, self.mask) {
            (TermReduction::Mean, None) => values.mean(),
            // A datum whose mask is all 0 has the value 0 / tiny = 0.
            (TermReduction::Mean, Some(_)) => {
                let n = self.masked(values.detach() * 0.0 + 1.0).sum();
                self.masked(values).sum() / n.clamp(Some(f64::MIN_POSITIVE), None)
            }
            (TermReduction::Sum, _) => self.masked(values).sum(),
        }
    }

    fn distance(self, a: LossTensor<'g>, b: LossTensor<'g>, distance: Distance) -> LossTensor<'g> {
        match distance {
            Distance::Squared => self.reduce((a - b).square()),
            Distance::Absolute => self.reduce((a - b).abs()),
            Distance::Cosine => {
                let product = |x: LossTensor<'g>, y: LossTensor<'g>| self.masked(x * y).sum();
                let norms = (product(a, a) * product(b, b)).sqrt();
                1.0 - product(a, b) / norms.clamp(Some(1e-12), None)
            }
            Distance::Kl => self.reduce(rows((kl(a, b) + kl(b, a)) * 0.5)),
        }
    }
}

fn measured(logprobs: LossTensor<'_>, of: Measured) -> LossTensor<'_> {
    match of {
        Measured::Logprobs => logprobs,
        Measured::Probs => logprobs.exp(),
    }
}

/// One value for each row: the sum over the candidates, where there are several.
fn rows(values: LossTensor<'_>) -> LossTensor<'_> {
    if values.rank() == 2 { values.sum_dim(1) } else { values }
}

/// The entropy of each row.
fn entropy<'g>(
    scope: Scope<'g>,
    logprobs: LossTensor<'g>,
    normalize: bool,
    temperature: f64,
) -> LossTensor<'g> {
    if logprobs.rank() != 2 && (normalize || temperature != 1.0) {
        let problem = "an entropy with a temperature or that is normalised needs targets of the shape [T, K]";
        scope.trace.set_error(Error::invalid("regularizers", problem));
        return logprobs;
    }
    let logprobs = if temperature == 1.0 { logprobs } else { (logprobs / temperature).log_softmax(1) };
    let entropy = rows(logprobs.le(NEVER).where_else(0.0, -(logprobs.exp() * logprobs)));
    if !normalize {
        return entropy;
    }
    // The graph does not know K: it is the sum of ones. A single candidate has the entropy 0 in any case.
    let n = (logprobs.detach() * 0.0 + 1.0).sum_dim(1);
    entropy / n.log().clamp(Some(1e-12), None)
}

/// The terms of the divergence of `a` from `b`.
fn kl<'g>(a: LossTensor<'g>, b: LossTensor<'g>) -> LossTensor<'g> {
    a.exp() * (a - b)
}

/// As [`kl`], without improbable terms and extreme differences, whose gradients would be noise.
fn clipped_kl<'g>(a: LossTensor<'g>, b: LossTensor<'g>) -> LossTensor<'g> {
    let probs = a.exp();
    let terms = probs * (a - b).clamp(Some(-MAX_DIFFERENCE), Some(MAX_DIFFERENCE));
    probs.gt(MIN_PROB).where_else(terms, 0.0)
}
