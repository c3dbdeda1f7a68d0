//! The serialized handle with which another process uses a sampling session (PROTOCOL §9.7).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fields::{id, normalize};
use super::{ClientConfig, DynamicConfig};

/// Every field is written, because the official SDK requires all of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SamplerHandleJson {
    #[serde(deserialize_with = "id")]
    pub(crate) session_id: String,
    #[serde(deserialize_with = "id")]
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
    /// Written as `null` and never read.
    #[serde(default, skip_deserializing)]
    pub(crate) api_key: Option<()>,
}

/// Flags of `client/config` as the official SDK writes them, including flags without a meaning in this crate.
pub(crate) fn config_to_json(config: &ClientConfig) -> Value {
    let mut value = normalized(serde_json::to_value(config));
    if let Value::Object(fields) = &mut value {
        fields.entry("use_pyqwest_transport").or_insert(true.into());
    }
    value
}

pub(crate) fn dynamic_config_to_json(config: &DynamicConfig) -> Value {
    normalized(serde_json::to_value(config))
}

fn normalized(value: serde_json::Result<Value>) -> Value {
    // Serializing a struct of numbers and strings cannot fail; an empty object would mean the defaults.
    let mut value = value.unwrap_or_else(|_| Value::Object(Default::default()));
    normalize(&mut value);
    value
}
