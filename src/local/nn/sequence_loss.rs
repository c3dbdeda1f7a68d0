//! Losses of whole sequences: the loss of a token depends on the other tokens of its sequence.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::example::Example;
use super::loss::{Loss, clipped};
use crate::loss::LossArray;

/// Limit of the number of values that all operations of a custom loss compute for one sequence: 32 MiB of values, and
/// another 32 MiB of gradients.
const MAX_VALUES: usize = 1 << 22;

/// Limit of the same number for custom losses that are computed at the same time. A pass computes up to eight of them,
/// which with `MAX_VALUES` each would take 512 MiB.
const MAX_CONCURRENT_VALUES: usize = MAX_VALUES / 8;

/// Held while a custom loss is computed that needs more than [`MAX_CONCURRENT_VALUES`] values, so that only one such
/// loss is in memory at a time.
static LARGE: Mutex<()> = Mutex::new(());

/// The loss of one sequence.
#[derive(Debug, Default, PartialEq)]
pub(super) struct SequenceLoss {
    pub(super) loss: f64,
    /// Derivatives with respect to the log-probabilities. For a custom loss this is empty if the argument `backward` of
    /// [`Loss::sequence_loss`] is false.
    pub(super) slopes: Vec<f32>,
    /// Metrics that the loss reports.
    pub(super) metrics: BTreeMap<String, f64>,
}

impl Loss {
    /// Computes the loss of one sequence from the log-probabilities of all its targets.
    ///
    /// # Errors
    /// A custom loss cannot be computed for the sequence.
    pub(super) fn sequence_loss(
        &self,
        e: &Example,
        logprobs: &[f32],
        backward: bool,
    ) -> Result<SequenceLoss, String> {
        match self {
            Loss::Gspo { lo, hi } => Ok(gspo(e, logprobs, *lo, *hi)),
            Loss::Custom(graph) => {
                let n = e.tokens.len();
                let shape = if graph.inputs()[0].rank == 2 { vec![n, e.k] } else { vec![n * e.k] };
                let values = logprobs.iter().map(|it| f64::from(*it)).collect();
                let mut inputs = vec![LossArray { shape, values }];
                inputs.extend(e.inputs.iter().cloned());
                let found = match graph.compute_within(inputs.clone(), MAX_CONCURRENT_VALUES) {
                    Ok(found) => found,
                    Err(_) => {
                        let _large_guard = LARGE.lock();
                        graph.compute_within(inputs, MAX_VALUES)?
                    }
                };
                if !found.loss.is_finite() {
                    return Err(format!("the loss {} is {}", graph.name(), found.loss));
                }
                let slopes = found.gradient.iter().filter(|_| backward).map(|it| *it as f32).collect();
                Ok(SequenceLoss { loss: found.loss, slopes, metrics: found.metrics.into_iter().collect() })
            }
            _ => Err("this loss has no form for whole sequences".into()),
        }
    }
}

fn gspo(e: &Example, logprobs: &[f32], lo: f64, hi: f64) -> SequenceLoss {
    let gap = |i: usize| f64::from(logprobs[i]) - f64::from(e.logprobs[i]);
    let counted: Vec<usize> = (0..logprobs.len()).filter(|i| e.mask[*i] != 0.0).collect();
    let mean = counted.iter().map(|i| gap(*i)).sum::<f64>() / counted.len().max(1) as f64;
    let mut total = SequenceLoss::default();
    for advantage in e.advantages.iter().map(|it| f64::from(*it)) {
        let (loss, slope) = clipped(mean, advantage, lo, hi);
        total.loss += loss;
        total.slopes.push(slope as f32);
    }
    total
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::types::LossGraph;

    fn example(q: &[f32], advantages: &[f32], mask: &[f32]) -> Example {
        Example {
            tokens: vec![0; q.len()],
            k: 1,
            logprobs: q.to_vec(),
            advantages: advantages.to_vec(),
            mask: mask.to_vec(),
            ..Example::default()
        }
    }

    /// The formula of GSPO in its plainest form. `held` are the same log-probabilities as `lp`, but as constants: the
    /// difference quotient changes only `lp`. The mean is taken over `held`.
    fn plain(e: &Example, lp: &[f64], held: &[f64], lo: f64, hi: f64) -> f64 {
        let counted: Vec<usize> = (0..lp.len()).filter(|i| e.mask[*i] != 0.0).collect();
        let gaps = counted.iter().map(|i| held[*i] - f64::from(e.logprobs[*i]));
        let mean = gaps.sum::<f64>() / counted.len() as f64;
        let token = |i: usize| {
            let s = (mean + lp[i] - held[i]).exp();
            let a = f64::from(e.advantages[i]);
            -(s * a).min(s.clamp(lo, hi) * a)
        };
        (0..lp.len()).map(token).sum()
    }

    #[test]
    fn the_derivative_of_gspo_agrees_with_a_difference_quotient_at_a_fixed_mean() {
        for lp in [[-1.0f32, -0.5, -2.0, -0.1], [-0.2, -0.3, -0.4, -0.5], [-3.0, -3.0, -3.0, -3.0]] {
            let e = example(&[-1.1, -0.9, -1.5, -0.7], &[1.0, -2.0, 0.5, 3.0], &[0.0, 1.0, 1.0, 0.5]);
            let (lo, hi) = (0.8, 1.2);
            let found = gspo(&e, &lp, lo, hi);
            let lp: Vec<f64> = lp.iter().map(|it| f64::from(*it)).collect();
            assert!((found.loss - plain(&e, &lp, &lp, lo, hi)).abs() < 1e-6, "{lp:?}");
            for i in 0..lp.len() {
                let moved = |by: f64| {
                    let mut moved = lp.clone();
                    moved[i] += by;
                    plain(&e, &moved, &lp, lo, hi)
                };
                let expected = (moved(1e-6) - moved(-1e-6)) / 2e-6;
                assert!((f64::from(found.slopes[i]) - expected).abs() < 1e-5, "{i}: {found:?} {expected}");
            }
        }
    }

    /// `sum((lp_i − lp_j)²)` over all pairs, with `n²` values in each of two steps.
    fn pairs(n: usize) -> Result<SequenceLoss, String> {
        let graph = LossGraph::trace("pairs", &[("logprobs", 1)], |graph| {
            (graph.logprobs().unsqueeze(0) - graph.logprobs().unsqueeze(1)).square().sum()
        });
        let loss = Loss::Custom(Arc::new(graph.expect("a graph")));
        let logprobs: Vec<f32> = (0..n).map(|i| -((i % 4) as f32)).collect();
        loss.sequence_loss(&example(&logprobs, &[], &[]), &logprobs, true)
    }

    #[test]
    fn a_custom_loss_beyond_the_concurrent_limit_is_computed_and_one_beyond_the_limit_refused() {
        for n in [64, 1024] {
            let found = pairs(n).expect("a loss");
            // The squared differences of the 16 pairs of values from 0 to 3 add up to 40.
            assert_eq!(found.loss, 40.0 * (n * n) as f64 / 16.0);
            assert_eq!(found.slopes.len(), n);
        }
        let error = pairs(2048).expect_err("a refusal");
        assert!(error.contains("needs too much memory: more than 4194304 values"), "{error}");
    }

    #[test]
    fn gspo_has_one_ratio_for_a_sequence_over_the_masked_tokens() {
        let e = example(&[-1.0, -1.0, -1.0], &[1.0, 1.0, 1.0], &[0.0, 1.0, 1.0]);
        let found = gspo(&e, &[-9.0, -0.5, -1.3], 0.0, 9.0);
        let ratio = f64::exp((0.5 - 0.3) / 2.0);
        assert!((found.loss + 3.0 * ratio).abs() < 1e-6);
        assert!(found.slopes.iter().all(|it| (f64::from(*it) + ratio).abs() < 1e-6), "{found:?}");
    }
}
