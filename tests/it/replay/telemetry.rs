//! Compares the telemetry of this crate with that of the official SDK. Ids, times and texts differ. Also, this crate
//! reports a failed operation once, and the SDK reports each failed attempt. Therefore mostly the names of the fields
//! are compared. The values that describe a failure are compared only for one failure, which occurs in both runs. This
//! crate must never report headers or bodies.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::server::Replay;

pub(super) fn assert_alike(replay: &Replay) {
    let (recorded, ours) = replay.telemetry();
    let process = &ours[0]["process_uuid"];
    assert!(is_uuid(process));
    for body in &ours {
        assert_eq!(keys(body), keys(&recorded[0]));
        for name in ["sdk_version", "session_id"] {
            assert_eq!(body[name], recorded[0][name], "{name}");
        }
        assert_eq!(&body["process_uuid"], process);
        assert!(!cfg!(target_os = "linux") || body["platform"] == recorded[0]["platform"]);
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
        let alike = |event: &&&Value| {
            let same = |name: &str| event[name] == theirs[name];
            same("event") && same("severity") && rank_failure(event) == rank_failure(theirs)
        };
        let ours = reported.iter().find(alike).unwrap_or_else(|| panic!("nothing like {theirs}"));
        assert_eq!(keys(ours), keys(theirs));
        let fields = keys(&ours["event_data"]);
        assert!(
            ["headers", "body"].iter().all(|secret| fields.iter().all(|field| !field.contains(secret))),
            "{ours}"
        );
    }
}

/// Extracts the values to compare from an event about the failure that occurs in both runs: a LoRA rank that is too
/// large. `Null` for other events.
fn rank_failure(event: &Value) -> Value {
    let data = &event["event_data"];
    let about = data["message"].as_str().or(data["exception"].as_str()).unwrap_or_default();
    if about.contains("LoRA rank 64 must be between 1 and 32") {
        json!([data["status_code"], data["request_id"], data["request_type"], data["is_user_error"]])
    } else {
        Value::Null
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
