//! Results of sampling.

use super::TensorData;

/// Result of one sampling request (PROTOCOL §6.7).
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct SampleResponse {
    /// Sampled sequences, in the requested number.
    pub sequences: Vec<SampledSequence>,
    /// Log-probability of each token of the prompt, if requested. `None` at positions that were not scored, such as the
    /// first position. If the server leaves out the first position, the client inserts it.
    pub prompt_logprobs: Option<Vec<Option<f32>>>,
    /// For each position of the prompt, the most likely tokens, if requested.
    pub topk_prompt_logprobs: Option<Vec<Option<Vec<TokenLogprob>>>>,
    /// Number of tokens of the prompt that the server had in its cache, counted once for all sequences.
    pub prompt_cache_hit_tokens: u32,
    /// Log-probabilities of the tokens in [`SampleOptions::target_prompt_logprobs`]: `f32`, in the same shape; sparse
    /// if the tensor of the option is sparse.
    ///
    /// [`SampleOptions::target_prompt_logprobs`]: super::SampleOptions::target_prompt_logprobs
    pub target_prompt_logprobs: Option<TensorData>,
    /// Tokens sampled at the positions of the prompt, if requested.
    pub prompt_alt_tokens: Option<PromptAltTokens>,
}

impl SampleResponse {
    /// Inserts a row `None` for the first token of the prompt if the server sent n − 1 rows for n tokens. `n_tokens` is
    /// the length of the prompt, if it is known; `scored` is true if the log-probabilities of the prompt were
    /// requested.
    pub(crate) fn aligned(mut self, n_tokens: Option<usize>, scored: bool) -> Self {
        fn align<T>(rows: &mut Option<Vec<Option<T>>>, n_tokens: usize) {
            if let Some(rows) = rows
                && rows.len() + 1 == n_tokens
            {
                rows.insert(0, None);
            }
        }
        if let Some(n) = n_tokens {
            // Protobuf does not distinguish an empty list from a missing one.
            if scored && n == 1 && self.prompt_logprobs.is_none() {
                self.prompt_logprobs = Some(Vec::new());
            }
            align(&mut self.prompt_logprobs, n);
            align(&mut self.topk_prompt_logprobs, n);
        }
        self
    }
}

/// Alternatives to the tokens of the prompt: k tokens sampled at each position after the first. Row `i` belongs to
/// position `i + 1`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PromptAltTokens {
    /// Token ids: `i64`, `[len(prompt) - 1, k]`.
    pub tokens: TensorData,
    /// Log-probabilities: `f32`, in the same shape.
    pub logprobs: TensorData,
}

impl PromptAltTokens {
    /// Alternatives with their log-probabilities.
    pub fn new(tokens: TensorData, logprobs: TensorData) -> Self {
        PromptAltTokens { tokens, logprobs }
    }
}

/// One sampled sequence.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct SampledSequence {
    /// Reason why the sequence ended.
    pub stop_reason: StopReason,
    /// Token ids.
    pub tokens: Vec<i32>,
    /// Log-probability of each token, if the server sent them: at temperature 1 without
    /// [`top_k`](super::SamplingParams::top_k) and [`top_p`](super::SamplingParams::top_p), independent of the
    /// parameters of the sample. Losses such as [`LossFn::ImportanceSampling`](super::LossFn::ImportanceSampling) take
    /// these values; see [`Datum::importance_sampling`](super::Datum::importance_sampling).
    pub logprobs: Option<Vec<f32>>,
    /// For each position, the most likely tokens, if requested.
    pub topk_logprobs: Option<Vec<Option<Vec<TokenLogprob>>>>,
    /// The server's id of the sequence, if it sends one.
    pub sequence_id: Option<String>,
}

impl SampledSequence {
    /// Returns true if a stop text, a stop token or the end-of-sequence token ended the sequence, and not the length
    /// limit.
    pub fn is_complete(&self) -> bool {
        self.stop_reason == StopReason::Stop
    }
}

/// Reason why a sequence ended, as the server sent it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// A stop text, a stop token, or the model's end-of-sequence token.
    #[default]
    Stop,
    /// `max_tokens`, or the end of the context.
    Length,
    /// A reason that this version does not know.
    Other(String),
}

/// A token and its log-probability.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct TokenLogprob {
    /// Token id.
    pub token: i32,
    /// Log-probability.
    pub logprob: f32,
}

impl TokenLogprob {
    /// A token with its log-probability.
    pub fn new(token: i32, logprob: f32) -> Self {
        TokenLogprob { token, logprob }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_row_of_the_first_prompt_token_is_inserted() {
        let aligned = |rows: Option<usize>, n_tokens: Option<usize>, scored: bool| {
            let prompt_logprobs = rows.map(|n_rows| vec![Some(-1.0); n_rows]);
            let topk = rows.map(|n_rows| vec![Some(Vec::new()); n_rows]);
            let response =
                SampleResponse { prompt_logprobs, topk_prompt_logprobs: topk, ..Default::default() };
            let aligned = response.aligned(n_tokens, scored);
            let topk = aligned.topk_prompt_logprobs.map(|rows| (rows.len(), rows.first() == Some(&None)));
            let plain = aligned.prompt_logprobs.map(|rows| (rows.len(), rows.first() == Some(&None)));
            assert!(topk == plain || rows.is_none(), "{topk:?} {plain:?}");
            plain
        };
        assert_eq!(aligned(Some(2), Some(3), true), Some((3, true)));
        assert_eq!(aligned(Some(3), Some(3), true), Some((3, false)), "a complete list stays as it is");
        assert_eq!(
            aligned(Some(1), Some(3), true),
            Some((1, false)),
            "the positions of too few rows are unknown"
        );
        assert_eq!(aligned(Some(2), None, true), Some((2, false)));
        assert_eq!(aligned(None, Some(1), true), Some((1, true)));
        assert_eq!(aligned(None, Some(1), false), None);
        assert_eq!(aligned(None, Some(2), true), None);
    }
}
