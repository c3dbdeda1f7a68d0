//! The verbs (methods of clients that send requests) with which each fault is tested.

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
    /// Path of the verb's first request.
    pub(crate) path: &'static str,
    /// The response to the first request is a promise, with which the client requests the result later.
    pub(crate) promises: bool,
    /// The verb's request has a seq id, because the server must run the requests of a training client in order.
    pub(crate) trains: bool,
    pub(crate) run: fn(&Clients) -> Result<(), Error>,
}

const CHECKPOINT: &str = "tinker://run/weights/x";

pub(crate) fn verbs() -> Vec<Verb> {
    let verb = |name, path, run| Verb { name, path, promises: true, trains: false, run };
    let train = |name, path, run| Verb { trains: true, ..verb(name, path, run) };
    let plain = |name, path, run| Verb { promises: false, ..verb(name, path, run) };
    vec![
        plain("get_server_capabilities", "/api/v1/get_server_capabilities", |clients| {
            clients.service.get_server_capabilities().map(drop)
        }),
        verb("create_lora_training_client", "/api/v1/create_model", |clients| {
            clients.service.create_lora_training_client("fake/model", Default::default()).map(drop)
        }),
        verb("create_training_client_from_state", "/api/v1/load_weights", |clients| {
            clients.service.create_training_client_from_state(CHECKPOINT).map(drop)
        }),
        verb("create_training_client_from_state_with_optimizer", "/api/v1/load_weights", |clients| {
            clients.service.create_training_client_from_state_with_optimizer(CHECKPOINT).map(drop)
        }),
        plain("create_sampling_client", "/api/v1/create_sampling_session", |clients| {
            clients.service.create_sampling_client("fake/model").map(drop)
        }),
        train("forward", "/api/v1/forward_backward", |clients| {
            clients.training.forward(vec![datum()], LossFn::CrossEntropy).wait().map(drop)
        }),
        train("forward_backward", "/api/v1/forward_backward", |clients| {
            clients.training.forward_backward(vec![datum()], LossFn::CrossEntropy).wait().map(drop)
        }),
        train("optim_step", "/api/v1/optim_step", |clients| {
            clients.training.optim_step(AdamParams::default()).wait().map(drop)
        }),
        train("save_state", "/api/v1/save_weights", |clients| {
            clients.training.save_state("x", Ttl::Never).wait().map(drop)
        }),
        train("load_state", "/api/v1/load_weights", |clients| {
            clients.training.load_state(CHECKPOINT).wait().map(drop)
        }),
        train("save_weights_for_sampler", "/api/v1/save_weights_for_sampler", |clients| {
            clients.training.save_weights_for_sampler("x", Ttl::Never).wait().map(drop)
        }),
        train("save_weights_and_get_sampling_client", "/api/v1/save_weights_for_sampler", |clients| {
            clients.training.save_weights_and_get_sampling_client().map(drop)
        }),
        verb("sample", "/api/v1/asample", |clients| {
            let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
            clients.sampling.sample(&ModelInput::from_ints([1]), 1, &params).wait().map(drop)
        }),
        verb("compute_logprobs", "/api/v1/asample", |clients| {
            clients.sampling.compute_logprobs(&ModelInput::from_ints([1, 2])).wait().map(drop)
        }),
        plain("close", "/api/v1/sessions/session-1/finish", |it| it.service.close(CloseStatus::Success)),
    ]
}
