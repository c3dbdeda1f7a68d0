//! Who did what.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Timestamp;
use super::lenient::text_enum;
use super::odd::or_absent;

/// Which entries of the audit log to list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AuditEventType {
    /// All of them.
    #[default]
    All,
    /// About checkpoints.
    Checkpoints,
    /// About projects.
    Projects,
    /// About teams.
    Teams,
    /// About organizations.
    Organizations,
    /// Others that a server may know.
    Other(String),
}

text_enum!(AuditEventType {
    "all" => All,
    "checkpoints" => Checkpoints,
    "projects" => Projects,
    "teams" => Teams,
    "organizations" => Organizations,
});

/// One entry of the audit log (PROTOCOL §3.6 #43).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct AuditEntry {
    /// When it happened.
    #[serde(deserialize_with = "or_absent")]
    pub timestamp: Option<Timestamp>,
    /// What happened.
    #[serde(deserialize_with = "or_absent")]
    pub event: String,
    /// What is known about it; which names there are depends on the event.
    #[serde(deserialize_with = "or_absent")]
    pub event_details: Map<String, Value>,
    /// The model. Deprecated by the service in favour of `event_details`.
    #[serde(deserialize_with = "or_absent")]
    pub model_id: Option<String>,
    /// The checkpoint. Deprecated by the service in favour of `event_details`.
    #[serde(deserialize_with = "or_absent")]
    pub tinker_path: Option<String>,
    /// What for. Deprecated by the service in favour of `event_details`.
    #[serde(deserialize_with = "or_absent")]
    pub purpose: Option<String>,
}
