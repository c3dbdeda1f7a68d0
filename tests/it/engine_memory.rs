//! The limit of the engine's memory: adapters and passes that cannot fit are refused with the numbers, and the engine goes
//! on.

use tinkex::local::{Options, Server};
use tinkex::types::{AdamParams, Datum, LoraConfig, LossFn, ModelInput, SaveStateOptions};
use tinkex::{ServiceClient, TrainingClient};

const LIMIT: u64 = 64 << 20;

fn start() -> (Server, ServiceClient) {
    let options = Options { threads: 2, max_memory_bytes: Some(LIMIT), ..Options::default() };
    let server = Server::start(options).unwrap();
    let connect = ServiceClient::builder().without_environment();
    let service = connect.base_url(server.url()).api_key(server.api_key()).build().unwrap();
    (server, service)
}

fn model(service: &ServiceClient, rank: u32) -> tinkex::Result<TrainingClient> {
    service.create_lora_training_client("tinkex/nano", LoraConfig { rank, ..LoraConfig::default() })
}

/// A text of `n` tokens.
fn datum(n: usize) -> Datum {
    let tokens = vec![97; n];
    let datum = Datum::new(ModelInput::from_ints(tokens.clone()));
    let targets: Vec<i64> = tokens.into_iter().map(i64::from).collect();
    datum.with("target_tokens", targets).with("weights", vec![1.0f32; n])
}

#[test]
fn a_sequence_that_does_not_fit_is_refused_with_the_numbers_and_training_goes_on() {
    let (_server, service) = start();
    let training = model(&service, 8).unwrap();
    let pass = |data: Vec<Datum>| training.forward_backward(data, LossFn::CrossEntropy).wait();
    pass(vec![datum(20)]).unwrap();
    let error = pass(vec![datum(20), datum(30_000)]).unwrap_err();
    assert!(error.is_user_error(), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("data[1]: a pass over 30000 tokens needs ") && text.contains(" MiB are free"),
        "{text}"
    );
    assert!(text.contains("send a shorter sequence"), "{text}");
    // The first pass counts, the refused one does not.
    let step = training.optim_step(AdamParams::default()).wait().unwrap();
    assert!(0.0 < step.metrics["grad_norm"], "{step:?}");
    // What fits after computing layers again, or in smaller parts, is computed.
    pass((0..40).map(|_| datum(250)).collect()).unwrap();
    pass(vec![datum(1500)]).unwrap();
    training.optim_step(AdamParams::default()).wait().unwrap();
}

#[test]
fn a_rank_that_does_not_fit_is_refused_and_so_is_one_adapter_too_many_until_others_are_unloaded() {
    let (_server, service) = start();
    let error = model(&service, 256).unwrap_err();
    assert!(error.is_user_error(), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("lora_config.rank: an adapter of rank 256 for this model needs 81.0 MiB"),
        "{text}"
    );
    assert!(text.contains("of 64.0 MiB are free") && text.contains("0 other adapters"), "{text}");
    let mut models = Vec::new();
    let refused = loop {
        match model(&service, 64) {
            Ok(it) => models.push(it),
            Err(error) => break error.to_string(),
        }
        assert!(models.len() < 8, "the limit is never reached");
    };
    assert!(2 <= models.len() && refused.contains("unload models"), "{} {refused}", models.len());
    let n = models.len();
    assert!(refused.contains(&format!("{n} other adapters")), "{refused}");
    // The models that exist can be saved. One that is unloaded makes room.
    models[0].save_state_with("s", &SaveStateOptions::default()).wait().unwrap();
    models.pop().unwrap().unload_model().wait().unwrap();
    model(&service, 64).unwrap();
}
