//! Loss functions: the loss of one target, and its derivative with respect to the target's log-probability.

use std::sync::Arc;

use crate::types::LossGraph;

/// A loss over target tokens, summed over tokens and data, never averaged.
///
/// In the formulas, `lp` is the log-probability of a target, `q` its log-probability under the policy that drew it, `w`
/// its weight, `A` its advantage, and `r = exp(lp − q)`.
#[derive(Clone, Debug)]
pub(crate) enum Loss {
    /// `−w·lp`.
    CrossEntropy,
    /// `−r·A`.
    ImportanceSampling,
    /// `−min(r·A, clip(r, lo, hi)·A)`.
    Ppo {
        /// Lower clip bound of the ratio.
        lo: f64,
        /// Upper clip bound of the ratio.
        hi: f64,
    },
    /// `−clip(r, lo, hi)·lp·A`; for the derivative, the clipped ratio is a constant.
    Cispo {
        /// Lower clip bound of the ratio.
        lo: f64,
        /// Upper clip bound of the ratio.
        hi: f64,
    },
    /// `−(lp·A − ½·beta·(lp − q)²)`.
    Dro {
        /// Weight of the penalty for moving away from the policy that drew the tokens.
        beta: f64,
    },
    /// `−Σ min(s·A, clip(s, lo, hi)·A)`. All tokens of a sequence have the same ratio `s`: the exponential of the mean
    /// of `lp − q` over the tokens of the mask. The derivative is not the exact one: in the term of a token, the
    /// derivative of `s` with respect to that token's `lp` counts as `s`, and with respect to all other `lp` as 0.
    Gspo {
        /// Lower clip bound of the ratio.
        lo: f64,
        /// Upper clip bound of the ratio.
        hi: f64,
    },
    /// A loss that a client sent as a graph.
    Custom(Arc<LossGraph>),
}

impl Loss {
    /// True if the loss reads `weights` and allows several targets per position. The other losses read `logprobs` and
    /// `advantages`, except custom losses.
    pub(super) fn is_weighted(&self) -> bool {
        matches!(self, Loss::CrossEntropy)
    }

    /// True if the loss of a token depends on the other tokens of its sequence.
    pub(super) fn is_sequence_loss(&self) -> bool {
        matches!(self, Loss::Gspo { .. } | Loss::Custom(_))
    }

    /// The loss of one token and its derivative with respect to `lp`.
    ///
    /// `q` is the log-probability under the policy that drew the token. `factor` is the token's weight for
    /// cross entropy and its advantage for all others.
    pub(super) fn token(&self, lp: f32, q: f32, factor: f32) -> (f64, f32) {
        let (lp, q, a) = (f64::from(lp), f64::from(q), f64::from(factor));
        let (loss, slope) = match *self {
            Loss::CrossEntropy => (-a * lp, -a),
            Loss::ImportanceSampling => {
                let scaled = scaled_ratio(lp - q, a);
                (-scaled, -scaled)
            }
            Loss::Ppo { lo, hi } => clipped(lp - q, a, lo, hi),
            Loss::Cispo { lo, hi } => {
                let scaled = (lp - q).exp().max(lo).min(hi) * a;
                (-scaled * lp, -scaled)
            }
            Loss::Dro { beta } => {
                let gap = lp - q;
                (-(lp * a - 0.5 * beta * gap * gap), -(a - beta * gap))
            }
            // These losses are not defined for a single token; see `sequence_loss`. NaN makes a wrong call visible.
            Loss::Gspo { .. } | Loss::Custom(_) => (f64::NAN, f64::NAN),
        };
        (loss, slope as f32)
    }
}

/// `exp(gap) · advantage`, and 0 if the advantage is 0. Above a gap of 709 the exponential is infinite, and `0 · ∞`
/// would be NaN. An advantage of 0 marks a token that does not count.
fn scaled_ratio(gap: f64, advantage: f64) -> f64 {
    if advantage == 0.0 { 0.0 } else { gap.exp() * advantage }
}

/// The clipped loss of one token, `−min(r·A, clip(r, lo, hi)·A)` with `r = exp(gap)`, and its derivative with respect
/// to `gap`.
pub(super) fn clipped(gap: f64, advantage: f64, lo: f64, hi: f64) -> (f64, f64) {
    let free = scaled_ratio(gap, advantage);
    let held = gap.exp().max(lo).min(hi) * advantage;
    if free <= held { (-free, -free) } else { (-held, 0.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every combination of a few log-probabilities and advantages. None is close to a ratio at which clipping begins,
    /// where the derivative jumps.
    fn points() -> Vec<(f32, f32, f32)> {
        let mut points = Vec::new();
        for lp in [-4.0, -1.5, -1.1, -0.9, -0.2] {
            for q in [-3.0, -1.0, -0.5] {
                for a in [-2.0, -0.5, 0.0, 1.0, 3.0] {
                    points.push((lp, q, a));
                }
            }
        }
        points
    }

    fn assert_slope(loss: &Loss, value: impl Fn(f64, f64, f64) -> f64) {
        for (lp, q, a) in points() {
            let (l, slope) = loss.token(lp, q, a);
            let (lp, q, a) = (f64::from(lp), f64::from(q), f64::from(a));
            let h = 1e-6;
            let expected = (value(lp + h, q, a) - value(lp - h, q, a)) / (2.0 * h);
            assert!((l - value(lp, q, a)).abs() < 1e-6, "{loss:?} {lp} {q} {a}");
            let error = (f64::from(slope) - expected).abs();
            assert!(error < 1e-5 * (1.0 + expected.abs()), "{loss:?} {lp} {q} {a}: {slope} {expected}");
        }
    }

    #[test]
    fn the_derivative_of_cross_entropy_is_its_weight() {
        assert_slope(&Loss::CrossEntropy, |lp, _, w| -w * lp);
    }

    #[test]
    fn the_derivative_of_importance_sampling_agrees_with_a_difference_quotient() {
        assert_slope(&Loss::ImportanceSampling, |lp, q, a| -(lp - q).exp() * a);
    }

    #[test]
    fn the_derivative_of_ppo_agrees_with_a_difference_quotient_and_is_zero_where_clipped() {
        let (lo, hi) = (0.8, 1.2);
        assert_slope(&Loss::Ppo { lo, hi }, |lp, q, a| {
            let r = (lp - q).exp();
            -(r * a).min(r.clamp(lo, hi) * a)
        });
        assert_eq!(Loss::Ppo { lo, hi }.token(-0.2, -1.0, 1.0).1, 0.0);
        assert_ne!(Loss::Ppo { lo, hi }.token(-0.2, -1.0, -1.0).1, 0.0);
    }

    #[test]
    fn the_derivative_of_cispo_is_the_clipped_ratio_times_the_advantage() {
        for (lp, q, a) in points() {
            let loss = Loss::Cispo { lo: 0.5, hi: 1.5 };
            let held = (f64::from(lp) - f64::from(q)).exp().clamp(0.5, 1.5);
            let (value, slope) = loss.token(lp, q, a);
            assert!((value + held * f64::from(lp) * f64::from(a)).abs() < 1e-6);
            assert!((f64::from(slope) + held * f64::from(a)).abs() < 1e-5);
        }
    }

    #[test]
    fn the_derivative_of_dro_agrees_with_a_difference_quotient() {
        let beta = 0.25;
        assert_slope(&Loss::Dro { beta }, |lp, q, a| -(lp * a - 0.5 * beta * (lp - q).powi(2)));
    }

    #[test]
    fn a_token_with_advantage_zero_has_loss_and_derivative_zero() {
        let (lo, hi) = (0.0, f64::MAX);
        let ratios = [Loss::ImportanceSampling, Loss::Ppo { lo, hi }, Loss::Cispo { lo, hi: 4.0 }];
        for loss in ratios {
            for q in [-3.0, -700.0, -800.0, -3e38] {
                let (value, slope) = loss.token(-5.0, q, 0.0);
                assert_eq!((value, slope), (0.0, 0.0), "{loss:?} {q}");
            }
        }
        // If the advantage is not 0, the loss is infinite, unless clipping bounds it.
        assert_eq!(Loss::ImportanceSampling.token(-5.0, -800.0, 1.0).0, f64::NEG_INFINITY);
        assert_eq!(Loss::Ppo { lo: 0.8, hi: 1.2 }.token(-5.0, -800.0, 1.0), (-1.2, 0.0));
    }
}
