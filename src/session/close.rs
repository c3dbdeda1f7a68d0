//! How a session ends: its clients first, then its threads, within a bounded time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{ClientStatus, Session};
use crate::error::{Error, Result};
use crate::http::{Call, Lane, endpoint};
use crate::pending::retry_deliveries;
use crate::sync::process::leak;
use crate::sync::{self, Condvar, Mutex, spawn};
use crate::wire::{json, url};

/// No end takes longer, whatever the settings say.
const LONGEST_END: Duration = Duration::from_secs(3600);

/// A client of the session that has a thread of its own.
pub(crate) trait Child: Send + Sync {
    /// Ends the client: what it has queued is answered, what is in flight is given up.
    fn stop(&self);
    /// Waits for its thread, at most until `deadline`.
    fn join(&self, deadline: Instant);
    /// Its thread is gone.
    fn has_ended(&self) -> bool;
    /// Its thread and its mailbox.
    fn status(&self) -> ClientStatus;
}

/// Ends the session when the last handle is dropped.
pub(crate) struct Owner {
    session: Arc<Session>,
}

impl Owner {
    pub(crate) fn new(session: Arc<Session>) -> Arc<Self> {
        Arc::new(Owner { session })
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // In a forked child the session and its sockets are the parent's.
        if self.session.is_foreign() {
            return leak(&self.session);
        }
        self.session.end();
    }
}

/// How a session ended, for the server's records (PROTOCOL §2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseStatus {
    /// The work is done.
    Success,
    /// The program failed.
    Errored,
    /// Somebody stopped the program.
    Interrupted,
}

impl Session {
    /// A client that is stopped and joined with the session, even after its last handle is gone.
    pub(crate) fn adopt(&self, child: Arc<dyn Child>) {
        // Looked at without the lock, because that takes other ones.
        let known = self.children.lock().clone();
        let ended: Vec<_> = known.into_iter().filter(|it| it.has_ended()).collect();
        let over = {
            let mut children = self.children.lock();
            let over: Vec<_> =
                children.extract_if(.., |it| ended.iter().any(|ended| Arc::ptr_eq(it, ended))).collect();
            children.push(child.clone());
            (over, ended)
        };
        // Dropped without the lock.
        drop(over);
        // The session may have ended while the client was made, and then looked at its children too early.
        if self.closed.load(Ordering::Acquire) {
            child.stop();
        }
    }

    /// The threads of the clients that have not ended.
    pub(super) fn client_status(&self) -> Vec<ClientStatus> {
        // Looked at without the lock, because this takes other ones.
        let children = self.children.lock().clone();
        children.iter().filter(|child| !child.has_ended()).map(|child| child.status()).collect()
    }

    /// This is a forked child of the process that made the session.
    pub(crate) fn is_foreign(&self) -> bool {
        self.process.is_other()
    }

    /// How long closing may take.
    pub(crate) fn closing(&self) -> Duration {
        self.config.timeouts.close.min(LONGEST_END)
    }

    /// How long closing may take of which the server is told.
    fn finishing(&self) -> Duration {
        self.config.timeouts.finish.min(LONGEST_END).max(self.closing())
    }

    /// # Errors
    /// The session has ended, or this is a forked child of the process that made it.
    pub(crate) fn check_open(&self) -> Result<()> {
        self.process.check()?;
        match self.closed.load(Ordering::Acquire) {
            true => Err(Error::closed("the service client is closed")),
            false => Ok(()),
        }
    }

    /// An error as the caller should see it: what ended because the session did says so.
    pub(crate) fn as_ended(&self, error: Error) -> Error {
        let by_us = error.is_cancelled() || error.is_closed();
        match by_us && self.closed.load(Ordering::Acquire) && !error.is_panic() {
            true => Error::closed("the service client was closed while this was in progress"),
            false => error,
        }
    }

    /// Tells the server how the session ended, then ends it here.
    pub(crate) fn close(&self, status: CloseStatus, detail: Option<&str>) -> Result<()> {
        self.process.check()?;
        let deadline = Instant::now() + self.finishing();
        let id = self.id.lock().clone();
        let finished = match (self.check_open(), id) {
            (Ok(()), Some(id)) => {
                self.cancellations.close();
                self.report_finally(self.closing() / 8);
                self.finish(&id, status, detail)
            }
            _ => Ok(()),
        };
        // What the server did not take of the time is left for telemetry, but for the end of the threads.
        self.end_by(deadline - self.closing() / 4, deadline);
        finished
    }

    pub(super) fn finish(&self, id: &str, status: CloseStatus, detail: Option<&str>) -> Result<()> {
        let reason = match status {
            CloseStatus::Success => json::FinishReason::Success,
            CloseStatus::Errored => json::FinishReason::Errored,
            CloseStatus::Interrupted => json::FinishReason::Interrupted,
        };
        let request = json::FinishSessionRequest { reason, detail: detail.map(str::to_string) };
        let id = url::segment_of_server(id)?;
        let mut call = Call::post(Lane::Session, &endpoint::FINISH_SESSION, &request)?
            .at(endpoint::FINISH_SESSION.path_with(&[&id]))
            .by("ServiceClient.close");
        let budget = self.finishing().saturating_sub(self.closing()).max(self.closing() / 2);
        call.budget = Some(budget);
        call.timeout = Some(self.config.timeouts.exchange.min(budget / 2));
        match self.http.send(&call, &self.cancel) {
            Ok(_) => Ok(()),
            // Servers without the endpoint notice the end by the missing heartbeats.
            Err(error) if matches!(error.http_status(), Some(404 | 405 | 410)) => Ok(()),
            Err(error) => Err(error.with(|it| it.operation = Some("close".into()))),
        }
    }

    /// Ends everything, within half of the time that closing may take. Doing it again does nothing.
    pub(super) fn end(&self) {
        let now = Instant::now();
        self.end_by(now + self.closing() / 4, now + self.closing() / 2);
    }

    /// Telemetry has until `told`, everything else until `deadline`. If somebody else is at it, waits for him.
    fn end_by(&self, told: Instant, deadline: Instant) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return self.ending.wait(deadline);
        }
        let _told_when_done = Done(&self.ending);
        self.cancel.cancel();
        self.dispatch.close();
        // While requests still can be sent. Nobody waits for this but the one who closes: all callers are answered.
        if let Some(it) = &self.telemetry {
            it.finish(told);
        }
        self.http.shutdown();
        let deadline = deadline.min(Instant::now() + self.closing() / 2);
        let children = std::mem::take(&mut *self.children.lock());
        for child in &children {
            child.stop();
        }
        for child in &children {
            child.join(deadline);
        }
        self.cancellations.close();
        let left = self.pool.close(deadline);
        if let Some(telemetry) = &self.telemetry {
            telemetry.give_up();
        }
        if 0 < left {
            log::warn!(target: "tinkex", "{left} threads were still busy when the client was closed");
        }
        // There are no heartbeats any more that would do it.
        retry_deliveries();
    }
}

/// Whether the end of a session is complete.
#[derive(Default)]
pub(super) struct Ending {
    is_over: Mutex<bool>,
    over: Condvar,
}

impl Ending {
    /// Waits for the thread that ends the session. A thread of a client's own does not: it is one of those that are waited for.
    fn wait(&self, deadline: Instant) {
        if spawn::is_ours() {
            return;
        }
        let mut is_over = self.is_over.lock();
        let mut in_time = true;
        while !*is_over && in_time {
            in_time = sync::wait(&self.over, &mut is_over, Some(deadline));
        }
    }
}

/// Says when it is dropped that the end is complete.
struct Done<'a>(&'a Ending);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        *self.0.is_over.lock() = true;
        self.0.over.notify_all();
    }
}
