//! What a sample reports besides the answer.

use crate::error::{Error, ErrorKind, Result};

use super::{ModelInput, SampleResponse, TensorData};

/// What a sample reports besides the answer (PROTOCOL §3.4 #23).
///
/// Position 0 of a prompt has no context and is never scored; so row `i` of the options and results that have
/// `len(prompt) - 1` rows is about position `i + 1`.
///
/// # Example: how likely would these two tokens be at the end of the prompt?
/// ```
/// use tinkex::types::{SampleOptions, TensorData};
///
/// // A prompt of three tokens has two rows; −1 asks for nothing.
/// let target = TensorData::from(vec![-1i64, -1, 65, 66]).with_shape([2, 2])?;
/// let options = SampleOptions { target_prompt_logprobs: Some(target), ..Default::default() };
/// assert_eq!(options.topk_sample_logprobs, 0);
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SampleOptions {
    /// The log-probability of each token of the prompt. Default false.
    pub include_prompt_logprobs: bool,
    /// For each position of the prompt, the k most likely tokens. Default 0: none.
    pub topk_prompt_logprobs: u32,
    /// For each position of the answers, the k most likely tokens. Default 0: none.
    pub topk_sample_logprobs: u32,
    /// Token ids to be scored at the positions of the prompt: `i64`, `[len(prompt) - 1, K]`, dense or sparse. −1 asks
    /// for nothing, as does what a sparse tensor does not list. Default none.
    pub target_prompt_logprobs: Option<TensorData>,
    /// For each position of the prompt after the first, so many draws from the model's own distribution at the
    /// request's temperature. Default 0: none.
    pub prompt_alt_tokens_k: u32,
    /// Scores only the last n tokens of the prompt, 1 to `len(prompt) - 1`, which is cheap if the server has those before
    /// in its cache. Needs [`include_prompt_logprobs`](Self::include_prompt_logprobs). Default none: all are scored.
    pub prompt_logprobs_last_n: Option<u32>,
}

impl SampleOptions {
    pub(crate) fn validate(&self, prompt: &ModelInput) -> Result<()> {
        // What the length of an image is, only the server may know.
        let len = prompt.len().ok();
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

    /// Refuses the answer of a server that took no notice of what would silently be missed, and one with another number of
    /// anything than was asked for.
    pub(crate) fn check(
        &self,
        prompt: &ModelInput,
        num_samples: u32,
        response: &SampleResponse,
    ) -> Result<()> {
        let too_old = |message: String| Err(Error::new(ErrorKind::Incompatible, message));
        if 0 < self.prompt_alt_tokens_k && response.prompt_alt_tokens.is_none() {
            return too_old(format!(
                "prompt_alt_tokens_k is {} and the server returned no alternatives: it may be too old for that",
                self.prompt_alt_tokens_k
            ));
        }
        if let (Some(n), Some(logprobs)) = (self.prompt_logprobs_last_n, &response.prompt_logprobs) {
            let unwanted = logprobs.len().saturating_sub(n as usize);
            if logprobs[..unwanted].iter().any(Option::is_some) {
                return too_old(format!(
                    "prompt_logprobs_last_n is {n} and the server scored more: it may be too old for that"
                ));
            }
        }
        self.check_sequences(num_samples, response)?;
        // What the length of an image is, only the server may know.
        prompt.len().map_or(Ok(()), |it| self.check_prompt(it, response))
    }

    fn check_sequences(&self, num_samples: u32, response: &SampleResponse) -> Result<()> {
        check_count("sequences", response.sequences.len(), num_samples as usize, "that were asked for")?;
        if self.topk_sample_logprobs == 0 {
            return Ok(());
        }
        for (i, it) in response.sequences.iter().enumerate() {
            let n = it.tokens.len();
            match &it.topk_logprobs {
                Some(rows) => check_count(&format!("sequences[{i}].topk_logprobs"), rows.len(), n, "tokens")?,
                None if n == 0 => {}
                None => return Err(missing(&format!("sequences[{i}].topk_logprobs"))),
            }
        }
        Ok(())
    }

    /// `n` is the number of the prompt's tokens.
    fn check_prompt(&self, n: usize, response: &SampleResponse) -> Result<()> {
        // The only token of a prompt is never scored.
        let list = |name: &str, asked: bool, len: Option<usize>, without: fn(&str) -> Error| match len {
            Some(len) if asked => check_count(name, len, n, "tokens of the prompt"),
            None if asked && 1 < n => Err(without(name)),
            _ => Ok(()),
        };
        let SampleResponse { prompt_logprobs, topk_prompt_logprobs, .. } = response;
        list(
            "prompt_logprobs",
            self.include_prompt_logprobs,
            prompt_logprobs.as_ref().map(Vec::len),
            lacking,
        )?;
        let asked = 0 < self.topk_prompt_logprobs;
        list("topk_prompt_logprobs", asked, topk_prompt_logprobs.as_ref().map(Vec::len), missing)?;
        match (&self.target_prompt_logprobs, &response.target_prompt_logprobs) {
            (Some(asked), Some(scores)) => {
                check_shape("target_prompt_logprobs", scores, &asked.shape())?;
            }
            (Some(_), None) => return Err(missing("target_prompt_logprobs")),
            (None, _) => {}
        }
        match &response.prompt_alt_tokens {
            Some(it) if 0 < self.prompt_alt_tokens_k => {
                let shape = [n.saturating_sub(1), self.prompt_alt_tokens_k as usize];
                check_shape("prompt_alt_tokens", &it.tokens, &shape)
            }
            _ => Ok(()),
        }
    }
}

fn lacking(what: &str) -> Error {
    Error::decode(format!("the server's answer lacks {what}"))
}

/// As [`lacking`], of what a server leaves out that does not know the option.
fn missing(what: &str) -> Error {
    let text = format!("the server's answer lacks {what}, which was asked for: it may be too old for that");
    Error::new(ErrorKind::Incompatible, text)
}

fn check_count(what: &str, found: usize, expected: usize, of: &str) -> Result<()> {
    match found == expected {
        true => Ok(()),
        false => Err(Error::decode(format!("the server sent {found} {what} for the {expected} {of}"))),
    }
}

fn check_shape(what: &str, tensor: &TensorData, expected: &[usize]) -> Result<()> {
    match tensor.shape() == expected {
        true => Ok(()),
        false => {
            let shape = tensor.shape();
            Err(Error::decode(format!(
                "the server's {what} have the shape {shape:?} instead of {expected:?}"
            )))
        }
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
    if let Some(i) = ids.iter().position(|it| *it < -1 || i64::from(i32::MAX) < *it) {
        return Err(Error::invalid(format!("{PATH}[{i}]"), format!("{} is no token id and not -1", ids[i])));
    }
    match ids.iter().any(|it| 0 <= *it) {
        true => Ok(()),
        false => fail("asks for no token".into()),
    }
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
        let it = SampleOptions { prompt_logprobs_last_n: Some(n), ..Default::default() };
        SampleOptions { include_prompt_logprobs: true, ..it }
    }

    #[test]
    fn what_a_server_would_refuse_is_refused_with_its_path() {
        let prompt = ModelInput::from_ints([1, 2, 3]);
        let path = |it: SampleOptions| match it.validate(&prompt) {
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
    fn a_server_that_took_no_notice_is_told_from_one_that_did() {
        let prompt = ModelInput::from_ints([1, 2, 3]);
        let check = |options: &SampleOptions, response: &SampleResponse| options.check(&prompt, 0, response);
        let scored =
            |it: [Option<f32>; 3]| SampleResponse { prompt_logprobs: Some(it.into()), ..Default::default() };
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
    fn an_answer_with_another_number_of_anything_than_was_asked_for_is_refused() {
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
        // What was not asked for may come or not.
        SampleOptions::default().check(&prompt, 2, &good).unwrap();
        // A sequence without tokens has no rows, and a prompt of one token no scores.
        let one =
            SampleOptions { include_prompt_logprobs: true, topk_sample_logprobs: 1, ..Default::default() };
        let bare = SampleResponse { sequences: vec![SampledSequence::default()], ..Default::default() };
        one.check(&ModelInput::from_ints([1]), 1, &bare).unwrap();
    }
}
