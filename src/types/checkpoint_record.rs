//! What a server knows of a checkpoint.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::lenient::{self, text_enum};
use super::odd::or_absent;
use super::{CheckpointPath, Timestamp};
use crate::error::Result;

/// What a checkpoint holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum CheckpointType {
    /// A state to train on.
    Training,
    /// Weights to sample from.
    Sampler,
    /// Exported weights, to be downloaded.
    External,
    /// A type that this version does not know.
    Other(String),
}

text_enum!(CheckpointType { "training" => Training, "sampler" => Sampler, "external" => External });

/// A checkpoint, as it is listed. Servers may leave out nearly everything (PROTOCOL §3.5 #29).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Checkpoint {
    /// Its id within its run, such as `weights/step-10`. Some servers send the name alone; [`path`](Self::path) is the
    /// same everywhere.
    pub checkpoint_id: String,
    /// What it holds, if the server says so.
    #[serde(deserialize_with = "or_absent")]
    pub checkpoint_type: Option<CheckpointType>,
    /// When it was saved.
    #[serde(deserialize_with = "or_absent")]
    pub time: Option<Timestamp>,
    /// Where it is; see [`path`](Self::path).
    pub tinker_path: String,
    /// How large it is, in bytes.
    #[serde(deserialize_with = "lenient::maybe_count")]
    pub size_bytes: Option<u64>,
    /// Whether everybody may read it.
    #[serde(deserialize_with = "or_absent")]
    pub public: bool,
    /// What was saved with it to find it by.
    #[serde(deserialize_with = "lenient::texts")]
    pub user_metadata: BTreeMap<String, String>,
    /// When it will be deleted. `None`: never, or the server does not say.
    #[serde(deserialize_with = "or_absent")]
    pub expires_at: Option<Timestamp>,
}

impl Checkpoint {
    /// Where it is, to be given to the other calls.
    ///
    /// # Errors
    /// The server sent no path, or one of a form that this version does not know.
    pub fn path(&self) -> Result<CheckpointPath> {
        self.tinker_path.parse()
    }
}
