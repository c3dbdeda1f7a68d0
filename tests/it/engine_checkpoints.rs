//! What the engine does with checkpoints: publishing, copies, archives, exports and their ends.

use std::time::{Duration, SystemTime};

use tinkex::local::{Options, Server};
use tinkex::types::{
    CheckpointPath, CopyOptions, ExternalPath, LoraConfig, ModelInput, SamplerPath, SamplingParams,
    TrainingPath, Ttl,
};
use tinkex::{ErrorKind, RestClient, ServiceClient, TrainingClient};

const HOUR: Ttl = Ttl::After(Duration::from_secs(3600));

struct Bench {
    server: Server,
    service: ServiceClient,
    rest: RestClient,
    training: TrainingClient,
}

fn bench() -> Bench {
    let server = Server::start(Options { threads: 2, ..Options::default() }).unwrap();
    let connect = ServiceClient::builder().without_environment();
    let service = connect.base_url(server.url()).api_key(server.api_key()).build().unwrap();
    let lora = LoraConfig { rank: 4, ..LoraConfig::default() };
    let training = service.create_lora_training_client("tinkex/nano", lora).unwrap();
    Bench { rest: service.create_rest_client(), server, service, training }
}

/// Fetches an address as anybody would: without a key.
fn fetch(url: &str) -> (u16, Vec<u8>) {
    let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
    let mut response = agent.get(url).call().unwrap();
    (response.status().as_u16(), response.body_mut().read_to_vec().unwrap())
}

#[test]
fn exported_weights_are_fetched_by_the_names_of_their_files() {
    let it = bench();
    let saved = it.training.save_weights_external("out", HOUR, &[]).wait().unwrap();
    let path: ExternalPath = saved.path.clone();
    let urls = it.rest.get_external_weights_urls(&path).unwrap();
    let names: Vec<&str> = urls.urls.keys().map(String::as_str).collect();
    assert_eq!(names, ["adapter_config.json", "adapter_model.safetensors"]);
    let left = urls.expires.unwrap().to_system_time().unwrap().duration_since(SystemTime::now()).unwrap();
    assert!(left <= Duration::from_secs(15 * 60), "{left:?}");
    for (name, url) in &urls.urls {
        let (status, bytes) = fetch(url.expose());
        let folder = it.server.data_dir().join(path.run_id().replace(':', "_"));
        let file = folder.join("external_weights/out").join(name);
        assert_eq!((status, bytes), (200, std::fs::read(file).unwrap()), "{name}");
        let (status, _) = fetch(&url.expose().replace(name, "tinkex.json"));
        assert_eq!(status, 404, "the engine's own notes are not exported");
    }
    let (status, _) = fetch(&format!("{}/download/guess/adapter_config.json", it.server.url()));
    assert_eq!(status, 404);
    let listed = it.rest.list_checkpoints(path.run_id()).unwrap();
    assert_eq!(listed[0].path().unwrap(), CheckpointPath::from(&path));
    assert_eq!(listed[0].size_bytes, saved.size_bytes);
    let state = it.training.save_state("s", HOUR).wait().unwrap().path;
    let wrong = format!("tinker://{}/external_weights/none", state.run_id());
    let error = it.rest.get_external_weights_urls(wrong.as_str()).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::NotFound, "{error}");
    it.rest.delete_checkpoint_from_tinker_path(&path).unwrap();
    let (status, _) = fetch(urls.urls["adapter_config.json"].expose());
    assert_eq!(status, 404);
    let error = it.training.save_weights_external("secret", HOUR, &["age1x"]).wait().unwrap_err();
    assert!(error.to_string().contains("encryption is not offered"), "{error}");
}

#[test]
fn an_archive_is_a_tar_of_the_folder_behind_an_address() {
    let it = bench();
    let state = it.training.save_state("a", HOUR).wait().unwrap().path;
    let archive = it.rest.get_checkpoint_archive_url(&state).unwrap();
    assert!(SystemTime::now() < archive.expires.unwrap().to_system_time().unwrap());
    let (status, bytes) = fetch(archive.url.expose());
    assert_eq!((status, &bytes[257..262]), (200, &b"ustar"[..]));
    for name in ["adapter_config.json", "adapter_model.safetensors", "optimizer.safetensors"] {
        assert!(bytes.chunks(512).any(|it| it.starts_with(name.as_bytes())), "{name}");
    }
    let none: TrainingPath = format!("tinker://{}/weights/none", state.run_id()).parse().unwrap();
    assert_eq!(it.rest.get_checkpoint_archive_url(&none).unwrap_err().kind(), &ErrorKind::NotFound);
}

#[test]
fn a_copy_goes_on_when_the_original_is_gone_and_belongs_to_its_project() {
    let it = bench();
    let state = it.training.save_state("a", HOUR).wait().unwrap().path;
    let weights = it.training.save_weights_for_sampler("b", HOUR).wait().unwrap().path;
    let options = CopyOptions { destination_project_id: Some("p".into()), ..Default::default() };
    let copied = it.rest.copy_weights(&state, &options).unwrap();
    let sampler = it.rest.copy_weights(&weights, &options).unwrap();
    assert_ne!(copied.run_id(), state.run_id());
    assert_ne!(copied.run_id(), sampler.run_id());
    it.rest.delete_checkpoint_from_tinker_path(&state).unwrap();
    it.rest.delete_checkpoint_from_tinker_path(&weights).unwrap();
    let copied: TrainingPath = copied.try_into().unwrap();
    it.service.create_training_client_from_state_with_optimizer(&copied).unwrap();
    let sampler: SamplerPath = sampler.try_into().unwrap();
    let client = it.service.create_sampling_client(&sampler).unwrap();
    let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
    client.sample(&ModelInput::from_ints([72]), 1, &params).wait().unwrap();
    let of_project = it.rest.list_training_runs().project_id("p");
    let mut runs: Vec<_> = of_project.map(|it| it.unwrap().training_run_id).collect();
    runs.sort();
    let mut expected = [copied.run_id(), sampler.run_id()];
    expected.sort();
    assert_eq!(runs, expected);
    let listed = it.rest.list_checkpoints(copied.run_id()).unwrap();
    assert_eq!((listed.len(), listed[0].expires_at.as_ref()), (1, None), "the end is not inherited");
    let usage = it.service.create_admin_client().get_current_checkpoint_storage_usage(Some("p")).unwrap();
    assert_eq!((usage.entries.len(), usage.entries[0].checkpoint_count), (1, 2));
    let sizes = [&copied.into(), &sampler.into()]
        .map(|path: &CheckpointPath| it.rest.list_checkpoints(path.run_id()).unwrap()[0].size_bytes.unwrap());
    assert_eq!(usage.entries[0].size_bytes, sizes.iter().sum::<u64>());
    let error = it.rest.copy_weights(&state, &options).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::NotFound, "{error}");
}

#[test]
fn what_is_published_is_listed_so_until_it_is_not() {
    let it = bench();
    let state = it.training.save_state("a", HOUR).wait().unwrap().path;
    let public = || it.rest.list_checkpoints(state.run_id()).unwrap()[0].public;
    assert!(!public());
    it.rest.publish_checkpoint_from_tinker_path(&state).unwrap();
    assert!(public());
    let error = it.rest.publish_checkpoint_from_tinker_path(&state).unwrap_err();
    assert_eq!(error.http_status(), Some(409), "{error}");
    it.rest.unpublish_checkpoint_from_tinker_path(&state).unwrap();
    assert!(!public());
    let error = it.rest.unpublish_checkpoint_from_tinker_path(&state).unwrap_err();
    assert_eq!(error.http_status(), Some(409), "{error}");
}

#[test]
fn a_checkpoint_ends_when_its_time_is_over() {
    let it = bench();
    let state = it.training.save_state("a", HOUR).wait().unwrap().path;
    assert_eq!(it.rest.list_user_checkpoints().count(), 1);
    // An hour passes.
    let folder = it.server.data_dir().join(state.run_id().replace(':', "_")).join("weights/a");
    let file = folder.join("tinkex.json");
    let mut noted: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    noted["created"] = "2020-01-01T00:00:00Z".into();
    std::fs::write(&file, noted.to_string()).unwrap();
    assert_eq!(it.rest.list_user_checkpoints().count(), 0);
    let error = it.service.create_training_client_from_state(&state).unwrap_err();
    assert!(error.to_string().contains("its time is over"), "{error}");
    assert!(it.rest.get_weights_info_by_tinker_path(&state).is_err());
    let again = it.training.save_state("a", HOUR).wait().unwrap().path;
    assert_eq!(again, state, "its name is free");
    let short = Ttl::After(Duration::from_secs(60));
    assert!(it.training.save_state("short", short).wait().is_err());
}
