//! The part of the recorded program that lists and manages runs and checkpoints. Numbers such as the 210 of
//! `replay.exchange(210)` are the numbers of the recorded exchanges.

use std::time::Duration;

use serde_json::json;
use tinkex::ErrorKind;
use tinkex::types::{Checkpoint, TrainingRun, Ttl};

use super::program::{Clients, MODEL, STATE};
use super::sampling::WEIGHTS;
use super::server::Replay;

pub(super) const RUN: &str = "model_17aeb7f9";
const SAMPLER: &str = "tinker://model_17aeb7f9/sampler_weights/s1";

pub(super) fn run(replay: &Replay, Clients { rest, training, .. }: &Clients) {
    assert_eq!(rest.get_server_capabilities().unwrap().supported_models.len(), 1);
    let page = rest.list_training_runs().first_page().unwrap();
    assert_eq!(page.cursor.unwrap().total_count, Some(4));
    let (_, _, recorded) = replay.exchange(210);
    for (ours, theirs) in page.items.iter().zip(recorded["training_runs"].as_array().unwrap()) {
        assert_run(ours, theirs);
    }
    assert_run(&rest.get_training_run(RUN).unwrap(), &replay.exchange(211).2);
    assert_run(&rest.get_training_run_by_tinker_path(STATE).unwrap(), &replay.exchange(212).2);
    let info = rest.get_weights_info_by_tinker_path(STATE).unwrap();
    assert_eq!(
        (info.base_model.as_deref(), info.is_lora, info.lora_rank),
        (Some(MODEL), Some(true), Some(8))
    );
    assert_checkpoints(replay, 214, &rest.list_checkpoints(RUN).unwrap());

    // The recorded server lacks the endpoints of these calls. For `get_session` the error is `NotFound`, because its
    // 404 may mean a missing endpoint or a missing session.
    replay.assert_failure(215, ErrorKind::Incompatible, rest.list_user_checkpoints().first_page());
    replay.assert_failure(217, ErrorKind::Incompatible, rest.list_sessions().first_page());
    replay.assert_failure(219, ErrorKind::NotFound, rest.get_session("session_f39fe152"));
    let sampler = rest.get_sampler("sampling_b002db23").unwrap();
    assert_eq!((sampler.base_model.as_deref(), sampler.model_path.as_deref()), (Some(MODEL), Some(WEIGHTS)));
    let hour = Ttl::After(Duration::from_secs(3600));
    let kept = rest.set_checkpoint_ttl_from_tinker_path(STATE, hour);
    replay.assert_failure(222, ErrorKind::Incompatible, kept);
    replay.assert_failure(224, ErrorKind::Incompatible, rest.publish_checkpoint_from_tinker_path(STATE));

    let archive = rest.get_checkpoint_archive_url(WEIGHTS).unwrap();
    let address = archive.url.expose().strip_prefix("http://127.0.0.1:8011").unwrap();
    assert_eq!(replay.numbers(address), [227]);
    assert_eq!(archive.expires.unwrap().as_str(), "2026-11-20T15:19:59Z");
    replay.not_sent(227, None);

    let external = training.save_weights_external("ext1", Ttl::Never, &[]).wait();
    replay.assert_failure(228, ErrorKind::NotFound, external);
    rest.delete_checkpoint_from_tinker_path(SAMPLER).unwrap();
    assert_checkpoints(replay, 231, &rest.list_checkpoints(RUN).unwrap());
}

#[track_caller]
fn assert_run(run: &TrainingRun, recorded: &serde_json::Value) {
    let ours = json!({
        "training_run_id": run.training_run_id, "base_model": run.base_model, "model_owner": run.model_owner,
        "is_lora": run.is_lora, "corrupted": run.corrupted, "lora_rank": run.lora_rank,
        "last_request_time": run.last_request_time.as_ref().map(|it| it.as_str()),
        "last_checkpoint": null, "last_sampler_checkpoint": null, "user_metadata": null,
    });
    assert_eq!(&ours, recorded);
    assert!(run.last_checkpoint.is_none() && run.last_sampler_checkpoint.is_none());
    assert!(run.user_metadata.is_empty());
}

#[track_caller]
fn assert_checkpoints(replay: &Replay, n: u64, checkpoints: &[Checkpoint]) {
    let (_, _, recorded) = replay.exchange(n);
    let ours: Vec<_> = checkpoints.iter().map(|it| it.path().unwrap().as_str().to_string()).collect();
    let theirs: Vec<_> =
        recorded["checkpoints"].as_array().unwrap().iter().map(|it| it["tinker_path"].clone()).collect();
    assert_eq!(json!(ours), json!(theirs), "exchange {n}");
}
