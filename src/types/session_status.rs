//! States of sessions.

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::field_reader::text_enum;
use crate::error::Category;

/// The state of a session.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum SessionStatus {
    /// Running.
    Active,
    /// Cancelled.
    Cancelled {
        /// Reason as free text.
        detail: Option<String>,
    },
    /// Ended by its client.
    ClientFinished {
        /// How the session ended.
        reason: FinishReason,
        /// Reason in the client's words.
        detail: Option<String>,
    },
    /// Failed.
    Failed {
        /// Party that caused the failure. The server reports its own failures as `internal`, which is
        /// [`Category::Other`] here.
        category: Category,
        /// Description of the failure.
        message: String,
        /// Object that failed.
        reason: FailureReason,
    },
    /// A state that this version does not know, as received.
    Other(Map<String, Value>),
}

/// How a session ended, as its client reported it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FinishReason {
    /// The work is complete.
    Success,
    /// The program failed.
    Errored,
    /// The program was interrupted.
    Interrupted,
    /// A reason that this version does not know.
    Other(String),
}

text_enum!(FinishReason { "success" => Success, "errored" => Errored, "interrupted" => Interrupted });

/// Object that failed in a session.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum FailureReason {
    /// A request.
    Request {
        /// Id of the request.
        request_id: String,
        /// Type of the request.
        request_type: String,
    },
    /// A training run.
    TrainingRun {
        /// Id of the training run.
        training_run_id: String,
    },
    /// A sampling session.
    SamplingSession {
        /// Id of the sampling session.
        sampling_session_id: String,
    },
    /// An object that this version does not know, as received.
    Other(Map<String, Value>),
}

impl<'de> Deserialize<'de> for SessionStatus {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let map = Map::deserialize(input)?;
        let detail = || map.get("detail").and_then(Value::as_str).map(str::to_string);
        let empty = Map::new();
        let reason = map.get("reason").and_then(Value::as_object).unwrap_or(&empty);
        Ok(match map.get("type").and_then(Value::as_str) {
            Some("active") => SessionStatus::Active,
            Some("cancelled") => SessionStatus::Cancelled { detail: detail() },
            Some("client_finished") => {
                let reason = FinishReason::read(&text(reason, "type"));
                SessionStatus::ClientFinished { reason, detail: detail() }
            }
            Some("failed") => SessionStatus::Failed {
                category: Category::parse(&text(&map, "category")),
                message: text(&map, "message"),
                reason: failure(reason),
            },
            _ => SessionStatus::Other(map),
        })
    }
}

fn failure(map: &Map<String, Value>) -> FailureReason {
    match map.get("type").and_then(Value::as_str) {
        Some("request") => FailureReason::Request {
            request_id: text(map, "request_id"),
            request_type: text(map, "request_type"),
        },
        Some("training_run") => FailureReason::TrainingRun { training_run_id: text(map, "training_run_id") },
        Some("sampling_session") => {
            FailureReason::SamplingSession { sampling_session_id: text(map, "sampling_session_id") }
        }
        _ => FailureReason::Other(map.clone()),
    }
}

/// Returns a field as text. A value that is not a string becomes its JSON; a missing one becomes "".
fn text(map: &Map<String, Value>, name: &str) -> String {
    match map.get(name) {
        Some(Value::String(it)) => it.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}
