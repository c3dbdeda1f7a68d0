//! What was used, and what it cost.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::odd::or_absent;
use super::{Timestamp, lenient};

/// What was used in a span of time (PROTOCOL §3.6 #41).
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct BillingUsage {
    /// One entry for each hour, kind of use, and whatever else the server tells apart.
    #[serde(rename = "data")]
    pub events: Vec<UsageEvent>,
    /// What is known of the sessions that the entries name, by session id.
    pub sessions: BTreeMap<String, UsageSession>,
    /// The costs are known up to here.
    #[serde(deserialize_with = "or_absent")]
    pub cost_data_through: Option<Timestamp>,
}

/// What a session was given to find it by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct UsageSession {
    /// What it was given to find it by.
    #[serde(deserialize_with = "lenient::texts")]
    pub user_metadata: BTreeMap<String, String>,
}

/// What was used within one hour. Amounts of money are in US dollars.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct UsageEvent {
    /// The beginning of the hour.
    #[serde(deserialize_with = "or_absent")]
    pub bucket_start: Option<Timestamp>,
    /// Its end.
    #[serde(deserialize_with = "or_absent")]
    pub bucket_end: Option<Timestamp>,
    /// The base model's name.
    #[serde(deserialize_with = "or_absent")]
    pub base_model: Option<String>,
    /// Who used it.
    #[serde(deserialize_with = "or_absent")]
    pub user_id: Option<String>,
    /// The user's name.
    #[serde(deserialize_with = "or_absent")]
    pub user_name: Option<String>,
    /// In which session.
    #[serde(deserialize_with = "or_absent")]
    pub session_id: Option<String>,
    /// In which project.
    #[serde(deserialize_with = "or_absent")]
    pub project_id: Option<String>,
    /// What it cost, as far as that is known.
    #[serde(deserialize_with = "or_absent")]
    pub estimated_cost_usd: Option<f64>,
    /// The price of a million tokens.
    #[serde(deserialize_with = "or_absent")]
    pub effective_rate_usd_per_million_tokens: Option<f64>,
    /// The price of storing a gigabyte for a month of 720 hours.
    #[serde(deserialize_with = "or_absent")]
    pub effective_rate_usd_per_gigabyte_month: Option<f64>,
    /// What was used.
    pub event_info: UsageKind,
}

/// What was used, and how much of it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum UsageKind {
    /// Tokens that were trained on.
    Training {
        /// How many.
        token_count: u64,
    },
    /// Tokens of prompts.
    SamplingPrefill {
        /// They were in the server's cache.
        cached: bool,
        /// How many.
        token_count: u64,
    },
    /// Tokens that were sampled.
    SamplingSample {
        /// How many.
        token_count: u64,
    },
    /// Checkpoints that were saved.
    Checkpoint {
        /// How many.
        count: u64,
    },
    /// Storage that was taken.
    Storage {
        /// It costs nothing.
        free: bool,
        /// Gigabytes times hours.
        gigabyte_hours: f64,
    },
    /// A kind that this version does not know, as it came.
    Other(Map<String, Value>),
}

impl Default for UsageKind {
    fn default() -> Self {
        UsageKind::Other(Map::new())
    }
}

impl<'de> Deserialize<'de> for UsageKind {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let map = Map::deserialize(input)?;
        let number = |name: &str| map.get(name).and_then(Value::as_f64).unwrap_or_default();
        let whole = |name: &str| number(name).round() as u64;
        let flag = |name: &str| map.get(name).and_then(Value::as_bool).unwrap_or_default();
        Ok(match map.get("type").and_then(Value::as_str) {
            Some("training") => UsageKind::Training { token_count: whole("token_count") },
            Some("sampling_prefill") => {
                UsageKind::SamplingPrefill { cached: flag("cached"), token_count: whole("token_count") }
            }
            Some("sampling_sample") => UsageKind::SamplingSample { token_count: whole("token_count") },
            Some("checkpoint") => UsageKind::Checkpoint { count: whole("count") },
            Some("storage") => {
                UsageKind::Storage { free: flag("free"), gigabyte_hours: number("gigabyte_hours") }
            }
            _ => UsageKind::Other(map),
        })
    }
}
