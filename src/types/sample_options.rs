//! Options of the data that a sample reports.

use crate::error::{Error, ErrorKind, Result};

use super::{ModelInput, SampleResponse, TensorData};

/// Options of the data that a sample reports besides the sequences (PROTOCOL §3.4 #23). End the literal with
/// `..Default::default()`: a minor version may add fields.
///
/// Position 0 of a prompt has no context and is never scored. Options and results with `len(prompt) - 1` rows therefore
/// start at position 1: row `i` belongs to position `i + 1`.
///
/// # Example: score two tokens at the last position of the prompt
/// ```
/// use tinkex::types::{SampleOptions, TensorData};
///
/// // A prompt of three tokens has two rows; −1 is not scored.
/// let target = TensorData::from(vec![-1i64, -1, 65, 66]).with_shape([2, 2])?;
/// let options = SampleOptions { target_prompt_logprobs: Some(target), ..Default::default() };
/// assert_eq!(options.topk_sample_logprobs, 0);
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SampleOptions {
    /// Reports the log-probability of each token of the prompt. Default false.
    pub include_prompt_logprobs: bool,
    /// Reports the k most likely tokens at each position of the prompt. Default 0: none.
    pub topk_prompt_logprobs: u32,
    /// Reports the k most likely tokens at each position of the sequences. Default 0: none.
    pub topk_sample_logprobs: u32,
    /// Token ids to score at the positions of the prompt: `i64`, `[len(prompt) - 1, K]`, dense or sparse. −1 and the
    /// elements that a sparse tensor does not store are not scored. Default: none.
    pub target_prompt_logprobs: Option<TensorData>,
    /// Number of tokens to sample at each position of the prompt after the first, from the model's distribution at the
    /// temperature of the request. Default 0.
    pub prompt_alt_tokens_k: u32,
    /// Scores only the last n tokens of the prompt, 1 to `len(prompt) - 1`, which is cheap if the server has the tokens
    /// before them in its cache. Needs [`include_prompt_logprobs`](Self::include_prompt_logprobs). Default none: all
    /// tokens.
    pub prompt_logprobs_last_n: Option<u32>,
}

impl SampleOptions {
    pub(crate) fn validate(&self, prompt: &ModelInput) -> Result<()> {
        // `None` for a prompt with an image: only the server may know its length.
        self.validate_for(prompt.len().ok())
    }

    /// As [`validate`](Self::validate), for a prompt of `len` tokens.
    pub(crate) fn validate_for(&self, len: Option<usize>) -> Result<()> {
        if let Some(target) = &self.target_prompt_logprobs {
            check_target(target, len)?;
        }
        let Some(n) = self.prompt_logprobs_last_n else { return Ok(()) };
        let fail = |problem: String| Err(Error::invalid("prompt_logprobs_last_n", problem));
        if !self.include_prompt_logprobs {
            return fail("needs include_prompt_logprobs".into());
        }
        if n == 0 {
            return fail("must be at least 1".into());
        }
        match len {
            Some(len) if len <= n as usize => {
                fail(format!("must be less than the {len} tokens of the prompt, is {n}"))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a response in which the server ignored an option, and a response whose number of sequences or rows is
    /// not as requested.
    pub(crate) fn check(
        &self,
        prompt: &ModelInput,
        num_samples: u32,
        response: &SampleResponse,
    ) -> Result<()> {
        let too_old = |message: String| Err(Error::new(ErrorKind::Incompatible, message));
        if 0 < self.prompt_alt_tokens_k && response.prompt_alt_tokens.is_none() {
            return too_old(format!(
                "prompt_alt_tokens_k is {} and the server returned no alternatives: the server may be too old",
                self.prompt_alt_tokens_k
            ));
        }
        if let (Some(n), Some(logprobs)) = (self.prompt_logprobs_last_n, &response.prompt_logprobs) {
            let unwanted = logprobs.len().saturating_sub(n as usize);
            if logprobs[..unwanted].iter().any(Option::is_some) {
                return too_old(format!(
                    "prompt_logprobs_last_n is {n} and the server scored more tokens: the server may be too old"
                ));
            }
        }
        self.check_sequences(num_samples, response)?;
        // The length of a prompt with an image may be unknown.
        prompt.len().map_or(Ok(()), |n_tokens| self.check_prompt(n_tokens, response))
    }

    fn check_sequences(&self, num_samples: u32, response: &SampleResponse) -> Result<()> {
        check_count("sequences", response.sequences.len(), num_samples as usize, "requested")?;
        if self.topk_sample_logprobs == 0 {
            return Ok(());
        }
        for (i, sequence) in response.sequences.iter().enumerate() {
            let n = sequence.tokens.len();
            match &sequence.topk_logprobs {
                Some(rows) => check_count(&format!("sequences[{i}].topk_logprobs"), rows.len(), n, "tokens")?,
                None if n == 0 => {}
                None => return Err(ignored(&format!("sequences[{i}].topk_logprobs"))),
            }
        }
        Ok(())
    }

    /// Checks the data about a prompt of `n` tokens.
    fn check_prompt(&self, n: usize, response: &SampleResponse) -> Result<()> {
        // A prompt of one token has no scores, so the list may be missing.
        let list = |name: &str, requested: bool, len: Option<usize>, if_missing: fn(&str) -> Error| match len
        {
            Some(len) if requested => check_count(name, len, n, "tokens of the prompt"),
            None if requested && 1 < n => Err(if_missing(name)),
            _ => Ok(()),
        };
        let SampleResponse { prompt_logprobs, topk_prompt_logprobs, .. } = response;
        list(
            "prompt_logprobs",
            self.include_prompt_logprobs,
            prompt_logprobs.as_ref().map(Vec::len),
            missing,
        )?;
        let requested = 0 < self.topk_prompt_logprobs;
        list("topk_prompt_logprobs", requested, topk_prompt_logprobs.as_ref().map(Vec::len), ignored)?;
        match (&self.target_prompt_logprobs, &response.target_prompt_logprobs) {
            (Some(target), Some(scores)) => {
                check_shape("target_prompt_logprobs", scores, &target.shape())?;
            }
            (Some(_), None) => return Err(ignored("target_prompt_logprobs")),
            (None, _) => {}
        }
        match &response.prompt_alt_tokens {
            Some(alternatives) if 0 < self.prompt_alt_tokens_k => {
                let shape = [n.saturating_sub(1), self.prompt_alt_tokens_k as usize];
                check_shape("prompt_alt_tokens", &alternatives.tokens, &shape)
            }
            _ => Ok(()),
        }
    }
}

/// The error for a list that every server must send.
fn missing(name: &str) -> Error {
    Error::decode(format!("the server's response lacks {name}"))
}

/// The error for a list that servers leave out if they do not know the option.
fn ignored(name: &str) -> Error {
    let text = format!("the server's response lacks {name}, which was requested: the server may be too old");
    Error::new(ErrorKind::Incompatible, text)
}

fn check_count(name: &str, found: usize, expected: usize, of: &str) -> Result<()> {
    if found == expected {
        Ok(())
    } else {
        Err(Error::decode(format!("the server sent {found} {name} for the {expected} {of}")))
    }
}

fn check_shape(name: &str, tensor: &TensorData, expected: &[usize]) -> Result<()> {
    let shape = tensor.shape();
    if shape == expected {
        Ok(())
    } else {
        let problem = format!("the server's {name} have the shape {shape:?} instead of {expected:?}");
        Err(Error::decode(problem))
    }
}

fn check_target(target: &TensorData, len: Option<usize>) -> Result<()> {
    const PATH: &str = "target_prompt_logprobs";
    let fail = |problem: String| Err(Error::invalid(PATH, problem));
    let Some(ids) = target.as_i64() else {
        return fail("must hold int64 token ids, holds float32".into());
    };
    target.validate(PATH)?;
    let &[rows, columns] = &target.shape()[..] else {
        return fail(format!("must have two dimensions, has the shape {:?}", target.shape()));
    };
    if let Some(len) = len
        && rows.checked_add(1) != Some(len)
    {
        return fail(format!("a prompt of {len} tokens needs {} rows, not {rows}", len.saturating_sub(1)));
    }
    if columns == 0 {
        return fail("has no columns".into());
    }
    if let Some(i) = ids.iter().position(|id| *id < -1 || i64::from(i32::MAX) < *id) {
        let problem = format!("{} is neither a token id nor -1", ids[i]);
        return Err(Error::invalid(format!("{PATH}[{i}]"), problem));
    }
    if ids.iter().any(|id| 0 <= *id) { Ok(()) } else { fail("has no token id to score".into()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::{PromptAltTokens, SampledSequence, Sparse, Values};

    fn target(ids: Vec<i64>, shape: [usize; 2]) -> SampleOptions {
        let target = TensorData { values: Values::I64(ids), shape: Some(shape.into()), sparse: None };
        SampleOptions { target_prompt_logprobs: Some(target), ..Default::default() }
    }

    fn last(n: u32) -> SampleOptions {
        SampleOptions { include_prompt_logprobs: true, prompt_logprobs_last_n: Some(n), ..Default::default() }
    }

    #[test]
    fn options_that_servers_refuse_are_refused_with_their_path() {
        let prompt = ModelInput::from_ints([1, 2, 3]);
        let path = |options: SampleOptions| match options.validate(&prompt) {
            Ok(()) => String::new(),
            Err(error) => error.violation().unwrap().path.clone(),
        };
        let tensor = "target_prompt_logprobs";
        for (options, expected) in [
            (SampleOptions::default(), ""),
            (target(vec![-1, 7], [2, 1]), ""),
            (target(vec![-1, 7, 8], [3, 1]), tensor),
            (target(vec![-1, 7, 8], [2, 1]), tensor),
            (target(vec![], [2, 0]), tensor),
            (target(vec![-1, -1], [2, 1]), tensor),
            (target(vec![7, -2], [2, 1]), "target_prompt_logprobs[1]"),
            (target(vec![1 << 40, 1], [2, 1]), "target_prompt_logprobs[0]"),
            (last(1), ""),
            (last(2), ""),
            (last(3), "prompt_logprobs_last_n"),
            (last(0), "prompt_logprobs_last_n"),
            (SampleOptions { include_prompt_logprobs: false, ..last(1) }, "prompt_logprobs_last_n"),
        ] {
            assert_eq!(path(options.clone()), expected, "{options:?}");
        }
        let floats = TensorData::from(vec![1.0f32, 2.0]).with_shape([2, 1]).unwrap();
        assert_eq!(
            path(SampleOptions { target_prompt_logprobs: Some(floats), ..Default::default() }),
            tensor
        );
        let flat = TensorData::from(vec![1i64, 2]);
        assert_eq!(path(SampleOptions { target_prompt_logprobs: Some(flat), ..Default::default() }), tensor);
        let sparse = |col| {
            let sparse = Sparse { crow_indices: vec![0, 0, 1], col_indices: vec![col] };
            let target =
                TensorData { values: Values::I64(vec![9]), shape: Some(vec![2, 4]), sparse: Some(sparse) };
            SampleOptions { target_prompt_logprobs: Some(target), ..Default::default() }
        };
        assert_eq!(path(sparse(3)), "");
        assert_eq!(path(sparse(4)), "target_prompt_logprobs.col_indices[0]");
    }

    #[test]
    fn a_response_that_ignores_an_option_is_refused() {
        let prompt = ModelInput::from_ints([1, 2, 3]);
        let check = |options: &SampleOptions, response: &SampleResponse| options.check(&prompt, 0, response);
        let scored = |logprobs: [Option<f32>; 3]| SampleResponse {
            prompt_logprobs: Some(logprobs.into()),
            ..Default::default()
        };
        check(&last(1), &scored([None, None, Some(-1.0)])).unwrap();
        let error = check(&last(1), &scored([None, Some(-1.0), Some(-1.0)])).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Incompatible);
        let alternatives = SampleOptions { prompt_alt_tokens_k: 1, ..Default::default() };
        let error = check(&alternatives, &SampleResponse::default()).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Incompatible);
        check(&alternatives, &alternative([2, 1])).unwrap();
    }

    fn alternative(shape: [usize; 2]) -> SampleResponse {
        let n = shape[0] * shape[1];
        let tokens = TensorData::from(vec![1i64; n]).with_shape(shape).unwrap();
        let logprobs = TensorData::from(vec![-1.0f32; n]).with_shape(shape).unwrap();
        SampleResponse { prompt_alt_tokens: Some(PromptAltTokens { tokens, logprobs }), ..Default::default() }
    }

    #[test]
    fn a_response_with_another_number_of_sequences_or_rows_than_requested_is_refused() {
        let prompt = ModelInput::from_ints([1, 2, 3]);
        let all = SampleOptions {
            include_prompt_logprobs: true,
            topk_prompt_logprobs: 1,
            topk_sample_logprobs: 1,
            prompt_alt_tokens_k: 2,
            ..target(vec![-1, 7], [2, 1])
        };
        let sequence =
            SampledSequence { tokens: vec![5, 6], topk_logprobs: Some(vec![None; 2]), ..Default::default() };
        let good = SampleResponse {
            sequences: vec![sequence; 2],
            prompt_logprobs: Some(vec![None, Some(-1.0), Some(-1.0)]),
            topk_prompt_logprobs: Some(vec![None; 3]),
            target_prompt_logprobs: Some(TensorData::from(vec![0.0f32; 2]).with_shape([2, 1]).unwrap()),
            ..alternative([2, 2])
        };
        all.check(&prompt, 2, &good).unwrap();
        type Change = fn(&mut SampleResponse);
        let table: [(&str, Change); 13] = [
            ("0 sequences for the 2", |it| it.sequences.clear()),
            ("1 sequences for the 2", |it| it.sequences.truncate(1)),
            ("3 sequences for the 2", |it| it.sequences.push(SampledSequence::default())),
            ("1 sequences[1].topk_logprobs for the 2 tokens", |it| {
                it.sequences[1].topk_logprobs = Some(vec![None]);
            }),
            ("lacks sequences[0].topk_logprobs", |it| it.sequences[0].topk_logprobs = None),
            ("lacks prompt_logprobs", |it| it.prompt_logprobs = None),
            ("4 prompt_logprobs for the 3 tokens", |it| it.prompt_logprobs = Some(vec![None; 4])),
            ("lacks topk_prompt_logprobs", |it| it.topk_prompt_logprobs = None),
            ("1 topk_prompt_logprobs for the 3", |it| it.topk_prompt_logprobs = Some(vec![None])),
            ("lacks target_prompt_logprobs", |it| it.target_prompt_logprobs = None),
            ("target_prompt_logprobs have the shape [2]", |it| {
                it.target_prompt_logprobs = Some(vec![0.0f32; 2].into());
            }),
            ("prompt_alt_tokens have the shape [2, 1]", |it| {
                it.prompt_alt_tokens = alternative([2, 1]).prompt_alt_tokens;
            }),
            ("prompt_alt_tokens have the shape [3, 2]", |it| {
                it.prompt_alt_tokens = alternative([3, 2]).prompt_alt_tokens;
            }),
        ];
        for (problem, change) in table {
            let mut response = good.clone();
            change(&mut response);
            let error = all.check(&prompt, 2, &response).unwrap_err();
            let too_old = problem.starts_with("lacks") && problem != "lacks prompt_logprobs";
            let kind = if too_old { ErrorKind::Incompatible } else { ErrorKind::Decode };
            assert!(*error.kind() == kind && error.to_string().contains(problem), "{problem}: {error}");
        }
        // Data that was not requested may be present or missing.
        SampleOptions::default().check(&prompt, 2, &good).unwrap();
        // Lists of a sequence without tokens and of a prompt of one token may be missing.
        let one =
            SampleOptions { include_prompt_logprobs: true, topk_sample_logprobs: 1, ..Default::default() };
        let bare = SampleResponse { sequences: vec![SampledSequence::default()], ..Default::default() };
        one.check(&ModelInput::from_ints([1]), 1, &bare).unwrap();
    }
}
