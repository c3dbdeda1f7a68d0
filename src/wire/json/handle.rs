//! The serialized sampler handle (PROTOCOL §9.7). One process writes it; another process reads it to sample from the
//! same sampling session.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fields::{id, normalize};
use super::{ClientConfig, DynamicConfig};

/// The handle. All fields are always written, because the official Python SDK refuses a handle that lacks one.
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
    /// Always written as `null`, and never read, so that a handle contains no key.
    #[serde(default, skip_deserializing)]
    pub(crate) api_key: Option<()>,
}

/// Flags of `client/config` as the official Python SDK writes them into a handle, including unknown flags and
/// `use_pyqwest_transport`, which this crate does not use.
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
    // Serializing a struct of numbers and strings cannot fail. If it did, the reader of the handle would find an empty
    // object and use the default flags.
    let mut value = value.unwrap_or_else(|_| Value::Object(Default::default()));
    normalize(&mut value);
    value
}
