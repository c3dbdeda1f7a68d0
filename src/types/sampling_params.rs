//! Parameters of sampling.

use crate::error::{Error, Result};

/// Parameters of sampling (PROTOCOL §6.6). End the literal with `..Default::default()`: a minor version may add fields.
///
/// # Example: the most likely answer, up to the end of the line
/// ```
/// use tinkex::types::{SamplingParams, Stop};
///
/// let params = SamplingParams {
///     max_tokens: Some(32),
///     temperature: 0.0,
///     stop: Some(Stop::from("\n")),
///     ..Default::default()
/// };
/// assert_eq!((params.top_k, params.top_p), (-1, 1.0));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Largest length of a sequence in tokens. Some servers require a value, and a value of at least 1. Default: none.
    pub max_tokens: Option<u32>,
    /// Seed for the whole request, which makes the sample repeatable. Default: none.
    pub seed: Option<u64>,
    /// Texts or tokens that end a sequence. They replace the model's end-of-sequence token, which then ends a sequence
    /// only if it is listed here. With an empty list, only `max_tokens` ends a sequence. Default `None`: the model's
    /// end-of-sequence token.
    pub stop: Option<Stop>,
    /// Flattens (above 1) or sharpens (below 1) the distribution; 0 takes the most likely token. Reported
    /// log-probabilities are always those at temperature 1. Default 1.
    pub temperature: f32,
    /// Samples among the k most likely tokens. −1 means all tokens; on most servers 0 means the same. Default −1.
    pub top_k: i32,
    /// Samples among the most likely tokens with this total probability, in `[0, 1]`; some servers refuse 0. Default 1.
    pub top_p: f32,
}

/// Texts or tokens that end a sequence, instead of the model's end-of-sequence token. A single text is sent as a list
/// with one text, which all servers accept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stop {
    /// Any of these texts.
    Strings(Vec<String>),
    /// Any of these token ids.
    Tokens(Vec<i32>),
}

impl From<&str> for Stop {
    fn from(text: &str) -> Self {
        Stop::Strings(vec![text.into()])
    }
}

impl From<String> for Stop {
    fn from(text: String) -> Self {
        Stop::Strings(vec![text])
    }
}

impl From<Vec<String>> for Stop {
    fn from(texts: Vec<String>) -> Self {
        Stop::Strings(texts)
    }
}

impl From<Vec<i32>> for Stop {
    fn from(ids: Vec<i32>) -> Self {
        Stop::Tokens(ids)
    }
}

impl Default for SamplingParams {
    fn default() -> Self {
        SamplingParams { max_tokens: None, seed: None, stop: None, temperature: 1.0, top_k: -1, top_p: 1.0 }
    }
}

impl SamplingParams {
    pub(crate) fn validate(&self) -> Result<()> {
        let fail =
            |name: &str, problem: String| Err(Error::invalid(format!("sampling_params.{name}"), problem));
        if !(self.temperature.is_finite() && 0.0 <= self.temperature) {
            return fail("temperature", format!("must be finite and at least 0, is {}", self.temperature));
        }
        if !(0.0..=1.0).contains(&self.top_p) {
            return fail("top_p", format!("must be in 0..=1, is {}", self.top_p));
        }
        if self.top_k < -1 {
            return fail("top_k", format!("must be -1 (off) or at least 0, is {}", self.top_k));
        }
        match &self.stop {
            Some(Stop::Strings(texts)) => match texts.iter().position(String::is_empty) {
                Some(i) => fail(&format!("stop[{i}]"), "is empty".into()),
                None => Ok(()),
            },
            Some(Stop::Tokens(ids)) => match ids.iter().position(|id| *id < 0) {
                Some(i) => fail(&format!("stop[{i}]"), format!("token id {} is negative", ids[i])),
                None => Ok(()),
            },
            None => Ok(()),
        }
    }
}
