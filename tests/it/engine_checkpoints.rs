//! Checkpoints of the engine: publication, copies, archives, exports, expiry, and the data folder after the engine was
//! killed.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use tinkex::local::{Options, Server};
use tinkex::types::{
    CheckpointPath, CopyOptions, ExternalPath, LoraConfig, ModelInput, SamplerPath, SamplingParams,
    SaveStateOptions, TrainingPath, Ttl,
};
use tinkex::{ErrorKind, RestClient, ServiceClient, TrainingClient};

const HOUR: Ttl = Ttl::After(Duration::from_secs(3600));

struct Setup {
    server: Server,
    service: ServiceClient,
    rest: RestClient,
    training: TrainingClient,
}

fn setup() -> Setup {
    let server = Server::start(Options { threads: 2, ..Options::default() }).unwrap();
    let connect = ServiceClient::builder().without_environment();
    let service = connect.base_url(server.url()).api_key(server.api_key()).build().unwrap();
    let lora = LoraConfig { rank: 4, ..LoraConfig::default() };
    let training = service.create_lora_training_client("tinkex/nano", lora).unwrap();
    Setup { rest: service.create_rest_client(), server, service, training }
}

/// Fetches a URL without an API key.
fn fetch(url: &str) -> (u16, Vec<u8>) {
    let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
    let mut response = agent.get(url).call().unwrap();
    (response.status().as_u16(), response.body_mut().read_to_vec().unwrap())
}

#[test]
fn exported_weights_are_downloaded_file_by_file() {
    let setup = setup();
    let saved = setup.training.save_weights_external("out", HOUR, &[]).wait().unwrap();
    let path: ExternalPath = saved.path.clone();
    let urls = setup.rest.get_external_weights_urls(&path).unwrap();
    let names: Vec<&str> = urls.urls.keys().map(String::as_str).collect();
    assert_eq!(names, ["adapter_config.json", "adapter_model.safetensors"]);
    let left = urls.expires.unwrap().to_system_time().unwrap().duration_since(SystemTime::now()).unwrap();
    assert!(left <= Duration::from_secs(15 * 60), "{left:?}");
    for (name, url) in &urls.urls {
        let (status, bytes) = fetch(url.expose());
        let folder = setup.server.data_dir().join(path.run_id().replace(':', "_"));
        let file = folder.join("external_weights/out").join(name);
        assert_eq!((status, bytes), (200, std::fs::read(file).unwrap()), "{name}");
        let (status, _) = fetch(&url.expose().replace(name, "tinkex.json"));
        assert_eq!(status, 404, "the engine's metadata file is not exported");
    }
    let (status, _) = fetch(&format!("{}/download/guess/adapter_config.json", setup.server.url()));
    assert_eq!(status, 404);
    let listed = setup.rest.list_checkpoints(path.run_id()).unwrap();
    assert_eq!(listed[0].path().unwrap(), CheckpointPath::from(&path));
    assert_eq!(listed[0].size_bytes, saved.size_bytes);
    let state = setup.training.save_state("s", HOUR).wait().unwrap().path;
    let wrong = format!("tinker://{}/external_weights/none", state.run_id());
    let error = setup.rest.get_external_weights_urls(wrong.as_str()).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::NotFound, "{error}");
    setup.rest.delete_checkpoint_from_tinker_path(&path).unwrap();
    let (status, _) = fetch(urls.urls["adapter_config.json"].expose());
    assert_eq!(status, 404);
}

#[test]
fn files_exported_for_recipients_are_encrypted_and_stay_so_in_copies_and_archives() {
    const RECIPIENTS: [&str; 2] = [
        "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj",
        "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p",
    ];
    let setup = setup();
    let export = |recipients: &[&str]| setup.training.save_weights_external("out", HOUR, recipients).wait();
    for wrong in [[RECIPIENTS[0], "age1x"], [RECIPIENTS[0], "ssh-ed25519 AAAA"]] {
        let error = export(&wrong).unwrap_err();
        assert!(error.is_user_error(), "{error}");
        assert!(error.to_string().contains("age_encryption_recipients[1]: "), "{error}");
    }
    let run = setup.server.data_dir().join(setup.training.model_id().replace(':', "_"));
    assert!(!run.exists(), "a refused export writes nothing");

    let saved = export(&RECIPIENTS).unwrap();
    let folder = run.join("external_weights/out");
    let copied = CopyOptions { destination_project_id: Some("p".into()), ..Default::default() };
    let copied = setup.rest.copy_weights(&saved.path, &copied).unwrap();
    let copied: ExternalPath = copied.try_into().unwrap();
    for path in [&saved.path, &copied] {
        let urls = setup.rest.get_external_weights_urls(path).unwrap().urls;
        let names: Vec<&str> = urls.keys().map(String::as_str).collect();
        assert_eq!(names, ["adapter_config.json.age", "adapter_model.safetensors.age"]);
        for (name, url) in &urls {
            let (status, bytes) = fetch(url.expose());
            assert_eq!((status, &bytes), (200, &std::fs::read(folder.join(name)).unwrap()), "{name}");
            assert!(bytes.starts_with(b"age-encryption.org/v1\n-> X25519 "), "{name}");
            assert_eq!(bytes.windows(10).filter(|it| it == b"-> X25519 ").count(), 2, "{name}");
            assert!(!bytes.windows(4).any(|it| it == b"lora"), "{name}");
        }
    }
    let archive = setup.rest.get_checkpoint_archive_url(&saved.path).unwrap();
    let (_, bytes) = fetch(archive.url.expose());
    assert!(bytes.chunks(512).any(|it| it.starts_with(b"adapter_config.json.age")));
    assert!(!bytes.windows(4).any(|it| it == b"lora"));
}

#[test]
fn a_deletion_that_the_disk_refuses_is_told_at_once_and_deletes_nothing() {
    let setup = setup();
    let state = setup.training.save_state("a", HOUR).wait().unwrap().path;
    let drafts = setup.server.data_dir().join(".tinkex/drafts");
    let elsewhere = setup.server.data_dir().join(".tinkex/moved");
    // A folder that cannot be moved, also by a user who may do everything.
    std::fs::rename(&drafts, &elsewhere).unwrap();
    for is_file in [false, true] {
        if is_file {
            std::fs::write(&drafts, "a file where the folder should be").unwrap();
        }
        let error = setup.rest.delete_checkpoint_from_tinker_path(&state).unwrap_err();
        assert_eq!((error.kind(), error.attempts()), (&ErrorKind::Status { code: 500 }, Some(1)), "{error}");
        assert!(error.to_string().contains("cannot delete"), "{error}");
        assert_eq!(setup.rest.list_checkpoints(state.run_id()).unwrap().len(), 1);
    }
    std::fs::remove_file(&drafts).unwrap();
    std::fs::rename(&elsewhere, &drafts).unwrap();
    setup.rest.delete_checkpoint_from_tinker_path(&state).unwrap();
}

#[test]
fn the_archive_url_serves_a_tar_of_the_checkpoint_folder() {
    let setup = setup();
    let state = setup.training.save_state("a", HOUR).wait().unwrap().path;
    let archive = setup.rest.get_checkpoint_archive_url(&state).unwrap();
    assert!(SystemTime::now() < archive.expires.unwrap().to_system_time().unwrap());
    let (status, bytes) = fetch(archive.url.expose());
    assert_eq!((status, &bytes[257..262]), (200, &b"ustar"[..]));
    for name in ["adapter_config.json", "adapter_model.safetensors", "optimizer.safetensors"] {
        assert!(bytes.chunks(512).any(|it| it.starts_with(name.as_bytes())), "{name}");
    }
    let none: TrainingPath = format!("tinker://{}/weights/none", state.run_id()).parse().unwrap();
    assert_eq!(setup.rest.get_checkpoint_archive_url(&none).unwrap_err().kind(), &ErrorKind::NotFound);
}

#[test]
fn a_copy_survives_the_deletion_of_its_original_and_belongs_to_its_project() {
    let setup = setup();
    let state = setup.training.save_state("a", HOUR).wait().unwrap().path;
    let weights = setup.training.save_weights_for_sampler("b", HOUR).wait().unwrap().path;
    let options = CopyOptions { destination_project_id: Some("my project".into()), ..Default::default() };
    let copied = setup.rest.copy_weights(&state, &options).unwrap();
    let sampler = setup.rest.copy_weights(&weights, &options).unwrap();
    assert_ne!(copied.run_id(), state.run_id());
    assert_ne!(copied.run_id(), sampler.run_id());
    setup.rest.delete_checkpoint_from_tinker_path(&state).unwrap();
    setup.rest.delete_checkpoint_from_tinker_path(&weights).unwrap();
    let copied: TrainingPath = copied.try_into().unwrap();
    setup.service.create_training_client_from_state_with_optimizer(&copied).unwrap();
    let sampler: SamplerPath = sampler.try_into().unwrap();
    let client = setup.service.create_sampling_client(&sampler).unwrap();
    let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
    client.sample(&ModelInput::from_ints([72]), 1, &params).wait().unwrap();
    let of_project = setup.rest.list_training_runs().project_id("my project");
    let mut runs: Vec<_> = of_project.map(|it| it.unwrap().training_run_id).collect();
    runs.sort();
    let mut expected = [copied.run_id(), sampler.run_id()];
    expected.sort();
    assert_eq!(runs, expected);
    let listed = setup.rest.list_checkpoints(copied.run_id()).unwrap();
    assert_eq!((listed.len(), listed[0].expires_at.as_ref()), (1, None), "the expiry is not inherited");
    let usage =
        setup.service.create_admin_client().get_current_checkpoint_storage_usage(Some("my project")).unwrap();
    assert_eq!((usage.entries.len(), usage.entries[0].checkpoint_count), (1, 2));
    let sizes = [&copied.into(), &sampler.into()].map(|path: &CheckpointPath| {
        setup.rest.list_checkpoints(path.run_id()).unwrap()[0].size_bytes.unwrap()
    });
    assert_eq!(usage.entries[0].size_bytes, sizes.iter().sum::<u64>());
    let error = setup.rest.copy_weights(&state, &options).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::NotFound, "{error}");
}

#[test]
fn a_published_checkpoint_is_listed_as_public_until_it_is_unpublished() {
    let setup = setup();
    let state = setup.training.save_state("a", HOUR).wait().unwrap().path;
    let public = || setup.rest.list_checkpoints(state.run_id()).unwrap()[0].public;
    assert!(!public());
    setup.rest.publish_checkpoint_from_tinker_path(&state).unwrap();
    assert!(public());
    let error = setup.rest.publish_checkpoint_from_tinker_path(&state).unwrap_err();
    assert_eq!(error.http_status(), Some(409), "{error}");
    setup.rest.unpublish_checkpoint_from_tinker_path(&state).unwrap();
    assert!(!public());
    let error = setup.rest.unpublish_checkpoint_from_tinker_path(&state).unwrap_err();
    assert_eq!(error.http_status(), Some(409), "{error}");
}

#[test]
fn a_checkpoint_expires_after_its_ttl() {
    let setup = setup();
    let state = setup.training.save_state("a", HOUR).wait().unwrap().path;
    assert_eq!(setup.rest.list_user_checkpoints().count(), 1);
    // Change the time of creation to 2020, so that the hour until the expiry is over.
    let folder = setup.server.data_dir().join(state.run_id().replace(':', "_")).join("weights/a");
    let file = folder.join("tinkex.json");
    let mut metadata: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    metadata["created"] = "2020-01-01T00:00:00Z".into();
    std::fs::write(&file, metadata.to_string()).unwrap();
    assert_eq!(setup.rest.list_user_checkpoints().count(), 0);
    let error = setup.service.create_training_client_from_state(&state).unwrap_err();
    assert!(error.to_string().contains("it has expired"), "{error}");
    assert!(setup.rest.get_weights_info_by_tinker_path(&state).is_err());
    let again = setup.training.save_state("a", HOUR).wait().unwrap().path;
    assert_eq!(again, state, "the name of an expired checkpoint is free");
    let short = Ttl::After(Duration::from_secs(60));
    assert!(setup.training.save_state("short", short).wait().is_err());
}

/// Environment variable with the path of the data folder. It is set for the child process, which the test kills.
const KILLED: &str = "TINKEX_TEST_KILLED";

fn start_on(folder: &Path) -> tinkex::Result<Server> {
    Server::start(Options { data_dir: Some(folder.into()), threads: 1, ..Options::default() })
}

/// Overwrites one checkpoint until the process is killed, and writes the number of each acknowledged save to stderr.
fn overwrite_until_killed(folder: &Path) {
    let server = start_on(folder).unwrap();
    let connect = ServiceClient::builder().without_environment();
    let service = connect.base_url(server.url()).api_key(server.api_key()).build().unwrap();
    let lora = LoraConfig { rank: 2, ..LoraConfig::default() };
    let training = service.create_lora_training_client("tinkex/nano", lora).unwrap();
    for n in 0..100_000 {
        let user_metadata = Some([("n".to_string(), n.to_string())].into());
        let options = SaveStateOptions { overwrite: true, user_metadata, ..Default::default() };
        let path = training.save_state_with("a", &options).wait().unwrap().path;
        std::io::stderr().write_all(format!("saved {n} {path}\n").as_bytes()).unwrap();
    }
}

#[test]
fn an_engine_killed_during_an_overwrite_loses_no_checkpoint_and_leaves_no_draft() {
    const TEST: &str =
        "engine_checkpoints::an_engine_killed_during_an_overwrite_loses_no_checkpoint_and_leaves_no_draft";
    if let Some(folder) = std::env::var_os(KILLED) {
        return overwrite_until_killed(Path::new(&folder));
    }
    let folder = std::env::temp_dir().join(format!("tinkex-killed-{}", std::process::id()));
    let mut paths: Vec<TrainingPath> = Vec::new();
    for _ in 0..24 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", TEST, "--test-threads=1", "--nocapture"])
            .env(KILLED, &folder)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut saved =
            lines.map_while(Result::ok).filter_map(|it| it.strip_prefix("saved ").map(str::to_owned));
        let first = saved.next().expect("an acknowledgement");
        std::thread::sleep(Duration::from_micros(fastrand::u64(..40_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        let last = saved.last().unwrap_or(first);
        let (n, path) = last.split_once(' ').unwrap();
        let (n, path): (u64, TrainingPath) = (n.parse().unwrap(), path.parse().unwrap());
        let home = folder.join(path.run_id().replace(':', "_")).join("weights/a");
        let read = |name: &str| std::fs::read(home.join(name)).expect("the checkpoint is whole");
        let metadata: serde_json::Value = serde_json::from_slice(&read("tinkex.json")).unwrap();
        let found: u64 = metadata["user_metadata"]["n"].as_str().unwrap().parse().unwrap();
        assert!(n <= found && found <= n + 1, "acknowledged {n}, found {found}");
        assert!(!read("adapter_model.safetensors").is_empty() && !read("optimizer.safetensors").is_empty());
        paths.push(path);
    }
    // The system has released the lock of each killed engine on the folder. The next engine removes the drafts, which
    // are the incomplete checkpoints of the killed engines.
    let server = start_on(&folder).unwrap();
    let names = |path: &Path| {
        let entries = std::fs::read_dir(path).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert!(names(&folder.join(".tinkex/drafts")).is_empty(), "{:?}", names(&folder.join(".tinkex/drafts")));
    let runs = names(&folder).into_iter().filter(|it| it.contains("_train_")).count();
    assert_eq!((runs, names(&folder).len()), (paths.len(), paths.len() + 3), "{:?}", names(&folder));
    let connect = ServiceClient::builder().without_environment();
    let service = connect.base_url(server.url()).api_key(server.api_key()).build().unwrap();
    assert_eq!(service.create_rest_client().list_user_checkpoints().count(), paths.len());
    for path in &paths {
        service.create_training_client_from_state_with_optimizer(path).unwrap();
    }
    drop(service);
    server.stop();
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_second_engine_on_a_folder_is_refused_until_the_first_has_stopped() {
    let folder = std::env::temp_dir().join(format!("tinkex-two-{}", std::process::id()));
    let server = start_on(&folder).unwrap();
    let error = start_on(&folder).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::System);
    let text = error.to_string();
    assert!(
        text.contains(&format!("the data folder {} is in use by another engine", folder.display())),
        "{text}"
    );
    server.stop();
    start_on(&folder).unwrap().stop();
    std::fs::remove_dir_all(&folder).unwrap();
}

#[cfg(unix)]
#[test]
fn a_temporary_data_folder_is_accessible_to_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let server = Server::start(Options { threads: 1, ..Options::default() }).unwrap();
    let mode = std::fs::metadata(server.data_dir()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}
