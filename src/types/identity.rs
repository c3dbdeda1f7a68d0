//! The identity behind a credential.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::field_reader::{or_absent, texts};

/// User and organization of the credential in use (PROTOCOL §1.4).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// URN of the user.
    pub user_urn: String,
    /// URN of the organization.
    pub org_urn: Option<String>,
    /// Email address of the user, if the user has one.
    pub email: Option<String>,
}

/// Facts about an API key (PROTOCOL §3.1 #4).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ApiKeyInfo {
    /// Number of the key.
    #[serde(deserialize_with = "or_absent")]
    pub key_id: Option<u64>,
    /// Name of the key.
    #[serde(deserialize_with = "or_absent")]
    pub name: Option<String>,
    /// Note that describes the purpose of the key.
    #[serde(deserialize_with = "or_absent")]
    pub note: Option<String>,
    /// Owner of the key.
    pub details: ApiKeyDetails,
}

/// Owner of an API key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ApiKeyDetails {
    /// Organization: `name`, and other facts that the server reports.
    #[serde(deserialize_with = "texts")]
    pub org_details: BTreeMap<String, String>,
    /// User: `email`, and other facts that the server reports.
    #[serde(deserialize_with = "texts")]
    pub user_details: BTreeMap<String, String>,
}
