//! Sampling requests: reads and checks them, and runs them on a snapshot.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::tokenizer::Tokenizer;
use crate::types::{
    ModelInput, PromptAltTokens, SampleOptions, SampleResponse, SampledSequence, Stop, StopReason,
    TensorData, TokenLogprob, Values,
};
use crate::wire::json::SampleRequest;

use super::engine::{Base, Cancelled, Sampler};
use super::examples::token_ids;
use super::nn::{Generate, Generated, GeneratedSequence, TimeSlice};
use super::served::Served;
use super::snapshots::Snapshot;

/// Largest `num_samples` of a request.
const MAX_SAMPLES: u32 = 1024;

/// Limit of the tokens of all sequences of one request: 64 sequences that fill the context.
const MAX_TOKENS: usize = 1 << 21;

/// Limit of the log-probabilities of other tokens (likeliest tokens and alternatives) that one request may return.
const MAX_REPORTED: usize = 1 << 21;

/// Limits of the tokens, and of the strings, that end a sample, and of the bytes of such a string. All of them are compared
/// after each token.
const MAX_STOP_TOKENS: usize = 4096;
const MAX_STOP_STRINGS: usize = 64;
const MAX_STOP_BYTES: usize = 1024;

/// Bytes of a waiting sample besides its prompt and its other lists.
const SAMPLE_BYTES: usize = 2 << 10;

/// Cell for the weights of a sampler, which are set when they have been loaded. All samplers of the kind
/// `SamplerKind::Inflight` of a model share one slot.
pub(super) type Slot = Arc<Mutex<Weights>>;

#[derive(Clone, Debug, Default)]
pub(super) enum Weights {
    #[default]
    None,
    /// The base model without an adapter.
    Base(Arc<dyn Base>),
    Ready(Arc<Snapshot>),
    Failed(String),
}

/// A sampling request, ready to run.
#[derive(Debug)]
pub(super) struct Sample {
    generate: Arc<Generate>,
    /// Strings that end a sequence, as bytes.
    stops: Vec<Vec<u8>>,
    /// The tokenizer of the model, if there are strings that end a sequence.
    text: Option<Arc<dyn Tokenizer>>,
    /// The request's `target_prompt_logprobs`: tokens whose log-probabilities at the prompt's positions are computed.
    target: Option<TensorData>,
    /// Number of log-probabilities of the prompt to return, counted from the prompt's end; `None` for all.
    last_n: Option<usize>,
}

impl Sample {
    /// Reads and checks a request. `seed` is used if the request has none.
    pub(super) fn new(request: &SampleRequest, model: &Served, seed: u64) -> Result<Self, String> {
        let config = model.config();
        let prompt = request.prompt.clone().read().map_err(|it| format!("prompt: {it}"))?;
        let ids = prompt.to_ints().map_err(|_| "prompt: this model reads text only".to_string())?;
        let prompt = token_ids(&ids, config.vocab).map_err(|it| format!("prompt: {it}"))?;
        let params = request.sampling_params.clone().read().map_err(|it| it.to_string())?;
        if prompt.is_empty() {
            return Err("prompt: has no tokens".into());
        }
        if !(1..=MAX_SAMPLES).contains(&request.num_samples) {
            return Err(format!("num_samples must be in 1..={MAX_SAMPLES}, is {}", request.num_samples));
        }
        let window = config.max_len;
        let max_tokens = params.max_tokens.map(|it| it as usize);
        let scores_prompt = request.prompt_logprobs.unwrap_or(false)
            || 0 < request.topk_prompt_logprobs
            || 0 < request.prompt_alt_tokens_k
            || request.target_prompt_logprobs.is_some();
        // Prompt and answer must fit into the context. Without `max_tokens` the answer may use the rest of the context.
        // A request that only scores its prompt has to set `max_tokens` to 1; its prompt may nevertheless fill the
        // context.
        let room = window.saturating_sub(prompt.len());
        let needed = match max_tokens {
            None | Some(1) => usize::from(!scores_prompt),
            Some(it) => it,
        };
        if room < needed || window < prompt.len() {
            let n = prompt.len();
            let asked = max_tokens.map_or_else(|| "an answer".into(), |it| format!("max_tokens {it}"));
            return Err(format!("a prompt of {n} tokens and {asked} exceed the context window of {window}"));
        }
        let max = max_tokens.unwrap_or(room).min(room);
        for (name, k) in [
            ("topk_prompt_logprobs", request.topk_prompt_logprobs),
            ("topk_sample_logprobs", request.topk_sample_logprobs),
            ("prompt_alt_tokens_k", request.prompt_alt_tokens_k),
        ] {
            if config.vocab < k as usize {
                return Err(format!("{name} must be at most {}, is {k}", config.vocab));
            }
        }
        check_size(request, prompt.len(), max)?;
        let target = request.target_prompt_logprobs.clone();
        let target = target.map(|it| it.read("target_prompt_logprobs")).transpose();
        let target = target.map_err(|it| it.to_string())?;
        let asked = SampleOptions { target_prompt_logprobs: target.clone(), ..Default::default() };
        asked.validate(&ModelInput::from_ints(ids)).map_err(|it| it.to_string())?;
        let targets = target.as_ref().map_or(Ok(Vec::new()), |it| targets(it, config.vocab))?;
        check_stops(params.stop.as_ref()).map_err(|it| format!("stop: {it}"))?;
        let (stop_tokens, stops) = match params.stop {
            None => (model.eos.clone(), Vec::new()),
            Some(Stop::Tokens(it)) => {
                (token_ids(&it, config.vocab).map_err(|it| format!("stop: {it}"))?, Vec::new())
            }
            Some(Stop::Strings(it)) => (Vec::new(), it.into_iter().map(String::into_bytes).collect()),
        };
        let text = if stops.is_empty() {
            None
        } else {
            Some(model.text().map_err(|it| format!("stop: strings need the model's tokenizer: {it}"))?)
        };
        let generate = Arc::new(Generate {
            prompt,
            num_samples: request.num_samples as usize,
            max_tokens: max,
            temperature: params.temperature,
            top_k: i64::from(params.top_k),
            top_p: params.top_p,
            seed: params.seed.unwrap_or(seed),
            stop_tokens,
            prompt_logprobs: request.prompt_logprobs.unwrap_or(false),
            topk_prompt_logprobs: request.topk_prompt_logprobs as usize,
            topk_sample_logprobs: request.topk_sample_logprobs as usize,
            alternatives: request.prompt_alt_tokens_k as usize,
            targets,
        });
        Ok(Sample {
            generate,
            stops,
            text,
            target,
            last_n: request.prompt_logprobs_last_n.map(|it| it as usize),
        })
    }

    /// Bytes that the request takes while it waits.
    pub(super) fn bytes(&self) -> usize {
        let it = &self.generate;
        let tokens = 4 * (it.prompt.len() + it.stop_tokens.len());
        // Each value of a sparse tensor has a column.
        let targets = self.target.as_ref().map_or(0, |it| 16 * it.values.len() + 8 * it.rows());
        let strings: usize = self.stops.iter().map(|it| size_of::<Vec<u8>>() + it.len()).sum();
        SAMPLE_BYTES + tokens + targets + size_of_val(it.targets.as_slice()) + strings
    }

    fn alternatives(&self, drawn: Vec<(u32, f32)>) -> Option<PromptAltTokens> {
        let k = self.generate.alternatives;
        let (tokens, logprobs): (Vec<i64>, Vec<f32>) =
            drawn.into_iter().map(|(id, logprob)| (i64::from(id), logprob)).unzip();
        let shape = Some(vec![self.generate.prompt.len() - 1, k]);
        let tensor = |values| TensorData { values, shape: shape.clone(), sparse: None };
        let (tokens, logprobs) = (tensor(Values::I64(tokens)), tensor(Values::F32(logprobs)));
        (0 < k).then_some(PromptAltTokens { tokens, logprobs })
    }

    /// Runs the request until it ends or is cancelled, on this thread or on that of other requests of the sampler, and
    /// hands over the response. Pauses when `slice` is over.
    pub(super) fn run(
        self: Box<Self>,
        sampler: Arc<dyn Sampler>,
        cancelled: Cancelled,
        done: impl FnOnce(Result<SampleResponse, String>) + Send + 'static,
        slice: &dyn TimeSlice,
    ) {
        let (generate, stops, text) = (self.generate.clone(), self.stops.clone(), self.text.clone());
        let stop = move |_: usize, tokens: &[u32]| {
            text.as_deref().is_some_and(|text| stops.iter().any(|it| ends_with(text, tokens, it)))
        };
        let done = move |it: Result<Generated, String>| done(it.map(|it| self.response(it)));
        sampler.submit(&generate, Box::new(stop), cancelled, Box::new(done), slice);
    }

    fn response(&self, generated: Generated) -> SampleResponse {
        let pair = |(token, logprob): (u32, f32)| TokenLogprob { token: token as i32, logprob };
        let row = |it: Vec<(u32, f32)>| it.into_iter().map(pair).collect::<Vec<_>>();
        let sequence = |generated: GeneratedSequence| SampledSequence {
            stop_reason: if generated.stopped { StopReason::Stop } else { StopReason::Length },
            tokens: generated.tokens.into_iter().map(|id| id as i32).collect(),
            logprobs: Some(generated.logprobs),
            topk_logprobs: (0 < self.generate.topk_sample_logprobs)
                .then(|| generated.top.into_iter().map(|entries| Some(row(entries))).collect()),
            sequence_id: None,
        };
        let mut prompt_logprobs = generated.prompt_logprobs;
        if let (Some(scores), Some(last_n)) = (&mut prompt_logprobs, self.last_n) {
            let unwanted = scores.len().saturating_sub(last_n);
            scores[..unwanted].fill(None);
        }
        SampleResponse {
            sequences: generated.sequences.into_iter().map(sequence).collect(),
            prompt_logprobs,
            topk_prompt_logprobs: generated
                .topk_prompt_logprobs
                .map(|rows| rows.into_iter().map(|entries| entries.map(row)).collect()),
            prompt_cache_hit_tokens: u32::try_from(generated.cached).unwrap_or(u32::MAX),
            target_prompt_logprobs: self.target.as_ref().map(|it| scores(it, &generated.targets)),
            prompt_alt_tokens: self.alternatives(generated.alternatives),
        }
    }
}

/// Refuses lists of stops that are too long.
fn check_stops(stop: Option<&Stop>) -> Result<(), String> {
    let (what, n, max) = match stop {
        None => return Ok(()),
        Some(Stop::Tokens(it)) => ("tokens", it.len(), MAX_STOP_TOKENS),
        Some(Stop::Strings(it)) => ("strings", it.len(), MAX_STOP_STRINGS),
    };
    if max < n {
        return Err(format!("has {n} {what}; the limit is {max}"));
    }
    match stop {
        Some(Stop::Strings(it)) => match it.iter().position(|it| MAX_STOP_BYTES < it.len()) {
            Some(i) => Err(format!("[{i}] has {} bytes; the limit is {MAX_STOP_BYTES}", it[i].len())),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Refuses a request whose result would take too much memory or time. `max` is the largest length of a sequence.
fn check_size(request: &SampleRequest, prompt: usize, max: usize) -> Result<(), String> {
    let n = request.num_samples as usize;
    let tokens = n * max;
    if MAX_TOKENS < tokens {
        let limit =
            if request.sampling_params.max_tokens.is_none() { " (no max_tokens is given)" } else { "" };
        return Err(format!(
            "num_samples {n} times {max} tokens{limit} are {tokens}; one request may ask for {MAX_TOKENS}: \
             ask for fewer or shorter answers"
        ));
    }
    let of_prompt = request.topk_prompt_logprobs as usize + request.prompt_alt_tokens_k as usize;
    let reported = tokens * request.topk_sample_logprobs as usize + prompt * of_prompt;
    if MAX_REPORTED < reported {
        return Err(format!(
            "topk_sample_logprobs, topk_prompt_logprobs and prompt_alt_tokens_k ask for {reported} log-probabilities; \
             one request may ask for {MAX_REPORTED}"
        ));
    }
    Ok(())
}

/// The row and the token id of each target in the request's tensor; negative ids are no targets.
fn targets(tensor: &TensorData, vocab: usize) -> Result<Vec<(usize, u32)>, String> {
    let ids = tensor.as_i64().unwrap_or_default();
    let columns = tensor.shape().last().copied().unwrap_or(1).max(1);
    let row = |i: usize| match &tensor.sparse {
        None => i / columns,
        // Find the row of value `i`: the last row that begins at or before it.
        Some(it) => it.crow_indices.partition_point(|start| *start <= i as i64).saturating_sub(1),
    };
    let asked = ids.iter().enumerate().filter(|(_, id)| 0 <= **id);
    let one = |(i, id): (usize, &i64)| match u32::try_from(*id) {
        Ok(id) if (id as usize) < vocab => Ok((row(i), id)),
        _ => Err(format!("target_prompt_logprobs[{i}]: {id} is not a token id of a vocabulary of {vocab}")),
    };
    asked.map(one).collect()
}

/// Arranges scores in the shape of the targets. Negative targets were not scored; their score is NaN.
fn scores(asked: &TensorData, scores: &[f32]) -> TensorData {
    let mut scores = scores.iter().copied();
    let one = |id: &i64| if *id < 0 { f32::NAN } else { scores.next().unwrap_or(f32::NAN) };
    let values = asked.as_i64().unwrap_or_default().iter().map(one).collect();
    TensorData { values: Values::F32(values), ..asked.clone() }
}

/// True if the text of the tokens has `end`, and had it not without the last token: the last token may go on after it.
/// Tokens without a text, such as markers, do not count.
fn ends_with(text: &dyn Tokenizer, tokens: &[u32], end: &[u8]) -> bool {
    let bytes = |id: &u32| {
        let id = i32::try_from(*id).ok().filter(|id| !text.is_special(*id))?;
        text.token_bytes(id)
    };
    let mut rest = tokens.iter().rev();
    let mut tail = rest.next().and_then(bytes).unwrap_or_default();
    if tail.is_empty() {
        return false;
    }
    let needed = tail.len() + end.len() - 1;
    while tail.len() < needed
        && let Some(id) = rest.next()
    {
        let mut longer = bytes(id).unwrap_or_default();
        longer.extend_from_slice(&tail);
        tail = longer;
    }
    let before = tail.len().saturating_sub(needed);
    tail[before..].windows(end.len()).any(|it| it == end)
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;
    use crate::local::cpu::Cpu;
    use crate::tokenizer::ByteTokenizer;
    use crate::types::SamplingParams;

    fn request(n: usize, params: &SamplingParams) -> SampleRequest {
        let prompt = ModelInput::from_ints(vec![1; n]);
        SampleRequest::new("s", 0, &prompt, 1, params, &SampleOptions::default()).expect("a request")
    }

    fn read(request: &SampleRequest) -> Result<Sample, String> {
        Sample::new(request, &Served::nano(&Cpu::default(), 0, "tokenizer".into()), 5)
    }

    #[test]
    fn stop_strings_are_found_across_tokens_that_are_not_bytes() {
        let ends_with = |tokens: &[u32], end: &[u8]| ends_with(&ByteTokenizer, tokens, end);
        assert!(ends_with(&[97, 10, 10], b"\n\n"));
        assert!(ends_with(&[97, 10, 256, 10], b"\n\n"));
        assert!(!ends_with(&[10], b"\n\n"));
        assert!(ends_with(&[104, 195, 169], "é".as_bytes()));
    }

    #[test]
    fn the_default_stop_is_the_end_of_sequence_and_an_empty_list_never_stops() {
        let stop =
            |stop| read(&request(1, &SamplingParams { stop, ..Default::default() })).expect("a sample");
        assert_eq!(stop(None).generate.stop_tokens, [256]);
        let never = stop(Some(Stop::Tokens(vec![])));
        assert!(never.generate.stop_tokens.is_empty() && never.stops.is_empty());
        assert_eq!(stop(Some(Stop::from("\n"))).stops, [b"\n"]);
        assert_eq!(stop(None).generate.seed, 5, "the server's own seed");
        assert_eq!(stop(None).generate.max_tokens, 32_767, "what the context leaves");
    }

    #[test]
    fn a_refused_request_gets_the_reason() {
        let params = |max_tokens| SamplingParams { max_tokens, ..Default::default() };
        assert!(read(&request(32_720, &params(Some(48)))).is_ok());
        let refused = |request: SampleRequest| read(&request).expect_err("a refusal");
        let overflow = refused(request(32_720, &params(Some(49))));
        assert_eq!(overflow, "a prompt of 32720 tokens and max_tokens 49 exceed the context window of 32768");
        assert!(refused(request(32_768, &params(None))).contains("exceed the context window"));
        assert!(refused(request(32_768, &params(Some(1)))).contains("exceed the context window"));
        assert!(refused(request(0, &params(None))).contains("has no tokens"));
        let mut empty = request(1, &params(None));
        empty.num_samples = 0;
        assert!(refused(empty).contains("num_samples"));
        let mut topk = request(1, &params(None));
        topk.topk_sample_logprobs = 3000;
        assert!(refused(topk).contains("topk_sample_logprobs must be at most"));
        let mut target = request(3, &params(None));
        target.target_prompt_logprobs = Some((&TensorData::from(vec![7i64])).into());
        assert!(refused(target).contains("target_prompt_logprobs"));
        let mut unknown = request(1, &SamplingParams { stop: Some(Stop::Tokens(vec![600])), ..params(None) });
        unknown.prompt_logprobs = None;
        assert!(refused(unknown).starts_with("stop: token 0 is 600"));
    }

    #[test]
    fn a_prompt_that_fills_the_context_can_be_scored_without_room_for_an_answer() {
        let scored = |n: usize, max_tokens| {
            let params = SamplingParams { max_tokens, ..Default::default() };
            let options = SampleOptions { include_prompt_logprobs: true, ..Default::default() };
            let prompt = ModelInput::from_ints(vec![1; n]);
            read(&SampleRequest::new("s", 0, &prompt, 1, &params, &options).expect("a request"))
        };
        for (n, max_tokens, max) in
            [(32_768, Some(1), 0), (32_768, None, 0), (32_767, Some(1), 1), (32_760, None, 8)]
        {
            assert_eq!(
                scored(n, max_tokens).expect("a sample").generate.max_tokens,
                max,
                "{n} {max_tokens:?}"
            );
        }
        for (n, max_tokens) in [(32_768, Some(2)), (32_767, Some(2)), (32_769, Some(1)), (32_769, None)] {
            assert!(scored(n, max_tokens).is_err(), "{n} {max_tokens:?}");
        }
    }

    #[test]
    fn a_request_for_too_many_tokens_or_log_probabilities_is_refused() {
        let ask = |num_samples, max_tokens, topk| {
            let params = SamplingParams { max_tokens, ..Default::default() };
            let mut it = request(4, &params);
            (it.num_samples, it.topk_sample_logprobs) = (num_samples, topk);
            read(&it)
        };
        assert!(
            ask(64, None, 0).is_ok() && ask(1024, Some(2048), 0).is_ok() && ask(64, Some(64), 512).is_ok()
        );
        let error = ask(65, None, 0).expect_err("a refusal");
        assert!(
            error.starts_with("num_samples 65 times 32764 tokens (no max_tokens is given) are"),
            "{error}"
        );
        let error = ask(1024, Some(2049), 0).expect_err("a refusal");
        assert!(
            error.starts_with("num_samples 1024 times 2049 tokens are 2098176; one request may ask"),
            "{error}"
        );
        let error = ask(64, Some(2000), 20).expect_err("a refusal");
        assert!(error.starts_with("topk_sample_logprobs, "), "{error}");
    }
}
