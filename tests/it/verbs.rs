//! Runs every verb of the service, training and sampling clients: with a fake server in memory, with a fake server over
//! sockets, and with the embedded engine.

use tinkex::testing::FakeServer;
use tinkex::types::{AdamParams, LoraConfig, LossFn, ModelInput, SampleOptions, SamplingParams, Ttl};
use tinkex::{CloseStatus, ServiceClient};

use crate::util::datum;

/// Calls every verb. Checks only what is the same with every server.
fn every_verb(service: &ServiceClient, base_model: &str) {
    let models = service.get_server_capabilities().unwrap().supported_models;
    assert!(models.iter().any(|it| it.model_name.as_deref() == Some(base_model)));

    let lora = LoraConfig { rank: 4, seed: Some(3), ..Default::default() };
    let training = service.create_lora_training_client(base_model, lora).unwrap();
    assert_eq!(training.get_info().model_id, training.model_id());
    assert_eq!(training.get_info().base_model.as_deref(), Some(base_model));

    let forward = training.forward(vec![datum(), datum()], LossFn::CrossEntropy).wait().unwrap();
    assert_eq!(forward.loss_fn_outputs.len(), 2);
    assert_eq!(forward.logprobs(1).unwrap().len(), 4);
    let step = training.forward_backward(vec![datum()], LossFn::CrossEntropy);
    let update = training.optim_step(AdamParams { learning_rate: 1e-2, ..Default::default() });
    assert!(0.0 < step.wait().unwrap().metrics["loss:sum"]);
    update.wait().unwrap();

    let state = training.save_state("state-1", Ttl::Never).wait().unwrap().path;
    assert_eq!(state.name(), "state-1");
    let weights = training.save_weights_for_sampler("weights-1", Ttl::Never).wait().unwrap().path;
    assert_eq!(weights.name(), "weights-1");

    let plain = service.create_training_client_from_state(&state).unwrap();
    plain.forward_backward(vec![datum()], LossFn::CrossEntropy).wait().unwrap();
    let resumed = service.create_training_client_from_state_with_optimizer(state.as_str()).unwrap();
    resumed.optim_step(AdamParams::default()).wait().unwrap();
    let fresh = service.create_lora_training_client(base_model, LoraConfig { rank: 4, ..Default::default() });
    fresh.unwrap().load_state(&state).wait().unwrap();
    let fresh = service.create_lora_training_client(base_model, LoraConfig { rank: 4, ..Default::default() });
    fresh.unwrap().load_state_with_optimizer(&state).wait().unwrap();

    let prompt = ModelInput::from_ints([72, 105]);
    let params = SamplingParams { max_tokens: Some(2), temperature: 0.0, stop: None, ..Default::default() };
    for sampler in [
        training.save_weights_and_get_sampling_client().unwrap(),
        service.create_sampling_client(&weights).unwrap(),
        service.create_sampling_client(base_model).unwrap(),
    ] {
        assert_eq!(sampler.get_base_model(), Some(base_model));
        let answer = sampler.sample(&prompt, 2, &params).wait().unwrap();
        assert_eq!(answer.sequences.len(), 2);
        for sequence in &answer.sequences {
            assert!((1..=2).contains(&sequence.tokens.len()));
            assert_eq!(sequence.logprobs.as_ref().unwrap().len(), sequence.tokens.len());
        }
        let options = SampleOptions { include_prompt_logprobs: true, ..Default::default() };
        let answer = sampler.sample_with(&prompt, 1, &params, &options).wait().unwrap();
        let logprobs = answer.prompt_logprobs.unwrap();
        assert!(logprobs[0].is_none() && logprobs[1].unwrap() < 0.0);
        assert_eq!(sampler.compute_logprobs(&prompt).wait().unwrap(), logprobs);
    }
    service.close(CloseStatus::Success).unwrap();
    assert!(training.optim_step(AdamParams::default()).wait().unwrap_err().is_closed());
}

#[test]
fn every_verb_works_in_memory() {
    let server = FakeServer::new();
    every_verb(&server.in_memory().build().unwrap(), "fake/model");
    assert_eq!(server.requests_to("/api/v1/sessions/session-1/finish").len(), 1);
}

#[test]
fn every_verb_works_over_real_sockets() {
    let server = FakeServer::new();
    let listening = server.listen().unwrap();
    every_verb(&listening.client().build().unwrap(), "fake/model");
    assert_eq!(server.requests_to("/api/v1/sessions/session-1/finish").len(), 1);
}

#[cfg(feature = "local")]
#[test]
fn every_verb_works_against_the_engine() {
    let server = tinkex::local::Server::start(Default::default()).unwrap();
    let service = ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build().unwrap();
    every_verb(&service, "tinkex/nano");
}
