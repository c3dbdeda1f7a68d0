//! Models of folders that the engine serves beside its own.

use std::fs;
use std::path::{Path, PathBuf};

use tinkex::ServiceClient;
use tinkex::local::{Options, Server};
use tinkex::types::{AdamParams, Datum, LoraConfig, LossFn, ModelInput, SampleOptions, SamplingParams, Stop};

use crate::util::folder::Folder;

const LLAMA: &str = "tiny/llama";
const QWEN3: &str = "tiny/qwen3";
const ALIAS: &str = "meta-llama/Llama-3.1-8B";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/engine").join(name)
}

fn options(llama: &str, data_dir: &Path) -> Options {
    Options {
        threads: 2,
        models: [(llama.to_string(), fixture("llama")), (QWEN3.to_string(), fixture("qwen3"))].into(),
        aliases: [(ALIAS.to_string(), llama.to_string())].into(),
        data_dir: Some(data_dir.into()),
        ..Options::default()
    }
}

fn connect(server: &Server) -> ServiceClient {
    let connect = ServiceClient::builder().without_environment();
    connect.base_url(server.url()).api_key(server.api_key()).build().unwrap()
}

fn lora() -> LoraConfig {
    LoraConfig { rank: 4, ..LoraConfig::default() }
}

fn datum() -> Datum {
    let datum = Datum::new(ModelInput::from_ints([5, 40, 7, 80, 11, 33, 90, 2]));
    datum.with("target_tokens", vec![40i64, 7, 80, 11, 33, 90, 2, 5]).with("weights", vec![1.0f32; 8])
}

#[test]
fn a_model_of_a_folder_is_listed_trained_saved_and_sampled_from() {
    let data = Folder::new("models-whole");
    let server = Server::start(options(LLAMA, &data.0)).unwrap();
    let service = connect(&server);
    let models = service.get_server_capabilities().unwrap().supported_models;
    let listed: Vec<_> = models.iter().map(|it| (it.model_name.as_deref(), it.max_context_length)).collect();
    assert_eq!(listed[1..], [(Some(LLAMA), Some(256)), (Some(ALIAS), Some(256)), (Some(QWEN3), Some(256)),]);
    let training = service.create_lora_training_client(ALIAS, lora()).unwrap();
    let adam = AdamParams { learning_rate: 1e-2, ..AdamParams::default() };
    let mut losses = Vec::new();
    for _ in 0..12 {
        let pass = training.forward_backward(vec![datum()], LossFn::CrossEntropy).wait().unwrap();
        losses.push(pass.metrics["loss:sum"]);
        let step = training.optim_step(adam).wait().unwrap();
        assert!(step.metrics.contains_key("grad_norm"));
    }
    assert!(losses[11] < 0.2 * losses[0], "{losses:?}");
    let state = training.save_state("a", Default::default()).wait().unwrap().path;
    let sampler = training.save_weights_and_get_sampling_client().unwrap();
    // The trained text is continued, and the end of a sequence of this model, id 2, ends it.
    let greedy = SamplingParams { temperature: 0.0, max_tokens: Some(20), ..Default::default() };
    let sample = sampler.sample(&ModelInput::from_ints([5, 40, 7]), 1, &greedy).wait().unwrap();
    assert_eq!(sample.sequences[0].tokens, [80, 11, 33, 90, 2]);

    // The same weights under another name, in another server.
    drop((training, sampler, service));
    server.stop();
    let server = Server::start(options("other/name", &data.0)).unwrap();
    let service = connect(&server);
    let again = service.create_training_client_from_state_with_optimizer(&state).unwrap();
    assert_eq!(again.get_info().base_model.as_deref(), Some(ALIAS));
    let pass = again.forward(vec![datum()], LossFn::CrossEntropy).wait().unwrap();
    assert!(pass.metrics["loss:sum"] < losses[11], "{pass:?}");
}

#[test]
fn a_checkpoint_of_weights_that_are_not_served_is_refused() {
    let data = Folder::new("models-other");
    let server = Server::start(options(LLAMA, &data.0)).unwrap();
    let training = connect(&server).create_lora_training_client(LLAMA, lora()).unwrap();
    let state = training.save_state("a", Default::default()).wait().unwrap().path;
    drop(training);
    server.stop();
    let models = [(LLAMA.to_string(), fixture("qwen3"))].into();
    let options = Options { threads: 1, models, data_dir: Some(data.0.clone()), ..Options::default() };
    let server = Server::start(options).unwrap();
    let error = connect(&server).create_training_client_from_state(&state).unwrap_err().to_string();
    assert!(error.contains("was trained on tiny/llama, whose weights this engine does not serve"), "{error}");
}

#[test]
fn stop_strings_of_a_model_without_a_tokenizer_are_refused_with_the_reason() {
    let data = Folder::new("models-stops");
    let server = Server::start(options(LLAMA, &data.0)).unwrap();
    let sampler = connect(&server).create_sampling_client(LLAMA).unwrap();
    let params = SamplingParams { stop: Some(Stop::from("\n")), max_tokens: Some(4), ..Default::default() };
    let error = sampler.sample(&ModelInput::from_ints([5]), 1, &params).wait().unwrap_err().to_string();
    assert!(error.contains("stop: strings need the model's tokenizer"), "{error}");
}

#[test]
fn a_folder_with_settings_of_a_tokenizer_but_without_one_has_no_tokenizer_id() {
    let (data, copy) = (Folder::new("models-settings-data"), Folder::new("models-settings"));
    for file in ["config.json", "model.safetensors.index.json"] {
        fs::copy(fixture("llama").join(file), copy.0.join(file)).unwrap();
    }
    for i in 1..=2 {
        let file = format!("model-0000{i}-of-00002.safetensors");
        fs::copy(fixture("llama").join(&file), copy.0.join(&file)).unwrap();
    }
    fs::write(copy.0.join("tokenizer_config.json"), "{}").unwrap();
    let models = [(LLAMA.to_string(), copy.0.clone())].into();
    let options = Options { threads: 1, models, data_dir: Some(data.0.clone()), ..Options::default() };
    let server = Server::start(options).unwrap();
    let service = connect(&server);
    let training = service.create_lora_training_client(LLAMA, lora()).unwrap();
    assert_eq!(training.get_info().tokenizer_id, None);
    let sampler = service.create_sampling_client(LLAMA).unwrap();
    let params = SamplingParams { stop: Some(Stop::from("\n")), max_tokens: Some(4), ..Default::default() };
    let error = sampler.sample(&ModelInput::from_ints([5]), 1, &params).wait().unwrap_err().to_string();
    assert!(error.contains("settings-") && error.contains("has neither tokenizer.json nor"), "{error}");
}

/// What is changed in a folder.
type Change = Box<dyn FnOnce(&Path)>;

/// A server with a copy of a model in which one file was changed: its refusal.
fn refusal(name: &str, change: impl FnOnce(&Path)) -> String {
    let copy = Folder::new(name);
    for entry in fs::read_dir(fixture("llama")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, copy.0.join(path.file_name().unwrap())).unwrap();
        }
    }
    change(&copy.0);
    let models = [(LLAMA.to_string(), copy.0.clone())].into();
    Server::start(Options { threads: 1, models, ..Options::default() }).unwrap_err().to_string()
}

fn edit(folder: &Path, file: &str, from: &str, to: &str) {
    let path = folder.join(file);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn a_folder_that_cannot_be_served_is_refused_at_start_with_the_file_and_the_value() {
    const INDEX: &str = "model.safetensors.index.json";
    const FIRST: &str = "model-00001-of-00002.safetensors";
    let cut = |folder: &Path, len: u64| {
        fs::OpenOptions::new().write(true).open(folder.join(FIRST)).unwrap().set_len(len).unwrap();
    };
    let cases: Vec<(&str, Change, &str)> = vec![
        ("none", Box::new(|it| fs::remove_file(it.join("config.json")).unwrap()), "config.json: "),
        (
            "json",
            Box::new(|it| fs::write(it.join("config.json"), "{").unwrap()),
            "config.json: not valid JSON",
        ),
        (
            "moe",
            Box::new(|it| edit(it, "config.json", "\"llama\"", "\"mixtral\"")),
            "config.json: model_type: \"mixtral\" is not supported; supported are llama, qwen2, qwen3",
        ),
        ("yarn", Box::new(|it| edit(it, "config.json", "\"llama3\"", "\"yarn\"")), "rope_type: \"yarn\""),
        (
            "wide",
            Box::new(|it| edit(it, "config.json", "\"intermediate_size\": 48", "\"intermediate_size\": 64")),
            "has the shape [48, 32], expected [64, 32]",
        ),
        (
            "deep",
            Box::new(|it| edit(it, "config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3")),
            "no file has the tensor model.layers.2.",
        ),
        (
            "shallow",
            Box::new(|it| edit(it, "config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1")),
            "the tensor is not part of a supported model",
        ),
        (
            "index",
            Box::new(|it| fs::remove_file(it.join(INDEX)).unwrap()),
            "has neither model.safetensors nor",
        ),
        ("half", Box::new(|it| fs::remove_file(it.join(FIRST)).unwrap()), FIRST),
        (
            "outside",
            Box::new(|it| edit(it, INDEX, FIRST, "../x.safetensors")),
            "is not the name of a file beside it",
        ),
        ("cut", Box::new(move |it| cut(it, 5000)), "is not a safetensors file"),
        ("empty", Box::new(move |it| cut(it, 0)), FIRST),
        ("noise", Box::new(|it| fs::write(it.join(FIRST), [0xff; 64]).unwrap()), "is not a safetensors file"),
    ];
    for (name, change, expected) in cases {
        let error = refusal(name, change);
        assert!(error.contains(expected) && error.contains("models.tiny/llama: "), "{name}: {error}");
    }
    let models = [("a b".to_string(), fixture("llama"))].into();
    let error = Server::start(Options { models, ..Options::default() }).unwrap_err().to_string();
    assert!(error.contains("models: \"a b\" is not a valid name"), "{error}");
}

#[test]
fn a_prompt_that_fills_the_context_is_scored_without_room_for_a_sample() {
    let data = Folder::new("models-context");
    let server = Server::start(options(LLAMA, &data.0)).unwrap();
    let sampler = connect(&server).create_sampling_client(LLAMA).unwrap();
    let prompt = ModelInput::from_ints((0..256).map(|i| 3 + i % 90).collect::<Vec<i32>>());
    let logprobs = sampler.compute_logprobs(&prompt).wait().unwrap();
    assert!(logprobs.len() == 256 && logprobs[0].is_none() && logprobs[1..].iter().all(Option::is_some));
    let options = SampleOptions { include_prompt_logprobs: true, ..Default::default() };
    let params = |max_tokens| SamplingParams { max_tokens, ..Default::default() };
    for max_tokens in [Some(1), None] {
        let response = sampler.sample_with(&prompt, 2, &params(max_tokens), &options).wait().unwrap();
        assert_eq!(response.prompt_logprobs.as_ref(), Some(&logprobs));
        assert!(response.sequences.len() == 2 && response.sequences.iter().all(|it| it.tokens.is_empty()));
    }
    // A request that needs sampled tokens fails, because the prompt fills the context.
    for error in [
        sampler.sample(&prompt, 1, &params(Some(1))).wait().unwrap_err(),
        sampler.sample_with(&prompt, 1, &params(Some(2)), &options).wait().unwrap_err(),
    ] {
        assert!(error.to_string().contains("exceed the context window of 256"), "{error}");
    }
    let longer = ModelInput::from_ints((0..257).map(|i| 3 + i % 90).collect::<Vec<i32>>());
    assert!(sampler.compute_logprobs(&longer).wait().unwrap_err().to_string().contains("257 tokens"));
}
