//! The handle of a sampler, by which another process can sample from it (PROTOCOL §9.7).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ClientConfig, DynamicConfig, normalize};

/// All fields are written, because readers of the official SDK insist on them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SamplerHandleJson {
    #[serde(deserialize_with = "super::id")]
    pub(crate) session_id: String,
    #[serde(deserialize_with = "super::id")]
    pub(crate) sampling_session_id: String,
    pub(crate) holder: HolderJson,
    #[serde(default)]
    pub(crate) base_model: Option<String>,
    #[serde(default)]
    pub(crate) record_stability_info: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct HolderJson {
    pub(crate) base_url: String,
    #[serde(default)]
    pub(crate) default_headers_overrides: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) client_config: Value,
    #[serde(default)]
    pub(crate) client_dynamic_config: Value,
    /// Written as none, and never read.
    #[serde(default, skip_deserializing)]
    pub(crate) api_key: Option<()>,
}

/// The flags of `client/config` with those that have no meaning here, and numbers as the official SDK writes them.
pub(crate) fn config_to_json(config: &ClientConfig) -> Value {
    let mut value = whole(serde_json::to_value(config));
    if let Value::Object(fields) = &mut value {
        fields.entry("use_pyqwest_transport").or_insert(true.into());
    }
    value
}

pub(crate) fn dynamic_config_to_json(config: &DynamicConfig) -> Value {
    whole(serde_json::to_value(config))
}

fn whole(value: serde_json::Result<Value>) -> Value {
    // Structs of numbers and texts can always be written; an empty object stands for the defaults.
    let mut value = value.unwrap_or_else(|_| Value::Object(Default::default()));
    normalize(&mut value);
    value
}
