//! Mean negative log-likelihood and bits per byte.

use std::collections::BTreeMap;
use std::f64::consts::LN_2;

use super::loss_inputs::{check_len, floats, target_tokens};
use super::sequence_logprobs::sequence_logprobs;
use crate::client::SamplingClient;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;
use crate::types::{Datum, ForwardBackwardOutput};

/// The mean negative log-likelihood of the tokens of a batch, in nats: `−Σ logprob · weight / Σ weight`, where both sums
/// run over all tokens of all sequences. `None` if all weights are 0.
///
/// # Errors
/// Not as many lists of weights as of log-probabilities, or a list of another length than its partner.
///
/// # Example: two sequences
/// ```
/// use tinkex::train::mean_nll;
///
/// let logprobs = [vec![-1.0, -2.0], vec![-6.0]];
/// let weights = [vec![0.0, 1.0], vec![1.0]];
/// assert_eq!(mean_nll(&logprobs, &weights)?, Some(4.0));
/// # Ok::<(), tinkex::Error>(())
/// ```
pub fn mean_nll<L: AsRef<[f32]>, W: AsRef<[f32]>>(logprobs: &[L], weights: &[W]) -> Result<Option<f64>> {
    check_len("weights", weights.len(), logprobs.len(), "sequence")?;
    let (mut nll, mut total) = (0.0, 0.0);
    for (i, (logprobs, weights)) in logprobs.iter().zip(weights).enumerate() {
        let (logprobs, weights) = (logprobs.as_ref(), weights.as_ref());
        check_len(format!("weights[{i}]"), weights.len(), logprobs.len(), "log-probability")?;
        for (logprob, weight) in logprobs.iter().zip(weights) {
            // A token of weight 0 has no effect, even if its probability is 0.
            if *weight != 0.0 {
                nll -= f64::from(*logprob) * f64::from(*weight);
                total += f64::from(*weight);
            }
        }
    }
    Ok((total != 0.0).then(|| nll / total))
}

/// The negative log-likelihood of the text of a batch, in bits per byte of UTF-8: a figure that can be compared between
/// models with different tokenizers. `None` if there are no such bytes.
///
/// All tokens with a weight above 0 count alike, except special ones such as `<|im_end|>`, which are not text:
/// `−Σ logprob / (ln 2 · bytes)`. The bytes are those of each run of such tokens, decoded on its own.
///
/// # Errors
/// Lists of different lengths, as for [`mean_nll`].
///
/// # Example: three bytes, of which two are trained
/// ```
/// use tinkex::tokenizer::ByteTokenizer;
/// use tinkex::train::bits_per_byte;
///
/// let ids = [ByteTokenizer.encode("abc")];
/// let two_bits = -2.0 * std::f32::consts::LN_2;
/// let bits = bits_per_byte(&[[two_bits; 3]], &[[0.0, 1.0, 0.5]], &ids, &ByteTokenizer)?;
/// assert!((bits.unwrap() - 2.0).abs() < 1e-6);
/// # Ok::<(), tinkex::Error>(())
/// ```
pub fn bits_per_byte<L: AsRef<[f32]>, W: AsRef<[f32]>, T: AsRef<[i32]>>(
    logprobs: &[L],
    weights: &[W],
    target_tokens: &[T],
    tokenizer: &dyn Tokenizer,
) -> Result<Option<f64>> {
    check_len("weights", weights.len(), logprobs.len(), "sequence")?;
    check_len("target_tokens", target_tokens.len(), logprobs.len(), "sequence")?;
    let (mut nll, mut n_bytes) = (0.0, 0);
    for (i, logprobs) in logprobs.iter().enumerate() {
        let (logprobs, weights, ids) = (logprobs.as_ref(), weights[i].as_ref(), target_tokens[i].as_ref());
        check_len(format!("weights[{i}]"), weights.len(), logprobs.len(), "log-probability")?;
        check_len(format!("target_tokens[{i}]"), ids.len(), logprobs.len(), "log-probability")?;
        let counts: Vec<bool> =
            weights.iter().zip(ids).map(|(weight, id)| 0.0 < *weight && !tokenizer.is_special(*id)).collect();
        let counted = logprobs.iter().zip(&counts).filter(|(_, counts)| **counts);
        nll -= counted.map(|(logprob, _)| f64::from(*logprob)).sum::<f64>();
        n_bytes += runs(ids, &counts).map(|run| tokenizer.decode(run).len()).sum::<usize>();
    }
    Ok((0 < n_bytes).then(|| nll / (LN_2 * n_bytes as f64)))
}

/// The longest runs of ids that count.
fn runs<'a>(ids: &'a [i32], counts: &'a [bool]) -> impl Iterator<Item = &'a [i32]> {
    let mut start = 0;
    let same = counts.chunk_by(|a, b| a == b).map(move |chunk| {
        let range = start..start + chunk.len();
        start = range.end;
        (chunk[0], range)
    });
    same.filter(|(counts, _)| *counts).map(|(_, range)| &ids[range])
}

/// Figures of a supervised training step, under the names that tinker-cookbook gives them.
///
/// # Example: the figures of a step
/// ```
/// # #[cfg(feature = "local")] {
/// # let server = tinkex::local::Server::start(Default::default())?;
/// # let service = tinkex::ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build()?;
/// # let training = service.create_lora_training_client("tinkex/nano", Default::default())?;
/// use tinkex::tokenizer::ByteTokenizer;
/// use tinkex::train::SftMetrics;
/// use tinkex::types::{Datum, LossFn};
///
/// let data = vec![Datum::cross_entropy(&[72, 105], &[33, 10])];
/// let output = training.forward_backward(data.clone(), LossFn::CrossEntropy).wait()?;
/// let metrics = SftMetrics::new(&data, &output, Some(&ByteTokenizer))?;
/// assert_eq!((metrics.num_sequences, metrics.num_tokens, metrics.num_loss_tokens), (1, 3, 2.0));
/// assert!(metrics.train_mean_nll.is_some_and(|nll| 0.0 < nll));
/// # }
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct SftMetrics {
    /// Number of data.
    pub num_sequences: usize,
    /// Number of tokens of the inputs.
    pub num_tokens: usize,
    /// Sum of the weights. With weights that sum to 1 in each datum, this is the number of data.
    pub num_loss_tokens: f64,
    /// [`mean_nll`], before the update of the step. `None` if all weights are 0.
    pub train_mean_nll: Option<f64>,
    /// [`bits_per_byte`], before the update of the step. `None` without a tokenizer or without bytes.
    pub train_mean_bpb: Option<f64>,
}

impl SftMetrics {
    /// The figures of the data of a step and of the result of its pass. Bits per byte need the tokenizer.
    ///
    /// # Errors
    /// Data without `target_tokens` or `weights`, or whose number of tokens is unknown; a result without their
    /// log-probabilities.
    pub fn new(
        data: &[Datum],
        output: &ForwardBackwardOutput,
        tokenizer: Option<&dyn Tokenizer>,
    ) -> Result<Self> {
        let missing = |i| Error::invalid(format!("output.loss_fn_outputs[{i}]"), "has no log-probabilities");
        let logprobs: Vec<&[f32]> =
            (0..data.len()).map(|i| output.logprobs(i).ok_or_else(|| missing(i))).collect::<Result<_>>()?;
        let nll = NllMetrics::of(data, &logprobs, tokenizer)?;
        let mut metrics = SftMetrics {
            num_sequences: data.len(),
            train_mean_nll: nll.nll,
            train_mean_bpb: nll.bpb,
            ..Default::default()
        };
        for (i, datum) in data.iter().enumerate() {
            metrics.num_tokens += datum.model_input.len()?;
            let weights = floats(datum, "weights", &format!("data[{i}]"))?;
            metrics.num_loss_tokens += weights.iter().map(|weight| f64::from(*weight)).sum::<f64>();
        }
        Ok(metrics)
    }

    /// The figures by name, without missing ones.
    pub fn to_map(&self) -> BTreeMap<String, f64> {
        let all = [
            ("num_sequences", Some(self.num_sequences as f64)),
            ("num_tokens", Some(self.num_tokens as f64)),
            ("num_loss_tokens", Some(self.num_loss_tokens)),
            ("train_mean_nll", self.train_mean_nll),
            ("train_mean_bpb", self.train_mean_bpb),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name.to_string(), value?))).collect()
    }
}

/// Figures of a test set.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct NllMetrics {
    /// [`mean_nll`]. `None` if all weights are 0.
    pub nll: Option<f64>,
    /// [`bits_per_byte`]. `None` without a tokenizer or without bytes.
    pub bpb: Option<f64>,
}

impl NllMetrics {
    /// The figures of data whose log-probabilities are known.
    fn of<L: AsRef<[f32]>>(
        data: &[Datum],
        logprobs: &[L],
        tokenizer: Option<&dyn Tokenizer>,
    ) -> Result<Self> {
        let each = || data.iter().enumerate().map(|(i, datum)| (datum, format!("data[{i}]")));
        let weights: Vec<Vec<f32>> =
            each().map(|(datum, path)| floats(datum, "weights", &path)).collect::<Result<_>>()?;
        let nll = mean_nll(logprobs, &weights)?;
        let Some(tokenizer) = tokenizer else { return Ok(NllMetrics { nll, bpb: None }) };
        let targets: Vec<Vec<i32>> =
            each().map(|(datum, path)| target_tokens(datum, &path)).collect::<Result<_>>()?;
        Ok(NllMetrics { nll, bpb: bits_per_byte(logprobs, &weights, &targets, tokenizer)? })
    }
}

/// Evaluates a sampler's model on data for [`LossFn::CrossEntropy`](crate::types::LossFn::CrossEntropy), such as a test
/// set. Bits per byte need the tokenizer.
///
/// # Errors
/// As for [`sequence_logprobs`] and [`SftMetrics::new`].
///
/// # Blocking
/// As for [`sequence_logprobs`].
///
/// # Example: evaluate the base model
/// ```
/// # #[cfg(feature = "local")] {
/// # let server = tinkex::local::Server::start(Default::default())?;
/// # let service = tinkex::ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build()?;
/// use tinkex::tokenizer::ByteTokenizer;
/// use tinkex::train::evaluate_nll;
/// use tinkex::types::Datum;
///
/// let sampler = service.create_sampling_client("tinkex/nano")?;
/// let test_set = [Datum::cross_entropy(&[72, 105], &[33, 10])];
/// let test = evaluate_nll(&test_set, &sampler, Some(&ByteTokenizer))?;
/// println!("test/nll {:.3}", test.nll.unwrap_or(f64::NAN));
/// assert!(test.bpb.is_some_and(|bits| 0.0 < bits));
/// # }
/// # Ok::<(), tinkex::Error>(())
/// ```
pub fn evaluate_nll(
    data: &[Datum],
    sampler: &SamplingClient,
    tokenizer: Option<&dyn Tokenizer>,
) -> Result<NllMetrics> {
    NllMetrics::of(data, &sequence_logprobs(data, sampler)?, tokenizer)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::tokenizer::ByteTokenizer;

    #[test]
    fn the_mean_weighs_each_token() {
        for (logprobs, weights, expected) in [
            (vec![vec![-1.0, -3.0]], vec![vec![1.0, 1.0]], Some(2.0)),
            (vec![vec![-1.0, -3.0]], vec![vec![0.25, 0.75]], Some(2.5)),
            (vec![vec![-4.0], vec![-1.0, -1.0]], vec![vec![1.0], vec![0.5, 0.5]], Some(2.5)),
            (vec![vec![f32::NEG_INFINITY, -2.0]], vec![vec![0.0, 2.0]], Some(2.0)),
            (vec![vec![-1.0]], vec![vec![0.0]], None),
            (vec![], vec![], None),
        ] {
            assert_eq!(mean_nll(&logprobs, &weights).unwrap(), expected, "{logprobs:?}");
        }
    }

    #[test]
    fn bits_count_text_bytes_of_trained_tokens_only() {
        let bits = |ids: Vec<i32>, weights: Vec<f32>| {
            let logprobs: Vec<f32> = (1..=ids.len()).map(|i| -(i as f32)).collect();
            bits_per_byte(&[logprobs], &[weights], &[ids], &ByteTokenizer).unwrap()
        };
        let close = |found: Option<f64>, nats: f64, bytes: f64| {
            assert!((found.unwrap() - nats / (LN_2 * bytes)).abs() < 1e-12, "{found:?}");
        };
        // The size of a weight has no effect, and the end of the sequence is not text.
        close(bits(vec![97, 98, ByteTokenizer::EOS], vec![1.0, 0.1, 1.0]), 3.0, 2.0);
        close(bits(vec![97, 98, 99], vec![1.0, 0.0, 1.0]), 4.0, 2.0);
        // The two bytes of é in one run are two bytes of text; in two runs, each becomes U+FFFD of three bytes.
        close(bits(vec![195, 169], vec![1.0, 1.0]), 3.0, 2.0);
        close(bits(vec![195, ByteTokenizer::EOS, 169], vec![1.0, 1.0, 1.0]), 4.0, 6.0);
        assert_eq!(bits(vec![ByteTokenizer::EOS], vec![1.0]), None);
        assert_eq!(bits(vec![97], vec![0.0]), None);
    }

    #[test]
    fn lists_of_different_lengths_are_refused_with_their_path() {
        let path = |error: Error| error.violation().unwrap().path.clone();
        assert_eq!(path(mean_nll(&[[-1.0]], &[] as &[[f32; 1]]).unwrap_err()), "weights");
        assert_eq!(path(mean_nll(&[[-1.0]], &[[1.0, 1.0]]).unwrap_err()), "weights[0]");
        let error = bits_per_byte(&[[-1.0]], &[[1.0]], &[[1, 2]], &ByteTokenizer).unwrap_err();
        assert_eq!(path(error), "target_tokens[0]");
    }

    #[test]
    fn a_step_reports_the_figures_of_the_cookbook_by_name() {
        let data = [Datum::cross_entropy(&[97], &[98, 99]), Datum::cross_entropy(&[97, 98], &[99])];
        let logprobs = |values: [f32; 2]| [("logprobs".to_string(), values.to_vec().into())].into();
        let output = ForwardBackwardOutput {
            loss_fn_outputs: vec![logprobs([-1.0, -2.0]), logprobs([-9.0, -3.0])],
            ..Default::default()
        };
        let metrics = SftMetrics::new(&data, &output, Some(&ByteTokenizer)).unwrap().to_map();
        let expected = [
            ("num_sequences", 2.0),
            ("num_tokens", 4.0),
            ("num_loss_tokens", 3.0),
            ("train_mean_nll", 2.0),
            ("train_mean_bpb", 6.0 / (LN_2 * 3.0)),
        ];
        assert_eq!(metrics, expected.map(|(name, value)| (name.to_string(), value)).into());
        let without = SftMetrics::new(&data, &output, None).unwrap();
        assert!(!without.to_map().contains_key("train_mean_bpb"));
        let error = SftMetrics::new(&data, &ForwardBackwardOutput::default(), None).unwrap_err();
        assert_eq!(error.violation().unwrap().path, "output.loss_fn_outputs[0]");
    }
}
