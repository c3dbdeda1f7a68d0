//! JSON of runs, checkpoints, sessions and the account, as the C interface returns it and the command line prints it.
//!
//! Field names are those of the protocol. Lists are in an object under the name of their entries. Missing values are
//! `null`; only fields that do not apply to a call are left out. Times are RFC 3339 in UTC, ids and paths as the
//! server sent them.

mod account;
mod audit;
mod billing;
mod checkpoints;
mod runs;
mod sessions;
mod weights;

use serde_json::Value;

use crate::types::Timestamp;

pub use account::{api_key, identity};
pub use audit::audit_log;
pub use billing::{billing_usage, storage_usage};
pub use checkpoints::{checkpoint, checkpoint_plan, checkpoints, deletion};
pub use runs::{capabilities, run, runs};
pub use sessions::{found_sessions, session, sessions, trace_export};
pub use weights::{archive_url, downloaded, external_urls, sampler, weights_info};

/// Servers send times in several forms, such as `2026-11-20 13:00:00+00:00`. A text that is not a time is kept.
fn time(time: Option<&Timestamp>) -> Value {
    let Some(time) = time else { return Value::Null };
    match time.to_system_time() {
        Some(at) => Timestamp::from(at).as_str().into(),
        None => time.as_str().into(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_are_rfc_3339_in_utc() {
        for (sent, shown) in [
            ("2026-11-20 00:00:00+00:00", "2026-11-20T00:00:00Z"),
            ("2026-11-20T15:19:11.9379756+02:00", "2026-11-20T13:19:11.937975Z"),
            ("2026-11-20T13:19:11", "2026-11-20T13:19:11Z"),
            ("soon", "soon"),
        ] {
            let sent: Timestamp = serde_json::from_value(json!(sent)).unwrap();
            assert_eq!(time(Some(&sent)), json!(shown));
        }
        assert_eq!(time(None), Value::Null);
    }
}
