//! The recorded program, written with this crate: the same calls in the same order. Numbers such as the 9 of
//! `replay.assert_info(9, …)` are the numbers of the recorded exchanges.

use tinkex::types::{AdamParams, Datum, ForwardBackwardOutput, LoraConfig, LossFn, Ttl};
use tinkex::{CloseStatus, Pending, RestClient, ServiceClient, TrainingClient};

use super::server::Replay;
use super::{refusals, rest, sampling, telemetry};
use crate::util::TEST_TIMEOUT;

pub(super) const MODEL: &str = "local/tiny-qwen3";
pub(super) const STATE: &str = "tinker://model_17aeb7f9/weights/step1";

/// Training data of the program: prompts and completions.
const EXAMPLES: [(&[i32], &[i32]); 3] = [
    (&[402, 25, 361, 198, 79, 300, 375, 25], &[383, 12, 65, 298, 409]),
    (&[402, 25, 290, 198, 79, 300, 375, 25], &[220, 276, 12, 269, 298, 409]),
    (&[378, 354], &[386, 374, 409]),
];

/// The clients of the program.
pub(super) struct Clients {
    pub(super) service: ServiceClient,
    /// Made by a second service client, which has no session, as in the recording.
    pub(super) rest: RestClient,
    pub(super) training: TrainingClient,
}

pub(crate) fn run(replay: &Replay) {
    let sessionless = replay.client().build().unwrap();
    let models = sessionless.get_server_capabilities().unwrap().supported_models;
    assert_eq!(models[0].model_name.as_deref(), Some(MODEL));

    let service = replay.client().user_metadata("suite", "peer-e2e").telemetry(true);
    // The official SDK gives each request of a close 60 s, and sends this timeout in a header. This crate also limits
    // the whole close (`finish`), and a short limit shortens the timeouts of its requests. So set a long limit.
    let service = service.timeouts(|it| it.finish = 4 * TEST_TIMEOUT).build().unwrap();
    let lora = LoraConfig { rank: 8, seed: Some(1), ..Default::default() };
    let training = service.create_lora_training_client(MODEL, lora).unwrap();
    replay.assert_info(9, &training);
    let clients = Clients { service, rest: sessionless.create_rest_client(), training };

    steps_in_sequence(replay, &clients.training);
    replay.heartbeat();
    steps_in_flight_together(replay, &clients.training);
    other_losses(replay, &clients.training);
    saves_and_loads(replay, &clients);
    let on_base = sampling::run(replay, &clients);
    rest::run(replay, &clients);
    refusals::run(replay, &clients, &on_base);
    clients.service.close(CloseStatus::Success).unwrap();
    telemetry::assert_alike(replay);
}

/// Runs the program of the shorter recording, in which the server's flags ask for compressed passes. Returns the client
/// without closing it, because the recording ends before the close.
#[cfg(feature = "zstd")]
pub(crate) fn compressed(replay: &Replay) -> ServiceClient {
    let service = replay.client().build().unwrap();
    let lora = LoraConfig { rank: 8, seed: Some(1), ..Default::default() };
    let training = service.create_lora_training_client(MODEL, lora).unwrap();
    replay.assert_info(6, &training);
    let datum = Datum::cross_entropy(&[1], &(2..=65).collect::<Vec<_>>());
    let data = vec![datum; 4];
    let before = training.forward_backward(data.clone(), LossFn::CrossEntropy);
    replay.assert_pass(7, &before.wait().unwrap());
    replay.assert_pass(9, &training.forward(data, LossFn::CrossEntropy).wait().unwrap());
    service
}

/// Runs 21 training steps. Waits for each result before the next call.
fn steps_in_sequence(replay: &Replay, training: &TrainingClient) {
    for (pass, update) in steps(replay).take(21) {
        let output = training.forward_backward(examples(), LossFn::CrossEntropy).wait().unwrap();
        replay.assert_pass(pass, &output);
        replay.assert_update(update, &training.optim_step(adam(0.01)).wait().unwrap());
    }
}

/// Runs 10 training steps. Submits all requests before it waits for the first result.
fn steps_in_flight_together(replay: &Replay, training: &TrainingClient) {
    let submit = |(pass, update)| {
        let step = training.forward_backward(examples(), LossFn::CrossEntropy);
        (pass, step, update, training.optim_step(adam(0.001)))
    };
    let submitted: Vec<_> = steps(replay).skip(21).take(10).map(submit).collect();
    for (pass, step, update, optim) in submitted {
        replay.assert_pass(pass, &step.wait().unwrap());
        replay.assert_update(update, &optim.wait().unwrap());
    }
}

fn other_losses(replay: &Replay, training: &TrainingClient) {
    let forward = training.forward(examples(), LossFn::CrossEntropy);
    replay.assert_pass(136, &forward.wait().unwrap());
    replay.heartbeat();
    let weighted = training.forward_backward(rewarded(), LossFn::ImportanceSampling);
    replay.assert_pass(139, &weighted.wait().unwrap());
    let ppo = LossFn::Ppo.with("clip_low_threshold", 0.9).with("clip_high_threshold", 1.1);
    replay.assert_pass(141, &training.forward_backward(rewarded(), ppo).wait().unwrap());
    replay.assert_update(143, &training.optim_step(adam(0.0)).wait().unwrap());
}

fn saves_and_loads(replay: &Replay, Clients { service, training, .. }: &Clients) {
    let state = training.save_state("step1", Ttl::Never).wait().unwrap().path;
    assert_eq!(state.as_str(), STATE);
    let weights = training.save_weights_for_sampler("s1", Ttl::Never).wait().unwrap().path;
    assert_eq!(weights.as_str(), sampling::WEIGHTS);

    let copy = service.create_training_client_from_state(&state).unwrap();
    replay.assert_info(151, &copy);
    let of_copy = forward(&copy).wait().unwrap();
    replay.assert_pass(152, &of_copy);
    let resumed = service.create_training_client_from_state_with_optimizer(&state).unwrap();
    replay.assert_info(156, &resumed);

    let lora = LoraConfig { rank: 8, ..Default::default() };
    let fresh = service.create_lora_training_client(MODEL, lora).unwrap();
    replay.assert_info(159, &fresh);
    assert_eq!(fresh.load_state(&state).wait().unwrap().path, None);
    let of_loaded = forward(&fresh).wait().unwrap();
    replay.assert_pass(162, &of_loaded);
    // A client created from a state and a client that loads the state give the same outputs.
    assert_eq!(of_copy, of_loaded);
}

/// Returns the numbers of the exchanges that submitted the pass and the update of each step of supervised training.
fn steps(replay: &Replay) -> impl Iterator<Item = (u64, u64)> {
    let numbers = |endpoint: &str| replay.numbers(&format!("/api/v1/{endpoint}"));
    numbers("forward_backward").into_iter().zip(numbers("optim_step"))
}

pub(super) fn forward(training: &TrainingClient) -> Pending<ForwardBackwardOutput> {
    training.forward(examples(), LossFn::CrossEntropy)
}

pub(super) fn adam(learning_rate: f64) -> AdamParams {
    AdamParams { learning_rate, ..Default::default() }
}

pub(super) fn examples() -> Vec<Datum> {
    EXAMPLES.iter().map(|(prompt, completion)| Datum::cross_entropy(prompt, completion)).collect()
}

/// The examples for the losses of reinforcement learning: with log-probabilities and advantages instead of weights.
fn rewarded() -> Vec<Datum> {
    let rewarded = |mut datum: Datum| {
        let n = datum.loss_fn_inputs.remove("weights").unwrap().shape()[0];
        datum.with("logprobs", vec![-1.0f32; n]).with("advantages", vec![0.5f32; n])
    };
    examples().into_iter().map(rewarded).collect()
}
