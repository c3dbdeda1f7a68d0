//! Entries of the audit log.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Timestamp;
use super::field_reader::{or_absent, text_enum};

/// Filter for entries of the audit log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AuditEventType {
    /// All entries.
    #[default]
    All,
    /// Entries about checkpoints.
    Checkpoints,
    /// Entries about projects.
    Projects,
    /// Entries about teams.
    Teams,
    /// Entries about organizations.
    Organizations,
    /// A filter that this version does not know.
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
    /// Time of the event.
    #[serde(deserialize_with = "or_absent")]
    pub timestamp: Option<Timestamp>,
    /// Name of the event.
    #[serde(deserialize_with = "or_absent")]
    pub event: String,
    /// Details of the event. The keys depend on the event.
    #[serde(deserialize_with = "or_absent")]
    pub event_details: Map<String, Value>,
    /// Id of the model. Deprecated by the service in favour of `event_details`.
    #[serde(deserialize_with = "or_absent")]
    pub model_id: Option<String>,
    /// Path of the checkpoint. Deprecated by the service in favour of `event_details`.
    #[serde(deserialize_with = "or_absent")]
    pub tinker_path: Option<String>,
    /// Purpose of the access. Deprecated by the service in favour of `event_details`.
    #[serde(deserialize_with = "or_absent")]
    pub purpose: Option<String>,
}
