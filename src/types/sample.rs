//! What sampling returns.

use super::TensorData;

/// The answers to one sampling request (PROTOCOL §6.7).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SampleResponse {
    /// The answers, as many as were asked for.
    pub sequences: Vec<SampledSequence>,
    /// For each token of the prompt its log-probability, if asked for; `None` where it was not scored, as at the
    /// first position (servers that leave that one out are given it).
    pub prompt_logprobs: Option<Vec<Option<f32>>>,
    /// For each token of the prompt the most likely tokens at its place, if asked for.
    pub topk_prompt_logprobs: Option<Vec<Option<Vec<TokenLogprob>>>>,
    /// How many tokens of the prompt the server had in its cache; counted once per prompt.
    pub prompt_cache_hit_tokens: u32,
    /// The log-probabilities of the tokens that [`SampleOptions::target_prompt_logprobs`] asked for: `f32`, in its shape and
    /// form.
    ///
    /// [`SampleOptions::target_prompt_logprobs`]: super::SampleOptions::target_prompt_logprobs
    pub target_prompt_logprobs: Option<TensorData>,
    /// The draws at the positions of the prompt, if asked for.
    pub prompt_alt_tokens: Option<PromptAltTokens>,
}

impl SampleResponse {
    /// With what servers leave out that say nothing of the first token of a prompt, because nothing predicts it: they send
    /// n − 1 rows for n tokens. `n_tokens` is the length of the prompt, if it is known; `scored` whether its log-probabilities
    /// were asked for.
    pub(crate) fn aligned(mut self, n_tokens: Option<usize>, scored: bool) -> Self {
        fn align<T>(rows: &mut Option<Vec<Option<T>>>, n_tokens: usize) {
            if let Some(rows) = rows
                && rows.len() + 1 == n_tokens
            {
                rows.insert(0, None);
            }
        }
        if let Some(n) = n_tokens {
            // No row at all cannot be told from no list in protobuf.
            if scored && n == 1 && self.prompt_logprobs.is_none() {
                self.prompt_logprobs = Some(Vec::new());
            }
            align(&mut self.prompt_logprobs, n);
            align(&mut self.topk_prompt_logprobs, n);
        }
        self
    }
}

/// What the model might have said instead of the prompt: k draws at each position after the first. Row `i` is about
/// position `i + 1`.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptAltTokens {
    /// The token ids: `i64`, `[len(prompt) - 1, k]`.
    pub tokens: TensorData,
    /// Their log-probabilities: `f32`, in the same shape.
    pub logprobs: TensorData,
}

/// One answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SampledSequence {
    /// Why it ended.
    pub stop_reason: StopReason,
    /// The token ids.
    pub tokens: Vec<i32>,
    /// The log-probability of each token, if the server sent them. It is the model's own, that of temperature 1 without
    /// [`top_k`](super::SamplingParams::top_k) and [`top_p`](super::SamplingParams::top_p), whatever the sample was drawn with:
    /// what losses such as [`LossFn::ImportanceSampling`](super::LossFn::ImportanceSampling) compare with. See
    /// [`Datum::importance_sampling`](super::Datum::importance_sampling).
    pub logprobs: Option<Vec<f32>>,
    /// For each token the most likely ones at its place, if asked for.
    pub topk_logprobs: Option<Vec<Option<Vec<TokenLogprob>>>>,
    /// The server's id of this answer, where it gives one.
    pub sequence_id: Option<String>,
}

impl SampledSequence {
    /// The model ended the answer itself.
    pub fn is_complete(&self) -> bool {
        self.stop_reason == StopReason::Stop
    }
}

/// Why an answer ended. It is never made up: what a server sends is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// At a stop text or token, or at the end of the sequence.
    #[default]
    Stop,
    /// At `max_tokens`, or at the end of the context.
    Length,
    /// Something that this version does not know.
    Other(String),
}

/// A token and its log-probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token's id.
    pub token: i32,
    /// Its log-probability.
    pub logprob: f32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_token_of_a_prompt_is_given_its_row_where_the_server_sent_none_for_it() {
        let aligned = |rows: Option<usize>, n_tokens: Option<usize>, scored: bool| {
            let prompt_logprobs = rows.map(|it| vec![Some(-1.0); it]);
            let topk = rows.map(|it| vec![Some(Vec::new()); it]);
            let response =
                SampleResponse { prompt_logprobs, topk_prompt_logprobs: topk, ..Default::default() };
            let aligned = response.aligned(n_tokens, scored);
            let topk = aligned.topk_prompt_logprobs.map(|it| (it.len(), it.first() == Some(&None)));
            let plain = aligned.prompt_logprobs.map(|it| (it.len(), it.first() == Some(&None)));
            assert!(topk == plain || rows.is_none(), "{topk:?} {plain:?}");
            plain
        };
        assert_eq!(aligned(Some(2), Some(3), true), Some((3, true)));
        assert_eq!(aligned(Some(3), Some(3), true), Some((3, false)), "all of them stay as they are");
        assert_eq!(aligned(Some(1), Some(3), true), Some((1, false)), "nobody knows which these are");
        assert_eq!(aligned(Some(2), None, true), Some((2, false)));
        assert_eq!(aligned(None, Some(1), true), Some((1, true)));
        assert_eq!(aligned(None, Some(1), false), None);
        assert_eq!(aligned(None, Some(2), true), None);
    }
}
