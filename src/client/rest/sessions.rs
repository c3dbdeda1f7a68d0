//! Sessions.

use std::time::Duration;

use super::RestClient;
use super::listing::{Listing, Source};
use super::search::FoundSessions;
use crate::client::asking::Ask;
use crate::error::words::presentable;
use crate::error::{Category, Error, ErrorKind, Result};
use crate::http::endpoint;
use crate::session::incomplete;
use crate::types::{Page, SessionInfo, SessionSearch, SignedUrl};
use crate::wire::json::{self, SessionsResponse, TraceExportResponse};
use crate::wire::url::{self, Query};

const SESSIONS: Source<String> = Source {
    verb: "RestClient.list_sessions",
    endpoint: &endpoint::SESSIONS,
    limit: 20,
    read: |body| {
        let it: SessionsResponse = json::response(body)?;
        Ok(Page { items: it.sessions, cursor: it.cursor })
    },
    key: |it| it,
};

/// How often a server is asked whether it has written a trace.
const TRACE_PAUSE: Duration = Duration::from_secs(5);

impl RestClient {
    /// The ids of sessions, page by page; 20 at a time unless told otherwise (PROTOCOL §3.5 #37). See [`Listing`].
    pub fn list_sessions(&self) -> Listing<String> {
        Listing::new(&self.asker, SESSIONS, Some(self.scope))
    }

    /// What was made in a session.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound), and as for [`RestClient`].
    ///
    /// # Blocking
    /// For one request; see [`RestClient`].
    pub fn get_session(&self, session_id: &str) -> Result<SessionInfo> {
        let path = endpoint::SESSION.path_with(&[&url::segment("session_id", session_id)?]);
        let query = Query::on(path).with("access_scope", self.scope.as_str());
        self.asker.json("RestClient.get_session", Ask::new(&endpoint::SESSION, query.text()))
    }

    /// Moves a session with its training runs to a project; it cannot be taken out of projects again (PROTOCOL §3.5 #38).
    ///
    /// # Errors
    /// An empty project (nothing is sent), [`Permission`](crate::ErrorKind::Permission),
    /// [`NotFound`](crate::ErrorKind::NotFound), and as for [`RestClient`].
    ///
    /// # Blocking
    /// For one request; see [`RestClient`].
    pub fn assign_session_project(&self, session_id: &str, project_id: &str) -> Result<()> {
        if project_id.is_empty() {
            return Err(Error::invalid("project_id", "is empty"));
        }
        let path = endpoint::SESSION_PROJECT.path_with(&[&url::segment("session_id", session_id)?]);
        let request = json::AssignProjectRequest { project_id: project_id.into() };
        let ask = Ask::json(&endpoint::SESSION_PROJECT, path, &request)?;
        self.asker.done("RestClient.assign_session_project", ask)
    }

    /// Has the server write down what happened in a session, and returns where to read it for about an hour: a Perfetto
    /// trace, `.pftrace` (PROTOCOL §3.5 #39).
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound), [`RequestFailed`](crate::ErrorKind::RequestFailed) if the server could not
    /// write it, and as for [`RestClient`].
    ///
    /// # Blocking
    /// Until the server has written it; it is asked every 5 s, for at most `Timeouts::operation`. Closing the service client
    /// ends the wait.
    pub fn export_session_trace(&self, session_id: &str) -> Result<SignedUrl> {
        let path = endpoint::SESSION_TRACE_EXPORT.path_with(&[&url::segment("session_id", session_id)?]);
        let ask = Ask::new(&endpoint::SESSION_TRACE_EXPORT, path);
        self.asker.run("RestClient.export_session_trace", |it| {
            loop {
                let reply: TraceExportResponse = it.json(&ask)?;
                match (reply.status.as_str(), reply.url) {
                    ("failed", _) => return Err(failed(reply.error)),
                    ("ready", None) => return Err(incomplete("the address of the trace")),
                    // Whatever else it calls itself: with an address it is there, without one it is not yet.
                    ("pending", _) | (_, None) => it.pause(TRACE_PAUSE)?,
                    (_, Some(url)) => return it.named(&url),
                }
            }
        })
    }

    /// Looks for sessions, newest first, page by page (PROTOCOL §3.5 #40, an experimental call). See [`FoundSessions`].
    pub fn search_sessions(&self, search: SessionSearch) -> FoundSessions {
        FoundSessions::new(&self.asker, search)
    }
}

fn failed(error: Option<String>) -> Error {
    let category = Category::Unknown;
    let text = error.map_or_else(|| "the server gave no reason".into(), |it| presentable(&it));
    Error::new(ErrorKind::RequestFailed { category }, format!("the trace could not be written: {text}"))
}
