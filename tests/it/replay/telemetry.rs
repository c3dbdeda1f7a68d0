//! What both clients report of their own use. Ids, times and words are each one's own, and this crate reports an operation
//! that failed once, where the official SDK reports each of its attempts; so the form is compared, and what is said about
//! one failure that both saw. Headers and bodies are never reported here.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::server::Replay;

pub(super) fn assert_alike(replay: &Replay) {
    let (recorded, ours) = replay.telemetry();
    let process = &ours[0]["process_uuid"];
    assert!(is_uuid(process));
    for it in &ours {
        assert_eq!(keys(it), keys(&recorded[0]));
        for name in ["sdk_version", "session_id"] {
            assert_eq!(it[name], recorded[0][name], "{name}");
        }
        assert_eq!(&it["process_uuid"], process);
        assert!(!cfg!(target_os = "linux") || it["platform"] == recorded[0]["platform"]);
    }
    let reported: Vec<&Value> = ours.iter().flat_map(events).collect();
    for (i, event) in reported.iter().enumerate() {
        assert_eq!(event["event_session_index"], i, "{event}");
        assert!(is_uuid(&event["event_id"]), "{event}");
        assert_eq!(
            event["timestamp"].as_str().unwrap().len(),
            "2026-11-20T13:19:11.916170Z".len(),
            "{event}"
        );
    }
    for theirs in recorded.iter().flat_map(events) {
        let alike = |it: &&&Value| {
            let same = |name: &str| it[name] == theirs[name];
            same("event") && same("severity") && said(it) == said(theirs)
        };
        let ours = reported.iter().find(alike).unwrap_or_else(|| panic!("nothing like {theirs}"));
        assert_eq!(keys(ours), keys(theirs));
        let told = keys(&ours["event_data"]);
        assert!(
            ["headers", "body"].iter().all(|secret| told.iter().all(|it| !it.contains(secret))),
            "{ours}"
        );
    }
}

/// What an event says of the failure that the recorded telemetry is about: the rank that was too large. Null if it is about
/// something else.
fn said(event: &Value) -> Value {
    let data = &event["event_data"];
    let about = data["message"].as_str().or(data["exception"].as_str()).unwrap_or_default();
    match about.contains("LoRA rank 64 must be between 1 and 32") {
        false => Value::Null,
        true => json!([data["status_code"], data["request_id"], data["request_type"], data["is_user_error"]]),
    }
}

fn events(body: &Value) -> impl Iterator<Item = &Value> {
    body["events"].as_array().unwrap().iter()
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().map(|it| it.keys().map(String::as_str).collect()).unwrap_or_default()
}

fn is_uuid(value: &Value) -> bool {
    let parts = value.as_str().unwrap().split('-').map(str::len);
    parts.eq([8, 4, 4, 4, 12])
}
