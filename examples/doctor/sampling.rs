//! Answers and log-probabilities.

use tinkex::sync::CancelToken;
use tinkex::types::{ModelInput, SampleOptions, SampleResponse, SamplingParams, Stop};
use tinkex::{SamplingClient, wait_all};

use super::patient::{Found, Patient, Trouble, fine, ignored, told, wrong};
use super::{Check, core, option};

pub(super) fn checks() -> Vec<Check> {
    vec![
        core("get_base_model", |it| match it.sampling()?.get_base_model() {
            Some(name) => told(name),
            None => told("the server does not say"),
        }),
        core("sample", |it| {
            let answer = draw(&it.sampling()?, &prompt(), 1, &params())?;
            told(format!("{} tokens", answer.sequences[0].tokens.len()))
        }),
        option("sample, several answers", &["num_samples"], |it| with(it, 3, params())),
        core("sample, several in flight", |it| {
            let sampler = it.sampling()?;
            let answers = wait_all((0..16).map(|_| sampler.sample(&prompt(), 1, &params())))?;
            match answers.iter().all(|it| it.sequences.len() == 1) {
                true => fine(),
                false => wrong("an answer is missing"),
            }
        }),
        option("sample, temperature 0", &["temperature"], |it| {
            same_twice(it, SamplingParams { temperature: 0.0, ..params() })
        }),
        option("sample, seed", &["seed"], |it| same_twice(it, SamplingParams { seed: Some(7), ..params() })),
        option("sample, top_k", &["top_k"], |it| with(it, 1, SamplingParams { top_k: 3, ..params() })),
        option("sample, top_p", &["top_p"], |it| with(it, 1, SamplingParams { top_p: 0.9, ..params() })),
        option("sample, stop at tokens", &["stop"], |it| {
            stopping(it, Stop::Tokens((0..256).collect()), |tokens| {
                tokens.iter().filter(|it| **it < 256).count()
            })
        }),
        option("sample, stop at texts", &["stop"], |it| {
            with(it, 1, SamplingParams { stop: Some(Stop::from("\n")), ..params() })
        }),
        option("sample, without a length", &["max_tokens"], |it| {
            // It is stopped by every byte, so that it ends soon wherever tokens are bytes.
            let stop = Some(Stop::Tokens((0..256).collect()));
            let params = SamplingParams { max_tokens: None, stop, ..params() };
            let mut answer = it.sampling()?.sample(&prompt(), 1, &params);
            match answer.wait_timeout(std::time::Duration::from_secs(5)) {
                Ok(None) => told("accepted; not waited for"),
                other => other.map(|_| fine())?,
            }
        }),
        option("sample_with, include_prompt_logprobs", &["prompt_logprobs"], |it| {
            let options = SampleOptions { include_prompt_logprobs: true, ..Default::default() };
            match asked(it, options)?.prompt_logprobs {
                Some(list) if list.len() == PROMPT.len() => fine(),
                Some(list) => wrong(format!("{} log-probabilities of {} tokens", list.len(), PROMPT.len())),
                None => ignored("the answer has none"),
            }
        }),
        option("sample_with, topk_prompt_logprobs", &["topk_prompt_logprobs"], |it| {
            let options = SampleOptions {
                topk_prompt_logprobs: 2,
                include_prompt_logprobs: true,
                ..Default::default()
            };
            match asked(it, options)?.topk_prompt_logprobs {
                Some(list) if list.len() == PROMPT.len() => fine(),
                Some(list) => wrong(format!("{} positions of {} tokens", list.len(), PROMPT.len())),
                None => ignored("the answer has none"),
            }
        }),
        core("sample, log-probabilities of the answer", |it| {
            let answer = draw(&it.sampling()?, &prompt(), 1, &params())?;
            let sequence = &answer.sequences[0];
            match sequence.logprobs.as_ref().map(Vec::len) {
                None => told("the answer has none"),
                Some(n) if n == sequence.tokens.len() => fine(),
                Some(n) => wrong(format!("{n} of {} tokens", sequence.tokens.len())),
            }
        }),
        core("compute_logprobs", |it| {
            let list = it.sampling()?.compute_logprobs(&prompt()).wait()?;
            let known = list.iter().flatten();
            match list.len() == PROMPT.len() && known.clone().count() == PROMPT.len() - 1 {
                true if known.into_iter().all(|it| *it <= 0.0) => fine(),
                true => wrong("a probability is above one"),
                false => wrong(format!("{list:?} for {} tokens", PROMPT.len())),
            }
        }),
        option("compute_logprobs_last", &["prompt_logprobs_last_n"], |it| {
            let list = it.sampling()?.compute_logprobs_last(&prompt(), 2).wait()?;
            match (list.len() == PROMPT.len(), list.iter().flatten().count()) {
                (true, 2) => fine(),
                (_, n) => wrong(format!("{n} log-probabilities in {} places", list.len())),
            }
        }),
        option("sample_with, topk_sample_logprobs", &["topk_sample_logprobs"], |it| {
            let answer = asked(it, SampleOptions { topk_sample_logprobs: 2, ..Default::default() })?;
            match &answer.sequences[0].topk_logprobs {
                Some(_) => fine(),
                None => ignored("the answer has none"),
            }
        }),
        option("sample_with, prompt_alt_tokens_k", &["prompt_alt_tokens_k"], |it| {
            asked(it, SampleOptions { prompt_alt_tokens_k: 2, ..Default::default() })?;
            fine()
        }),
        option("sample, record_stability_info", &["record_stability_info", "stability"], |it| {
            draw(&it.sampling()?.record_stability_info(true), &prompt(), 1, &params())?;
            fine()
        }),
        option("get_sampler_handle and from_sampler_handle", &["join_sampling_session"], |it| {
            let handle = it.sampling()?.get_sampler_handle();
            let other = (it.connect)().from_sampler_handle(handle)?;
            draw(&other, &prompt(), 1, &params())?;
            fine()
        }),
        core("sample, with_cancel", |it| {
            let token = CancelToken::new();
            let pending = it.sampling()?.with_cancel(&token).sample(&prompt(), 1, &params());
            token.cancel();
            match pending.wait() {
                Err(error) if !error.is_cancelled() => wrong(error.to_string()),
                // It may have been answered before.
                _ => fine(),
            }
        }),
        core("sample, cancelled", |it| {
            let sampler = it.sampling()?;
            let pending = sampler.sample(&prompt(), 1, &params());
            pending.cancel();
            drop(pending);
            // What is asked next is answered as usual.
            draw(&sampler, &prompt(), 1, &params())?;
            fine()
        }),
    ]
}

/// Text, where tokens are bytes.
const PROMPT: [i32; 4] = [72, 105, 33, 32];
const LONGEST: u32 = 8;

pub(super) fn prompt() -> ModelInput {
    ModelInput::from_ints(PROMPT)
}

fn params() -> SamplingParams {
    SamplingParams { max_tokens: Some(LONGEST), ..Default::default() }
}

/// Answers that are as many and as short as asked for.
pub(super) fn draw(
    sampler: &SamplingClient,
    prompt: &ModelInput,
    n: u32,
    params: &SamplingParams,
) -> Result<SampleResponse, Trouble> {
    let answer = sampler.sample(prompt, n, params).wait()?;
    if answer.sequences.len() != n as usize {
        return Err(Trouble::Wrong(format!("{} answers instead of {n}", answer.sequences.len())));
    }
    let longest = answer.sequences.iter().map(|it| it.tokens.len()).max().unwrap_or(0);
    match params.max_tokens {
        Some(limit) if (limit as usize) < longest => {
            Err(Trouble::Wrong(format!("{longest} tokens where {limit} were allowed")))
        }
        _ => Ok(answer),
    }
}

fn with(it: &Patient, n: u32, params: SamplingParams) -> Found {
    draw(&it.sampling()?, &prompt(), n, &params)?;
    fine()
}

fn asked(it: &Patient, options: SampleOptions) -> Result<SampleResponse, Trouble> {
    let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
    Ok(it.sampling()?.sample_with(&prompt(), 1, &params, &options).wait()?)
}

/// Asks the same twice. Servers that compute in batches may answer differently, which is no fault of the protocol.
fn same_twice(it: &Patient, params: SamplingParams) -> Found {
    let sampler = it.sampling()?;
    let first = draw(&sampler, &prompt(), 1, &params)?;
    let second = draw(&sampler, &prompt(), 1, &params)?;
    match first.sequences[0].tokens == second.sequences[0].tokens {
        true => fine(),
        false => told("two answers differ"),
    }
}

/// Asks with places to stop at, of which an answer may hold one.
fn stopping(it: &Patient, stop: Stop, places: fn(&[i32]) -> usize) -> Found {
    let answer = draw(&it.sampling()?, &prompt(), 1, &SamplingParams { stop: Some(stop), ..params() })?;
    match places(&answer.sequences[0].tokens) {
        0 | 1 => fine(),
        n => ignored(format!("the answer goes on after {n} of them")),
    }
}
