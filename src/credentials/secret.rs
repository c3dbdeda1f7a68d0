//! Secret text.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A credential, a password or a token. `Debug` shows only the prefix that tells its kind (`tml-` or `eyJ`), and
/// `Display` is not implemented. Serialization writes the plain text, for request bodies and files.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The plain text, for the code that sends or stores it.
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
