//! How a session is doing.

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::lenient::text_enum;
use crate::error::Category;

/// The state of a session.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum SessionStatus {
    /// Going on.
    Active,
    /// Cancelled.
    Cancelled {
        /// Why, in somebody's words.
        detail: Option<String>,
    },
    /// Ended by its client.
    ClientFinished {
        /// How it ended.
        reason: FinishReason,
        /// Why, in the client's words.
        detail: Option<String>,
    },
    /// Failed.
    Failed {
        /// Whose fault it is; the server's own is `internal` here.
        category: Category,
        /// What happened.
        message: String,
        /// What failed.
        reason: FailureReason,
    },
    /// A state that this version does not know, as it came.
    Other(Map<String, Value>),
}

/// How a client ended its session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FinishReason {
    /// The work was done.
    Success,
    /// The program failed.
    Errored,
    /// Somebody stopped the program.
    Interrupted,
    /// A reason that this version does not know.
    Other(String),
}

text_enum!(FinishReason { "success" => Success, "errored" => Errored, "interrupted" => Interrupted });

/// What failed in a session.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum FailureReason {
    /// A request.
    Request {
        /// Its id.
        request_id: String,
        /// Its type.
        request_type: String,
    },
    /// A training run.
    TrainingRun {
        /// Its id.
        training_run_id: String,
    },
    /// A sampling session.
    SamplingSession {
        /// Its id.
        sampling_session_id: String,
    },
    /// Something that this version does not know, as it came.
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

/// A text, or the JSON of what stands there instead.
fn text(map: &Map<String, Value>, name: &str) -> String {
    match map.get(name) {
        Some(Value::String(it)) => it.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}
