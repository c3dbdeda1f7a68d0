//! The end of a session: stops its clients, then its threads, within a bounded time.

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

/// Upper bound of `Timeouts::close` and `Timeouts::finish`.
const LONGEST_CLOSE: Duration = Duration::from_secs(3600);

/// A client of the session that has its own thread.
pub(crate) trait Child: Send + Sync {
    /// Stops the client: queued and running operations are answered with an error.
    fn stop(&self);
    /// Waits for the client's thread, at most until `deadline`.
    fn join(&self, deadline: Instant);
    /// Returns whether the client's thread has ended.
    fn has_ended(&self) -> bool;
    /// Name of the thread and length of the mailbox.
    fn status(&self) -> ClientStatus;
}

/// Held by all handles of a session. When the last handle is dropped, this value is dropped and ends the session.
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
        // In a forked child the session and its sockets belong to the parent.
        if self.session.is_forked_child() {
            return leak(&self.session);
        }
        self.session.end();
    }
}

/// Reason for the end of a session, as reported to the server (PROTOCOL §2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseStatus {
    /// The work is done.
    Success,
    /// The program failed.
    Errored,
    /// The program was interrupted, for example by a signal.
    Interrupted,
}

impl Session {
    /// Registers a client, to be stopped and joined at the end of the session even if no handle of it is left.
    pub(crate) fn add_child(&self, child: Arc<dyn Child>) {
        // `has_ended` takes another lock: call it without the lock of `children`.
        let known = self.children.lock().clone();
        let ended: Vec<_> = known.into_iter().filter(|child| child.has_ended()).collect();
        let removed: Vec<_> = {
            let mut children = self.children.lock();
            let removed = children
                .extract_if(.., |known| ended.iter().any(|child| Arc::ptr_eq(known, child)))
                .collect();
            children.push(child.clone());
            removed
        };
        // Drop the clients outside the lock.
        drop((removed, ended));
        // If the session was closed before the push, `end_by` did not find this client: stop it here.
        if self.closed.load(Ordering::Acquire) {
            child.stop();
        }
    }

    /// Status of all clients whose thread has not ended.
    pub(super) fn client_status(&self) -> Vec<ClientStatus> {
        // `has_ended` and `status` take other locks: call them without the lock of `children`.
        let children = self.children.lock().clone();
        children.iter().filter(|child| !child.has_ended()).map(|child| child.status()).collect()
    }

    /// Returns whether this process is a forked child of the one that made the session.
    pub(crate) fn is_forked_child(&self) -> bool {
        self.process.is_other()
    }

    /// Time limit of `close`, without the request that tells the server about the end.
    pub(crate) fn close_limit(&self) -> Duration {
        self.config.timeouts.close.min(LONGEST_CLOSE)
    }

    /// Time limit of `close`, with the request that tells the server about the end.
    fn finish_limit(&self) -> Duration {
        self.config.timeouts.finish.min(LONGEST_CLOSE).max(self.close_limit())
    }

    /// Checks that this process can still use the session.
    ///
    /// # Errors
    /// Closed: the session has ended, or this process is a forked child of the one that made it.
    pub(crate) fn check_open(&self) -> Result<()> {
        self.process.check()?;
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::closed("the service client is closed; build a new one"));
        }
        Ok(())
    }

    /// If the session has ended and the error tells only that something was cancelled or closed, returns an error that
    /// says that the service client was closed.
    pub(crate) fn or_closed(&self, error: Error) -> Error {
        let is_abort = (error.is_cancelled() || error.is_closed()) && !error.is_panic();
        if is_abort && self.closed.load(Ordering::Acquire) {
            Error::closed("the service client was closed while this was in progress")
        } else {
            error
        }
    }

    /// Tells the server how the session ended, then ends it here.
    pub(crate) fn close(&self, status: CloseStatus, detail: Option<&str>) -> Result<()> {
        self.process.check()?;
        let deadline = Instant::now() + self.finish_limit();
        let id = self.id.lock().clone();
        let finished = match (self.check_open(), id) {
            (Ok(()), Some(id)) => {
                self.cancellations.close();
                self.send_final_reports(self.close_limit() / 8);
                self.finish(&id, status, detail)
            }
            _ => Ok(()),
        };
        // Telemetry gets the time that is left, except for a quarter of `close_limit`, which is kept for joining the
        // threads.
        self.end_by(deadline - self.close_limit() / 4, deadline);
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
        let budget = self.finish_limit().saturating_sub(self.close_limit()).max(self.close_limit() / 2);
        call.budget = Some(budget);
        call.timeout = Some(self.config.timeouts.exchange.min(budget / 2));
        match self.http.send(&call, &self.cancel) {
            Ok(_) => Ok(()),
            // A server without the endpoint notices the end by missing heartbeats.
            Err(error) if matches!(error.http_status(), Some(404 | 405 | 410)) => Ok(()),
            Err(error) => Err(error.with(|context| context.operation = Some("close".into()))),
        }
    }

    /// Ends the session in this process, without telling the server, within half of `close_limit`. Later calls do
    /// nothing.
    pub(super) fn end(&self) {
        let now = Instant::now();
        self.end_by(now + self.close_limit() / 4, now + self.close_limit() / 2);
    }

    /// Ends telemetry by `telemetry_deadline` and everything else by `deadline`. If another thread is already ending
    /// the session, waits for it.
    fn end_by(&self, telemetry_deadline: Instant, deadline: Instant) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return self.ending.wait(deadline);
        }
        let _end_guard = EndGuard(&self.ending);
        self.cancel.cancel();
        self.dispatch.close();
        // Telemetry still needs the transport. All callers are answered already, so that only the closing thread waits
        // here.
        if let Some(telemetry) = &self.telemetry {
            telemetry.finish(telemetry_deadline);
        }
        self.http.shutdown();
        let deadline = deadline.min(Instant::now() + self.close_limit() / 2);
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
        // Retry the delivery of results for which no thread could be started. Usually each heartbeat does this, but no
        // heartbeat follows.
        retry_deliveries();
    }
}

/// Signals that the end of a session is complete.
#[derive(Default)]
pub(super) struct EndSignal {
    is_complete: Mutex<bool>,
    completed: Condvar,
}

impl EndSignal {
    /// Waits for the thread that ends the session. Returns immediately on a thread of the crate: the ending thread may
    /// be joining it, so that both would wait for each other.
    fn wait(&self, deadline: Instant) {
        if spawn::is_ours() {
            return;
        }
        let mut is_complete = self.is_complete.lock();
        let mut in_time = true;
        while !*is_complete && in_time {
            in_time = sync::wait(&self.completed, &mut is_complete, Some(deadline));
        }
    }
}

/// Guard of the thread that ends the session. Dropping it signals that the end is complete.
struct EndGuard<'a>(&'a EndSignal);

impl Drop for EndGuard<'_> {
    fn drop(&mut self) {
        *self.0.is_complete.lock() = true;
        self.0.completed.notify_all();
    }
}
