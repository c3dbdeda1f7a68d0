//! Storage that checkpoints occupy.

use serde::{Deserialize, Serialize};

use super::field_reader::{count, or_absent};

/// Current storage of an account's checkpoints (PROTOCOL §3.6 #42). Amounts of money are in US dollars.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct StorageUsage {
    /// Price of one gigabyte for one month.
    #[serde(deserialize_with = "or_absent")]
    pub effective_rate_usd_per_gigabyte_month: Option<f64>,
    /// One entry for each project and user.
    #[serde(rename = "data")]
    pub entries: Vec<StorageEntry>,
}

/// Storage of one user's checkpoints in one project.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct StorageEntry {
    /// Id of the project.
    #[serde(deserialize_with = "or_absent")]
    pub project_id: Option<String>,
    /// URN of the user within the organization.
    #[serde(deserialize_with = "or_absent")]
    pub org_user_urn: Option<String>,
    /// Email address of the user.
    #[serde(deserialize_with = "or_absent")]
    pub user_email: Option<String>,
    /// Name of the user.
    #[serde(deserialize_with = "or_absent")]
    pub user_name: Option<String>,
    /// Number of checkpoints.
    #[serde(deserialize_with = "count")]
    pub checkpoint_count: u64,
    /// Size in bytes.
    #[serde(deserialize_with = "count")]
    pub size_bytes: u64,
    /// Size in gigabytes, as billed.
    pub size_gigabytes: f64,
    /// Estimated cost of one month.
    #[serde(deserialize_with = "or_absent")]
    pub estimated_monthly_cost_usd: Option<f64>,
}
