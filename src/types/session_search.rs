//! Search for sessions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::field_reader::{count, id, maybe_count, or_absent, texts};
use super::{FinishReason, SessionStatus, Timestamp};
use crate::error::{Error, Result};

/// Conditions of a search for sessions (PROTOCOL §3.5 #40). A session must meet all of them; if both `session_id` and
/// `display_name` are given, it must meet one of the two. End the literal with `..SessionSearch::default()`: a minor
/// version may add fields.
///
/// # Example: sessions that failed
/// ```
/// use tinkex::types::{SessionSearch, StatusFilter};
///
/// let search = SessionSearch { statuses: vec![StatusFilter::Failed], ..SessionSearch::default() };
/// assert_eq!(search.limit, 50);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SessionSearch {
    /// Id of the session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// Projects to search; empty: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub project_ids: Vec<String>,
    /// Metadata. The session must have all of these entries.
    pub user_metadata: BTreeMap<String, String>,
    /// Part of the display name; at least one character.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Owner of the session. Default: the caller.
    pub owner: SessionOwner,
    /// States. The session must have one of these states; empty: any state.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub statuses: Vec<StatusFilter>,
    /// Number of entries of one page, 1 to 200. Default 50.
    pub limit: u32,
}

impl Default for SessionSearch {
    fn default() -> Self {
        SessionSearch {
            session_id: None,
            project_ids: Vec::new(),
            user_metadata: BTreeMap::new(),
            display_name: None,
            owner: SessionOwner::default(),
            statuses: Vec::new(),
            limit: 50,
        }
    }
}

impl SessionSearch {
    pub(crate) fn validate(&self) -> Result<()> {
        if !(1..=200).contains(&self.limit) {
            return Err(Error::invalid("limit", format!("must be in 1..=200, is {}", self.limit)));
        }
        if self.display_name.as_deref() == Some("") {
            return Err(Error::invalid("display_name", "is empty"));
        }
        match &self.owner {
            SessionOwner::User { owner_urns } if !(1..=10).contains(&owner_urns.len()) => {
                let n = owner_urns.len();
                Err(Error::invalid("owner.owner_urns", format!("must have 1 to 10 users, has {n}")))
            }
            _ => Ok(()),
        }
    }
}

/// Owner of the sessions to find.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum SessionOwner {
    /// The caller.
    #[default]
    Own,
    /// Anyone whose sessions the caller may read.
    Accessible,
    /// Some users.
    User {
        /// URNs of the users, 1 to 10.
        owner_urns: Vec<String>,
    },
}

/// State of the sessions to find.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum StatusFilter {
    /// Running.
    Active,
    /// Cancelled.
    Cancelled,
    /// Failed.
    Failed,
    /// Ended by its client.
    ClientFinished {
        /// Reasons. The session must have one of these reasons; empty: any reason.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        reasons: Vec<FinishReason>,
    },
}

/// Position at which the next page starts, given by the last session of the page before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SessionCursor {
    /// Creation time of the last session on the page.
    pub last_created_at: Timestamp,
    /// Id of the last session on the page.
    #[serde(deserialize_with = "id")]
    pub last_session_id: String,
}

/// A session that a search found.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct FoundSession {
    /// Id of the session.
    #[serde(deserialize_with = "id")]
    pub session_id: String,
    /// Creation time.
    #[serde(deserialize_with = "or_absent")]
    pub created_at: Option<Timestamp>,
    /// Owner.
    #[serde(deserialize_with = "or_absent")]
    pub owner: Option<String>,
    /// Id of the project.
    #[serde(deserialize_with = "or_absent")]
    pub project_id: Option<String>,
    /// State, if the server reports it.
    #[serde(deserialize_with = "or_absent")]
    pub status: Option<SessionStatus>,
    /// Number of saved checkpoints.
    #[serde(deserialize_with = "count")]
    pub checkpoints_count: u64,
    /// Name for display.
    #[serde(deserialize_with = "or_absent")]
    pub display_name: Option<String>,
    /// Metadata that the caller gave the session.
    #[serde(deserialize_with = "texts")]
    pub user_metadata: BTreeMap<String, String>,
    /// Size of the checkpoints in bytes.
    #[serde(deserialize_with = "maybe_count")]
    pub checkpoint_storage_bytes: Option<u64>,
}

/// One page of a search for sessions, newest first.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SessionPage {
    /// Sessions of the page.
    pub sessions: Vec<FoundSession>,
    /// Start of the next page. `None`: this page is the last.
    pub next_cursor: Option<SessionCursor>,
}
