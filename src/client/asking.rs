//! How the clients ask that have no thread of their own: one request after the other, on the caller's thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ServiceClient;
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::http::{Answer, Body, Call, Lane};
use crate::policy::offered::{Names, Word, judge};
use crate::session::{Session, Ticket};

/// One request of a verb.
pub(super) struct Ask {
    /// The endpoint as it is remembered and as errors name it, such as `GET sessions/{id}`.
    endpoint: &'static str,
    names: Names,
    pub(super) call: Call,
}

impl Ask {
    /// A request that has no body; `endpoint` begins with its method.
    pub(super) fn new(endpoint: &'static str, path: impl Into<String>) -> Self {
        Ask::with_body(endpoint, path, Body::Empty)
    }

    /// A request with a JSON body.
    pub(super) fn json(
        endpoint: &'static str,
        path: impl Into<String>,
        body: &impl Serialize,
    ) -> Result<Self> {
        Ok(Ask::with_body(endpoint, path, Body::json(body)?))
    }

    fn with_body(endpoint: &'static str, path: impl Into<String>, body: Body) -> Self {
        let method = endpoint.split_once(' ').map_or("GET", |it| it.0);
        Ask { endpoint, names: Names::Something, call: Call::new(Lane::Rest, method, path, body) }
    }

    /// The request names nothing that could be missing: a 404 then means that the server lacks the endpoint.
    pub(super) fn naming_nothing(mut self) -> Self {
        self.names = Names::Nothing;
        self
    }

    /// Answers of these statuses are not worth another try, whatever they mean elsewhere.
    pub(super) fn final_on(mut self, statuses: &'static [u16]) -> Self {
        self.call.final_on = statuses;
        self
    }
}

/// Asks on behalf of a service client, whose connection, flags and credential it shares. Opens no session.
#[derive(Clone)]
pub(super) struct Asker {
    service: ServiceClient,
    /// The server's flags are known, and with them which credential it wants.
    ready: Arc<AtomicBool>,
}

impl Asker {
    pub(super) fn new(service: &ServiceClient) -> Self {
        Asker { service: service.clone(), ready: Arc::default() }
    }

    pub(super) fn session(&self) -> &Arc<Session> {
        self.service.session()
    }

    /// Carries out a verb: what it asks, and what it makes of the answers.
    pub(super) fn run<T: Send + 'static>(
        &self,
        verb: &'static str,
        work: impl FnOnce(&Asking<'_, T>) -> Result<T>,
    ) -> Result<T> {
        self.session().check_open()?;
        if !self.ready.load(Ordering::Acquire) {
            self.service.learn_flags(verb)?;
            self.ready.store(true, Ordering::Release);
        }
        self.run_unprepared(verb, work)
    }

    /// As [`run`](Asker::run), whether or not the server's flags are known.
    pub(super) fn run_unprepared<T: Send + 'static>(
        &self,
        verb: &'static str,
        work: impl FnOnce(&Asking<'_, T>) -> Result<T>,
    ) -> Result<T> {
        let session = self.session();
        session.check_open()?;
        let (ticket, pending) = session.ticket(verb, &session.cancel);
        ticket.progress.submitting();
        let result = work(&Asking { session, ticket: &ticket });
        ticket.answer(result);
        // The answer is there: what is added here is what closing has to say of it.
        pending.wait()
    }

    /// A verb of one request with a JSON answer.
    pub(super) fn json<T: DeserializeOwned + Send + 'static>(
        &self,
        verb: &'static str,
        ask: Ask,
    ) -> Result<T> {
        self.run(verb, |it| it.json(&ask))
    }

    /// A verb of one request whose answer says nothing but that it was done.
    pub(super) fn done(&self, verb: &'static str, ask: Ask) -> Result<()> {
        self.run(verb, |it| it.answer(&ask).map(|_| ()))
    }
}

impl std::fmt::Debug for Asker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.session().fmt(f)
    }
}

/// A verb that is being carried out.
pub(super) struct Asking<'a, T: Send + 'static> {
    session: &'a Arc<Session>,
    ticket: &'a Ticket<T>,
}

impl<T: Send + 'static> Asking<'_, T> {
    /// Sends one request. A server that is known to lack the endpoint is not asked.
    pub(super) fn answer(&self, ask: &Ask) -> Result<Answer> {
        let offered = self.session.http.offered();
        if offered.lock().lacks(ask.endpoint) {
            return Err(Error::new(ErrorKind::Incompatible, not_offered(ask.endpoint)));
        }
        let progress = &self.ticket.progress;
        progress.attempt();
        let call = ask.call.clone().of(progress);
        let answer = match self.session.http.send(&call, &self.ticket.cancel) {
            Ok(answer) => answer,
            Err(error) => return Err(self.judged(error, ask)),
        };
        progress.contact(self.session.clock.now());
        Ok(answer)
    }

    pub(super) fn json<R: DeserializeOwned>(&self, ask: &Ask) -> Result<R> {
        let answer = self.answer(ask)?;
        self.session.http.decode(&ask.call, &answer)
    }

    /// Waits before the verb's next request, but not beyond its deadline.
    pub(super) fn pause(&self, pause: Duration) -> Result<()> {
        let left = self.ticket.progress.deadline();
        let left = left.map(|it| it.saturating_duration_since(self.session.clock.now()));
        if left.is_some_and(|it| it <= pause) {
            return Err(Error::timeout(Phase::Total, "the server did not finish in time"));
        }
        self.session.clock.pause(pause, &self.ticket.cancel)
    }

    /// A refusal as the caller should see it: that of an endpoint which the server lacks is told apart where that is
    /// possible, and remembered.
    fn judged(&self, error: Error, ask: &Ask) -> Error {
        // The token's own address may be what is missing.
        let is_of_this = error.url().is_some_and(|it| it.ends_with(&ask.call.path));
        let Some(status) = error.http_status().filter(|_| is_of_this) else { return error };
        let detail = error.message().split_once(": ").map_or("", |it| it.1);
        match judge(status, detail, ask.names) {
            Word::Present => error,
            Word::Absent => {
                self.session.http.offered().lock().note_absent(ask.endpoint);
                error.renamed(
                    ErrorKind::Incompatible,
                    format!("{} (HTTP {status})", not_offered(ask.endpoint)),
                )
            }
            Word::Unclear => {
                let text =
                    format!("{}; a server that does not offer this call says the same", error.message());
                let kind = error.kind().clone();
                error.renamed(kind, text)
            }
        }
    }
}

fn not_offered(endpoint: &str) -> String {
    format!("this server does not offer {endpoint}")
}
