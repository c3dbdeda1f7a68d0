//! Calls of the REST and admin clients. These clients have no actor: the caller's thread sends the requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ServiceClient;
use crate::error::{Error, Phase, Result};
use crate::http::{Answer, Body, Call, Endpoint, Lane};
use crate::policy::endpoints::Names;
use crate::session::{Session, Ticket};
use crate::sync::CancelToken;
use crate::types::SignedUrl;

/// One HTTP request. A call of a REST or admin client sends one or more of them.
pub(super) struct RestRequest {
    pub(super) call: Call,
}

impl RestRequest {
    /// A request without a body.
    pub(super) fn new(endpoint: &'static Endpoint, path: impl Into<String>) -> Self {
        RestRequest { call: Call::new(Lane::Rest, endpoint, Body::Empty).at(path) }
    }

    /// A request with a JSON body.
    pub(super) fn json(
        endpoint: &'static Endpoint,
        path: impl Into<String>,
        body: &impl Serialize,
    ) -> Result<Self> {
        Ok(RestRequest { call: Call::post(Lane::Rest, endpoint, body)?.at(path) })
    }

    /// Marks a request that names no object, so that a 404 means that the server lacks the endpoint.
    pub(super) fn naming_no_resource(mut self) -> Self {
        self.call.names = Names::Nothing;
        self
    }

    /// Disables retries for answers with these statuses.
    pub(super) fn final_on(mut self, statuses: &'static [u16]) -> Self {
        self.call.final_on = statuses;
        self
    }
}

/// Runs calls with the connections, the credential and the flags (settings that the server sends to the client) of a
/// service client. Opens no session.
#[derive(Clone)]
pub(super) struct Caller {
    service: ServiceClient,
    /// True if the server's flags, which decide how requests are authenticated, have been fetched.
    has_flags: Arc<AtomicBool>,
    /// Cancels the calls: the token of the session, or a child of it.
    cancel: CancelToken,
}

impl Caller {
    pub(super) fn new(service: &ServiceClient) -> Self {
        let cancel = service.session().cancel.clone();
        Caller { service: service.clone(), has_flags: Arc::default(), cancel }
    }

    /// Sets the token that cancels the calls: a child of the session's.
    pub(super) fn cancelled_by(mut self, cancel: &CancelToken) -> Self {
        self.cancel = cancel.clone();
        self
    }

    pub(super) fn service(&self) -> &ServiceClient {
        &self.service
    }

    pub(super) fn cancel_token(&self) -> &CancelToken {
        &self.cancel
    }

    pub(super) fn session(&self) -> &Arc<Session> {
        self.service.session()
    }

    /// Runs one call: `work` sends the requests and turns the answers into the result.
    pub(super) fn run<T: Send + 'static>(
        &self,
        verb: &'static str,
        work: impl FnOnce(&RestCall<'_, T>) -> Result<T>,
    ) -> Result<T> {
        self.run_without_flags(verb, |call| {
            if !self.has_flags.load(Ordering::Acquire) {
                self.service.fetch_flags(verb)?;
                self.has_flags.store(true, Ordering::Release);
            }
            work(call)
        })
    }

    /// As [`run`](Caller::run), without fetching the server's flags first.
    pub(super) fn run_without_flags<T: Send + 'static>(
        &self,
        verb: &'static str,
        work: impl FnOnce(&RestCall<'_, T>) -> Result<T>,
    ) -> Result<T> {
        let session = self.session();
        session.check_open()?;
        let (ticket, pending) = session.ticket(verb, &self.cancel);
        ticket.progress.submitting();
        let long_wait = session.long_wait(&ticket.progress);
        let result = work(&RestCall { session, ticket: &ticket });
        drop(long_wait);
        ticket.answer(result);
        // Does not block, because the ticket has been answered. If the client was closed during the call, `close`
        // answered the ticket first: `wait` then returns that error and not `result`.
        pending.wait()
    }

    /// Runs a call of one request with a JSON answer.
    pub(super) fn json<T: DeserializeOwned + Send + 'static>(
        &self,
        verb: &'static str,
        request: RestRequest,
    ) -> Result<T> {
        self.run(verb, |call| call.json(&request))
    }

    /// Runs a call of one request whose answer has no content.
    pub(super) fn empty(&self, verb: &'static str, request: RestRequest) -> Result<()> {
        self.run(verb, |call| call.answer(&request).map(|_| ()))
    }
}

impl std::fmt::Debug for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.session().fmt(f)
    }
}

/// A running call.
pub(super) struct RestCall<'a, T: Send + 'static> {
    session: &'a Arc<Session>,
    ticket: &'a Ticket<T>,
}

impl<T: Send + 'static> RestCall<'_, T> {
    /// Sends one request. Returns an error without sending if the server is known to lack the endpoint.
    pub(super) fn answer(&self, request: &RestRequest) -> Result<Answer> {
        let (http, progress) = (&self.session.http, &self.ticket.progress);
        http.check_offered(request.call.endpoint)?;
        let answer = http.send_to_optional(&request.call.clone().of(progress), &self.ticket.cancel)?;
        progress.contact(self.session.clock.now());
        Ok(answer)
    }

    pub(super) fn json<R: DeserializeOwned>(&self, request: &RestRequest) -> Result<R> {
        let answer = self.answer(request)?;
        self.session.http.decode(&request.call, &answer)
    }

    /// Checks an address from the server's answer and makes it absolute.
    pub(super) fn server_url(&self, url: &SignedUrl) -> Result<SignedUrl> {
        self.session.http.named_address(url.expose()).map(SignedUrl::new)
    }

    /// Waits before the next request. If the pause would last beyond the deadline, returns a timeout error without
    /// waiting.
    pub(super) fn pause(&self, pause: Duration) -> Result<()> {
        let left = self.ticket.progress.deadline();
        let left = left.map(|deadline| deadline.saturating_duration_since(self.session.clock.now()));
        if left.is_some_and(|left| left <= pause) {
            let text = "the server did not finish within Timeouts::operation";
            return Err(Error::timeout(Phase::Total, text));
        }
        self.session.clock.pause(pause, &self.ticket.cancel)
    }
}
