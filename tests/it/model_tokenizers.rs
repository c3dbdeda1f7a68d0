//! The tokenizer of a model, as its clients find it.

use std::sync::Arc;

use tinkex::ServiceClient;
use tinkex::local::{Options, Server};
use tinkex::types::LoraConfig;
#[cfg(feature = "hub")]
use {
    crate::util::alone_with,
    serde_json::json,
    tinkex::testing::{Act, FakeServer, Seen},
    tinkex::transport::Answer,
};

const ALIAS: &str = "Qwen/Qwen3-8B";

fn engine() -> (Server, ServiceClient) {
    let aliases = [(ALIAS.to_string(), "tinkex/nano".to_string())].into();
    let server = Server::start(Options { threads: 1, aliases, ..Options::default() }).unwrap();
    let connect = ServiceClient::builder().without_environment();
    let service = connect.base_url(server.url()).api_key(server.api_key()).build().unwrap();
    (server, service)
}

#[test]
fn clients_of_the_engine_have_its_tokenizer_of_bytes() {
    let (_server, service) = engine();
    let lora = || LoraConfig { rank: 2, ..LoraConfig::default() };
    let training = service.create_lora_training_client("tinkex/nano", lora()).unwrap();
    let sampler = service.create_sampling_client("tinkex/nano").unwrap();
    for tokenizer in [training.tokenizer().unwrap(), sampler.tokenizer().unwrap()] {
        assert_eq!(tokenizer.encode("é!").unwrap(), [0xc3, 0xa9, 33]);
        assert_eq!(tokenizer.eos_id(), Some(256));
    }
    // Under an alias the name is that of another model, and the folder that the engine reports decides.
    let alias = service.create_lora_training_client(ALIAS, lora()).unwrap();
    if cfg!(feature = "text") {
        let tokenizer = alias.tokenizer().unwrap();
        assert_eq!(tokenizer.encode("é!").unwrap(), [0xc3, 0xa9, 33]);
        assert_eq!(tokenizer.eos_id(), Some(256));
        assert!(Arc::ptr_eq(&tokenizer, &alias.tokenizer().unwrap()));
    } else {
        let error = alias.tokenizer().unwrap_err();
        assert!(error.is_user_error() && error.to_string().contains("the feature `text`"), "{error}");
    }
}

#[test]
#[cfg(feature = "hub")]
fn a_tokenizer_is_downloaded_once_for_all_clients_with_the_settings_of_the_environment() {
    let folder = std::env::temp_dir().join(format!("tinkex-model-tokenizers-{}", std::process::id()));
    let hub = FakeServer::new();
    let (_engine, service) = engine();
    let training = service.create_lora_training_client(ALIAS, LoraConfig::default()).unwrap();
    let files = training.get_info().tokenizer_id.clone().unwrap();
    hub.script(move |seen: &Seen| {
        let name = seen.path.rsplit('/').next()?;
        let file = std::fs::read(std::path::Path::new(&files).join(name)).ok()?;
        let answer = Answer::new(200)
            .with_header("ETag", format!("\"{}\"", name.replace('.', "-")))
            .with_header("X-Repo-Commit", "0123456789abcdef0123456789abcdef01234567")
            .with_header("Content-Length", file.len().to_string());
        Some(Act::Answer(if seen.method == "HEAD" { answer } else { answer.with_body(file) }))
    });
    let listening = hub.listen().unwrap();
    let environment = [
        ("HF_ENDPOINT", listening.url()),
        ("HF_HUB_CACHE", folder.display().to_string()),
        ("HF_TOKEN", "hf_of_the_environment".to_string()),
    ];
    let environment: Vec<(&str, &str)> =
        environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let name = concat!(
        "model_tokenizers::",
        "a_tokenizer_is_downloaded_once_for_all_clients_with_the_settings_of_the_environment"
    );
    let output = alone_with(name, &environment, || {
        let server = FakeServer::new();
        let info = json!({"model_id": "m", "model_data": {"model_name": "x/y", "tokenizer_id": "org/name"}});
        server.always("/api/v1/get_info", Act::json(info));
        let service = server.in_memory().build().unwrap();
        let training = service.create_lora_training_client("x/y", LoraConfig::default()).unwrap();
        let tokenizer = training.tokenizer().unwrap();
        assert_eq!(tokenizer.encode("hi").unwrap(), [104, 105]);
        let sampler = service.create_sampling_client("org/name").unwrap();
        assert!(Arc::ptr_eq(&tokenizer, &sampler.tokenizer().unwrap()));
    });
    if output.is_some() {
        let requests = hub.requests();
        let seen: Vec<String> = requests.iter().map(|it| format!("{} {}", it.method, it.path)).collect();
        assert_eq!(seen.len(), 4, "{seen:?}");
        assert_eq!(seen[0], "HEAD /org/name/resolve/main/tokenizer.json");
        let bearer = Some("Bearer hf_of_the_environment");
        assert!(requests.iter().all(|it| it.header("authorization") == bearer));
        assert!(folder.join("models--org--name/refs/main").is_file());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
