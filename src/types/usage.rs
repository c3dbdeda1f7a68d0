//! Usage and its cost.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::Timestamp;
use super::field_reader::{or_absent, texts};

/// Usage within a period (PROTOCOL §3.6 #41).
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct BillingUsage {
    /// Entries by hour, by kind of usage, and by the further attributes that the server distinguishes.
    #[serde(rename = "data")]
    pub events: Vec<UsageEvent>,
    /// Sessions that the entries refer to, by id.
    pub sessions: BTreeMap<String, UsageSession>,
    /// Time up to which costs are known.
    #[serde(deserialize_with = "or_absent")]
    pub cost_data_through: Option<Timestamp>,
}

/// A session in a usage report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct UsageSession {
    /// Metadata that the caller gave the session.
    #[serde(deserialize_with = "texts")]
    pub user_metadata: BTreeMap<String, String>,
}

/// Usage within one hour. Amounts of money are in US dollars.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct UsageEvent {
    /// Start of the hour.
    #[serde(deserialize_with = "or_absent")]
    pub bucket_start: Option<Timestamp>,
    /// End of the hour.
    #[serde(deserialize_with = "or_absent")]
    pub bucket_end: Option<Timestamp>,
    /// Name of the base model.
    #[serde(deserialize_with = "or_absent")]
    pub base_model: Option<String>,
    /// Id of the user.
    #[serde(deserialize_with = "or_absent")]
    pub user_id: Option<String>,
    /// Name of the user.
    #[serde(deserialize_with = "or_absent")]
    pub user_name: Option<String>,
    /// Id of the session.
    #[serde(deserialize_with = "or_absent")]
    pub session_id: Option<String>,
    /// Id of the project.
    #[serde(deserialize_with = "or_absent")]
    pub project_id: Option<String>,
    /// Cost, as far as it is known.
    #[serde(deserialize_with = "or_absent")]
    pub estimated_cost_usd: Option<f64>,
    /// Price of one million tokens.
    #[serde(deserialize_with = "or_absent")]
    pub effective_rate_usd_per_million_tokens: Option<f64>,
    /// Price of storing one gigabyte for a month of 720 hours.
    #[serde(deserialize_with = "or_absent")]
    pub effective_rate_usd_per_gigabyte_month: Option<f64>,
    /// Kind and amount of usage.
    pub event_info: UsageKind,
}

/// Kind and amount of usage.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum UsageKind {
    /// Training tokens.
    Training {
        /// Number of tokens.
        token_count: u64,
    },
    /// Prompt tokens.
    SamplingPrefill {
        /// The tokens were in the server's cache.
        cached: bool,
        /// Number of tokens.
        token_count: u64,
    },
    /// Sampled tokens.
    SamplingSample {
        /// Number of tokens.
        token_count: u64,
    },
    /// Saved checkpoints.
    Checkpoint {
        /// Number of checkpoints.
        count: u64,
    },
    /// Storage.
    Storage {
        /// The storage is free of charge.
        free: bool,
        /// Gigabytes times hours.
        gigabyte_hours: f64,
    },
    /// A kind that this version does not know, as received.
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
        let count = |name: &str| number(name).round() as u64;
        let flag = |name: &str| map.get(name).and_then(Value::as_bool).unwrap_or_default();
        Ok(match map.get("type").and_then(Value::as_str) {
            Some("training") => UsageKind::Training { token_count: count("token_count") },
            Some("sampling_prefill") => {
                UsageKind::SamplingPrefill { cached: flag("cached"), token_count: count("token_count") }
            }
            Some("sampling_sample") => UsageKind::SamplingSample { token_count: count("token_count") },
            Some("checkpoint") => UsageKind::Checkpoint { count: count("count") },
            Some("storage") => {
                UsageKind::Storage { free: flag("free"), gigabyte_hours: number("gigabyte_hours") }
            }
            _ => UsageKind::Other(map),
        })
    }
}
