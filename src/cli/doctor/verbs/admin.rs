//! Checks of the admin client: usage and the audit log.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tinkex::types::{AuditEventType, Timestamp};

use super::context::note;
use super::{Check, endpoint};

pub(super) fn checks() -> Vec<Check> {
    vec![
        endpoint("get_audit_log", |context| {
            let entries = context.admin.get_audit_log(AuditEventType::All, None)?;
            note(format!("{} entries", entries.len()))
        }),
        endpoint("get_billing_usage", |context| {
            // Query the hour before the last complete hour: it is complete even if the server's clock is slow.
            let hours = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 3600;
            let at = |hours: u64| Timestamp::from(UNIX_EPOCH + Duration::from_secs(3600 * hours));
            let usage = context.admin.get_billing_usage(at(hours - 2), at(hours - 1))?;
            note(format!("{} events", usage.events.len()))
        }),
        endpoint("get_current_checkpoint_storage_usage", |context| {
            let usage = context.admin.get_current_checkpoint_storage_usage(None)?;
            note(format!("{} entries", usage.entries.len()))
        }),
    ]
}
