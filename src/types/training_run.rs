//! What a server knows of a model that was trained.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::lenient;
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
    pub base_model: Option<String>,
    /// Whose it is.
    pub model_owner: Option<String>,
    /// Whether an adapter is trained.
    pub is_lora: Option<bool>,
    /// The server lost its state.
    pub corrupted: bool,
    /// The adapter's rank.
    pub lora_rank: Option<u32>,
    /// When it was last used.
    pub last_request_time: Option<Timestamp>,
    /// The training state that was saved last.
    pub last_checkpoint: Option<Checkpoint>,
    /// The weights for sampling that were saved last.
    pub last_sampler_checkpoint: Option<Checkpoint>,
    /// What it was given to find it by.
    #[serde(deserialize_with = "lenient::texts")]
    pub user_metadata: BTreeMap<String, String>,
}
