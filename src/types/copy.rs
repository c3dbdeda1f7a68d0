//! Options of copying a checkpoint.

use std::fmt;

use super::Ttl;
use crate::credentials::Secret;
use crate::error::{Error, Result};

/// Options of copying a checkpoint. The default copies into the client's project and keeps the copy until it is
/// deleted. End the literal with `..Default::default()`: a minor version may add fields.
///
/// # Example: a copy that is kept for one week
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
    /// Project of the copy. Default: that of the client
    /// ([`ServiceClientBuilder::project_id`](crate::ServiceClientBuilder::project_id), `TINKER_PROJECT_ID`).
    pub destination_project_id: Option<String>,
    /// Lifetime of the copy; it is not inherited from the original. Default: kept until deleted.
    pub ttl: Ttl,
    /// Access token of the owner, for checkpoints of other users. Default: none.
    pub weights_access_token: Option<AccessToken>,
}

/// A token with which the owner of weights grants read access. It is sent in the body or in a header of the request, as
/// the server expects it. `Debug` hides the token.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken(Secret);

impl AccessToken {
    /// Header that carries the token in requests that do not carry it in the body.
    pub(crate) const HEADER: &str = "X-Tinker-Weights-Access-Token";

    /// The token as the owner issued it. A token that a header cannot carry, such as one with a line break, is refused
    /// when it is used.
    pub fn new(token: impl Into<String>) -> Self {
        AccessToken(Secret::new(token))
    }

    /// Returns the token if a header can carry it.
    pub(crate) fn checked(&self) -> Result<&Secret> {
        const LONGEST: usize = 8192;
        let text = self.0.expose();
        let is_printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if is_printable && !text.is_empty() && text.trim() == text && text.len() <= LONGEST {
            Ok(&self.0)
        } else {
            // The error must not contain any part of the token.
            Err(Error::invalid(
                "weights_access_token",
                "is empty, longer than 8 KiB or not printable ASCII, or begins or ends with white space",
            ))
        }
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken(***)")
    }
}
