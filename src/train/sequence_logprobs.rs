//! Scores the targets of data with a sampler.

use super::loss_inputs::{check_len, target_tokens};
use crate::client::SamplingClient;
use crate::error::{Error, Result};
use crate::pending::wait_all;
use crate::types::{Datum, ModelInput};

/// The log-probability of each target of each datum under a sampler's model: one value for each position of
/// `target_tokens`, as a pass of the training client reports them.
///
/// The sampler scores the input of each datum with its last target behind it, all data at the same time. DPO, the KL
/// penalty and evaluations need these figures.
///
/// # Errors
/// Data without `target_tokens` of one dimension; the errors of
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
    match targets.last() {
        Some(last) => Ok(datum.model_input.clone().append_int(*last)),
        None => Err(Error::invalid(format!("{path}.loss_fn_inputs[\"target_tokens\"]"), "is empty")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_is_the_input_and_the_last_target() {
        let datum = Datum::cross_entropy(&[1, 2], &[3, 4]);
        assert_eq!(sequence(&datum, "d").unwrap(), ModelInput::from_ints([1, 2, 3, 4]));
        let path = |datum: Datum| sequence(&datum, "d").unwrap_err().violation().unwrap().path.clone();
        assert_eq!(path(Datum::default()), "d.loss_fn_inputs[\"target_tokens\"]");
        assert_eq!(path(datum.with("target_tokens", vec![1i64])), "d.loss_fn_inputs[\"target_tokens\"]");
        assert_eq!(path(Datum::cross_entropy(&[], &[])), "d.loss_fn_inputs[\"target_tokens\"]");
    }
}
