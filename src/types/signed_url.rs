//! Signed URLs.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Timestamp;
use super::field_reader::or_absent;

/// A URL that grants read access to anyone who has it, for a limited time. Its scheme is http or https, and https if
/// the server itself uses https; a URL of another scheme is an error. `Debug` leaves out the query, which holds the
/// signature.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SignedUrl(String);

impl SignedUrl {
    pub(crate) fn new(url: impl Into<String>) -> Self {
        SignedUrl(url.into())
    }

    /// The whole URL. Treat it as a secret.
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

/// URLs of the files of exported weights (PROTOCOL §3.5 #33).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ExternalWeightsUrls {
    /// URL of each file, by its path within the checkpoint.
    pub urls: BTreeMap<String, SignedUrl>,
    /// End of the read access.
    #[serde(deserialize_with = "or_absent")]
    pub expires: Option<Timestamp>,
}

/// URL of the archive of a checkpoint, on servers that make archives (PROTOCOL §3.5 #34).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ArchiveUrl {
    /// URL of the archive.
    pub url: SignedUrl,
    /// End of the read access. If the server does not report it, the client sets it to 15 minutes after the call.
    #[serde(deserialize_with = "or_absent")]
    pub expires: Option<Timestamp>,
}
