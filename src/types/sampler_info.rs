//! What a server knows of a sampler.

use serde::{Deserialize, Serialize};

use super::lenient;
use super::odd::or_absent;

/// A sampling session (PROTOCOL §3.4 #27).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SamplerInfo {
    /// Its id.
    #[serde(deserialize_with = "lenient::id")]
    pub sampler_id: String,
    /// The base model's name.
    #[serde(deserialize_with = "or_absent")]
    pub base_model: Option<String>,
    /// The weights that it samples from, unless those of the base model.
    #[serde(deserialize_with = "or_absent")]
    pub model_path: Option<String>,
}
