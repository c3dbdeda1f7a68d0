//! Futures (PROTOCOL §4). The server answers a submission with a future, which contains a request id. The client polls
//! with this id until the server returns the result.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::words::presentable;
use crate::error::{Error, Result};
use crate::types::QueueState;

use super::fields::{id, maybe_id, maybe_ids, or_absent, readable};

/// Answer to a submission: the future. Only the request id is mandatory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UntypedFuture {
    #[serde(deserialize_with = "id")]
    pub(crate) request_id: String,
    #[serde(default, deserialize_with = "maybe_id", skip_serializing_if = "Option::is_none")]
    pub(crate) model_id: Option<String>,
    #[serde(default, deserialize_with = "maybe_ids", skip_serializing_if = "Option::is_none")]
    pub(crate) sample_sequence_ids: Option<Vec<String>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RetrieveFutureRequest {
    #[serde(deserialize_with = "id")]
    pub(crate) request_id: String,
    #[serde(default)]
    pub(crate) allow_metadata_only: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CancelFutureRequest {
    #[serde(deserialize_with = "id")]
    pub(crate) request_id: String,
}

/// Requests the finished samples of a sampling session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RetrieveFuturesRequest {
    pub(crate) target: FuturesTarget,
    #[serde(default)]
    pub(crate) prev_cursor: u64,
    /// Longest time in seconds that the server may wait for a new completion before it answers. If absent, the server
    /// decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) timeout: Option<f64>,
    #[serde(default)]
    pub(crate) retrieved_request_ids: Vec<String>,
}

/// The sampling session whose finished samples are requested.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum FuturesTarget {
    SamplingSession { sampling_session_id: String, cloned_sampler_id: u64 },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RetrieveFuturesResponse {
    #[serde(deserialize_with = "readable")]
    pub(crate) completions: Vec<Completion>,
    #[serde(deserialize_with = "or_absent")]
    pub(crate) cursor: Option<u64>,
}

/// A sample that has finished or failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Completion {
    #[serde(default, deserialize_with = "or_absent")]
    pub(crate) state: String,
    #[serde(deserialize_with = "id")]
    pub(crate) request_id: String,
    #[serde(default, deserialize_with = "or_absent", skip_serializing_if = "Option::is_none")]
    pub(crate) response_payload_uncompressed_size: Option<u64>,
}

impl Completion {
    /// Size of the result in bytes. `None` if the sample failed or the server reports no size.
    pub(crate) fn size(&self) -> Option<usize> {
        let size =
            self.response_payload_uncompressed_size.filter(|size| 0 < *size && self.state == "finished")?;
        Some(usize::try_from(size).unwrap_or(usize::MAX))
    }
}

/// Answer to a poll while the result is not available yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "try_again")]
pub(crate) struct PendingFuture {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) request_id: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) queue_state: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) queue_state_reason: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FailedFuture {
    pub(crate) error: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) category: Option<String>,
}

/// Returns true if an answer is the result of a request of this type (PROTOCOL §4.1): its field `type` names the type,
/// or it has one of the fields of such results.
pub(crate) fn is_result(request_type: &str, value: &Value) -> bool {
    let (name, fields): (&str, &[&str]) = match request_type {
        "CreateModel" => ("create_model", &["model_id"]),
        "LoadWeights" => ("load_weights", &["path", "model_id"]),
        "Forward" => ("forward", &["loss_fn_outputs", "metrics"]),
        "ForwardBackward" => ("forward_backward", &["loss_fn_outputs", "metrics"]),
        "OptimStep" => ("optim_step", &["metrics"]),
        "SaveWeights" => ("save_weights", &["path"]),
        "SaveWeightsForSampler" => ("save_weights_for_sampler", &["path", "sampling_session_id"]),
        "SaveWeightsExternal" => ("save_weights_external", &["path", "size_bytes"]),
        "Sample" => ("sample", &["sequences"]),
        "CreateCustomLoss" => ("create_custom_loss", &["loss_id"]),
        _ => return false,
    };
    let named = value.get("type").and_then(Value::as_str) == Some(name);
    named || fields.iter().any(|field| value.get(field).is_some())
}

/// Meaning of a JSON answer of `retrieve_future` with a success status. [`FutureReply::classify`] finds the variant; it
/// tests for them in the order of PROTOCOL §4.2.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum FutureReply {
    /// The result is not available yet; poll again.
    Pending { queue_state: Option<QueueState>, reason: Option<String> },
    /// The result is available and has this size in bytes, but the answer does not contain it. Poll again with
    /// `allow_metadata_only: false` to get it.
    Metadata { payload_size: u64 },
    /// The request failed. Further polls would give the same answer.
    Failed { message: String, category: String },
    /// The result.
    Done(Value),
}

/// Body of a result: JSON or the bytes of a protobuf message. The JSON is stored parsed, because an answer must be
/// parsed anyway to see whether it is a result.
#[derive(Clone, Debug)]
pub(crate) enum ResultBody {
    Json(Value),
    Protobuf(Bytes),
}

impl ResultBody {
    /// Reads a result that servers send only as JSON.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T> {
        match self {
            ResultBody::Json(value) => T::deserialize(value)
                .map_err(|error| super::unexpected_in(value.to_string().as_bytes(), error)),
            ResultBody::Protobuf(_) => Err(Error::decode("the server sent protobuf where JSON was expected")),
        }
    }
}

impl FutureReply {
    pub(crate) fn read(body: &[u8]) -> Result<Self> {
        super::parse(body).map(FutureReply::classify)
    }

    pub(crate) fn classify(value: Value) -> Self {
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        if text("type") == Some("try_again") {
            return FutureReply::Pending {
                queue_state: text("queue_state").map(QueueState::parse),
                reason: text("queue_state_reason").map(presentable),
            };
        }
        if text("status") == Some("complete_metadata") {
            let size = value.get("response_payload_size").and_then(Value::as_f64).unwrap_or(0.0);
            return FutureReply::Metadata { payload_size: size as u64 };
        }
        match value.get("error") {
            Some(error) => FutureReply::Failed {
                message: presentable(&error.as_str().map_or_else(|| error.to_string(), Into::into)),
                category: text("category").unwrap_or_default().into(),
            },
            None => FutureReply::Done(value),
        }
    }
}
