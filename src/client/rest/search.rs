//! Sessions that were found, fetched a page at a time.

use std::collections::VecDeque;

use crate::client::asking::{Ask, Asker};
use crate::error::{Error, Result};
use crate::http::endpoint;
use crate::policy::paging::{CursorPaging, Next};
use crate::types::{FoundSession, SessionCursor, SessionPage, SessionSearch};
use crate::wire::json::SearchSessionsRequest;

/// Sessions that were found, newest first: an iterator that fetches pages as they are needed. After an error it ends.
///
/// # Errors
/// A search that no server would accept (nothing is sent); those of [`RestClient`](crate::RestClient); and
/// [`Decode`](crate::ErrorKind::Decode) if the server leads in a circle.
///
/// # Blocking
/// For one request whenever a page is used up.
///
/// # Example: sessions that went wrong
/// ```
/// # #[cfg(feature = "testing")] {
/// # let server = tinkex::testing::FakeServer::new();
/// # let service = server.in_memory().build()?;
/// use tinkex::types::{SessionSearch, StatusFilter};
///
/// let search = SessionSearch { statuses: vec![StatusFilter::Failed], ..Default::default() };
/// for session in service.create_rest_client().search_sessions(search) {
///     let session = session?;
///     println!("{} {:?}", session.session_id, session.status);
/// }
/// # }
/// # Ok::<(), tinkex::Error>(())
/// ```
#[must_use]
pub struct FoundSessions {
    asker: Asker,
    search: SessionSearch,
    cursor: Option<SessionCursor>,
    trail: CursorPaging<SessionCursor>,
    ready: VecDeque<FoundSession>,
    next: Next,
}

const VERB: &str = "RestClient.search_sessions";

impl FoundSessions {
    pub(super) fn new(asker: &Asker, search: SessionSearch) -> Self {
        FoundSessions {
            asker: asker.clone(),
            search,
            cursor: None,
            trail: CursorPaging::new(),
            ready: VecDeque::new(),
            next: Next::More,
        }
    }

    /// One page, wherever the iterator is: the first one, or that which begins at the end of another.
    ///
    /// # Errors
    /// As for the iterator.
    ///
    /// # Blocking
    /// For one request.
    pub fn page(&self, cursor: Option<&SessionCursor>) -> Result<SessionPage> {
        self.search.validate()?;
        let request = SearchSessionsRequest { search: &self.search, cursor };
        let ask = Ask::json(&endpoint::SEARCH_SESSIONS, endpoint::SEARCH_SESSIONS.path(), &request)?;
        // A project that was named may be what is missing.
        let ask = if self.search.project_ids.is_empty() { ask.naming_nothing() } else { ask };
        self.asker.json(VERB, ask)
    }

    fn fetch(&mut self) -> Result<()> {
        let page = self.page(self.cursor.as_ref())?;
        let keys: Vec<&str> = page.sessions.iter().map(|it| it.session_id.as_str()).collect();
        let step = self.trail.received(&keys, page.next_cursor.clone());
        (self.cursor, self.next) = (page.next_cursor, step.next);
        let mut fresh = step.fresh.into_iter().peekable();
        let is_fresh = |(i, it)| fresh.next_if_eq(&i).map(|_| it);
        self.ready.extend(page.sessions.into_iter().enumerate().filter_map(is_fresh));
        Ok(())
    }
}

impl Iterator for FoundSessions {
    type Item = Result<FoundSession>;

    fn next(&mut self) -> Option<Result<FoundSession>> {
        loop {
            if let Some(it) = self.ready.pop_front() {
                return Some(Ok(it));
            }
            match self.next {
                Next::End => return None,
                Next::Stuck => {
                    self.next = Next::End;
                    let error = Error::decode("the server says that the list goes on, and repeats itself");
                    return Some(Err(error.with(|it| it.operation = Some("search_sessions".into()))));
                }
                Next::More => {
                    if let Err(error) = self.fetch() {
                        self.next = Next::End;
                        return Some(Err(error));
                    }
                }
            }
        }
    }
}

impl std::iter::FusedIterator for FoundSessions {}

impl std::fmt::Debug for FoundSessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FoundSessions").field("search", &self.search).finish_non_exhaustive()
    }
}
