//! Who is asking.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::odd::or_absent;

/// Whom the credential stands for (PROTOCOL §1.4).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// The user.
    pub user_urn: String,
    /// The organization.
    pub org_urn: Option<String>,
    /// The user's address, if there is one.
    pub email: Option<String>,
}

/// What a server knows of an API key (PROTOCOL §3.1 #4).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ApiKeyInfo {
    /// The key's number.
    #[serde(deserialize_with = "or_absent")]
    pub key_id: Option<u64>,
    /// Its name.
    #[serde(deserialize_with = "or_absent")]
    pub name: Option<String>,
    /// What it is for.
    #[serde(deserialize_with = "or_absent")]
    pub note: Option<String>,
    /// Whose it is.
    pub details: ApiKeyDetails,
}

/// Whose an API key is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ApiKeyDetails {
    /// The organization: `name`, and what else the server says.
    #[serde(deserialize_with = "super::lenient::texts")]
    pub org_details: BTreeMap<String, String>,
    /// The user: `email`, and what else the server says.
    #[serde(deserialize_with = "super::lenient::texts")]
    pub user_details: BTreeMap<String, String>,
}
