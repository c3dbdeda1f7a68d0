//! How a checkpoint is copied.

use std::fmt;

use super::Ttl;
use crate::credentials::Secret;
use crate::error::{Error, Result};

/// How a checkpoint is copied. `CopyOptions::default()` copies into the client's own project, for good.
///
/// # Example: a copy that is kept for a week
/// ```
/// use std::time::Duration;
/// use tinkex::types::{AccessToken, CopyOptions, Ttl};
///
/// let options = CopyOptions {
///     ttl: Ttl::After(Duration::from_secs(7 * 24 * 3600)),
///     weights_access_token: Some(AccessToken::new("from the owner")),
///     ..CopyOptions::default()
/// };
/// assert!(!format!("{options:?}").contains("from the owner"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct CopyOptions {
    /// The project that the copy will belong to. Default: that of the client
    /// ([`ServiceClientBuilder::project_id`](crate::ServiceClientBuilder::project_id), `TINKER_PROJECT_ID`).
    pub destination_project_id: Option<String>,
    /// How long the copy is kept; it does not inherit this from the original. Default: until it is deleted.
    pub ttl: Ttl,
    /// The owner's permission, for checkpoints that are not the caller's. Default: none.
    pub weights_access_token: Option<AccessToken>,
}

/// An owner's permission to read weights. It is sent where the server expects it and shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken(Secret);

impl AccessToken {
    /// The header that carries it, where it is not part of the body.
    pub(crate) const HEADER: &str = "X-Tinker-Weights-Access-Token";

    /// The permission, as the owner handed it out. What no header can carry, such as the end of a line, is refused when it is
    /// used.
    pub fn new(token: impl Into<String>) -> Self {
        AccessToken(Secret::new(token))
    }

    /// The token, if a header can carry it.
    pub(crate) fn checked(&self) -> Result<&Secret> {
        const LONGEST: usize = 8192;
        let text = self.0.expose();
        let is_printable = text.bytes().all(|it| (b' '..=b'~').contains(&it));
        // What is wrong is said without a part of the token.
        match is_printable && !text.is_empty() && text.trim() == text && text.len() <= LONGEST {
            true => Ok(&self.0),
            false => Err(Error::invalid(
                "weights_access_token",
                "is empty, longer than 8 KiB or not printable ASCII, or begins or ends with white space",
            )),
        }
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken(***)")
    }
}
