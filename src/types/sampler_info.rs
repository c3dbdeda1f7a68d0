//! Samplers as servers describe them.

use serde::{Deserialize, Serialize};

use super::field_reader::{id, or_absent};

/// A sampling session (PROTOCOL §3.4 #27).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SamplerInfo {
    /// Id of the sampler.
    #[serde(deserialize_with = "id")]
    pub sampler_id: String,
    /// Name of the base model.
    #[serde(deserialize_with = "or_absent")]
    pub base_model: Option<String>,
    /// Path of the weights. `None`: those of the base model.
    #[serde(deserialize_with = "or_absent")]
    pub model_path: Option<String>,
}
