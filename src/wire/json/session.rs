//! Messages about flags, tokens, sessions and telemetry (PROTOCOL §3.1, §3.2, §3.7).

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::types::{ServerCapabilities, SupportedModel};

use super::Secret;
use super::fields::{id, or_absent, read_flags, readable};

/// Requests the flags of `client/config` or of `client/dynamic_config`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ClientConfigRequest {
    pub(crate) sdk_version: String,
}

/// Flags with which the server configures the client (`client/config`). A missing flag has the default that the
/// protocol documents.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ClientConfig {
    pub(crate) pjwt_auth_enabled: bool,
    pub(crate) credential_default_source: String,
    pub(crate) sample_dispatch_bytes_semaphore_size: u64,
    pub(crate) inflight_response_bytes_semaphore_size: u64,
    pub(crate) parallel_fwdbwd_chunks: bool,
    pub(crate) proto_compress_fwdbwd: bool,
    pub(crate) fwdbwd_max_chunk_len: u64,
    pub(crate) fwdbwd_max_chunk_bytes_count: u64,
    pub(crate) fwdbwd_dispatch_bytes_semaphore_size: u64,
    pub(crate) billing_exception_max_pause_duration_sec: f64,
    pub(crate) sample_no_retries: bool,
    pub(crate) sample_enable_stuck_detection: bool,
    pub(crate) sample_max_concurrent_requests: u64,
    pub(crate) sample_use_retrieve_futures: bool,
    pub(crate) custom_loss_server_side: bool,
    pub(crate) sample_join_sampling_session: bool,
    /// Unknown flags, kept so that a sampler handle passes them on.
    #[serde(flatten)]
    pub(crate) more: Map<String, Value>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        ClientConfig {
            pjwt_auth_enabled: false,
            credential_default_source: "api_key".into(),
            sample_dispatch_bytes_semaphore_size: 10_485_760,
            inflight_response_bytes_semaphore_size: 52_428_800,
            parallel_fwdbwd_chunks: true,
            proto_compress_fwdbwd: false,
            fwdbwd_max_chunk_len: 1024,
            fwdbwd_max_chunk_bytes_count: 5_000_000,
            fwdbwd_dispatch_bytes_semaphore_size: 50_000_000,
            billing_exception_max_pause_duration_sec: 3600.0,
            sample_no_retries: false,
            sample_enable_stuck_detection: true,
            sample_max_concurrent_requests: 2000,
            sample_use_retrieve_futures: false,
            custom_loss_server_side: false,
            sample_join_sampling_session: false,
            more: Map::new(),
        }
    }
}

read_flags!(ClientConfig {
    pjwt_auth_enabled,
    credential_default_source,
    sample_dispatch_bytes_semaphore_size,
    inflight_response_bytes_semaphore_size,
    parallel_fwdbwd_chunks,
    proto_compress_fwdbwd,
    fwdbwd_max_chunk_len,
    fwdbwd_max_chunk_bytes_count,
    fwdbwd_dispatch_bytes_semaphore_size,
    billing_exception_max_pause_duration_sec,
    sample_no_retries,
    sample_enable_stuck_detection,
    sample_max_concurrent_requests,
    sample_use_retrieve_futures,
    custom_loss_server_side,
    sample_join_sampling_session
});

/// Flags that may change during a session (`client/dynamic_config`).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct DynamicConfig {
    pub(crate) refresh_interval_sec: f64,
    pub(crate) sample_cancel_enabled: bool,
    pub(crate) sample_cancel_max_batch_size: u64,
    /// Unknown flags, kept so that a sampler handle passes them on.
    #[serde(flatten)]
    pub(crate) more: Map<String, Value>,
}

impl Default for DynamicConfig {
    fn default() -> Self {
        DynamicConfig {
            refresh_interval_sec: 300.0,
            sample_cancel_enabled: false,
            sample_cancel_max_batch_size: 64,
            more: Map::new(),
        }
    }
}

read_flags!(DynamicConfig { refresh_interval_sec, sample_cancel_enabled, sample_cancel_max_batch_size });

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct AuthTokenRequest {}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct AuthTokenResponse {
    pub(crate) jwt: Secret,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct HealthzResponse {
    #[serde(default, deserialize_with = "or_absent")]
    pub(crate) status: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ServerCapabilitiesResponse {
    #[serde(deserialize_with = "readable")]
    pub(crate) supported_models: Vec<SupportedModelJson>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SupportedModelJson {
    #[serde(deserialize_with = "or_absent", skip_serializing_if = "Option::is_none")]
    pub(crate) model_name: Option<String>,
    #[serde(deserialize_with = "or_absent", skip_serializing_if = "Option::is_none")]
    pub(crate) max_context_length: Option<u64>,
    #[serde(deserialize_with = "or_absent", skip_serializing_if = "Option::is_none")]
    pub(crate) trainable: Option<bool>,
    #[serde(deserialize_with = "or_absent", skip_serializing_if = "Option::is_none")]
    pub(crate) sampleable: Option<bool>,
}

impl From<ServerCapabilitiesResponse> for ServerCapabilities {
    fn from(response: ServerCapabilitiesResponse) -> Self {
        let model = |model: SupportedModelJson| SupportedModel {
            model_name: model.model_name,
            max_context_length: model.max_context_length,
            trainable: model.trainable,
            sampleable: model.sampleable,
        };
        ServerCapabilities { supported_models: response.supported_models.into_iter().map(model).collect() }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "create_session")]
pub(crate) struct CreateSessionRequest {
    #[serde(default)]
    pub(crate) tags: Vec<String>,
    #[serde(default)]
    pub(crate) user_metadata: BTreeMap<String, Value>,
    #[serde(default)]
    pub(crate) sdk_version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) project_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) display_name: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "create_session")]
pub(crate) struct CreateSessionResponse {
    #[serde(deserialize_with = "id")]
    pub(crate) session_id: String,
    /// The three messages are for the user. The client logs them (as info, warning and error); the call succeeds even
    /// with an error message.
    #[serde(default, deserialize_with = "or_absent", skip_serializing_if = "Option::is_none")]
    pub(crate) info_message: Option<String>,
    #[serde(default, deserialize_with = "or_absent", skip_serializing_if = "Option::is_none")]
    pub(crate) warning_message: Option<String>,
    #[serde(default, deserialize_with = "or_absent", skip_serializing_if = "Option::is_none")]
    pub(crate) error_message: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "session_heartbeat")]
pub(crate) struct SessionHeartbeatRequest {
    pub(crate) session_id: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "session_heartbeat")]
pub(crate) struct SessionHeartbeatResponse {}

/// Ends a session. A `detail` of `None` is written as `null`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FinishSessionRequest {
    pub(crate) reason: FinishReason,
    #[serde(default)]
    pub(crate) detail: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum FinishReason {
    Success,
    Errored,
    Interrupted,
}

/// Telemetry: reports usage events of the library.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TelemetryRequest {
    pub(crate) events: Vec<Value>,
    pub(crate) platform: String,
    pub(crate) sdk_version: String,
    pub(crate) session_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) process_uuid: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TelemetryResponse {
    #[serde(default, deserialize_with = "or_absent")]
    pub(crate) status: String,
}
