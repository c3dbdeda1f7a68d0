//! Sessions.

use serde_json::{Value, json};

use super::time;
use crate::error::Category;
use crate::types::{FailureReason, FoundSession, SessionInfo, SessionPage, SessionStatus, SignedUrl};

/// Ids of sessions.
pub fn sessions(ids: &[String]) -> Value {
    json!({ "sessions": ids })
}

pub fn session(session: &SessionInfo) -> Value {
    json!({
        "training_run_ids": session.training_run_ids,
        "sampler_ids": session.sampler_ids,
        "user_metadata": session.user_metadata,
        "display_name": session.display_name,
    })
}

/// One page of a search. `next_cursor` is exactly as received, because the server compares it.
pub fn found_sessions(page: &SessionPage) -> Value {
    let sessions: Vec<Value> = page.sessions.iter().map(found_session).collect();
    json!({ "sessions": sessions, "next_cursor": page.next_cursor })
}

fn found_session(session: &FoundSession) -> Value {
    json!({
        "session_id": session.session_id,
        "created_at": time(session.created_at.as_ref()),
        "owner": session.owner,
        "project_id": session.project_id,
        "status": session.status.as_ref().map(status),
        "checkpoints_count": session.checkpoints_count,
        "display_name": session.display_name,
        "user_metadata": session.user_metadata,
        "checkpoint_storage_bytes": session.checkpoint_storage_bytes,
    })
}

fn status(status: &SessionStatus) -> Value {
    match status {
        SessionStatus::Active => json!({ "type": "active" }),
        SessionStatus::Cancelled { detail } => json!({ "type": "cancelled", "detail": detail }),
        SessionStatus::ClientFinished { reason, detail } => {
            json!({ "type": "client_finished", "reason": { "type": reason.as_str() }, "detail": detail })
        }
        SessionStatus::Failed { category, message, reason } => json!({
            "type": "failed",
            "category": category_name(category),
            "message": message,
            "reason": failure_reason(reason),
        }),
        SessionStatus::Other(map) => map.clone().into(),
    }
}

fn category_name(category: &Category) -> &str {
    match category {
        Category::User => "user",
        Category::Server => "server",
        Category::Unknown => "unknown",
        Category::Other(name) => name,
    }
}

fn failure_reason(reason: &FailureReason) -> Value {
    match reason {
        FailureReason::Request { request_id, request_type } => {
            json!({ "type": "request", "request_id": request_id, "request_type": request_type })
        }
        FailureReason::TrainingRun { training_run_id } => {
            json!({ "type": "training_run", "training_run_id": training_run_id })
        }
        FailureReason::SamplingSession { sampling_session_id } => {
            json!({ "type": "sampling_session", "sampling_session_id": sampling_session_id })
        }
        FailureReason::Other(map) => map.clone().into(),
    }
}

/// The URL of an exported trace, which is a secret.
pub fn trace_export(session_id: &str, url: &SignedUrl) -> Value {
    json!({ "session_id": session_id, "url": url.expose() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sessions_have_all_their_fields() {
        let sent = json!({
            "training_run_ids": ["s:train:0"], "sampler_ids": ["s:sample:0"], "user_metadata": { "a": "b" },
            "display_name": "night run",
        });
        assert_eq!(session(&serde_json::from_value(sent.clone()).unwrap()), sent);
        let shown =
            json!({ "training_run_ids": [], "sampler_ids": [], "user_metadata": {}, "display_name": null });
        assert_eq!(session(&SessionInfo::default()), shown);
        assert_eq!(sessions(&["a".into(), "b".into()]), json!({ "sessions": ["a", "b"] }));
        let url: SignedUrl = serde_json::from_value(json!("https://files.example.com/t?sig=1")).unwrap();
        let shown = json!({ "session_id": "s", "url": "https://files.example.com/t?sig=1" });
        assert_eq!(trace_export("s", &url), shown);
    }

    #[test]
    fn a_page_of_found_sessions_keeps_its_cursor_as_received() {
        let cursor =
            json!({ "last_created_at": "2026-11-20 13:00:00.1234567+00:00", "last_session_id": "s" });
        let sent = json!({
            "sessions": [
                {
                    "session_id": "s", "created_at": "2026-11-20 13:00:00+00:00", "owner": "tml:user:1",
                    "project_id": "p", "status": { "type": "active" }, "checkpoints_count": 2,
                    "display_name": "night run", "user_metadata": { "a": "b" }, "checkpoint_storage_bytes": 10,
                },
                { "session_id": "t" },
            ],
            "next_cursor": cursor,
        });
        let shown = json!({
            "sessions": [
                {
                    "session_id": "s", "created_at": "2026-11-20T13:00:00Z", "owner": "tml:user:1",
                    "project_id": "p", "status": { "type": "active" }, "checkpoints_count": 2,
                    "display_name": "night run", "user_metadata": { "a": "b" }, "checkpoint_storage_bytes": 10,
                },
                {
                    "session_id": "t", "created_at": null, "owner": null, "project_id": null, "status": null,
                    "checkpoints_count": 0, "display_name": null, "user_metadata": {},
                    "checkpoint_storage_bytes": null,
                },
            ],
            "next_cursor": cursor,
        });
        assert_eq!(found_sessions(&serde_json::from_value(sent).unwrap()), shown);
        let nothing = json!({ "sessions": [], "next_cursor": null });
        assert_eq!(found_sessions(&SessionPage::default()), nothing);
    }

    #[test]
    fn every_status_is_shown_as_received() {
        let failed = |category: &str, reason: Value| json!({ "type": "failed", "category": category, "message": "lost", "reason": reason });
        for sent in [
            json!({ "type": "active" }),
            json!({ "type": "cancelled", "detail": "by an administrator" }),
            json!({ "type": "client_finished", "reason": { "type": "success" }, "detail": null }),
            failed("user", json!({ "type": "request", "request_id": "r", "request_type": "asample" })),
            failed("internal", json!({ "type": "training_run", "training_run_id": "s:train:0" })),
            failed("server", json!({ "type": "sampling_session", "sampling_session_id": "s:sample:0" })),
            failed("unknown", json!({ "type": "disk", "size": 1 })),
            json!({ "type": "suspended", "until": "tomorrow" }),
        ] {
            assert_eq!(status(&serde_json::from_value(sent.clone()).unwrap()), sent);
        }
    }
}
