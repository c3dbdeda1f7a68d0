//! Iterator over sessions that match a search. The server sends them in pages.

use std::collections::VecDeque;

use crate::client::blocking_call::{Caller, RestRequest};
use crate::error::{Error, Result};
use crate::http::endpoint;
use crate::policy::paging::{CursorPaging, Next};
use crate::types::{FoundSession, SessionCursor, SessionPage, SessionSearch};
use crate::wire::json::SearchSessionsRequest;

/// Iterates over found sessions, newest first, and fetches pages as they are needed. The iterator ends after an error.
///
/// # Errors
/// An invalid search (nothing is sent); the errors of [`RestClient`](crate::RestClient); and
/// [`Decode`](crate::ErrorKind::Decode) if the server repeats a cursor or a page.
///
/// # Blocking
/// `next` waits for one request when it needs another page.
///
/// # Example: failed sessions
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
    caller: Caller,
    search: SessionSearch,
    cursor: Option<SessionCursor>,
    paging: CursorPaging<SessionCursor>,
    ready: VecDeque<FoundSession>,
    next: Next,
}

const VERB: &str = "RestClient.search_sessions";

impl FoundSessions {
    pub(super) fn new(caller: &Caller, search: SessionSearch) -> Self {
        FoundSessions {
            caller: caller.clone(),
            search,
            cursor: None,
            paging: CursorPaging::new(),
            ready: VecDeque::new(),
            next: Next::More,
        }
    }

    /// Fetches one page: the first page, or the page that `cursor` of an earlier page refers to. Does not change the
    /// iterator.
    ///
    /// # Errors
    /// As for the iterator.
    ///
    /// # Blocking
    /// For one request.
    pub fn page(&self, cursor: Option<&SessionCursor>) -> Result<SessionPage> {
        self.search.validate()?;
        let request = SearchSessionsRequest { search: &self.search, cursor };
        let request =
            RestRequest::json(&endpoint::SEARCH_SESSIONS, endpoint::SEARCH_SESSIONS.path(), &request)?;
        // With a project id, a 404 may mean that the project does not exist; it then does not show that the server
        // lacks the endpoint.
        let request = if self.search.project_ids.is_empty() { request.naming_no_resource() } else { request };
        self.caller.json(VERB, request)
    }

    fn fetch(&mut self) -> Result<()> {
        let page = self.page(self.cursor.as_ref())?;
        let keys: Vec<&str> = page.sessions.iter().map(|session| session.session_id.as_str()).collect();
        let received = self.paging.received(&keys, page.next_cursor.clone());
        (self.cursor, self.next) = (page.next_cursor, received.next);
        let mut fresh = received.fresh.into_iter().peekable();
        let is_fresh = |(i, session)| fresh.next_if_eq(&i).map(|_| session);
        self.ready.extend(page.sessions.into_iter().enumerate().filter_map(is_fresh));
        Ok(())
    }
}

impl Iterator for FoundSessions {
    type Item = Result<FoundSession>;

    fn next(&mut self) -> Option<Result<FoundSession>> {
        loop {
            if let Some(session) = self.ready.pop_front() {
                return Some(Ok(session));
            }
            match self.next {
                Next::End => return None,
                Next::Stuck => {
                    self.next = Next::End;
                    let error = Error::decode("the server announces another page and repeats an earlier one");
                    return Some(Err(
                        error.with(|context| context.operation = Some("search_sessions".into()))
                    ));
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
