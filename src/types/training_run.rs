//! Training runs as servers describe them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::field_reader::{id, or_absent, texts};
use super::{Checkpoint, Timestamp};

/// A training run: one model that is being trained or was trained (PROTOCOL §3.5 #28).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct TrainingRun {
    /// Id of the run; the paths of its checkpoints start with it.
    #[serde(deserialize_with = "id")]
    pub training_run_id: String,
    /// Name of the base model.
    #[serde(deserialize_with = "or_absent")]
    pub base_model: Option<String>,
    /// Owner of the model.
    #[serde(deserialize_with = "or_absent")]
    pub model_owner: Option<String>,
    /// The run trains an adapter.
    #[serde(deserialize_with = "or_absent")]
    pub is_lora: Option<bool>,
    /// The server lost the state of the run.
    #[serde(deserialize_with = "or_absent")]
    pub corrupted: bool,
    /// Rank of the adapter.
    #[serde(deserialize_with = "or_absent")]
    pub lora_rank: Option<u32>,
    /// Time of the last request.
    #[serde(deserialize_with = "or_absent")]
    pub last_request_time: Option<Timestamp>,
    /// Last saved training state.
    #[serde(deserialize_with = "or_absent")]
    pub last_checkpoint: Option<Checkpoint>,
    /// Last saved weights for sampling.
    #[serde(deserialize_with = "or_absent")]
    pub last_sampler_checkpoint: Option<Checkpoint>,
    /// Metadata that the caller gave the run.
    #[serde(deserialize_with = "texts")]
    pub user_metadata: BTreeMap<String, String>,
}
