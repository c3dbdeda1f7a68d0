//! Checkpoints as servers list them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::field_reader::{self, or_absent, text_enum};
use super::{CheckpointPath, Timestamp};
use crate::error::Result;

/// Content of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum CheckpointType {
    /// Weights and optimizer state for training.
    Training,
    /// Weights for sampling.
    Sampler,
    /// Exported weights for download.
    External,
    /// A type that this version does not know.
    Other(String),
}

text_enum!(CheckpointType { "training" => Training, "sampler" => Sampler, "external" => External });

/// A checkpoint in a list. Servers may leave out nearly every field (PROTOCOL §3.5 #29).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Checkpoint {
    /// Id within the run, such as `weights/step-10`. Some servers send only the name (`step-10`). [`path`](Self::path)
    /// is complete on all servers.
    pub checkpoint_id: String,
    /// Content of the checkpoint, if the server reports it.
    #[serde(deserialize_with = "or_absent")]
    pub checkpoint_type: Option<CheckpointType>,
    /// Time of the save.
    #[serde(deserialize_with = "or_absent")]
    pub time: Option<Timestamp>,
    /// Path as the server sent it; see [`path`](Self::path).
    pub tinker_path: String,
    /// Size in bytes.
    #[serde(deserialize_with = "field_reader::maybe_count")]
    pub size_bytes: Option<u64>,
    /// Anyone may read the checkpoint.
    #[serde(deserialize_with = "or_absent")]
    pub public: bool,
    /// Metadata that the caller saved with the checkpoint.
    #[serde(deserialize_with = "field_reader::texts")]
    pub user_metadata: BTreeMap<String, String>,
    /// Time of the deletion. `None`: never, or not reported by the server.
    #[serde(deserialize_with = "or_absent")]
    pub expires_at: Option<Timestamp>,
}

impl Checkpoint {
    /// Path of the checkpoint, as other calls take it.
    ///
    /// # Errors
    /// The server sent no path, or a path that this version cannot parse.
    pub fn path(&self) -> Result<CheckpointPath> {
        self.tinker_path.parse()
    }
}
