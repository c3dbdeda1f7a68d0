//! `src/cli/doctor/verbs` calls every verb (a method that sends requests) with its options on a server, and reports for each
//! whether it works, is not offered by the server, or is broken. These tests check the reports about the fake server,
//! the engine and SkyRL, another server of this API.

#[path = "../../src/cli/doctor/verbs/mod.rs"]
mod examination;

use std::collections::BTreeSet;
use std::sync::Mutex;

use examination::{Mark, Report};
use serde_json::json;
use tinkex::ServiceClientBuilder;
use tinkex::testing::{Act, FakeServer, Seen};

use crate::util::{TEST_TIMEOUT, recorded};

/// Runs the doctor on a server.
fn examine(connect: impl Fn() -> ServiceClientBuilder + Send + Sync + 'static) -> Report {
    examination::examine(connect, None, TEST_TIMEOUT, |_| {}).unwrap()
}

/// Asserts that the checks whose outcome is `mark` are exactly those in `expected`.
#[track_caller]
fn assert_marks(report: &Report, mark: Mark, expected: &[&str]) {
    let marked = || report.lines.iter().filter(|it| it.mark == mark);
    let found: Vec<&str> = marked().map(|it| it.name).collect();
    let lines: Vec<String> = marked().map(|it| format!("{}: {it}", it.client)).collect();
    assert_eq!(found, expected, "{mark:?}:\n{}", lines.join("\n"));
}

#[test]
fn nothing_is_broken_on_the_fake_server() {
    let server = FakeServer::new();
    let connect = server.clone();
    let report = examine(move || connect.in_memory());
    assert_marks(&report, Mark::Broken, &[]);
    let absent = ["sample, stop at tokens", "whoami"];
    assert_marks(&report, Mark::NotOffered, &absent);
    let left = server.in_memory().build().unwrap().create_rest_client().list_user_checkpoints().count();
    assert_eq!(left, 0, "the doctor leaves checkpoints behind");
}

#[cfg(feature = "local")]
#[test]
fn nothing_is_broken_on_the_engine() {
    let server = tinkex::local::Server::start(Default::default()).unwrap();
    let (url, key) = (server.url().to_string(), server.api_key().to_string());
    let report = examine(move || {
        tinkex::ServiceClient::builder().without_environment().base_url(url.clone()).api_key(key.clone())
    });
    assert_marks(&report, Mark::Broken, &[]);
    // The engine does not know the owner of a key, and keeps no audit log.
    assert_marks(&report, Mark::NotOffered, &["whoami", "get_audit_log"]);
}

#[cfg(feature = "local")]
#[test]
fn nothing_is_broken_on_the_engine_with_its_other_options() {
    let server = tinkex::local::Server::start(tinkex::local::Options {
        pjwt_auth_enabled: true,
        sample_use_retrieve_futures: true,
        sample_join_sampling_session: true,
        sample_cancel_enabled: false,
        ..Default::default()
    })
    .unwrap();
    let (url, key) = (server.url().to_string(), server.api_key().to_string());
    let report = examine(move || {
        tinkex::ServiceClient::builder().without_environment().base_url(url.clone()).api_key(key.clone())
    });
    assert_marks(&report, Mark::Broken, &[]);
    assert_marks(&report, Mark::NotOffered, &["get_audit_log"]);
}

/// A fake server that differs from the official service as a SkyRL server does (PROTOCOL §11).
fn skyrl() -> FakeServer {
    let server = FakeServer::new();
    let first = Mutex::new(BTreeSet::new());
    server.script(move |seen| {
        let path = seen.path.strip_prefix("/api/v1/")?;
        let body = seen.json().unwrap_or_default();
        let not_found = || Some(Act::status(404, r#"{"detail":"Not Found"}"#));
        let refuse = |status, detail: &str| Some(Act::status(status, json!({"detail": detail}).to_string()));
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_string();
        match path.split('?').next().unwrap_or_default() {
            "load_weights" if body["model_id"].is_null() => {
                let missing = json!([{"type": "missing", "loc": ["body", "model_id"], "msg": "Field required"}]);
                Some(Act::status(422, json!({"detail": missing}).to_string()))
            }
            "save_weights_for_sampler" if body["path"].is_string() => {
                // Send the result in the response itself, instead of a request id for which the client would poll: this
                // script does not store results.
                let path = format!("tinker://{}/{}", text("model_id"), text("path"));
                Some(Act::json(json!({"path": path, "type": "save_weights_for_sampler"})))
            }
            "forward_backward" if has_loss(seen, "dro") || has_loss(seen, "gspo") => {
                refuse(422, "loss_fn: Input should be 'cross_entropy', 'importance_sampling', 'ppo' or 'cispo'")
            }
            "forward_backward" if has_loss(seen, "cispo") => Some(Act::json(json!({"request_id": "1000000"}))),
            "retrieve_future" => {
                let id = text("request_id");
                if id == "1000000" {
                    return refuse(400, "loss_fn cispo is not implemented by this backend");
                }
                let is_new = first.lock().unwrap().insert(id);
                is_new.then(|| Act::status(408, r#"{"detail":"Timeout waiting for result"}"#))
            }
            "asample" if !body["sampling_params"]["max_tokens"].is_u64() => {
                refuse(400, "max_tokens must be specified and greater than 0")
            }
            "get_info" => Some(Act::json(json!({
                "model_id": text("model_id"), "status": "ready",
                "model_data": {"base_model": "fake/model", "lora_config": {"rank": 8}, "model_name": "fake/model"},
            }))),
            "retrieve_futures" | "cancel_future" | "join_sampling_session" | "save_weights_external"
            | "copy_weights" | "audit" | "checkpoints" | "sessions" => not_found(),
            path if path.starts_with("sessions/") || path.starts_with("billing/") || path.starts_with("auth/") => {
                not_found()
            }
            path if path.ends_with("/publish") || path.ends_with("/ttl") || path.ends_with("/external_weights_urls") => {
                if seen.method == "DELETE" {
                    refuse(422, "checkpoint_id: not a checkpoint")
                } else {
                    refuse(405, "Method Not Allowed")
                }
            }
            path if path.ends_with("/checkpoints") && path.starts_with("training_runs/") => None,
            _ => None,
        }
    });
    server
}

/// Tells if a pass uses the loss `name`. The name occurs verbatim in the body, in JSON and in protobuf.
fn has_loss(seen: &Seen, name: &str) -> bool {
    seen.body.windows(name.len()).any(|it| it == name.as_bytes())
}

#[test]
fn nothing_is_broken_on_a_server_that_lacks_what_skyrl_lacks() {
    let server = skyrl();
    let report = examine(move || server.in_memory());
    assert_marks(&report, Mark::Broken, &[]);
    // All other checks succeed. Four of the checks in `absent` fail only because of the script: rank 1, because
    // `get_info` always reports rank 8; the archive and the two deletions, because the script does not store the
    // weights that it saves for samplers.
    let absent = [
        "create_lora_training_client, rank 1",
        "forward_backward, cispo",
        "forward_backward, dro",
        "forward_backward, gspo",
        "save_weights_external",
        "ServiceClient.copy_weights",
        "sample, stop at tokens",
        "sample, without max_tokens",
        "get_api_key_info",
        "whoami",
        "list_user_checkpoints",
        "set_checkpoint_ttl_from_tinker_path",
        "publish_checkpoint_from_tinker_path",
        "unpublish_checkpoint_from_tinker_path",
        "get_checkpoint_archive_url",
        "get_external_weights_urls",
        "copy_weights",
        "list_sessions",
        "get_session",
        "assign_session_project",
        "export_session_trace",
        "search_sessions",
        "get_audit_log",
        "get_billing_usage",
        "get_current_checkpoint_storage_usage",
        "delete_checkpoint_from_tinker_path",
        "delete_checkpoint",
    ];
    assert_marks(&report, Mark::NotOffered, &absent);
    assert_eq!(report.count(Mark::Ok) + absent.len(), examination::checks().len());
}

/// Runs the doctor on a server that replays the recorded responses of a SkyRL server. Asserts that the checks in
/// `absent` are reported as not offered, that `ok` is the number of successful checks, and that no check is broken.
#[track_caller]
fn assert_replays(generation: &str, ok: usize, absent: &[&str]) {
    let file = format!("{}/tests/data/skyrl/{generation}-doctor.jsonl", env!("CARGO_MANIFEST_DIR"));
    let (server, unknown) = recorded::replay(&std::fs::read_to_string(file).unwrap());
    let report = examine(move || server.in_memory());
    assert_marks(&report, Mark::Broken, &[]);
    assert_marks(&report, Mark::NotOffered, absent);
    assert_eq!(report.count(Mark::Ok), ok);
    // If the doctor sends a request that was not recorded, make a new recording:
    // `tests/python/skyrl.py record-doctor`.
    let unknown = unknown.lock().unwrap();
    assert!(unknown.is_empty(), "`skyrl.py record-doctor` has no answer to {unknown:#?}");
}

#[test]
fn nothing_is_broken_on_a_recorded_current_skyrl() {
    let absent = [
        "forward_backward, dro",
        "forward_backward, gspo",
        "save_state_with, overwrite and user_metadata",
        "save_weights_external",
        "ServiceClient.copy_weights",
        "sample, without max_tokens",
        "sample_with, topk_prompt_logprobs",
        "compute_logprobs_last",
        "sample_with, topk_sample_logprobs",
        "sample_with, prompt_alt_tokens_k",
        "get_api_key_info",
        "whoami",
        "list_user_checkpoints",
        "set_checkpoint_ttl_from_tinker_path",
        "publish_checkpoint_from_tinker_path",
        "unpublish_checkpoint_from_tinker_path",
        "get_external_weights_urls",
        "copy_weights",
        "list_sessions",
        "get_session",
        "assign_session_project",
        "export_session_trace",
        "search_sessions",
        "get_audit_log",
        "get_billing_usage",
        "get_current_checkpoint_storage_usage",
    ];
    assert_replays("0.4", 70, &absent);
}

#[test]
fn nothing_is_broken_on_a_recorded_skyrl_that_reads_json_alone() {
    let absent = [
        "forward_backward, cispo",
        "forward_backward, dro",
        "forward_backward, gspo",
        "save_state_with, overwrite and user_metadata",
        "save_weights_external",
        "ServiceClient.copy_weights",
        "sample, without max_tokens",
        "sample_with, topk_prompt_logprobs",
        "compute_logprobs_last",
        "sample_with, topk_sample_logprobs",
        "sample_with, prompt_alt_tokens_k",
        "get_api_key_info",
        "whoami",
        "get_sampler",
        "list_user_checkpoints",
        "set_checkpoint_ttl_from_tinker_path",
        "publish_checkpoint_from_tinker_path",
        "unpublish_checkpoint_from_tinker_path",
        "get_external_weights_urls",
        "copy_weights",
        "list_sessions",
        "get_session",
        "assign_session_project",
        "export_session_trace",
        "search_sessions",
        "get_audit_log",
        "get_billing_usage",
        "get_current_checkpoint_storage_usage",
        "delete_checkpoint_from_tinker_path",
        "delete_checkpoint",
        "delete_checkpoints",
    ];
    assert_replays("0.3", 65, &absent);
}

#[test]
fn a_core_verb_that_fails_is_broken_and_the_others_are_still_examined() {
    let server = FakeServer::new();
    server.always("/api/v1/optim_step", Act::status(404, r#"{"detail":"Not Found"}"#));
    server.always("/api/v1/audit?event_type=all", Act::status(500, "oops"));
    let report = examine(move || server.in_memory());
    let line = |name: &str| report.lines.iter().find(|it| it.name == name).unwrap();
    assert_eq!(line("optim_step").mark, Mark::Broken);
    assert!(line("optim_step").reason.contains("HTTP 404"), "{}", line("optim_step").reason);
    assert_eq!(line("get_audit_log").mark, Mark::Broken);
    assert_eq!(line("save_state").mark, Mark::Ok);
    assert_eq!(line("sample").mark, Mark::Ok);
}

#[test]
fn every_verb_is_examined_or_excluded_with_a_reason() {
    const NOT_EXAMINED: &[(&str, &str)] = &[
        ("revoke_api_key", "would revoke the key of the other checks"),
        ("close_with", "as `close`, with a detail text"),
        ("builder", "sends nothing"),
        ("from_env", "sends nothing"),
        ("create_rest_client", "sends nothing"),
        ("create_admin_client", "sends nothing"),
        ("get_console_url", "sends nothing"),
        ("metrics", "sends nothing"),
        ("dump", "sends nothing"),
        ("tokenizer", "asks `get_info`, and the Hugging Face hub"),
        ("model_id", "sends nothing"),
        ("sampling_session_id", "sends nothing"),
    ];
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/client");
    let mut files: Vec<_> = ["service.rs", "training/mod.rs", "sampling/mod.rs", "rest/mod.rs", "admin.rs"]
        .iter()
        .map(|it| root.join(it))
        .collect();
    let rest_files = ["account", "checkpoints", "runs", "sessions"];
    files.extend(rest_files.iter().map(|name| root.join(format!("rest/{name}.rs"))));
    let names: Vec<&str> = examination::checks().iter().map(|it| it.name).collect();
    let is_examined =
        |verb: &str| names.iter().any(|name| name.split([' ', ',', '.']).any(|word| word == verb));
    let mut missing = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let verbs = text
            .lines()
            .filter_map(|it| it.strip_prefix("    pub fn "))
            .map(|it| it.split(['(', '<']).next().unwrap_or_default());
        for verb in verbs {
            if !is_examined(verb) && !NOT_EXAMINED.iter().any(|it| it.0 == verb) {
                missing.push(format!("{verb} of {}", file.display()));
            }
        }
    }
    assert!(missing.is_empty(), "no check in src/cli/doctor/verbs/: {missing:?}");
}
