//! Sessions as servers describe them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::field_reader::{ids, or_absent, texts};

/// Objects that a session created (PROTOCOL §3.5 #37).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SessionInfo {
    /// Ids of the training runs.
    #[serde(deserialize_with = "ids")]
    pub training_run_ids: Vec<String>,
    /// Ids of the samplers.
    #[serde(deserialize_with = "ids")]
    pub sampler_ids: Vec<String>,
    /// Metadata that the caller gave the session.
    #[serde(deserialize_with = "texts")]
    pub user_metadata: BTreeMap<String, String>,
    /// Name for display.
    #[serde(deserialize_with = "or_absent")]
    pub display_name: Option<String>,
}
