//! Addresses that are their own permission.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Timestamp;
use super::odd::or_absent;

/// An address that whoever has it may read from, for a while: of http or https, and of https if the server itself is; what
/// else a server names is an error. Its `Debug` leaves out the query, where the signature is.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SignedUrl(String);

impl SignedUrl {
    pub(crate) fn new(url: impl Into<String>) -> Self {
        SignedUrl(url.into())
    }

    /// The whole address. Treat it as a secret.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SignedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.split_once('?') {
            Some((place, _)) => write!(f, "{place}?***"),
            None => f.write_str(&self.0),
        }
    }
}

/// Where the files of exported weights can be read (PROTOCOL §3.5 #33).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ExternalWeightsUrls {
    /// The address of each file, by its path within the checkpoint.
    pub urls: BTreeMap<String, SignedUrl>,
    /// Until when they can be read.
    #[serde(deserialize_with = "or_absent")]
    pub expires: Option<Timestamp>,
}

/// Where the archive of a checkpoint can be read, on servers that make one (PROTOCOL §3.5 #34).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ArchiveUrl {
    /// Its address.
    pub url: SignedUrl,
    /// Until when it can be read, if the server says so; else about a quarter of an hour.
    #[serde(deserialize_with = "or_absent")]
    pub expires: Option<Timestamp>,
}
