//! Direct preference optimization (DPO).

use super::loss_inputs::{check_len, floats};
use crate::chat::{Example, Reduction};
use crate::error::{Error, Result};
use crate::types::{CustomLoss, Datum};

/// Makes the data of preference pairs, (chosen, rejected), in the order that [`dpo_loss`] takes: chosen, rejected,
/// chosen, rejected, … Weights are not scaled, so that each token counts the same.
///
/// `max_length`: as for [`Example::datum`].
///
/// # Errors
/// `InvalidInput` with the path `pairs[i]` for a pair whose two examples are the same (a tie teaches nothing), or become
/// the same by the cut to `max_length`; also as for [`Example::datum`].
///
/// # Example: one pair
/// ```
/// use tinkex::chat::Example;
/// use tinkex::train::preference_data;
/// use tinkex::types::ModelInput;
///
/// let answer = |id: i32| Example::new(ModelInput::from_ints([1, 2, id]), vec![0.0, 0.0, 1.0]);
/// let data = preference_data(&[(answer(7)?, answer(8)?)], None)?;
/// assert_eq!(data[1].loss_fn_inputs["target_tokens"].as_i64(), Some(&[2, 8][..]));
/// assert!(preference_data(&[(answer(7)?, answer(7)?)], None).is_err());
/// # Ok::<(), tinkex::Error>(())
/// ```
pub fn preference_data(pairs: &[(Example, Example)], max_length: Option<usize>) -> Result<Vec<Datum>> {
    let mut data = Vec::with_capacity(2 * pairs.len());
    for (i, (chosen, rejected)) in pairs.iter().enumerate() {
        let datum = |example: &Example, part| {
            let datum = example.datum(max_length, Reduction::Sum);
            datum.map_err(|error| under(error, &format!("pairs[{i}].{part}")))
        };
        let (chosen, rejected) = (datum(chosen, "chosen")?, datum(rejected, "rejected")?);
        if chosen == rejected {
            let problem =
                "chosen and rejected are the same; leave ties out, and keep enough tokens to tell them apart";
            return Err(Error::invalid(format!("pairs[{i}]"), problem));
        }
        data.extend([chosen, rejected]);
    }
    Ok(data)
}

/// Puts a path before that of an error.
fn under(error: Error, path: &str) -> Error {
    match error.violation() {
        Some(violation) => Error::invalid(format!("{path}.{}", violation.path), violation.problem.clone()),
        None => error,
    }
}

/// The loss of DPO, for [`forward_backward_custom`](crate::TrainingClient::forward_backward_custom): the mean over the
/// pairs of `−ln σ(β · (r_chosen − r_rejected))`, with `r = Σ weight · (logprob − reference)` over the tokens of an
/// answer.
///
/// `data`: chosen and rejected answers in turn, as [`preference_data`] makes them. `logprobs`: those of the trained
/// model. `reference`: those of the model before the training, from [`sequence_logprobs`](super::sequence_logprobs).
/// `beta`: how strongly the model is held to the reference; 0.1 is usual.
///
/// The metrics are `dpo_loss`, `accuracy` (the share of pairs with `r_chosen > r_rejected`), `margin` (the mean
/// difference of the rewards), `chosen_reward`, `rejected_reward` (means of `β · r`) and `num_pairs`.
///
/// A run that is resumed must keep its reference: take the model before the first step, not the loaded one.
///
/// # Errors
/// `InvalidInput` for an odd number of data or none, data without `weights`, lists of different lengths, a pair of the
/// same data, a log-probability that counts and is not a finite number, and a `beta` that is not a finite number above 0.
///
/// # Example: one step
/// ```
/// # #[cfg(feature = "local")] {
/// # let server = tinkex::local::Server::start(Default::default())?;
/// # let service = tinkex::ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build()?;
/// # let training = service.create_lora_training_client("tinkex/nano", Default::default())?;
/// use tinkex::train::{dpo_loss, sequence_logprobs};
/// use tinkex::types::{AdamParams, Datum};
///
/// let data = vec![Datum::cross_entropy(&[63], &[121, 101]), Datum::cross_entropy(&[63], &[110, 111])];
/// let reference = sequence_logprobs(&data, &training.save_weights_and_get_sampling_client()?)?;
/// let step = training.forward_backward_custom(data, move |data, logprobs| dpo_loss(data, logprobs, &reference, 0.1));
/// training.optim_step(AdamParams::default()).wait()?;
/// // The model is still the reference.
/// assert!((step.wait()?.metrics["dpo_loss"] - std::f64::consts::LN_2).abs() < 1e-3);
/// # }
/// # Ok::<(), tinkex::Error>(())
/// ```
pub fn dpo_loss<L: AsRef<[f32]>, R: AsRef<[f32]>>(
    data: &[Datum],
    logprobs: &[L],
    reference: &[R],
    beta: f64,
) -> Result<CustomLoss> {
    if !beta.is_finite() || beta <= 0.0 {
        return Err(Error::invalid("beta", format!("{beta} is not a finite number above 0")));
    }
    if data.is_empty() || !data.len().is_multiple_of(2) {
        let problem = format!("has {} data; pairs of chosen and rejected answers are needed", data.len());
        return Err(Error::invalid("data", problem));
    }
    check_len("logprobs", logprobs.len(), data.len(), "datum")?;
    check_len("reference", reference.len(), data.len(), "datum")?;
    let weights: Vec<Vec<f32>> = data
        .iter()
        .enumerate()
        .map(|(i, datum)| floats(datum, "weights", &format!("data[{i}]")))
        .collect::<Result<_>>()?;
    let n = (data.len() / 2) as f64;
    let mut sums = Sums::default();
    let mut gradients = Vec::with_capacity(data.len());
    for (i, pair) in data.chunks_exact(2).enumerate() {
        if pair[0] == pair[1] {
            return Err(Error::invalid(format!("data[{}]", 2 * i + 1), "is the same as the chosen answer"));
        }
        let log_ratio =
            |at: usize| log_ratio(at, logprobs[at].as_ref(), reference[at].as_ref(), &weights[at]);
        let (chosen, rejected) = (log_ratio(2 * i)?, log_ratio(2 * i + 1)?);
        let delta = chosen - rejected;
        sums.loss += softplus(-beta * delta);
        sums.preferred += f64::from(u8::from(rejected < chosen));
        sums.chosen += beta * chosen;
        sums.rejected += beta * rejected;
        // The derivative of the loss by r_chosen; that by r_rejected is its negative.
        let slope = -beta * sigmoid(-beta * delta) / n;
        for (at, slope) in [(2 * i, slope), (2 * i + 1, -slope)] {
            gradients.push(weights[at].iter().map(|weight| (slope * f64::from(*weight)) as f32).collect());
        }
    }
    let loss = sums.loss / n;
    Ok(CustomLoss::new(loss, gradients)
        .with_metric("dpo_loss", loss)
        .with_metric("accuracy", sums.preferred / n)
        .with_metric("margin", (sums.chosen - sums.rejected) / n)
        .with_metric("chosen_reward", sums.chosen / n)
        .with_metric("rejected_reward", sums.rejected / n)
        .with_metric("num_pairs", n))
}

/// Sums over the pairs.
#[derive(Default)]
struct Sums {
    loss: f64,
    preferred: f64,
    chosen: f64,
    rejected: f64,
}

/// `Σ weight · (logprob − reference)` of datum `at`.
fn log_ratio(at: usize, logprobs: &[f32], reference: &[f32], weights: &[f32]) -> Result<f64> {
    check_len(format!("logprobs[{at}]"), logprobs.len(), weights.len(), "weight")?;
    check_len(format!("reference[{at}]"), reference.len(), weights.len(), "weight")?;
    let mut sum = 0.0;
    for (i, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight != 0.0) {
        for (name, value) in [("logprobs", logprobs[i]), ("reference", reference[i])] {
            if !value.is_finite() {
                let problem = format!("is {value}, from which no loss can be computed");
                return Err(Error::invalid(format!("{name}[{at}][{i}]"), problem));
            }
        }
        sum += f64::from(*weight) * (f64::from(logprobs[i]) - f64::from(reference[i]));
    }
    Ok(sum)
}

/// `1 / (1 + e^−x)`.
fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `ln(1 + e^x)`, which is `−ln σ(−x)`, without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::ModelInput;

    /// Two pairs: answers of two tokens after one, whose first target has weight 0 in the first datum.
    fn data() -> Vec<Datum> {
        let datum = |id: i32, weights: [f32; 2]| {
            Datum::cross_entropy(&[1], &[id, 9]).with("weights", weights.to_vec())
        };
        vec![datum(2, [0.0, 1.0]), datum(3, [1.0, 1.0]), datum(4, [1.0, 0.5]), datum(5, [1.0, 1.0])]
    }

    fn logprobs() -> Vec<Vec<f32>> {
        vec![vec![-7.0, -1.0], vec![-2.0, -3.0], vec![-1.5, -2.0], vec![-0.5, -0.25]]
    }

    fn reference() -> Vec<Vec<f32>> {
        vec![vec![-5.0, -2.0], vec![-2.0, -1.0], vec![-1.0, -1.0], vec![-1.0, -1.0]]
    }

    #[test]
    fn loss_and_metrics_are_those_computed_by_hand() {
        let found = dpo_loss(&data(), &logprobs(), &reference(), 0.5).unwrap();
        // Log-ratios: 1 and −2; −0.5 − 0.5 = −1 and 0.5 + 0.75 = 1.25.
        let expected = (softplus(-0.5 * 3.0) + softplus(0.5 * 2.25)) / 2.0;
        assert!((found.loss - expected).abs() < 1e-12);
        let by_hand = 0.5 * ((1.0 + (-1.5f64).exp()).ln() + (1.0 + 1.125f64.exp()).ln());
        assert!((expected - by_hand).abs() < 1e-12);
        for (name, value) in [
            ("dpo_loss", expected),
            ("accuracy", 0.5),
            ("margin", 0.5 * (3.0 - 2.25) / 2.0),
            ("chosen_reward", 0.5 * (1.0 - 1.0) / 2.0),
            ("rejected_reward", 0.5 * (-2.0 + 1.25) / 2.0),
            ("num_pairs", 2.0),
        ] {
            assert!((found.metrics[name] - value).abs() < 1e-12, "{name}: {}", found.metrics[name]);
        }
    }

    #[test]
    fn the_gradient_is_the_difference_quotient_of_the_loss() {
        let (data, logprobs, reference) = (data(), logprobs(), reference());
        for beta in [0.1, 1.0] {
            let found = dpo_loss(&data, &logprobs, &reference, beta).unwrap();
            for (i, row) in logprobs.iter().enumerate() {
                for j in 0..row.len() {
                    let loss_at = |step: f32| {
                        let mut moved = logprobs.clone();
                        moved[i][j] += step;
                        dpo_loss(&data, &moved, &reference, beta).unwrap().loss
                    };
                    let step = 1.0 / 1024.0;
                    let numeric = (loss_at(step) - loss_at(-step)) / (2.0 * f64::from(step));
                    let exact = f64::from(found.gradients[i][j]);
                    assert!((numeric - exact).abs() < 1e-6, "[{i}][{j}]: {numeric} {exact}");
                }
            }
        }
    }

    #[test]
    fn large_differences_neither_overflow_nor_lose_the_gradient() {
        let far = |logprob: f32| vec![vec![0.0, logprob], vec![0.0, 0.0], vec![0.0, 0.0], vec![0.0, -1.0]];
        let lost = dpo_loss(&data(), &far(-1e6), &vec![vec![0.0; 2]; 4], 1.0).unwrap();
        assert!(lost.loss.is_finite() && 4e5 < lost.loss);
        assert_eq!(lost.gradients[0], [-0.0, -0.5]);
        let won = dpo_loss(&data(), &far(1e6), &vec![vec![0.0; 2]; 4], 1.0).unwrap();
        assert!(won.loss.is_finite() && won.gradients[0][1] == 0.0);
    }

    #[test]
    fn data_that_are_not_pairs_are_refused_with_their_path() {
        let refused = |data: &[Datum], logprobs: &[Vec<f32>], beta| {
            let error = dpo_loss(data, logprobs, &reference()[..data.len().min(4)], beta).unwrap_err();
            error.violation().unwrap().path.clone()
        };
        let (good, logprobs) = (data(), logprobs());
        assert_eq!(refused(&good, &logprobs, 0.0), "beta");
        assert_eq!(refused(&good, &logprobs, f64::NAN), "beta");
        assert_eq!(refused(&good[..3], &logprobs[..3], 0.1), "data");
        assert_eq!(refused(&[], &[], 0.1), "data");
        assert_eq!(refused(&good, &logprobs[..3], 0.1), "logprobs");
        let mut short = logprobs.clone();
        short[2].pop();
        assert_eq!(refused(&good, &short, 0.1), "logprobs[2]");
        for value in [f32::NAN, f32::NEG_INFINITY, f32::INFINITY] {
            let mut broken = logprobs.clone();
            broken[3][1] = value;
            assert_eq!(refused(&good, &broken, 0.1), "logprobs[3][1]");
            let error = dpo_loss(&good, &logprobs, &broken, 0.1).unwrap_err();
            assert_eq!(error.violation().unwrap().path, "reference[3][1]");
            // A token that does not count may have any.
            let mut masked = logprobs.clone();
            masked[0][0] = value;
            assert!(dpo_loss(&good, &masked, &reference(), 0.1).is_ok());
        }
        let mut tie = good.clone();
        tie[3] = tie[2].clone();
        assert_eq!(refused(&tie, &logprobs, 0.1), "data[3]");
        let mut bare = good.clone();
        bare[1].loss_fn_inputs.remove("weights");
        assert_eq!(refused(&bare, &logprobs, 0.1), "data[1].loss_fn_inputs[\"weights\"]");
    }

    #[test]
    fn ties_and_pairs_that_the_cut_makes_equal_are_refused() {
        let example = |last: i32| {
            Example::new(ModelInput::from_ints([1, 2, 3, last]), vec![0.0, 0.0, 1.0, 1.0]).unwrap()
        };
        let pairs = [(example(7), example(8)), (example(7), example(9))];
        let data = preference_data(&pairs, None).unwrap();
        let last = |datum: &Datum| datum.loss_fn_inputs["target_tokens"].as_i64().unwrap()[2];
        assert_eq!(data.iter().map(last).collect::<Vec<_>>(), [7, 8, 7, 9]);
        assert_eq!(data[0].loss_fn_inputs["weights"].as_f32(), Some(&[0.0, 1.0, 1.0][..]));
        let path = |pairs: &[(Example, Example)], max| {
            preference_data(pairs, max).unwrap_err().violation().unwrap().path.clone()
        };
        assert_eq!(path(&pairs, Some(3)), "pairs[0]");
        assert_eq!(path(&[pairs[0].clone(), (example(7), example(7))], None), "pairs[1]");
        assert_eq!(path(&pairs, Some(2)), "pairs[0].chosen.weights");
    }
}
