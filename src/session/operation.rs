//! Operations. An operation is one call of a client that ends with an answer to the caller, such as a training step.
//! The thread that does the work holds a [`Ticket`], by which it answers; the caller waits on a [`Pending`]. This
//! module also lists the operations in flight and warns about long waits.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Job, Session};
use crate::error::words::one_line;
use crate::error::{Error, Result};
use crate::metrics::{Metrics, name};
use crate::pending::{FIRST_CONTACT_WARNING, FIRST_WARNING, NEXT_WARNING, Pending, Progress, Status};
use crate::sync::cancel::{Registration, Wake};
use crate::sync::oneshot::{Reply, Slot, oneshot};
use crate::sync::task::{Turn, Work};
use crate::sync::{CancelToken, Mutex};

/// Answers one operation. If the answer is an error, the ticket adds to it the name of the operation, the request id,
/// the number of attempts and the duration, as far as they are known.
pub(crate) struct Ticket<T: Send + 'static> {
    reply: Reply<T>,
    pub(crate) progress: Progress,
    pub(crate) cancel: CancelToken,
    session: Arc<Session>,
    /// Answers immediately when the client or the session is closed, before the thread of the work notices its
    /// cancellation.
    _closing: Registration,
    /// Entry in the list of operations in flight; `None` for a part of an operation that has an entry.
    _entry: Option<Entry>,
}

struct AnswerClosed<T: Send + 'static>(Slot<T>);

impl<T: Send + 'static> Wake for AnswerClosed<T> {
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
        let result = result.map_err(|error| {
            let error = self.session.or_closed(self.session.http.without_secrets(error));
            // There are two causes of a cancellation. If the caller called `Pending::cancel`, that call has already
            // answered, and this answer is ignored. Otherwise the client was closed, and the work noticed its
            // cancellation before `AnswerClosed` answered: then answer as `AnswerClosed` does.
            let error = if error.is_cancelled() && !error.is_panic() { closed_meanwhile() } else { error };
            self.progress.account(error, now)
        });
        self.reply.send(self.session.reported(result));
    }

    /// Returns whether the operation is cancelled or already answered.
    pub(crate) fn is_given_up(&self) -> bool {
        self.cancel.is_cancelled() || self.reply.is_settled()
    }
}

impl Session {
    /// Makes a new operation: a ticket to answer it and a [`Pending`] to wait for it.
    pub(crate) fn ticket<T: Send + 'static>(
        self: &Arc<Self>,
        operation: &'static str,
        parent: &CancelToken,
    ) -> (Ticket<T>, Pending<T>) {
        let progress = self.progress(operation);
        let entry = self.in_flight.enter(progress.clone(), &self.config.seeing.metrics);
        self.ticket_of(progress, Some(entry), parent)
    }

    /// Makes a ticket like [`ticket`](Self::ticket), for a part of an operation that is in the list already.
    pub(crate) fn part<T: Send + 'static>(
        self: &Arc<Self>,
        operation: &'static str,
        parent: &CancelToken,
    ) -> (Ticket<T>, Pending<T>) {
        let (ticket, pending) = self.ticket_of(self.progress(operation), None, parent);
        (ticket, pending.silent())
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
        let closing = cancel.on_cancel(Arc::new(AnswerClosed(slot.clone())));
        let pending = Pending::new(slot, progress.clone(), cancel.clone());
        (Ticket { reply, progress, cancel, session: self.clone(), _closing: closing, _entry: entry }, pending)
    }
}

/// The unanswered operations of a session.
#[derive(Default)]
pub(super) struct InFlight {
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    next: u64,
    all: BTreeMap<u64, Progress>,
}

/// Entry of an operation in the list. Dropping it removes the operation.
pub(super) struct Entry {
    number: u64,
    list: Arc<InFlight>,
    metrics: Metrics,
}

impl InFlight {
    pub(super) fn enter(self: &Arc<Self>, progress: Progress, metrics: &Metrics) -> Entry {
        metrics.increment(name::OPERATIONS, 1);
        metrics.shift_gauge(name::IN_FLIGHT, 1.0);
        let number = {
            let mut entries = self.entries.lock();
            entries.next += 1;
            let number = entries.next;
            entries.all.insert(number, progress);
            number
        };
        Entry { number, list: self.clone(), metrics: metrics.clone() }
    }

    pub(super) fn list(&self, now: Instant) -> Vec<Status> {
        let all: Vec<Progress> = self.entries.lock().all.values().cloned().collect();
        all.iter().map(|progress| progress.look(now)).collect()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let removed = self.list.entries.lock().all.remove(&self.number);
        drop(removed);
        self.metrics.shift_gauge(name::IN_FLIGHT, -1.0);
    }
}

/// Snapshot of the operations that a service client has in flight and of its threads. `Display` prints a table.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Dump {
    /// Base URL of the server.
    pub base_url: String,
    /// Id of the session, once it is open.
    pub session_id: Option<String>,
    /// True once the client is closed.
    pub closed: bool,
    /// Time since the server's last answer.
    pub last_contact: Option<Duration>,
    /// Unanswered operations, oldest first.
    pub operations: Vec<Status>,
    /// The threads of the clients, with their mailboxes.
    pub clients: Vec<ClientStatus>,
    /// All other threads of the session, by class.
    pub pools: Vec<PoolStatus>,
}

/// The thread of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientStatus {
    /// Name of the thread, such as `tk-samp-3`.
    pub name: String,
    /// Number of operations in the client's mailbox.
    pub queued: usize,
}

/// One class of threads.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStatus {
    /// Name of the threads, without their number.
    pub name: &'static str,
    /// Number of threads.
    pub threads: usize,
    /// Number of jobs that wait for a thread.
    pub queued: usize,
}

impl fmt::Display for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let session = self.session_id.as_deref().unwrap_or("not open yet");
        write!(f, "{} session {}", self.base_url, one_line(session))?;
        if self.closed {
            f.write_str(", closed")?;
        }
        match self.last_contact {
            Some(ago) => writeln!(f, ", last contact {ago:.1?} ago")?,
            None => writeln!(f, ", no contact yet")?,
        }
        for client in &self.clients {
            writeln!(f, "  {:<12} {} operations queued", client.name, client.queued)?;
        }
        for pool in &self.pools {
            writeln!(f, "  {:<12} {} threads, {} jobs queued", pool.name, pool.threads, pool.queued)?;
        }
        writeln!(f, "  {} operations in flight", self.operations.len())?;
        for operation in &self.operations {
            let Status { stage, elapsed, attempts, .. } = operation;
            write!(f, "  {:<32} {stage:?} since {elapsed:.1?}", operation.operation)?;
            if let Some(id) = &operation.request_id {
                write!(f, ", request {}", one_line(id))?;
            }
            if let Some(state) = &operation.queue_state {
                write!(f, ", {state:?}")?;
            }
            if let Some(reason) = &operation.queue_state_reason {
                write!(f, " ({reason})")?;
            }
            match operation.last_contact {
                Some(ago) => writeln!(f, ", {attempts} requests, last contact {ago:.1?} ago")?,
                None => writeln!(f, ", {attempts} requests")?,
            }
            if let Some(failure) = &operation.last_failure {
                writeln!(f, "    the last request failed: {failure}")?;
            }
        }
        Ok(())
    }
}

/// Logs long waits of callers whose own thread sends the request and is blocked in it. `Pending::wait` logs its own
/// waits.
#[derive(Default)]
pub(super) struct LongWaits {
    state: Mutex<Waits>,
}

#[derive(Default)]
struct Waits {
    all: Vec<Wait>,
    n_waits: u64,
}

struct Wait {
    number: u64,
    progress: Progress,
    since: Instant,
    warn_at: Instant,
}

impl Work for LongWaits {
    type Owner = Session;

    /// Logs the waits that are due, then sleeps until the next one is due.
    fn turn(&self, session: &Arc<Session>) -> Turn {
        let now = session.clock.now();
        let (due, next) = {
            let mut state = self.state.lock();
            if state.all.is_empty() {
                return Turn::Idle;
            }
            // Sleep at most for `first_warning`. A wait that is registered during the sleep does not interrupt the
            // sleep. Its first warning is not due earlier than `first_warning` after its registration.
            let mut next = now + session.first_warning();
            let mut due = Vec::new();
            for wait in &mut state.all {
                let is_early = now < wait.since + FIRST_WARNING && !wait.progress.awaits_first_contact();
                if wait.warn_at <= now && is_early {
                    // The server has answered since the wait began: the first warning is due later.
                    wait.warn_at = wait.since + FIRST_WARNING;
                } else if wait.warn_at <= now {
                    due.push(wait.progress.clone());
                    wait.warn_at = now + NEXT_WARNING;
                }
                next = next.min(wait.warn_at);
            }
            (due, next)
        };
        for progress in due {
            log::warn!(target: "tinkex", "still waiting: {}", progress.describe(false, now));
        }
        let pause = next.saturating_duration_since(now);
        if session.clock.tick(pause, &session.cancel).is_ok() { Turn::Again } else { Turn::Idle }
    }

    fn lost(&self, _: &Arc<Session>, error: &Error) {
        log::debug!(target: "tinkex", "long waits are not logged until the next one begins: {error}");
    }
}

/// A wait of the calling thread. Dropping this value ends the wait and its warnings.
pub(crate) struct LongWait {
    session: Arc<Session>,
    number: u64,
}

impl Drop for LongWait {
    fn drop(&mut self) {
        let mut state = self.session.long_waits.state.lock();
        let position = state.all.iter().position(|wait| wait.number == self.number);
        let wait = position.map(|i| state.all.swap_remove(i));
        drop(state);
        drop(wait);
    }
}

impl Session {
    /// Registers a wait of the calling thread for an operation. Until the returned guard is dropped, a warning is
    /// logged from time to time.
    pub(crate) fn long_wait(self: &Arc<Self>, progress: &Progress) -> LongWait {
        let since = self.clock.now();
        let warn_at = since + self.first_warning();
        let number = {
            let mut state = self.long_waits.state.lock();
            state.n_waits += 1;
            let number = state.n_waits;
            state.all.push(Wait { number, progress: progress.clone(), since, warn_at });
            number
        };
        // If the system refuses the thread, the warnings are missing, but the wait still works.
        let _ = self.long_waits.wake(self, &self.pool[Job::Warn]);
        LongWait { session: self.clone(), number }
    }

    /// Time after which a wait that begins now is logged.
    fn first_warning(&self) -> Duration {
        if self.http.has_served() { FIRST_WARNING } else { FIRST_CONTACT_WARNING }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use crate::credentials::Secret;
    use crate::env::Env;
    use crate::sync::clock::Clock;
    use crate::transport::{Answer, Broken, Exchange, Transport};

    /// Fails every request.
    struct ClosedTransport;

    impl Transport for ClosedTransport {
        fn exchange(&self, _: &Exchange) -> std::result::Result<Answer, Broken> {
            Err(Broken::Closed)
        }

        fn shutdown(&self) {}
    }

    #[test]
    fn work_cancelled_by_the_end_of_its_client_is_reported_as_closed() {
        let settings = Settings { api_key: Some(Secret::new("tml-x")), ..Default::default() };
        let config = settings.resolve(&Env::empty()).expect("good settings");
        let session = Session::new(config, Arc::new(ClosedTransport), Clock::default());
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
