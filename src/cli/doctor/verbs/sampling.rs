//! Checks of the sampling client: answers and log-probabilities.

use tinkex::sync::CancelToken;
use tinkex::types::{ModelInput, SampleOptions, SampleResponse, SamplingParams, Stop};
use tinkex::{SamplingClient, wait_all};

use super::context::{Context, Found, Trouble, fine, ignored, note, wrong};
use super::{Check, core, option};

pub(super) fn checks() -> Vec<Check> {
    vec![
        core("get_base_model", |context| match context.sampling()?.get_base_model() {
            Some(name) => note(name),
            None => note("the server does not name the base model"),
        }),
        core("sample", |context| {
            let answer = sample(&context.sampling()?, &prompt(), 1, &params())?;
            note(format!("{} tokens", answer.sequences[0].tokens.len()))
        }),
        option("sample, several answers", &["num_samples"], |context| with(context, 3, params())),
        core("sample, several in flight", |context| {
            let sampler = context.sampling()?;
            let answers = wait_all((0..16).map(|_| sampler.sample(&prompt(), 1, &params())))?;
            if answers.iter().all(|answer| answer.sequences.len() == 1) {
                fine()
            } else {
                wrong("an answer is missing")
            }
        }),
        option("sample, temperature 0", &["temperature"], |context| {
            same_twice(context, SamplingParams { temperature: 0.0, ..params() })
        }),
        option("sample, seed", &["seed"], |context| {
            same_twice(context, SamplingParams { seed: Some(7), ..params() })
        }),
        option("sample, top_k", &["top_k"], |context| {
            with(context, 1, SamplingParams { top_k: 3, ..params() })
        }),
        option("sample, top_p", &["top_p"], |context| {
            with(context, 1, SamplingParams { top_p: 0.9, ..params() })
        }),
        option("sample, stop at tokens", &["stop"], |context| {
            stopping(context, Stop::Tokens((0..256).collect()), |tokens| {
                tokens.iter().filter(|it| **it < 256).count()
            })
        }),
        option("sample, stop at texts", &["stop"], |context| {
            with(context, 1, SamplingParams { stop: Some(Stop::from("\n")), ..params() })
        }),
        option("sample, without max_tokens", &["max_tokens"], |context| {
            // Every byte is a stop token, so the answer is short if the model's tokens are bytes.
            let stop = Some(Stop::Tokens((0..256).collect()));
            let params = SamplingParams { max_tokens: None, stop, ..params() };
            let mut answer = context.sampling()?.sample(&prompt(), 1, &params);
            match answer.wait_timeout(std::time::Duration::from_secs(5)) {
                Ok(None) => note("accepted; still running after 5 s"),
                other => other.map(|_| fine())?,
            }
        }),
        option("sample_with, include_prompt_logprobs", &["prompt_logprobs"], |context| {
            let options = SampleOptions { include_prompt_logprobs: true, ..Default::default() };
            match sample_with(context, options)?.prompt_logprobs {
                Some(list) if list.len() == PROMPT.len() => fine(),
                Some(list) => wrong(format!("{} log-probabilities of {} tokens", list.len(), PROMPT.len())),
                None => ignored("the answer has no log-probabilities of the prompt"),
            }
        }),
        option("sample_with, topk_prompt_logprobs", &["topk_prompt_logprobs"], |context| {
            let options = SampleOptions {
                topk_prompt_logprobs: 2,
                include_prompt_logprobs: true,
                ..Default::default()
            };
            match sample_with(context, options)?.topk_prompt_logprobs {
                Some(list) if list.len() == PROMPT.len() => fine(),
                Some(list) => wrong(format!("{} positions of {} tokens", list.len(), PROMPT.len())),
                None => ignored("the answer has no candidates for the prompt"),
            }
        }),
        core("sample, log-probabilities of the answer", |context| {
            let answer = sample(&context.sampling()?, &prompt(), 1, &params())?;
            let sequence = &answer.sequences[0];
            match sequence.logprobs.as_ref().map(Vec::len) {
                None => note("the answer has no log-probabilities"),
                Some(n) if n == sequence.tokens.len() => fine(),
                Some(n) => wrong(format!("{n} of {} tokens", sequence.tokens.len())),
            }
        }),
        core("compute_logprobs", |context| {
            let list = context.sampling()?.compute_logprobs(&prompt()).wait()?;
            if list.len() != PROMPT.len() || list.iter().flatten().count() != PROMPT.len() - 1 {
                wrong(format!("{list:?} for {} tokens", PROMPT.len()))
            } else if list.iter().flatten().any(|logprob| 0.0 < *logprob) {
                wrong("a log-probability is above 0")
            } else {
                fine()
            }
        }),
        option("compute_logprobs_last", &["prompt_logprobs_last_n"], |context| {
            let list = context.sampling()?.compute_logprobs_last(&prompt(), 2).wait()?;
            match (list.len() == PROMPT.len(), list.iter().flatten().count()) {
                (true, 2) => fine(),
                (_, n) => wrong(format!("{n} log-probabilities in {} positions, not 2", list.len())),
            }
        }),
        option("sample_with, topk_sample_logprobs", &["topk_sample_logprobs"], |context| {
            let answer =
                sample_with(context, SampleOptions { topk_sample_logprobs: 2, ..Default::default() })?;
            match &answer.sequences[0].topk_logprobs {
                Some(_) => fine(),
                None => ignored("the answer has no candidates for its tokens"),
            }
        }),
        option("sample_with, prompt_alt_tokens_k", &["prompt_alt_tokens_k"], |context| {
            sample_with(context, SampleOptions { prompt_alt_tokens_k: 2, ..Default::default() })?;
            fine()
        }),
        option("sample, record_stability_info", &["record_stability_info", "stability"], |context| {
            sample(&context.sampling()?.record_stability_info(true), &prompt(), 1, &params())?;
            fine()
        }),
        option("get_sampler_handle and from_sampler_handle", &["join_sampling_session"], |context| {
            let handle = context.sampling()?.get_sampler_handle();
            let other = (context.connect)().from_sampler_handle(handle)?;
            sample(&other, &prompt(), 1, &params())?;
            fine()
        }),
        core("sample, with_cancel", |context| {
            let token = CancelToken::new();
            let pending = context.sampling()?.with_cancel(&token).sample(&prompt(), 1, &params());
            token.cancel();
            match pending.wait() {
                Err(error) if !error.is_cancelled() => wrong(error.to_string()),
                // Not an error: the answer may have arrived before the cancellation.
                _ => fine(),
            }
        }),
        core("sample, cancelled", |context| {
            let sampler = context.sampling()?;
            let pending = sampler.sample(&prompt(), 1, &params());
            pending.cancel();
            drop(pending);
            // After a cancelled sample the next one must work.
            sample(&sampler, &prompt(), 1, &params())?;
            fine()
        }),
    ]
}

/// "Hi! " if tokens are bytes.
const PROMPT: [i32; 4] = [72, 105, 33, 32];
const LONGEST: u32 = 8;

pub(super) fn prompt() -> ModelInput {
    ModelInput::from_ints(PROMPT)
}

fn params() -> SamplingParams {
    SamplingParams { max_tokens: Some(LONGEST), ..Default::default() }
}

/// Samples, and checks the number of answers and the length of each.
pub(super) fn sample(
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
            Err(Trouble::Wrong(format!("{longest} tokens, but max_tokens is {limit}")))
        }
        _ => Ok(answer),
    }
}

fn with(context: &Context, n: u32, params: SamplingParams) -> Found {
    sample(&context.sampling()?, &prompt(), n, &params)?;
    fine()
}

fn sample_with(context: &Context, options: SampleOptions) -> Result<SampleResponse, Trouble> {
    let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
    Ok(context.sampling()?.sample_with(&prompt(), 1, &params, &options).wait()?)
}

/// Samples twice with the same parameters. Different answers are not an error: servers that compute samples in batches
/// may give different answers.
fn same_twice(context: &Context, params: SamplingParams) -> Found {
    let sampler = context.sampling()?;
    let first = sample(&sampler, &prompt(), 1, &params)?;
    let second = sample(&sampler, &prompt(), 1, &params)?;
    if first.sequences[0].tokens == second.sequences[0].tokens { fine() } else { note("two answers differ") }
}

/// Samples with a stop condition. `n_stops` counts the stops in the answer; more than one means that the server ignored
/// `stop`.
fn stopping(context: &Context, stop: Stop, n_stops: fn(&[i32]) -> usize) -> Found {
    let answer =
        sample(&context.sampling()?, &prompt(), 1, &SamplingParams { stop: Some(stop), ..params() })?;
    match n_stops(&answer.sequences[0].tokens) {
        0 | 1 => fine(),
        n => ignored(format!("the answer continues after a stop: it has {n}")),
    }
}
