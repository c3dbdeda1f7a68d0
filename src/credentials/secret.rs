//! Secret text.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A credential, a password or a token. `Debug` shows only its kind, and `Display` is not implemented. In a body it is
/// written as plain text.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text, for the place that sends it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = ["tml-", "eyJ"].into_iter().find(|prefix| self.0.starts_with(prefix));
        write!(f, "{}***", prefix.unwrap_or_default())
    }
}
