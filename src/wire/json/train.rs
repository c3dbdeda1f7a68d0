//! Messages about models, optimizer steps and saved weights (PROTOCOL §3.3, §3.5).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::types::{
    self, AdamParams, LoraConfig, ModelInfo, OptimStepOutput, OptimizerParams, SamplerKind, WeightsInfo,
};

use super::Secret;
use super::fields::{maybe_id, or_absent};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "create_model")]
pub(crate) struct CreateModelRequest {
    pub(crate) session_id: String,
    pub(crate) model_seq_id: u64,
    pub(crate) base_model: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user_metadata: Option<BTreeMap<String, Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lora_config: Option<LoraConfig>,
    #[serde(default)]
    pub(crate) optimizer_config: OptimizerConfig,
    /// Additional fields that some servers require.
    #[serde(flatten, skip_deserializing)]
    pub(crate) more: Map<String, Value>,
}

impl CreateModelRequest {
    /// Names of the other fields, which `more` must not contain.
    pub(crate) const FIELDS: [&str; 7] = [
        "session_id",
        "model_seq_id",
        "base_model",
        "user_metadata",
        "lora_config",
        "optimizer_config",
        "type",
    ];
}

/// Optimizer of a model. Unknown fields are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct OptimizerConfig {
    #[serde(rename = "type", default = "adamw")]
    pub(crate) kind: String,
    #[serde(flatten)]
    pub(crate) more: Map<String, Value>,
}

impl From<types::OptimizerConfig> for OptimizerConfig {
    fn from(config: types::OptimizerConfig) -> Self {
        let (kind, more) = config.into_parts();
        OptimizerConfig { kind, more }
    }
}

fn adamw() -> String {
    "adamw".into()
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        OptimizerConfig { kind: adamw(), more: Map::new() }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "create_model")]
pub(crate) struct CreateModelResponse {
    #[serde(default, deserialize_with = "maybe_id", skip_serializing_if = "Option::is_none")]
    pub(crate) model_id: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "get_info")]
pub(crate) struct GetInfoRequest {
    pub(crate) model_id: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "get_info")]
pub(crate) struct GetInfoResponse {
    #[serde(default, deserialize_with = "or_absent")]
    pub(crate) model_id: String,
    #[serde(default, deserialize_with = "or_absent")]
    pub(crate) model_data: ModelData,
    #[serde(default, deserialize_with = "or_absent")]
    pub(crate) optimizer_config: OptimizerConfig,
    #[serde(default, deserialize_with = "or_absent", skip_serializing_if = "Option::is_none")]
    pub(crate) is_lora: Option<bool>,
    #[serde(default, deserialize_with = "or_absent", skip_serializing_if = "Option::is_none")]
    pub(crate) lora_rank: Option<u32>,
    #[serde(default, deserialize_with = "or_absent", skip_serializing_if = "Option::is_none")]
    pub(crate) model_name: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ModelData {
    #[serde(deserialize_with = "or_absent", skip_serializing_if = "Option::is_none")]
    pub(crate) arch: Option<String>,
    #[serde(deserialize_with = "or_absent", skip_serializing_if = "Option::is_none")]
    pub(crate) model_name: Option<String>,
    #[serde(deserialize_with = "or_absent", skip_serializing_if = "Option::is_none")]
    pub(crate) tokenizer_id: Option<String>,
    /// Name of the base model. SkyRL, a self-hosted server, may send the name in this field instead of `model_name`. It
    /// sends the rank in `lora_config`.
    #[serde(deserialize_with = "or_absent", skip_serializing_if = "Option::is_none")]
    pub(crate) base_model: Option<String>,
    #[serde(deserialize_with = "or_absent", skip_serializing_if = "Option::is_none")]
    pub(crate) lora_config: Option<LoraInfo>,
}

/// Adapter settings that some servers report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct LoraInfo {
    #[serde(deserialize_with = "or_absent", skip_serializing_if = "Option::is_none")]
    pub(crate) rank: Option<u32>,
}

impl From<GetInfoResponse> for ModelInfo {
    fn from(response: GetInfoResponse) -> Self {
        let data = response.model_data;
        let lora_rank = response.lora_rank.or_else(|| data.lora_config.as_ref()?.rank);
        ModelInfo {
            model_id: response.model_id,
            base_model: data.model_name.or(response.model_name).or(data.base_model),
            tokenizer_id: data.tokenizer_id.map(without_variant).filter(|it| !it.is_empty()),
            arch: data.arch,
            is_lora: response.is_lora.or(lora_rank.map(|it| 0 < it)),
            lora_rank,
        }
    }
}

/// Removes the variant of a tokenizer id, which is everything from the first colon on. An absolute path, which may
/// contain colons, is returned unchanged.
fn without_variant(id: String) -> String {
    let is_path = match id.as_bytes() {
        [b'/' | b'\\', ..] => true,
        [drive, b':', b'/' | b'\\', ..] => drive.is_ascii_alphabetic(),
        _ => false,
    };
    if is_path { id } else { id.split(':').next().unwrap_or_default().to_string() }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "optim_step")]
pub(crate) struct OptimStepRequest {
    pub(crate) model_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seq_id: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) adam_params: Option<AdamParams>,
    /// Parameters of an optimizer other than Adam; `type` is its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) optimizer_params: Option<Value>,
}

impl OptimStepRequest {
    pub(crate) fn new(model_id: impl Into<String>, seq_id: u64, params: OptimizerParams) -> Self {
        let (adam_params, optimizer_params) = match params {
            OptimizerParams::Adam(it) => (Some(it), None),
            OptimizerParams::Dimuon(it) => (None, Some(it.to_json())),
            OptimizerParams::Other { kind, mut more } => {
                more.insert("type".into(), kind.into());
                (None, Some(Value::Object(more)))
            }
        };
        OptimStepRequest { model_id: model_id.into(), seq_id: Some(seq_id), adam_params, optimizer_params }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "optim_step")]
pub(crate) struct OptimStepResponse {
    /// Metrics by name. The conversion to [`OptimStepOutput`] drops values that are not numbers.
    #[serde(default, deserialize_with = "or_absent")]
    pub(crate) metrics: BTreeMap<String, Value>,
}

impl From<OptimStepResponse> for OptimStepOutput {
    fn from(response: OptimStepResponse) -> Self {
        let numbers = response.metrics.into_iter().filter_map(|(name, value)| Some((name, value.as_f64()?)));
        OptimStepOutput { metrics: numbers.collect() }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "save_weights")]
pub(crate) struct SaveWeightsRequest {
    pub(crate) model_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seq_id: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ttl_seconds: Option<u64>,
    #[serde(default)]
    pub(crate) overwrite: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user_metadata: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "save_weights")]
pub(crate) struct SaveWeightsResponse {
    pub(crate) path: String,
}

/// Loads a checkpoint. With `session_id` and `model_seq_id` the server creates a new model for it; with `model_id` and
/// `seq_id` it loads into a model that was just created.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "load_weights")]
pub(crate) struct LoadWeightsRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) session_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) model_seq_id: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) model_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seq_id: Option<u64>,
    pub(crate) path: String,
    pub(crate) optimizer: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) base_model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user_metadata: Option<BTreeMap<String, Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) optimizer_config: Option<OptimizerConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) weights_access_token: Option<Secret>,
}

impl LoadWeightsRequest {
    /// Creates a model from a checkpoint, with the number `model_seq_id` in the session.
    pub(crate) fn create(session_id: &str, model_seq_id: u64, path: &str, optimizer: bool) -> Self {
        let (session_id, model_seq_id) = (Some(session_id.into()), Some(model_seq_id));
        LoadWeightsRequest { session_id, model_seq_id, path: path.into(), optimizer, ..Default::default() }
    }

    /// Loads a checkpoint into a model that was just created.
    pub(crate) fn into_model(model_id: &str, seq_id: u64, path: &str, optimizer: bool) -> Self {
        let (model_id, seq_id) = (Some(model_id.into()), Some(seq_id));
        LoadWeightsRequest { model_id, seq_id, path: path.into(), optimizer, ..Default::default() }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "load_weights")]
pub(crate) struct LoadWeightsResponse {
    #[serde(default, deserialize_with = "or_absent", skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<String>,
    #[serde(default, deserialize_with = "maybe_id", skip_serializing_if = "Option::is_none")]
    pub(crate) model_id: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "save_weights_for_sampler")]
pub(crate) struct SaveWeightsForSamplerRequest {
    pub(crate) model_id: String,
    /// Name of the checkpoint to save. Never present together with `sampling_session_seq_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<String>,
    /// Number of the sampling session to create from the weights, without a named checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sampling_session_seq_id: Option<u64>,
    #[serde(default)]
    pub(crate) kind: SamplerKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seq_id: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ttl_seconds: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user_metadata: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "save_weights_for_sampler")]
pub(crate) struct SaveWeightsForSamplerResponse {
    #[serde(default, deserialize_with = "or_absent", skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<String>,
    #[serde(default, deserialize_with = "maybe_id", skip_serializing_if = "Option::is_none")]
    pub(crate) sampling_session_id: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "save_weights_external")]
pub(crate) struct SaveWeightsExternalRequest {
    pub(crate) model_id: String,
    pub(crate) path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seq_id: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ttl_seconds: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) age_encryption_recipients: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "save_weights_external")]
pub(crate) struct SaveWeightsExternalResponse {
    #[serde(default, deserialize_with = "or_absent", skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<String>,
    #[serde(default, deserialize_with = "or_absent", skip_serializing_if = "Option::is_none")]
    pub(crate) size_bytes: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "unload_model")]
pub(crate) struct UnloadModelRequest {
    pub(crate) model_id: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "unload_model")]
pub(crate) struct UnloadModelResponse {
    #[serde(default, deserialize_with = "or_absent")]
    pub(crate) model_id: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct WeightsInfoRequest {
    pub(crate) tinker_path: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct WeightsInfoResponse {
    #[serde(deserialize_with = "or_absent", skip_serializing_if = "Option::is_none")]
    pub(crate) base_model: Option<String>,
    #[serde(deserialize_with = "or_absent")]
    pub(crate) optimizer_config: OptimizerConfig,
    #[serde(deserialize_with = "or_absent", skip_serializing_if = "Option::is_none")]
    pub(crate) is_lora: Option<bool>,
    #[serde(deserialize_with = "or_absent", skip_serializing_if = "Option::is_none")]
    pub(crate) lora_rank: Option<u32>,
    #[serde(deserialize_with = "or_absent", skip_serializing_if = "Option::is_none")]
    pub(crate) train_unembed: Option<bool>,
    #[serde(deserialize_with = "or_absent", skip_serializing_if = "Option::is_none")]
    pub(crate) train_mlp: Option<bool>,
    #[serde(deserialize_with = "or_absent", skip_serializing_if = "Option::is_none")]
    pub(crate) train_attn: Option<bool>,
}

impl From<WeightsInfoResponse> for WeightsInfo {
    fn from(response: WeightsInfoResponse) -> Self {
        WeightsInfo {
            base_model: response.base_model,
            optimizer: response.optimizer_config.kind,
            is_lora: response.is_lora,
            lora_rank: response.lora_rank,
            train_unembed: response.train_unembed,
            train_mlp: response.train_mlp,
            train_attn: response.train_attn,
        }
    }
}
