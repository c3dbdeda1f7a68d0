//! Messages about training runs, checkpoints and sessions (PROTOCOL §3.5, §3.6).

use serde::{Deserialize, Serialize};

use crate::types::{AuditEntry, Checkpoint, Cursor, SessionCursor, SessionSearch, SignedUrl, TrainingRun};

use super::fields::{ids, or_absent};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct TrainingRunsResponse {
    pub(crate) training_runs: Vec<TrainingRun>,
    #[serde(deserialize_with = "or_absent", skip_serializing_if = "Option::is_none")]
    pub(crate) cursor: Option<Cursor>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct CheckpointsResponse {
    pub(crate) checkpoints: Vec<Checkpoint>,
    #[serde(deserialize_with = "or_absent", skip_serializing_if = "Option::is_none")]
    pub(crate) cursor: Option<Cursor>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SessionsResponse {
    #[serde(deserialize_with = "ids")]
    pub(crate) sessions: Vec<String>,
    #[serde(deserialize_with = "or_absent", skip_serializing_if = "Option::is_none")]
    pub(crate) cursor: Option<Cursor>,
}

/// Sets the lifetime of a checkpoint. `None` is written as `null`, and the checkpoint then never expires.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CheckpointTtlRequest {
    #[serde(default)]
    pub(crate) ttl_seconds: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CopyWeightsRequest {
    pub(crate) destination_project_id: String,
    pub(crate) source_path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ttl_seconds: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CopyWeightsResponse {
    pub(crate) tinker_path: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct AssignProjectRequest {
    pub(crate) project_id: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct TraceExportResponse {
    /// `pending`, `ready` or `failed`.
    pub(crate) status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) url: Option<SignedUrl>,
    #[serde(deserialize_with = "or_absent", skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// Requests one page of a search.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct SearchSessionsRequest<'a> {
    #[serde(flatten)]
    pub(crate) search: &'a SessionSearch,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cursor: Option<&'a SessionCursor>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct AuditResponse {
    pub(crate) entries: Vec<AuditEntry>,
}
