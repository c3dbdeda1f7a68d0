//! What checkpoints take.

use serde::{Deserialize, Serialize};

use super::lenient;
use super::odd::or_absent;

/// What the checkpoints of an account take now (PROTOCOL §3.6 #42). Amounts of money are in US dollars.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct StorageUsage {
    /// The price of storing a gigabyte for a month.
    #[serde(deserialize_with = "or_absent")]
    pub effective_rate_usd_per_gigabyte_month: Option<f64>,
    /// One entry for each project and user.
    #[serde(rename = "data")]
    pub entries: Vec<StorageEntry>,
}

/// What the checkpoints of one user in one project take.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct StorageEntry {
    /// The project.
    #[serde(deserialize_with = "or_absent")]
    pub project_id: Option<String>,
    /// The user within the organization.
    #[serde(deserialize_with = "or_absent")]
    pub org_user_urn: Option<String>,
    /// The user's address.
    #[serde(deserialize_with = "or_absent")]
    pub user_email: Option<String>,
    /// The user's name.
    #[serde(deserialize_with = "or_absent")]
    pub user_name: Option<String>,
    /// How many checkpoints.
    #[serde(deserialize_with = "lenient::count")]
    pub checkpoint_count: u64,
    /// Their size in bytes.
    #[serde(deserialize_with = "lenient::count")]
    pub size_bytes: u64,
    /// Their size in gigabytes, as it is billed.
    pub size_gigabytes: f64,
    /// What they cost in a month.
    #[serde(deserialize_with = "or_absent")]
    pub estimated_monthly_cost_usd: Option<f64>,
}
