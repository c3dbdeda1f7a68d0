//! A run that a monitor follows, as its caller and the monitor's thread share it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::plan::Plan;
use super::policy::RecoveryPolicy;
use crate::client::TrainingClient;
use crate::error::{Error, Result};
use crate::sync::process::Process;
use crate::sync::{self, CancelToken, Condvar, Mutex};
use crate::types::{TrainingPath, TrainingRun};

/// A run that a [`RecoveryMonitor`](super::RecoveryMonitor) follows. Cheap to clone; dropping it does not end the
/// monitoring.
#[derive(Clone)]
pub struct FollowedRun {
    pub(super) shared: Arc<Shared>,
    pub(super) wake: super::monitor::Waker,
    pub(super) process: Process,
}

/// The state of a followed run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RecoveryStatus {
    /// The run is checked in each interval.
    Following,
    /// The run is corrupted, and attempts to recover it are made.
    Recovering {
        /// Number of attempts that have begun.
        attempts: u32,
    },
    /// The run is followed no longer, because it could not be recovered or checked.
    Failed(Error),
    /// The run is followed no longer, because the caller stopped it or closed the monitor.
    Stopped,
}

/// The shared state. The monitor's thread is the only one that takes steps and replaces the client.
pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    /// Notified when the client or the end changes.
    changed: Condvar,
    /// Cancelled when the run is followed no longer; ends an attempt in progress.
    pub(super) cancel: CancelToken,
}

pub(super) struct State {
    pub(super) client: TrainingClient,
    pub(super) plan: Plan,
    n_recoveries: u32,
    /// The run as the server described it when it was found to be corrupted.
    pub(super) corrupted: Option<TrainingRun>,
    /// The checkpoint of the last recovery.
    pub(super) recovered_from: Option<TrainingPath>,
    end: Option<RecoveryStatus>,
}

impl Shared {
    pub(super) fn new(
        client: TrainingClient,
        now: Instant,
        policy: &RecoveryPolicy,
        cancel: CancelToken,
    ) -> Arc<Self> {
        let plan = Plan::new(now, policy);
        let state = State { client, plan, n_recoveries: 0, corrupted: None, recovered_from: None, end: None };
        Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), cancel })
    }

    /// The run is still followed.
    pub(super) fn is_active(&self) -> bool {
        self.state.lock().end.is_none()
    }

    pub(super) fn client(&self) -> TrainingClient {
        self.state.lock().client.clone()
    }

    /// Ends the monitoring of the run. Returns false if it has ended before.
    pub(super) fn end(&self, status: RecoveryStatus) -> bool {
        let is_first = {
            let mut state = self.state.lock();
            let is_first = state.end.is_none();
            if is_first {
                state.end = Some(status);
            }
            is_first
        };
        self.changed.notify_all();
        self.cancel.cancel();
        is_first
    }

    /// Replaces the client by that of the new run, unless the run is followed no longer. Returns the client that is not
    /// used any more.
    pub(super) fn replace(
        &self,
        client: &TrainingClient,
        checkpoint: &TrainingPath,
        advance: impl FnOnce(&mut Plan),
    ) -> Option<TrainingClient> {
        let previous = {
            let mut state = self.state.lock();
            if state.end.is_some() {
                return None;
            }
            advance(&mut state.plan);
            state.n_recoveries += 1;
            state.corrupted = None;
            state.recovered_from = Some(checkpoint.clone());
            std::mem::replace(&mut state.client, client.clone())
        };
        self.changed.notify_all();
        Some(previous)
    }

    fn status(&self) -> RecoveryStatus {
        let state = self.state.lock();
        match (&state.end, state.plan.attempts_in_progress()) {
            (Some(end), _) => end.clone(),
            (None, Some(attempts)) => RecoveryStatus::Recovering { attempts },
            (None, None) => RecoveryStatus::Following,
        }
    }
}

impl FollowedRun {
    /// The client that trains the run now: the one that was followed first, or that of the last recovery.
    pub fn current(&self) -> TrainingClient {
        self.shared.client()
    }

    /// The state of the run. If it has failed, this has the error.
    pub fn status(&self) -> RecoveryStatus {
        self.shared.status()
    }

    /// Number of recoveries so far.
    pub fn recoveries(&self) -> u32 {
        self.shared.state.lock().n_recoveries
    }

    /// Checks the run now instead of at the end of the interval, for example after an operation failed. Does not wait.
    /// Has no effect while the run is being recovered.
    pub fn check_now(&self) {
        if self.process.is_other() {
            return;
        }
        let now = self.wake.now();
        self.shared.state.lock().plan.request_check(now);
        self.wake.wake();
    }

    /// Waits until another client than `previous` trains the run, and returns it. `None`: the time is over, and the run
    /// is still followed.
    ///
    /// # Errors
    /// The error for which the run is followed no longer; closed, if the run or the monitor was stopped.
    ///
    /// # Blocking
    /// At most `timeout`.
    ///
    /// # Example: after a failed step
    /// ```no_run
    /// use std::time::Duration;
    /// use tinkex::{TrainingClient, recovery::FollowedRun};
    ///
    /// fn client_after(run: &FollowedRun, failed: &TrainingClient) -> tinkex::Result<Option<TrainingClient>> {
    ///     run.check_now();
    ///     run.wait_for_replacement(failed, Duration::from_secs(600))
    /// }
    /// ```
    pub fn wait_for_replacement(
        &self,
        previous: &TrainingClient,
        timeout: Duration,
    ) -> Result<Option<TrainingClient>> {
        self.process.check()?;
        // On overflow there is no limit.
        let deadline = Instant::now().checked_add(timeout);
        let mut state = self.shared.state.lock();
        let mut in_time = true;
        loop {
            if state.client.model_id() != previous.model_id() {
                return Ok(Some(state.client.clone()));
            }
            match &state.end {
                Some(RecoveryStatus::Failed(error)) => return Err(error.clone()),
                Some(_) => return Err(Error::closed("the run is followed no longer")),
                None if !in_time => return Ok(None),
                None => in_time = sync::wait(&self.shared.changed, &mut state, deadline),
            }
        }
    }

    /// Ends the monitoring of this run; an attempt in progress is cancelled. Does not wait. The client stays usable. A
    /// second call does nothing.
    pub fn stop(&self) {
        if self.process.is_other() {
            return;
        }
        self.shared.end(RecoveryStatus::Stopped);
        self.wake.wake();
    }
}

impl std::fmt::Debug for FollowedRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FollowedRun")
            .field("model_id", &self.current().model_id())
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}
