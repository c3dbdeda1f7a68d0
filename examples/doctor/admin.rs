//! Usage and the audit log.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tinkex::types::{AuditEventType, Timestamp};

use super::patient::told;
use super::{Check, endpoint};

pub(super) fn checks() -> Vec<Check> {
    vec![
        endpoint("get_audit_log", |it| {
            let entries = it.admin.get_audit_log(AuditEventType::All, None)?;
            told(format!("{} entries", entries.len()))
        }),
        endpoint("get_billing_usage", |it| {
            // The last full hour but one, wherever the server's clock stands.
            let hours = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 3600;
            let at = |hours: u64| Timestamp::from(UNIX_EPOCH + Duration::from_secs(3600 * hours));
            let usage = it.admin.get_billing_usage(at(hours - 2), at(hours - 1))?;
            told(format!("{} events", usage.events.len()))
        }),
        endpoint("get_current_checkpoint_storage_usage", |it| {
            let usage = it.admin.get_current_checkpoint_storage_usage(None)?;
            told(format!("{} entries", usage.entries.len()))
        }),
    ]
}
