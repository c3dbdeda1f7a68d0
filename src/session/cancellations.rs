//! Cancels samples on the server when their callers no longer wait for them (PROTOCOL §9.3).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::error::words::one_line;
use crate::error::{Error, Result};
use crate::http::{Call, Lane, endpoint};
use crate::sync::cancel::{Registration, Wake};
use crate::sync::task::{Turn, Work};
use crate::sync::workers::Part;
use crate::sync::{CancelToken, Mutex};
use crate::wire::json::CancelFutureRequest;

use super::{Job, Session};

/// Time limit of one request.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum number of threads that send requests to cancel a sample, even if the server allows larger batches.
pub(super) const MOST_THREADS: usize = 64;

/// Queue of samples to cancel on the server.
#[derive(Default)]
pub(super) struct Cancellations {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    request_ids: VecDeque<String>,
    closed: bool,
}

impl Cancellations {
    /// Clears the queue and rejects later samples. At the end of the session no cancellations are needed: when the
    /// session is finished, the server cancels all its samples.
    pub(super) fn close(&self) {
        let dropped = {
            let mut state = self.state.lock();
            state.closed = true;
            std::mem::take(&mut state.request_ids)
        };
        drop(dropped);
    }

    pub(super) fn n_queued(&self) -> usize {
        self.state.lock().request_ids.len()
    }

    fn push(&self, request_id: String) -> bool {
        let mut state = self.state.lock();
        if state.closed {
            return false;
        }
        state.request_ids.push_back(request_id);
        true
    }

    fn take(&self, n: usize) -> Vec<String> {
        let mut state = self.state.lock();
        let n = state.request_ids.len().min(n);
        state.request_ids.drain(..n).collect()
    }
}

impl Work for Cancellations {
    type Owner = Session;

    /// Cancels one batch.
    fn turn(&self, session: &Arc<Session>) -> Turn {
        // Read for each batch: the flag may change while samples are queued.
        let max_batch = usize::try_from(session.dynamic_flags().sample_cancel_max_batch_size);
        let batch = self.take(max_batch.unwrap_or(usize::MAX).max(1));
        if batch.is_empty() {
            return Turn::Idle;
        }
        let part = |request_id: String| -> Part<()> {
            let session = session.clone();
            Box::new(move || {
                session.cancel_future(&request_id);
                Ok(())
            })
        };
        let parts = batch.into_iter().map(part).collect();
        for result in session.pool[Job::Cancel].fan_out(parts, MOST_THREADS) {
            if let Err(panic) = result {
                log::error!(target: "tinkex", "a sample was not cancelled: {panic}");
            }
        }
        Turn::Again
    }

    fn lost(&self, _: &Arc<Session>, error: &Error) {
        let n_lost = self.take(usize::MAX).len();
        if 0 < n_lost {
            log::warn!(target: "tinkex", "{n_lost} samples could not be cancelled: {error}");
        }
    }
}

/// Cancels an accepted sample on the server when this guard is dropped or its token is cancelled. The token is needed
/// because the thread that holds the guard may be blocked in a long poll and cannot drop the guard then.
pub(crate) struct CancelOnDrop {
    accepted: Arc<AcceptedSample>,
    _registration: Registration,
}

/// The server's id of a sample. The id is taken out when the sample is cancelled or done.
struct AcceptedSample {
    session: Arc<Session>,
    request_id: Mutex<Option<String>>,
}

impl AcceptedSample {
    fn take_id(&self) -> Option<String> {
        self.request_id.lock().take()
    }
}

impl Wake for AcceptedSample {
    fn wake(&self) {
        if let Some(request_id) = self.take_id() {
            self.session.cancel_on_server(request_id);
        }
    }
}

impl CancelOnDrop {
    pub(crate) fn new(session: &Arc<Session>, request_id: &str, cancel: &CancelToken) -> Self {
        let request_id = Mutex::new(Some(request_id.to_string()));
        let accepted = Arc::new(AcceptedSample { session: session.clone(), request_id });
        CancelOnDrop { _registration: cancel.on_cancel(accepted.clone()), accepted }
    }

    /// Cancels the sample if the error means that its caller no longer waits; otherwise disarms the guard.
    pub(crate) fn ended_with(self, error: &Error) {
        if error.is_cancelled() || error.is_closed() || error.is_timeout() {
            drop(self);
        } else {
            self.disarm();
        }
    }

    /// Disarms the guard: the sample need not be cancelled.
    pub(crate) fn disarm(self) {
        drop(self.accepted.take_id());
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.accepted.wake();
    }
}

impl Session {
    /// Queues a sample for cancellation if the server's flags enable that. Never blocks.
    fn cancel_on_server(self: &Arc<Self>, request_id: String) {
        let is_enabled = self.dynamic_flags().sample_cancel_enabled && !self.cancel.is_cancelled();
        if is_enabled && self.cancellations.push(request_id) {
            // If no thread can be started, `lost` logs that.
            let _ = self.cancellations.wake(self, &self.pool[Job::Cancel]);
        }
    }

    /// Cancels one sample, with the usual retries. If they fail, logs the error and does not queue the sample again:
    /// the server cancels it at the latest when the heartbeats of the session end.
    fn cancel_future(&self, request_id: &str) {
        let Err(error) = self.send_cancel_future(request_id) else { return };
        let level = if self.cancel.is_cancelled() { log::Level::Debug } else { log::Level::Error };
        log::log!(target: "tinkex", level, "sample {} was not cancelled: {error}", one_line(request_id));
    }

    fn send_cancel_future(&self, request_id: &str) -> Result<()> {
        let request = CancelFutureRequest { request_id: request_id.into() };
        let mut call = Call::post(Lane::Poll, &endpoint::CANCEL_FUTURE, &request)?;
        call.timeout = Some(TIMEOUT);
        self.http.send(&call, &self.cancel).map(|_| ())
    }
}
