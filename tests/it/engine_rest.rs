//! `RestClient` and `AdminClient` against the engine.
#![cfg(feature = "local")]

use std::time::{Duration, SystemTime};

use tinkex::local::{Options, Server};
use tinkex::types::{AuditEventType, CheckpointType, LoraConfig, Ttl};
use tinkex::{CloseStatus, ErrorKind, ServiceClient};

fn service(server: &Server) -> ServiceClient {
    ServiceClient::builder()
        .base_url(server.url())
        .api_key(server.api_key())
        .display_name("night shift")
        .user_metadata("team", "a")
        .build()
        .unwrap()
}

#[test]
fn the_runs_and_checkpoints_of_a_session_are_listed_kept_and_deleted() {
    let server = Server::start(Options { threads: 2, ..Options::default() }).unwrap();
    let service = service(&server);
    let rest = service.create_rest_client();
    assert_eq!(rest.healthz().unwrap(), "ok");
    assert_eq!(rest.list_training_runs().count() + rest.list_user_checkpoints().count(), 0);

    let lora = LoraConfig { rank: 4, ..LoraConfig::default() };
    let training = service.create_lora_training_client("tinkex/nano", lora).unwrap();
    let state = training.save_state("a", Ttl::After(Duration::from_secs(7200))).wait().unwrap().path;
    let weights = training.save_weights_for_sampler("b", Ttl::Never).wait().unwrap().path;

    let runs: Vec<_> = rest.list_training_runs().map(|it| it.unwrap()).collect();
    assert_eq!(runs.len(), 1);
    assert_eq!(runs[0], rest.get_training_run(training.model_id()).unwrap());
    assert_eq!(runs[0], rest.get_training_run_by_tinker_path(&weights).unwrap());
    assert_eq!((runs[0].lora_rank, runs[0].is_lora), (Some(4), Some(true)));
    let last = runs[0].last_checkpoint.as_ref().unwrap();
    assert_eq!(last.path().unwrap(), (&state).into());
    let time = last.time.as_ref().unwrap().to_system_time().unwrap();
    assert!(time <= SystemTime::now());
    let end = last.expires_at.as_ref().unwrap().to_system_time().unwrap();
    assert_eq!(end.duration_since(time).unwrap(), Duration::from_secs(7200));

    let of_run = rest.list_checkpoints(training.model_id()).unwrap();
    let all: Vec<_> = rest.list_user_checkpoints().page_size(1).map(|it| it.unwrap()).collect();
    assert_eq!((of_run.len(), &of_run), (2, &all));
    let sampler = all.iter().find(|it| it.checkpoint_type == Some(CheckpointType::Sampler)).unwrap();
    assert_eq!((sampler.path().unwrap(), sampler.expires_at.as_ref()), ((&weights).into(), None));
    assert!(1000 < sampler.size_bytes.unwrap() && sampler.size_bytes < last.size_bytes);
    assert_eq!(rest.get_weights_info_by_tinker_path(&state).unwrap().lora_rank, Some(4));

    rest.set_checkpoint_ttl_from_tinker_path(&weights, Ttl::After(Duration::from_secs(3600))).unwrap();
    rest.set_checkpoint_ttl_from_tinker_path(&state, Ttl::Never).unwrap();
    for checkpoint in rest.list_checkpoints(training.model_id()).unwrap() {
        let is_sampler = checkpoint.checkpoint_type == Some(CheckpointType::Sampler);
        assert_eq!(checkpoint.expires_at.is_some(), is_sampler, "{checkpoint:?}");
    }
    rest.delete_checkpoint_from_tinker_path(&weights).unwrap();
    let error = rest.delete_checkpoint_from_tinker_path(&weights).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::NotFound, "{error}");
    assert!(service.create_sampling_client(&weights).is_err());
    service.create_training_client_from_state_with_optimizer(&state).unwrap();
    assert_eq!(rest.list_checkpoints(training.model_id()).unwrap().len(), 1);

    let session = rest.list_sessions().next().unwrap().unwrap();
    let info = rest.get_session(&session).unwrap();
    assert_eq!(
        (info.display_name.as_deref(), info.user_metadata["team"].as_str()),
        (Some("night shift"), "a")
    );
    assert!(
        info.training_run_ids.iter().any(|it| it == training.model_id()) && info.training_run_ids.len() == 2
    );
    assert_eq!(rest.list_training_runs().page_size(1).filter_map(Result::ok).count(), 2);

    service.close(CloseStatus::Success).unwrap();
}

#[test]
fn missing_features_are_incompatible_and_missing_objects_not_found() {
    let server = Server::start(Options { threads: 2, ..Options::default() }).unwrap();
    let rest = service(&server).create_rest_client();
    let path = "tinker://r/weights/x";
    let error = service(&server).create_admin_client().get_audit_log(AuditEventType::All, None).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Incompatible, "{error}");
    let error = rest.revoke_api_key().unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Incompatible, "{error}");
    for error in [
        rest.get_training_run("r").unwrap_err(),
        rest.list_checkpoints("r").unwrap_err(),
        rest.get_session("s").unwrap_err(),
        rest.delete_checkpoint("r", "weights/x").unwrap_err(),
        rest.delete_checkpoint("r", "external_weights/x").unwrap_err(),
        rest.set_checkpoint_ttl_from_tinker_path(path, Ttl::Never).unwrap_err(),
        rest.publish_checkpoint_from_tinker_path(path).unwrap_err(),
        rest.unpublish_checkpoint_from_tinker_path(path).unwrap_err(),
        rest.get_checkpoint_archive_url(path).unwrap_err(),
    ] {
        assert_eq!(error.kind(), &ErrorKind::NotFound, "{error}");
        assert!(error.to_string().contains("does not exist"), "{error}");
    }
    let error = rest.delete_checkpoint("r", "weights/no name").unwrap_err();
    assert_eq!(error.http_status(), Some(400), "{error}");
    assert_eq!(rest.whoami().unwrap_err().kind(), &ErrorKind::Incompatible);
}

#[test]
fn a_run_and_its_session_are_listed_by_the_next_server() {
    let folder = std::env::temp_dir().join(format!("tinkex-rest-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    let start = || {
        let options = Options { data_dir: Some(folder.clone()), threads: 2, ..Options::default() };
        Server::start(options).unwrap()
    };
    let server = start();
    let client = service(&server);
    let lora = LoraConfig { rank: 4, ..LoraConfig::default() };
    let training = client.create_lora_training_client("tinkex/nano", lora).unwrap();
    let state = training.save_state("a", Ttl::Never).wait().unwrap().path;
    client.close(CloseStatus::Success).unwrap();
    server.stop();

    let server = start();
    let rest = service(&server).create_rest_client();
    let runs: Vec<_> = rest.list_training_runs().map(|it| it.unwrap()).collect();
    assert_eq!((runs.len(), runs[0].training_run_id.as_str()), (1, state.run_id()));
    assert_eq!(rest.list_user_checkpoints().next().unwrap().unwrap().path().unwrap(), (&state).into());
    assert_eq!(rest.list_sessions().count(), 1);
    drop(rest);
    server.stop();
    std::fs::remove_dir_all(&folder).unwrap();
}
