//! The names and aliases of the engine's model, and the tokenizer files that it writes.

use std::path::Path;

use tinkex::ServiceClient;
use tinkex::local::{Options, Server};
use tinkex::types::{LoraConfig, ModelInput, SamplingParams};

const ALIAS: &str = "Qwen/Qwen3-8B";

fn server() -> (Server, ServiceClient) {
    let aliases = [(ALIAS.to_string(), "tinkex/nano".to_string())].into();
    let server = Server::start(Options { threads: 1, aliases, ..Options::default() }).unwrap();
    let connect = ServiceClient::builder().without_environment();
    let service = connect.base_url(server.url()).api_key(server.api_key()).build().unwrap();
    (server, service)
}

#[test]
fn a_program_written_for_another_model_runs_with_an_alias() {
    let (_server, service) = server();
    let models = service.get_server_capabilities().unwrap().supported_models;
    let names: Vec<&str> = models.iter().filter_map(|it| it.model_name.as_deref()).collect();
    assert_eq!(names, ["tinkex/nano", ALIAS]);
    let lora = || LoraConfig { rank: 2, ..LoraConfig::default() };
    let training = service.create_lora_training_client(ALIAS, lora()).unwrap();
    assert_eq!(training.get_info().base_model.as_deref(), Some(ALIAS));
    let state = training.save_state("a", Default::default()).wait().unwrap().path;
    let weights = training.save_weights_for_sampler("a", Default::default()).wait().unwrap().path;
    let rest = service.create_rest_client();
    assert_eq!(rest.get_weights_info_by_tinker_path(&state).unwrap().base_model.as_deref(), Some(ALIAS));
    assert_eq!(rest.get_training_run(state.run_id()).unwrap().base_model.as_deref(), Some(ALIAS));
    let again = service.create_training_client_from_state(&state).unwrap();
    assert_eq!(again.get_info().base_model.as_deref(), Some(ALIAS));
    let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
    for sampler in [
        service.create_sampling_client(ALIAS).unwrap(),
        service.create_sampling_client(&weights).unwrap(),
        training.save_weights_and_get_sampling_client().unwrap(),
    ] {
        assert_eq!(sampler.get_base_model(), Some(ALIAS));
        sampler.sample(&ModelInput::from_ints([72]), 1, &params).wait().unwrap();
    }
    let error = service.create_lora_training_client("Qwen/Qwen3-4B", lora()).unwrap_err();
    assert!(error.to_string().contains(r#"this engine offers "tinkex/nano", "Qwen/Qwen3-8B""#), "{error}");
}

#[test]
fn the_tokenizer_id_of_a_model_is_a_folder_with_tokenizer_files() {
    let (server, service) = server();
    let lora = LoraConfig { rank: 2, ..LoraConfig::default() };
    let training = service.create_lora_training_client("tinkex/nano", lora).unwrap();
    let folder = training.get_info().tokenizer_id.clone().unwrap();
    assert_eq!(Path::new(&folder), server.data_dir().join("tokenizer"));
    let file = std::fs::read(Path::new(&folder).join("tokenizer.json")).unwrap();
    let tokenizer: serde_json::Value = serde_json::from_slice(&file).unwrap();
    assert_eq!(tokenizer["model"]["vocab"]["h"], 104);
    assert_eq!(tokenizer["added_tokens"][0]["id"], 256);
    assert!(Path::new(&folder).join("tokenizer_config.json").exists());
}

#[test]
fn an_alias_of_an_unknown_model_is_refused_at_start() {
    let aliases = [(ALIAS.to_string(), "Qwen/Qwen3-4B".to_string())].into();
    let error = Server::start(Options { threads: 1, aliases, ..Options::default() }).unwrap_err();
    assert!(error.to_string().contains("only \"tinkex/nano\" is served here"), "{error}");
}
