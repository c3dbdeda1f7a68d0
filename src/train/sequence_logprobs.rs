//! Scores the targets of data with a sampler.

use super::loss_inputs::{check_len, floats, target_tokens};
use crate::client::SamplingClient;
use crate::error::{Error, Result};
use crate::pending::wait_all;
use crate::types::{Chunk, Datum, ModelInput};

/// The log-probability of each target of each datum under a sampler's model: one value for each position of
/// `target_tokens`, as a pass of the training client reports them.
///
/// The sampler scores the input of each datum with its last target behind it, all data at the same time. DPO, the KL
/// penalty and evaluations need these figures.
///
/// # Errors
/// Data without `target_tokens` of one dimension, or with a target other than the next token of the input, which the
/// sampler cannot score (allowed where `weights` has a 0); the errors of
/// [`compute_logprobs`](SamplingClient::compute_logprobs); `Decode` if the server scored fewer tokens.
///
/// # Blocking
/// Waits for the answers of the server; each of them has the deadline of
/// [`compute_logprobs`](SamplingClient::compute_logprobs). Call it before the loss function of a custom loss, not in it.
///
/// # Example: score an answer
/// ```
/// # #[cfg(feature = "local")] {
/// # let server = tinkex::local::Server::start(Default::default())?;
/// # let service = tinkex::ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build()?;
/// use tinkex::train::sequence_logprobs;
/// use tinkex::types::Datum;
///
/// let sampler = service.create_sampling_client("tinkex/nano")?;
/// let logprobs = sequence_logprobs(&[Datum::cross_entropy(&[72, 105], &[33, 10])], &sampler)?;
/// assert_eq!(logprobs[0].len(), 3);
/// # }
/// # Ok::<(), tinkex::Error>(())
/// ```
pub fn sequence_logprobs(data: &[Datum], sampler: &SamplingClient) -> Result<Vec<Vec<f32>>> {
    // Check all data before the first request.
    let sequences: Vec<ModelInput> = data
        .iter()
        .enumerate()
        .map(|(i, datum)| sequence(datum, &format!("data[{i}]")))
        .collect::<Result<_>>()?;
    let pending: Vec<_> = sequences.iter().map(|sequence| sampler.compute_logprobs(sequence)).collect();
    let scored = wait_all(pending)?;
    let targets = scored.into_iter().enumerate().map(|(i, logprobs)| {
        let row = logprobs.into_iter().skip(1).collect::<Option<Vec<f32>>>();
        row.ok_or_else(|| Error::decode(format!("data[{i}]: the server did not score all tokens")))
    });
    targets.collect()
}

/// All tokens of a datum: its input and its last target.
fn sequence(datum: &Datum, path: &str) -> Result<ModelInput> {
    let targets = target_tokens(datum, path)?;
    if let Ok(n) = datum.model_input.len() {
        check_len(
            format!("{path}.loss_fn_inputs[\"target_tokens\"]"),
            targets.len(),
            n,
            "token of the input",
        )?;
    }
    check_shifted(datum, &targets, path)?;
    match targets.last() {
        Some(last) => Ok(datum.model_input.clone().append_int(*last)),
        None => Err(Error::invalid(format!("{path}.loss_fn_inputs[\"target_tokens\"]"), "is empty")),
    }
}

/// Refuses targets that are not the input shifted by one: the sampler would score the tokens of the input instead.
fn check_shifted(datum: &Datum, targets: &[i32], path: &str) -> Result<()> {
    let weights = if datum.loss_fn_inputs.contains_key("weights") {
        floats(datum, "weights", path)?
    } else {
        Vec::new()
    };
    let next = next_tokens(&datum.model_input);
    for (i, (next, target)) in next.iter().zip(targets).enumerate() {
        if let Some(next) = next.filter(|next| next != target)
            && weights.get(i).is_none_or(|weight| *weight != 0.0)
        {
            let problem = format!(
                "is {target}, but the next token of the input is {next}; a sampler scores only targets that are the input \
                 shifted by one"
            );
            return Err(Error::invalid(format!("{path}.loss_fn_inputs[\"target_tokens\"][{i}]"), problem));
        }
    }
    Ok(())
}

/// For each position of the input but the last, the token after it; `None` if that is part of an image. Ends before an
/// image whose number of tokens is unknown.
fn next_tokens(input: &ModelInput) -> Vec<Option<i32>> {
    let mut all = Vec::new();
    for chunk in &input.chunks {
        match chunk {
            Chunk::EncodedText { tokens } => all.extend(tokens.iter().copied().map(Some)),
            other => match (ModelInput { chunks: vec![other.clone()] }).len() {
                Ok(n) => all.resize(all.len() + n, None),
                Err(_) => break,
            },
        }
    }
    all.drain(..1.min(all.len()));
    all
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::ImageFormat;

    #[test]
    fn a_sequence_is_the_input_and_the_last_target() {
        let datum = Datum::cross_entropy(&[1, 2], &[3, 4]);
        assert_eq!(sequence(&datum, "d").unwrap(), ModelInput::from_ints([1, 2, 3, 4]));
        let path = |datum: Datum| sequence(&datum, "d").unwrap_err().violation().unwrap().path.clone();
        assert_eq!(path(Datum::default()), "d.loss_fn_inputs[\"target_tokens\"]");
        assert_eq!(path(datum.with("target_tokens", vec![1i64])), "d.loss_fn_inputs[\"target_tokens\"]");
        assert_eq!(path(Datum::cross_entropy(&[], &[])), "d.loss_fn_inputs[\"target_tokens\"]");
    }

    #[test]
    fn a_target_that_is_not_the_next_token_is_refused_with_its_place_unless_it_does_not_count() {
        let image = Chunk::Image { data: vec![1], format: ImageFormat::Png, expected_tokens: Some(2) };
        let text = |tokens: &[i32]| Chunk::EncodedText { tokens: tokens.to_vec() };
        let datum = |chunks: Vec<Chunk>, targets: &[i64]| {
            Datum::new(ModelInput { chunks }).with("target_tokens", targets.to_vec())
        };
        let one = || vec![text(&[1, 2, 3])];
        for (datum, expected) in [
            (datum(one(), &[2, 3, 9]), None),
            (datum(one(), &[2, 8, 9]), Some("data[0].loss_fn_inputs[\"target_tokens\"][1]: is 8, but")),
            (datum(one(), &[2, 8, 9]).with("weights", vec![1.0_f32, 0.0, 1.0]), None),
            (
                datum(one(), &[0, 3, 9]).with("weights", vec![1.0_f32, 0.0, 1.0]),
                Some("[0]: is 0, but the next"),
            ),
            // Positions before tokens of an image have no target.
            (datum(vec![text(&[1]), image.clone(), text(&[2])], &[0, 0, 2, 3]), None),
            (datum(vec![text(&[1]), image, text(&[2])], &[0, 0, 5, 3]), Some("[2]: is 5")),
        ] {
            let found = sequence(&datum, "data[0]").err().map(|error| error.to_string());
            let is_right = match (&found, expected) {
                (Some(found), Some(expected)) => found.contains(expected),
                (found, expected) => found.is_none() && expected.is_none(),
            };
            assert!(is_right, "{datum:?}: {found:?}");
        }
    }
}
