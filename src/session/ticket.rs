//! One operation of a session: the half that answers it, with everything that is known of it.

use std::sync::Arc;

use super::Session;
use super::inflight::Entry;
use crate::error::{Error, Result};
use crate::pending::{Pending, Progress};
use crate::sync::CancelToken;
use crate::sync::cancel::{Registration, Wake};
use crate::sync::oneshot::{Reply, Slot, oneshot};

/// Answers one operation, with everything that is known of it added to an error.
pub(crate) struct Ticket<T: Send + 'static> {
    reply: Reply<T>,
    pub(crate) progress: Progress,
    pub(crate) cancel: CancelToken,
    session: Arc<Session>,
    /// Answers at once when the client or the session is closed, however long the work then takes to notice.
    _closing: Registration,
    /// Its place among what is in flight, unless it is a part of an operation that has one.
    _entry: Option<Entry>,
}

struct Closing<T: Send + 'static>(Slot<T>);

impl<T: Send + 'static> Wake for Closing<T> {
    fn wake(&self) {
        self.0.settle(Err(closed_meanwhile()));
    }
}

fn closed_meanwhile() -> Error {
    Error::closed("the client was closed while this was in progress")
}

impl<T: Send + 'static> Ticket<T> {
    pub(crate) fn answer(self, result: Result<T>) {
        let now = self.session.clock.now();
        let result = result.map_err(|it| {
            let it = self.session.http.without_secrets(it);
            let error = match self.session.as_ended(it) {
                // A caller who cancels has his answer before the work hears of it. So where this one counts, the work was
                // cancelled by the end of its client, and noticed before `Closing` was told.
                it if it.is_cancelled() && !it.is_panic() => closed_meanwhile(),
                it => it,
            };
            self.progress.account(error, now)
        });
        self.reply.send(self.session.reported(result));
    }

    /// Nobody waits any more.
    pub(crate) fn is_given_up(&self) -> bool {
        self.cancel.is_cancelled() || self.reply.is_settled()
    }
}

impl Session {
    /// A new operation: the half that answers and the half that waits.
    pub(crate) fn ticket<T: Send + 'static>(
        self: &Arc<Self>,
        operation: &'static str,
        parent: &CancelToken,
    ) -> (Ticket<T>, Pending<T>) {
        let progress = self.progress(operation);
        let entry = self.in_flight.enter(progress.clone(), &self.config.seeing.metrics);
        self.ticket_of(progress, Some(entry), parent)
    }

    /// As [`ticket`](Self::ticket), for a part of an operation that is counted already.
    pub(crate) fn part<T: Send + 'static>(
        self: &Arc<Self>,
        operation: &'static str,
        parent: &CancelToken,
    ) -> (Ticket<T>, Pending<T>) {
        self.ticket_of(self.progress(operation), None, parent)
    }

    fn progress(&self, operation: &'static str) -> Progress {
        let now = self.clock.now();
        let deadline = now.checked_add(self.config.timeouts.operation);
        Progress::new(operation, now, deadline).seen_by(&self.config.seeing).of_server(self.http.served())
    }

    fn ticket_of<T: Send + 'static>(
        self: &Arc<Self>,
        progress: Progress,
        entry: Option<Entry>,
        parent: &CancelToken,
    ) -> (Ticket<T>, Pending<T>) {
        let cancel = parent.child();
        let (reply, slot) = oneshot();
        let closing = cancel.on_cancel(Arc::new(Closing(slot.clone())));
        let pending = Pending::new(slot, progress.clone(), cancel.clone());
        (Ticket { reply, progress, cancel, session: self.clone(), _closing: closing, _entry: entry }, pending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use crate::config::env::Env;
    use crate::credentials::Secret;
    use crate::sync::clock::Clock;
    use crate::transport::{Answer, Broken, Exchange, Transport};

    struct Nowhere;

    impl Transport for Nowhere {
        fn exchange(&self, _: &Exchange) -> std::result::Result<Answer, Broken> {
            Err(Broken::Closed)
        }

        fn shutdown(&self) {}
    }

    #[test]
    fn work_that_notices_the_end_of_its_client_before_its_caller_does_says_that_it_was_closed() {
        let settings = Settings { api_key: Some(Secret::new("tml-x")), ..Default::default() };
        let config = settings.resolve(&Env::empty()).expect("good settings");
        let session = Session::new(config, Arc::new(Nowhere), Clock::default());
        let client = session.cancel.child();
        let (ticket, pending) = session.ticket::<()>("TrainingClient.optim_step", &client);
        ticket.answer(Err(Error::cancelled()));
        let error = pending.wait().expect_err("an end");
        assert!(error.is_closed() && !error.is_cancelled(), "{error:?}");
        let (ticket, pending) = session.ticket::<()>("TrainingClient.optim_step", &client);
        pending.cancel();
        ticket.answer(Err(Error::cancelled()));
        assert!(pending.wait().expect_err("an end").is_cancelled());
        session.end();
    }
}
