//! What a server knows of a session.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::lenient;
use super::odd::{ids, or_absent};

/// What was made in a session (PROTOCOL §3.5 #37).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SessionInfo {
    /// Its training runs.
    #[serde(deserialize_with = "ids")]
    pub training_run_ids: Vec<String>,
    /// Its samplers.
    #[serde(deserialize_with = "ids")]
    pub sampler_ids: Vec<String>,
    /// What it was given to find it by.
    #[serde(deserialize_with = "lenient::texts")]
    pub user_metadata: BTreeMap<String, String>,
    /// Its name for people.
    #[serde(deserialize_with = "or_absent")]
    pub display_name: Option<String>,
}
