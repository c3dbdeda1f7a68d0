//! What a server knows of a model that was trained.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::lenient;
use super::odd::or_absent;
use super::{Checkpoint, Timestamp};

/// A training run: one model that was trained, or is (PROTOCOL §3.5 #28).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct TrainingRun {
    /// Its id; the first part of the paths of its checkpoints.
    #[serde(deserialize_with = "lenient::id")]
    pub training_run_id: String,
    /// The base model's name.
    #[serde(deserialize_with = "or_absent")]
    pub base_model: Option<String>,
    /// Whose it is.
    #[serde(deserialize_with = "or_absent")]
    pub model_owner: Option<String>,
    /// Whether an adapter is trained.
    #[serde(deserialize_with = "or_absent")]
    pub is_lora: Option<bool>,
    /// The server lost its state.
    #[serde(deserialize_with = "or_absent")]
    pub corrupted: bool,
    /// The adapter's rank.
    #[serde(deserialize_with = "or_absent")]
    pub lora_rank: Option<u32>,
    /// When it was last used.
    #[serde(deserialize_with = "or_absent")]
    pub last_request_time: Option<Timestamp>,
    /// The training state that was saved last.
    #[serde(deserialize_with = "or_absent")]
    pub last_checkpoint: Option<Checkpoint>,
    /// The weights for sampling that were saved last.
    #[serde(deserialize_with = "or_absent")]
    pub last_sampler_checkpoint: Option<Checkpoint>,
    /// What it was given to find it by.
    #[serde(deserialize_with = "lenient::texts")]
    pub user_metadata: BTreeMap<String, String>,
}
