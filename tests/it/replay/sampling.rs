//! The part of the recorded program that samples. Numbers such as the 166 of `replay.assert_sample(166, …)` are the
//! numbers of the recorded exchanges.

use tinkex::types::{ModelInput, SampleOptions, SamplingParams, Stop};
use tinkex::{Category, ErrorKind, SamplingClient};

use super::program::{Clients, MODEL};
use super::server::Replay;

/// Path of the sampler's weights. The recorded server leaves `sampler_weights/` out of the path.
pub(super) const WEIGHTS: &str = "tinker://model_17aeb7f9/s1";

pub(super) fn prompt() -> ModelInput {
    ModelInput::from_ints([402, 25, 361, 198, 79, 300, 375, 25])
}

/// Runs this part. Returns the client that samples from the base model, which later parts use.
pub(super) fn run(replay: &Replay, clients: &Clients) -> SamplingClient {
    let prompt = prompt();
    let sampler = clients.service.create_sampling_client(WEIGHTS).unwrap();
    assert_eq!(sampler.sampling_session_id(), "sampling_b002db23");
    assert_eq!(sampler.get_base_model(), Some(MODEL));

    let greedy = SamplingParams { seed: Some(1), temperature: 0.0, ..up_to(16) };
    let first = sampler.sample(&prompt, 1, &greedy).wait().unwrap();
    replay.assert_sample(166, &first);
    replay.heartbeat();
    let second = sampler.sample(&prompt, 1, &greedy).wait().unwrap();
    replay.assert_sample(169, &second);
    assert_eq!(first.sequences[0].tokens, second.sequences[0].tokens);

    let at_token = SamplingParams { seed: Some(2), stop: Some(Stop::from(vec![409])), ..up_to(16) };
    replay.assert_sample(171, &sampler.sample(&prompt, 4, &at_token).wait().unwrap());
    let at_text = SamplingParams { stop: Some(Stop::from("-")), temperature: 0.0, ..at_token };
    replay.assert_sample(173, &sampler.sample(&prompt, 1, &at_text).wait().unwrap());

    let short = SamplingParams { seed: Some(3), ..up_to(4) };
    let scored = SampleOptions { include_prompt_logprobs: true, ..Default::default() };
    replay.assert_sample(175, &sampler.sample_with(&prompt, 1, &short, &scored).wait().unwrap());
    let ranked = SampleOptions { topk_prompt_logprobs: 3, ..scored };
    let refused = sampler.sample_with(&prompt, 1, &short, &ranked).wait();
    replay.assert_failure(181, ErrorKind::RequestFailed { category: Category::User }, refused);

    let logprobs = sampler.compute_logprobs(&prompt);
    replay.assert_logprobs(183, &logprobs.wait().unwrap());
    replay.heartbeat();
    eight_samples_in_flight(replay, &sampler);

    let on_base = clients.service.create_sampling_client(MODEL).unwrap();
    assert_eq!(on_base.sampling_session_id(), "sampling_47bf1817");
    let eight = SamplingParams { seed: Some(1), ..up_to(8) };
    replay.assert_sample(203, &on_base.sample(&prompt, 1, &eight).wait().unwrap());

    let unnamed = clients.training.save_weights_and_get_sampling_client().unwrap();
    assert_eq!(unnamed.sampling_session_id(), "sampling_9e7f5937");
    assert_eq!(unnamed.get_base_model(), Some(MODEL));
    let greedy = SamplingParams { temperature: 0.0, ..up_to(8) };
    replay.assert_sample(207, &unnamed.sample(&prompt, 1, &greedy).wait().unwrap());
    on_base
}

fn eight_samples_in_flight(replay: &Replay, sampler: &SamplingClient) {
    let submit = |seed| {
        let params = SamplingParams { seed: Some(seed), ..up_to(16) };
        (seed, sampler.sample(&prompt(), 1, &params))
    };
    let all: Vec<_> = (0..8).map(submit).collect();
    for (seed, pending) in all {
        let is_of_seed = |n: &u64| replay.exchange(*n).0["sampling_params"]["seed"] == seed;
        let n = (186..=193).find(is_of_seed).unwrap();
        replay.assert_sample(n, &pending.wait().unwrap());
    }
}

pub(super) fn up_to(max_tokens: u32) -> SamplingParams {
    SamplingParams { max_tokens: Some(max_tokens), ..Default::default() }
}
