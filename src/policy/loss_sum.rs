//! Computes the sum of a loss, for servers that do not report it, and the number of tokens that count for the loss
//! (PROTOCOL §7).

use std::collections::BTreeMap;

use crate::types::{Datum, Loss, LossFn, LossValue, TensorData};

type Inputs = BTreeMap<String, TensorData>;

/// Number of tokens that count for the loss; for cross-entropy the sum of their weights.
pub(crate) fn n_tokens(data: &[Datum], loss: &Loss) -> f64 {
    data.iter().map(|datum| count(&datum.loss_fn_inputs, &loss.loss_fn)).sum()
}

fn count(inputs: &Inputs, loss_fn: &LossFn) -> f64 {
    let weights = || Some(floats(inputs, "weights")?.iter().map(|weight| f64::from(*weight)).sum());
    let non_zero = |name| Some(floats(inputs, name)?.iter().filter(|value| **value != 0.0).count() as f64);
    let targets = || {
        let shape = inputs.get("target_tokens").map(TensorData::shape).unwrap_or_default();
        if shape.is_empty() { 0.0 } else { shape.iter().map(|n| *n as f64).product() }
    };
    let counted = match loss_fn {
        LossFn::CrossEntropy => weights(),
        LossFn::Gspo => non_zero("sequence_ratio_mask"),
        LossFn::ImportanceSampling | LossFn::Ppo | LossFn::Cispo | LossFn::Dro | LossFn::StableReinforce => {
            non_zero("advantages")
        }
        LossFn::Custom { .. } | LossFn::Traced(_) | LossFn::Other(_) => {
            weights().or_else(|| non_zero("advantages"))
        }
    };
    counted.unwrap_or_else(targets)
}

/// Copies of the loss inputs that the sum needs, kept until the result of the pass arrives.
#[derive(Debug)]
pub(crate) struct Terms {
    formula: Formula,
    inputs: Vec<Inputs>,
}

/// Formula for the loss of one token.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Formula {
    CrossEntropy,
    ImportanceSampling,
    Ppo { lo: f64, hi: f64 },
    Cispo { lo: f64, hi: f64 },
    Dro { beta: f64 },
}

impl Formula {
    /// `None` if only the server knows the formula or the default of one of its options.
    fn of(loss: &Loss) -> Option<Self> {
        let option = |name: &str| match loss.config.get(name) {
            Some(LossValue::Number(number)) => Some(*number),
            _ => None,
        };
        let [lo, hi] = ["clip_low_threshold", "clip_high_threshold"].map(option);
        Some(match loss.loss_fn {
            LossFn::CrossEntropy => Formula::CrossEntropy,
            LossFn::ImportanceSampling => Formula::ImportanceSampling,
            LossFn::Ppo => Formula::Ppo { lo: lo.unwrap_or(0.8), hi: hi.unwrap_or(1.2) },
            LossFn::Cispo => Formula::Cispo { lo: lo?, hi: hi? },
            LossFn::Dro => Formula::Dro { beta: option("beta")? },
            _ => return None,
        })
    }

    /// Names of the inputs that the formula reads.
    fn inputs(self) -> &'static [&'static str] {
        match self {
            Formula::CrossEntropy => &["weights"],
            // Servers that accept weights together with advantages multiply the loss of each token by its weight.
            _ => &["logprobs", "advantages", "weights"],
        }
    }

    /// Loss of one token. `lp` is the log-probability of the token under the model, `q` that under the policy that
    /// sampled the token, `a` the advantage of the token.
    fn token(self, lp: f64, q: f64, a: f64) -> f64 {
        // A token with advantage 0 has loss 0 even if its ratio is infinite; 0 · ∞ would be NaN.
        let times = |ratio: f64| if a == 0.0 { 0.0 } else { ratio * a };
        let ratio = (lp - q).exp();
        match self {
            Formula::CrossEntropy => -lp,
            Formula::ImportanceSampling => -times(ratio),
            Formula::Ppo { lo, hi } => -times(ratio).min(times(ratio.max(lo).min(hi))),
            Formula::Cispo { lo, hi } => -times(ratio.max(lo).min(hi) * lp),
            Formula::Dro { beta } => -(times(lp) - 0.5 * beta * (lp - q).powi(2)),
        }
    }
}

impl Terms {
    /// Copies the inputs. `None` if the sum cannot be computed.
    pub(crate) fn of(data: &[Datum], loss: &Loss) -> Option<Self> {
        let formula = Formula::of(loss)?;
        // Thresholds for each token: servers apply them in different ways, so the sum cannot be computed here.
        let clips_per_token =
            |datum: &Datum| datum.loss_fn_inputs.keys().any(|name| name.starts_with("clip_"));
        if data.iter().any(clips_per_token) {
            return None;
        }
        let inputs = |datum: &Datum| {
            let input = |name: &&str| Some((name.to_string(), datum.loss_fn_inputs.get(*name)?.clone()));
            formula.inputs().iter().filter_map(input).collect()
        };
        Some(Terms { formula, inputs: data.iter().map(inputs).collect() })
    }

    /// The sum over tokens and data, given the outputs of the server. `None` if the outputs do not fit the data or have
    /// no log-probabilities, if an input of the formula is missing, or if the sum is not finite.
    pub(crate) fn sum(&self, outputs: &[Inputs]) -> Option<f64> {
        if outputs.len() != self.inputs.len() {
            return None;
        }
        let sums = self.inputs.iter().zip(outputs).map(|(inputs, output)| {
            let logprobs = output.get("logprobs").filter(|tensor| tensor.sparse.is_none())?.as_f32()?;
            self.datum(inputs, logprobs)
        });
        sums.sum::<Option<f64>>().filter(|sum| sum.is_finite())
    }

    fn datum(&self, inputs: &Inputs, logprobs: &[f32]) -> Option<f64> {
        let weights = Weights::of(inputs.get("weights"), logprobs.len())?;
        let per_token = |name| floats(inputs, name).filter(|values| values.len() == logprobs.len());
        let (q, a): (&[f32], &[f32]) = match self.formula {
            Formula::CrossEntropy => (&[], &[]),
            _ => (per_token("logprobs")?, per_token("advantages")?),
        };
        let at = |values: &[f32], i: usize| values.get(i).map_or(0.0, |value| f64::from(*value));
        let token = |(i, w): (usize, f32)| {
            let lp = logprobs.get(i).copied().map(f64::from)?;
            Some(if w == 0.0 { 0.0 } else { f64::from(w) * self.formula.token(lp, at(q, i), at(a, i)) })
        };
        match weights {
            Weights::Ones(n) => (0..n).map(|i| token((i, 1.0))).sum(),
            Weights::Dense(weights) => weights.iter().copied().enumerate().map(token).sum(),
            Weights::Sparse(weights) => weights.into_iter().map(token).sum(),
        }
    }
}

/// The weight of each log-probability of a datum.
enum Weights<'a> {
    /// No weights were given: each of this number of tokens has weight 1.
    Ones(usize),
    Dense(&'a [f32]),
    /// The weights that are not zero, with their indices.
    Sparse(Vec<(usize, f32)>),
}

impl<'a> Weights<'a> {
    fn of(tensor: Option<&'a TensorData>, n: usize) -> Option<Self> {
        let Some(tensor) = tensor else { return Some(Weights::Ones(n)) };
        let values = tensor.as_f32()?;
        let Some(sparse) = &tensor.sparse else {
            return (values.len() == n).then_some(Weights::Dense(values));
        };
        let columns = tensor.shape().get(1).copied()?;
        let rows = sparse.crow_indices.windows(2).enumerate();
        let cells =
            rows.flat_map(|(row, ends)| (ends[0]..ends[1]).map(move |_| row)).zip(&sparse.col_indices);
        let index = |(row, column): (usize, &i64)| {
            row.checked_mul(columns)?.checked_add(usize::try_from(*column).ok()?)
        };
        let weights = cells.zip(values).map(|(cell, w)| Some((index(cell)?, *w))).collect::<Option<_>>()?;
        Some(Weights::Sparse(weights))
    }
}

fn floats<'a>(inputs: &'a Inputs, name: &str) -> Option<&'a [f32]> {
    inputs.get(name)?.as_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(logprobs: impl Into<TensorData>) -> Vec<Inputs> {
        vec![BTreeMap::from([("logprobs".to_string(), logprobs.into())])]
    }

    fn policy() -> Datum {
        Datum::default()
            .with("target_tokens", vec![7i64, 8, 9])
            .with("logprobs", vec![-1.0f32, -2.0, -800.0])
            .with("advantages", vec![1.0f32, -2.0, 0.0])
    }

    #[test]
    fn the_sum_follows_the_formula_of_the_loss() {
        let lp = [-0.5f32, -2.5, -0.25];
        let (r0, r1) = (0.5f64.exp(), (-0.5f64).exp());
        let clip = |loss: LossFn| loss.with("clip_low_threshold", 0.9).with("clip_high_threshold", 1.1);
        let squares = 0.5 * 0.1 * (0.25 + 0.25 + 799.75f64.powi(2));
        let table = [
            (LossFn::ImportanceSampling.into(), Some(-(r0 - 2.0 * r1))),
            (LossFn::Ppo.into(), Some(-(1.2 - 2.0 * 0.8))),
            (clip(LossFn::Ppo), Some(-(1.1 - 2.0 * 0.9))),
            (clip(LossFn::Cispo), Some(-(-1.1 * 0.5 + 2.0 * 0.9 * 2.5))),
            (LossFn::Dro.with("beta", 0.1), Some(-(-0.5 + 5.0) + squares)),
            // Servers have different defaults for the options of these losses.
            (LossFn::Cispo.into(), None),
            (LossFn::Dro.into(), None),
            // Only the server knows the formula.
            (LossFn::StableReinforce.into(), None),
            (LossFn::Other("dppo".into()).into(), None),
            (LossFn::Custom { loss_id: "x".into() }.into(), None),
        ];
        for (loss, expected) in table {
            let loss: Loss = loss;
            let sum = Terms::of(&[policy()], &loss).and_then(|it| it.sum(&output(&lp[..])));
            match (sum, expected) {
                (Some(sum), Some(expected)) => assert!((sum - expected).abs() < 1e-9, "{loss:?} {sum}"),
                (sum, expected) => assert_eq!(sum, expected, "{loss:?}"),
            }
        }
    }

    #[test]
    fn cross_entropy_is_weighted_and_a_weight_of_zero_takes_any_log_probability() {
        let loss = LossFn::CrossEntropy.into();
        let sum = |datum: Datum, logprobs: TensorData| Terms::of(&[datum], &loss)?.sum(&output(logprobs));
        let datum = Datum::cross_entropy(&[1, 2], &[3, 4]);
        assert_eq!(sum(datum.clone(), vec![f32::NEG_INFINITY, -1.0, -2.0].into()), Some(3.0));
        let bare = Datum::default().with("target_tokens", vec![1i64, 2]);
        assert_eq!(sum(bare, vec![-1.0, -2.0].into()), Some(3.0), "missing weights are 1");
        // Two candidates for each token, most of them with weight 0, so that the tensor is packed as sparse.
        let mut weights = vec![0.0f32; 40];
        (weights[3], weights[21]) = (0.5, 2.0);
        let weights = TensorData::from(weights).with_shape([20, 2]).expect("a shape");
        let mut wide = Datum::default().with("weights", weights);
        let logprobs: Vec<f32> = (0..40).map(|i| -(i as f32)).collect();
        let logprobs = TensorData::from(logprobs).with_shape([20, 2]).expect("a shape");
        let dense = sum(wide.clone(), logprobs.clone());
        wide.pack(false);
        assert!(wide.loss_fn_inputs["weights"].sparse.is_some());
        assert_eq!((dense, sum(wide, logprobs)), (Some(43.5), Some(43.5)));
    }

    #[test]
    fn outputs_that_do_not_match_the_data_have_no_sum() {
        let loss = LossFn::CrossEntropy.into();
        let data = [Datum::cross_entropy(&[1, 2], &[3, 4])];
        let terms = Terms::of(&data, &loss).expect("terms");
        assert_eq!(terms.sum(&output(vec![-1.0f32, -2.0])), None, "another number of log-probabilities");
        assert_eq!(terms.sum(&output(vec![1i64, 2, 3])), None, "integers");
        assert_eq!(terms.sum(&[]), None, "no outputs");
        assert_eq!(terms.sum(&[BTreeMap::new()]), None, "no log-probabilities");
        assert_eq!(terms.sum(&output(vec![-1.0f32, f32::NEG_INFINITY, 0.0])), None, "an infinite sum");
        let clipped = [policy().with("clip_low_threshold", vec![0.9f32; 3])];
        assert!(Terms::of(&clipped, &LossFn::Ppo.into()).is_none());
    }

    #[test]
    fn tokens_with_a_weight_or_an_advantage_count() {
        let count = |datum: Datum, loss: LossFn| n_tokens(&[datum.clone(), datum], &loss.into());
        let datum = Datum::cross_entropy(&[1, 2], &[3, 4]);
        assert_eq!(count(datum.clone(), LossFn::CrossEntropy), 4.0);
        assert_eq!(count(datum.with("weights", vec![0.0f32, 0.5, 0.25]), LossFn::CrossEntropy), 1.5);
        assert_eq!(count(policy(), LossFn::Ppo), 4.0);
        let masked = policy().with("sequence_ratio_mask", vec![1.0f32, 0.0, 0.0]);
        assert_eq!(count(masked, LossFn::Gspo), 2.0);
        let bare = Datum::default().with("target_tokens", vec![1i64, 2, 3]);
        assert_eq!(count(bare.clone(), LossFn::CrossEntropy), 6.0);
        assert_eq!(count(bare, LossFn::Other("x".into())), 6.0);
        assert_eq!(count(policy(), LossFn::Custom { loss_id: "x".into() }), 4.0);
        assert_eq!(count(Datum::default(), LossFn::Other("x".into())), 0.0);
    }
}
