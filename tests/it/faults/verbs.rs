//! The verbs of the table.

use tinkex::types::{AdamParams, LossFn, ModelInput, SamplingParams, Ttl};
use tinkex::{CloseStatus, Error, SamplingClient, ServiceClient, TrainingClient};

use crate::util::datum;

/// One client of each kind.
pub(crate) struct Clients {
    pub(crate) service: ServiceClient,
    pub(crate) training: TrainingClient,
    pub(crate) sampling: SamplingClient,
}

impl Clients {
    pub(crate) fn new(service: ServiceClient) -> Self {
        let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
        let sampling = service.create_sampling_client("fake/model").unwrap();
        Clients { service, training, sampling }
    }
}

pub(crate) struct Verb {
    pub(crate) name: &'static str,
    /// Where its first request goes.
    pub(crate) path: &'static str,
    /// That request is answered with a promise.
    pub(crate) promises: bool,
    /// It has a place in a training client's order.
    pub(crate) trains: bool,
    pub(crate) run: fn(&Clients) -> Result<(), Error>,
}

const CHECKPOINT: &str = "tinker://run/weights/x";

pub(crate) fn verbs() -> Vec<Verb> {
    let verb = |name, path, run| Verb { name, path, promises: true, trains: false, run };
    let train = |name, path, run| Verb { trains: true, ..verb(name, path, run) };
    let plain = |name, path, run| Verb { promises: false, ..verb(name, path, run) };
    vec![
        plain("get_server_capabilities", "/api/v1/get_server_capabilities", |it| {
            it.service.get_server_capabilities().map(drop)
        }),
        verb("create_lora_training_client", "/api/v1/create_model", |it| {
            it.service.create_lora_training_client("fake/model", Default::default()).map(drop)
        }),
        verb("create_training_client_from_state", "/api/v1/load_weights", |it| {
            it.service.create_training_client_from_state(CHECKPOINT).map(drop)
        }),
        verb("create_training_client_from_state_with_optimizer", "/api/v1/load_weights", |it| {
            it.service.create_training_client_from_state_with_optimizer(CHECKPOINT).map(drop)
        }),
        plain("create_sampling_client", "/api/v1/create_sampling_session", |it| {
            it.service.create_sampling_client("fake/model").map(drop)
        }),
        train("forward", "/api/v1/forward_backward", |it| {
            it.training.forward(vec![datum()], LossFn::CrossEntropy).wait().map(drop)
        }),
        train("forward_backward", "/api/v1/forward_backward", |it| {
            it.training.forward_backward(vec![datum()], LossFn::CrossEntropy).wait().map(drop)
        }),
        train("optim_step", "/api/v1/optim_step", |it| {
            it.training.optim_step(AdamParams::default()).wait().map(drop)
        }),
        train("save_state", "/api/v1/save_weights", |it| {
            it.training.save_state("x", Ttl::Never).wait().map(drop)
        }),
        train("load_state", "/api/v1/load_weights", |it| it.training.load_state(CHECKPOINT).wait().map(drop)),
        train("save_weights_for_sampler", "/api/v1/save_weights_for_sampler", |it| {
            it.training.save_weights_for_sampler("x", Ttl::Never).wait().map(drop)
        }),
        train("save_weights_and_get_sampling_client", "/api/v1/save_weights_for_sampler", |it| {
            it.training.save_weights_and_get_sampling_client().map(drop)
        }),
        verb("sample", "/api/v1/asample", |it| {
            let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
            it.sampling.sample(&ModelInput::from_ints([1]), 1, &params).wait().map(drop)
        }),
        verb("compute_logprobs", "/api/v1/asample", |it| {
            it.sampling.compute_logprobs(&ModelInput::from_ints([1, 2])).wait().map(drop)
        }),
        plain("close", "/api/v1/sessions/session-1/finish", |it| it.service.close(CloseStatus::Success)),
    ]
}
