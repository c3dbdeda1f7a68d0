//! Telling the server of samples that nobody waits for any more (PROTOCOL §9.3).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::Threads;
use crate::error::words::one_line;
use crate::error::{Error, Result};
use crate::http::{Call, Lane, endpoint};
use crate::sync::cancel::{Registration, Wake};
use crate::sync::pool::{Part, Pool, PoolConfig};
use crate::sync::undo::Undo;
use crate::sync::{CancelToken, Mutex};
use crate::wire::json::CancelFutureRequest;

use super::{PoolStatus, Session, pool_status};

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Threads that tell the server, however large the batches are that it wants.
const TELLERS: usize = 64;

/// The samples that the server has not been told of yet, and the threads that tell it.
pub(super) struct Abandoned {
    pool: Pool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    request_ids: VecDeque<String>,
    /// A thread is at it.
    running: bool,
    closed: bool,
}

impl Abandoned {
    pub(super) fn new(threads: &Threads) -> Self {
        let Threads { stack_size, idle, .. } = *threads;
        let pool = Pool::new(PoolConfig { name: "tk-stop", max_threads: TELLERS, stack_size, idle });
        Abandoned { pool, state: Mutex::default() }
    }

    /// From now on nothing is told: the end of the session says it all.
    pub(super) fn retire(&self) {
        let left = {
            let mut state = self.state.lock();
            state.closed = true;
            std::mem::take(&mut state.request_ids)
        };
        drop(left);
    }

    /// Ends the threads, and returns how many are left at the deadline.
    pub(super) fn close(&self, deadline: Instant) -> usize {
        self.retire();
        self.pool.close(deadline)
    }

    pub(super) fn status(&self) -> PoolStatus {
        let status = pool_status("tk-stop", &self.pool);
        PoolStatus { queued: status.queued + self.state.lock().request_ids.len(), ..status }
    }
}

/// A sample that the server works on. Dropping this says that nobody waits for it any more, and so does its token, at
/// once: the thread that waits for the result may be held by the server for a while yet.
pub(crate) struct Underway {
    told: Arc<Told>,
    _cancelled: Registration,
}

/// What the server calls a sample, until it has been told that nobody waits for it.
struct Told {
    session: Arc<Session>,
    request_id: Mutex<Option<String>>,
}

impl Told {
    fn take(&self) -> Option<String> {
        self.request_id.lock().take()
    }
}

impl Wake for Told {
    fn wake(&self) {
        if let Some(request_id) = self.take() {
            self.session.abandon(request_id);
        }
    }
}

impl Underway {
    pub(crate) fn new(session: &Arc<Session>, request_id: &str, cancel: &CancelToken) -> Self {
        let request_id = Mutex::new(Some(request_id.to_string()));
        let told = Arc::new(Told { session: session.clone(), request_id });
        Underway { _cancelled: cancel.on_cancel(told.clone()), told }
    }

    /// It came to an error. Unless that only says that nobody waits any more, there is nothing to cancel.
    pub(crate) fn ended_with(self, error: &Error) {
        match error.is_cancelled() || error.is_closed() || error.is_timeout() {
            true => drop(self),
            false => self.over(),
        }
    }

    /// The server is done with it.
    pub(crate) fn over(self) {
        drop(self.told.take());
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.told.wake();
    }
}

impl Session {
    /// Has the server told, if it wants to know, that nobody waits for a sample any more. Never blocks.
    fn abandon(self: &Arc<Self>, request_id: String) {
        if !self.dynamic_flags().sample_cancel_enabled || self.cancel.is_cancelled() {
            return;
        }
        let abandoned = &self.abandoned;
        let starts = {
            let mut state = abandoned.state.lock();
            if state.closed {
                return;
            }
            state.request_ids.push_back(request_id);
            !std::mem::replace(&mut state.running, true)
        };
        if !starts {
            return;
        }
        let session = self.clone();
        let lost = Undo::new(move |error| session.leave_abandoned(&error));
        let session = self.clone();
        let _undone_if_refused = abandoned.pool.spawn(move || {
            session.tell_abandoned();
            lost.disarm();
        });
    }

    /// The thread that should tell the server is not there, or ended before its time.
    fn leave_abandoned(&self, error: &Error) {
        let lost = {
            let mut state = self.abandoned.state.lock();
            state.running = false;
            std::mem::take(&mut state.request_ids)
        };
        if !lost.is_empty() {
            log::warn!(target: "tinkex", "{} samples could not be cancelled: {error}", lost.len());
        }
    }

    /// Tells the server, a batch at a time, until there is nothing left to tell.
    fn tell_abandoned(self: &Arc<Self>) {
        loop {
            // What the flags say may change while samples wait here.
            let most = usize::try_from(self.dynamic_flags().sample_cancel_max_batch_size);
            let batch: Vec<String> = {
                let mut state = self.abandoned.state.lock();
                let n = state.request_ids.len().min(most.unwrap_or(usize::MAX).max(1));
                state.running = 0 < n;
                state.request_ids.drain(..n).collect()
            };
            if batch.is_empty() {
                return;
            }
            let part = |request_id: String| -> Part<()> {
                let session = self.clone();
                Box::new(move || {
                    // Repeated like any other request, but not queued again: the server also notices when the session's
                    // heartbeats end.
                    if let Err(error) = session.cancel_future(&request_id) {
                        let request_id = one_line(&request_id);
                        match session.cancel.is_cancelled() {
                            true => {
                                log::debug!(target: "tinkex", "sample {request_id} was not cancelled: {error}")
                            }
                            false => {
                                log::error!(target: "tinkex", "sample {request_id} was not cancelled: {error}")
                            }
                        }
                    }
                    Ok(())
                })
            };
            for result in self.abandoned.pool.fan_out(batch.into_iter().map(part).collect(), TELLERS) {
                if let Err(panic) = result {
                    log::error!(target: "tinkex", "a sample was not cancelled: {panic}");
                }
            }
        }
    }

    fn cancel_future(&self, request_id: &str) -> Result<()> {
        let request = CancelFutureRequest { request_id: request_id.into() };
        let mut call = Call::post(Lane::Poll, &endpoint::CANCEL_FUTURE, &request)?;
        call.timeout = Some(TIMEOUT);
        self.http.send(&call, &self.cancel).map(|_| ())
    }
}
