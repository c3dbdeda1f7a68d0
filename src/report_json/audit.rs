//! The audit log.

use serde_json::{Value, json};

use super::time;
use crate::types::AuditEntry;

pub fn audit_log(entries: &[AuditEntry]) -> Value {
    json!({ "entries": entries.iter().map(entry).collect::<Vec<_>>() })
}

fn entry(entry: &AuditEntry) -> Value {
    json!({
        "timestamp": time(entry.timestamp.as_ref()),
        "event": entry.event,
        "event_details": entry.event_details,
        "model_id": entry.model_id,
        "tinker_path": entry.tinker_path,
        "purpose": entry.purpose,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_all_their_fields() {
        let sent = json!([
            {
                "timestamp": "2026-11-20 13:00:00+00:00", "event": "checkpoint.read",
                "event_details": { "run": "r", "n": 1 }, "model_id": "m", "tinker_path": "tinker://r/weights/x",
                "purpose": "sampling",
            },
            { "event": "team.created" },
        ]);
        let entries: Vec<AuditEntry> = serde_json::from_value(sent).unwrap();
        let shown = json!({ "entries": [
            {
                "timestamp": "2026-11-20T13:00:00Z", "event": "checkpoint.read",
                "event_details": { "run": "r", "n": 1 }, "model_id": "m", "tinker_path": "tinker://r/weights/x",
                "purpose": "sampling",
            },
            {
                "timestamp": null, "event": "team.created", "event_details": {}, "model_id": null,
                "tinker_path": null, "purpose": null,
            },
        ] });
        assert_eq!(audit_log(&entries), shown);
    }
}
