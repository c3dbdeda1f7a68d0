//! How the clients ask that have no thread of their own: one request after the other, on the caller's thread.

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
use crate::types::SignedUrl;

/// One request of a verb.
pub(super) struct Ask {
    pub(super) call: Call,
}

impl Ask {
    /// A request without a body.
    pub(super) fn new(endpoint: &'static Endpoint, path: impl Into<String>) -> Self {
        Ask { call: Call::new(Lane::Rest, endpoint, Body::Empty).at(path) }
    }

    /// A request with a JSON body.
    pub(super) fn json(
        endpoint: &'static Endpoint,
        path: impl Into<String>,
        body: &impl Serialize,
    ) -> Result<Self> {
        Ok(Ask { call: Call::post(Lane::Rest, endpoint, body)?.at(path) })
    }

    /// The request names nothing that could be missing: a 404 then means that the server lacks the endpoint.
    pub(super) fn naming_nothing(mut self) -> Self {
        self.call.names = Names::Nothing;
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
        self.run_unprepared(verb, |it| {
            if !self.ready.load(Ordering::Acquire) {
                self.service.learn_flags(verb)?;
                self.ready.store(true, Ordering::Release);
            }
            work(it)
        })
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
        let long_wait = session.long_wait(&ticket.progress);
        let result = work(&Asking { session, ticket: &ticket });
        drop(long_wait);
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
        let (http, progress) = (&self.session.http, &self.ticket.progress);
        http.check_offered(ask.call.endpoint)?;
        let answer = http.send_to_optional(&ask.call.clone().of(progress), &self.ticket.cancel)?;
        progress.contact(self.session.clock.now());
        Ok(answer)
    }

    pub(super) fn json<R: DeserializeOwned>(&self, ask: &Ask) -> Result<R> {
        let answer = self.answer(ask)?;
        self.session.http.decode(&ask.call, &answer)
    }

    /// An address that the server names.
    pub(super) fn named(&self, url: &SignedUrl) -> Result<SignedUrl> {
        self.session.http.named_address(url.expose()).map(SignedUrl::new)
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
}
