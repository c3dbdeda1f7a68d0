//! The monitor: one thread that takes the due steps of all followed runs, one after the other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::followed::{FollowedRun, RecoveryStatus, Shared};
use super::plan::{AfterFailure, Step};
use super::policy::{Recovery, RecoveryCheckpoint, RecoveryHooks, RecoveryPolicy};
use crate::client::{RestClient, ServiceClient, TrainingClient};
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::event::{Observed, RecoveryEvent, RecoveryStep};
use crate::pending::Canceller;
use crate::session::{Child, ClientStatus};
use crate::sync::actor::{Actor, Handle};
use crate::sync::cancel::Wake;
use crate::sync::process::{Process, leak};
use crate::sync::{CancelToken, Clock, Mutex, unwind};
use crate::types::{Checkpoint, CheckpointPath, FromStateOptions, TrainingPath, TrainingRun};

const THREAD: &str = "tk-recover";

/// Follows training runs and recovers those that the server reports as corrupted. See [`recovery`](crate::recovery).
///
/// A monitor has one thread, which takes one step at a time: it checks a run, or creates a new client for a corrupted
/// run. So a run is never recovered twice at the same time, and a long creation delays the other runs of the monitor.
/// The thread ends with [`close`](Self::close), with the drop of the monitor, and with the session; each run is then
/// followed no longer, and says so in its [`status`](FollowedRun::status). A monitor keeps its service client, and the
/// session, alive.
///
/// The new client belongs to a new training run, which the monitor follows instead of the corrupted one. The new run
/// has the metadata of the corrupted run. The observer of the service client gets each step
/// ([`on_recovery`](crate::event::Observer::on_recovery)).
pub struct RecoveryMonitor {
    common: Arc<Common>,
    worker: Arc<Worker>,
    service: ServiceClient,
    process: Process,
}

/// What the handles and the thread share.
struct Common {
    policy: RecoveryPolicy,
    waker: Waker,
    cancel: CancelToken,
    /// The followed runs; `None` after the end of the thread.
    runs: Mutex<Option<Vec<Arc<Shared>>>>,
}

/// Wakes the monitor's thread.
#[derive(Clone)]
pub(super) struct Waker {
    clock: Clock,
    /// Cancelled to end the wait of the thread, which replaces it before it looks for due steps.
    token: Arc<Mutex<CancelToken>>,
}

impl Waker {
    pub(super) fn now(&self) -> Instant {
        self.clock.now()
    }

    pub(super) fn wake(&self) {
        let token = self.token.lock().clone();
        token.cancel();
    }
}

/// The thread, as the session stops and joins it. Holds no client, so that it does not keep the session alive.
struct Worker {
    handle: Handle<()>,
    cancel: CancelToken,
}

impl Child for Worker {
    fn stop(&self) {
        self.cancel.cancel();
        self.handle.stop();
    }

    fn join(&self, deadline: Instant) {
        self.handle.join(deadline);
    }

    fn has_ended(&self) -> bool {
        !self.handle.is_alive()
    }

    fn status(&self) -> ClientStatus {
        ClientStatus { name: THREAD.into(), queued: self.handle.n_queued() }
    }
}

impl RecoveryMonitor {
    /// Starts a monitor. Nothing is sent.
    ///
    /// # Errors
    /// An invalid setting, a closed service client, a thread that the system refuses.
    pub fn start(service: &ServiceClient, policy: &RecoveryPolicy) -> Result<Self> {
        struct Nothing;
        impl RecoveryHooks for Nothing {}
        RecoveryMonitor::start_with(service, policy, Arc::new(Nothing))
    }

    /// As [`start`](Self::start), with functions that the monitor calls at the end of each recovery.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub fn start_with(
        service: &ServiceClient,
        policy: &RecoveryPolicy,
        hooks: Arc<dyn RecoveryHooks>,
    ) -> Result<Self> {
        policy.validate()?;
        let session = service.session();
        session.check_open()?;
        let cancel = session.cancel.child();
        let token = Arc::new(Mutex::new(cancel.child()));
        let common = Arc::new(Common {
            policy: policy.clone(),
            waker: Waker { clock: session.clock.clone(), token },
            cancel: cancel.clone(),
            runs: Mutex::new(Some(Vec::new())),
        });
        let thread = Monitor {
            common: common.clone(),
            rest: service.create_rest_client().cancelled_by(&cancel),
            service: service.clone(),
            observed: session.config.seeing.observed.clone(),
            hooks,
        };
        let worker = Arc::new(Worker { handle: Handle::spawn(THREAD.into(), 1, thread)?, cancel });
        session.add_child(worker.clone());
        // The one message of the thread: its turn lasts until the end of the monitor.
        worker.handle.send((), None)?;
        Ok(RecoveryMonitor { common, worker, service: service.clone(), process: Process::this() })
    }

    /// Follows the run of a training client, which was created by the service client of this monitor. The first check
    /// is made after the interval. If the run is followed already, returns its handle.
    ///
    /// # Errors
    /// Closed: the monitor or its service client is closed.
    pub fn follow(&self, training: &TrainingClient) -> Result<FollowedRun> {
        self.process.check()?;
        let Common { policy, waker, cancel, runs } = &*self.common;
        let new = Shared::new(training.clone(), waker.now(), policy, cancel.child());
        let known = {
            let mut runs = runs.lock();
            let runs = runs.as_mut().ok_or_else(closed)?;
            runs.push(new.clone());
            runs.clone()
        };
        // Of several runs with this id the first counts, also if two threads call this method at the same time.
        let is_same = |run: &&Arc<Shared>| run.is_active() && run.client().model_id() == training.model_id();
        let shared = known.iter().find(is_same).unwrap_or(&new).clone();
        if !Arc::ptr_eq(&shared, &new) {
            new.end(RecoveryStatus::Stopped);
        }
        waker.wake();
        Ok(FollowedRun { shared, wake: waker.clone(), process: self.process })
    }

    /// Ends the monitor: each run is followed no longer, and an attempt in progress is cancelled. The clients stay
    /// usable. A second call does nothing. Dropping the monitor does the same.
    ///
    /// # Blocking
    /// Until the thread has ended, at most `Timeouts::close`; on the monitor's own thread not at all. A request in
    /// progress is not interrupted: the thread then ends after it.
    pub fn close(&self) {
        if self.process.is_other() {
            return;
        }
        self.worker.stop();
        self.worker.join(Instant::now() + self.service.session().close_limit());
    }
}

impl Drop for RecoveryMonitor {
    fn drop(&mut self) {
        if self.process.is_other() {
            leak(&(self.common.clone(), self.worker.clone(), self.service.clone()));
            return;
        }
        self.close();
    }
}

impl std::fmt::Debug for RecoveryMonitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecoveryMonitor").field("policy", &self.common.policy).finish_non_exhaustive()
    }
}

fn closed() -> Error {
    Error::closed("the recovery monitor is closed; start a new one")
}

/// The state of the thread.
struct Monitor {
    common: Arc<Common>,
    rest: RestClient,
    service: ServiceClient,
    observed: Observed,
    hooks: Arc<dyn RecoveryHooks>,
}

impl Actor for Monitor {
    type Msg = ();

    fn turn(&mut self, (): ()) {
        if let Err(error) = unwind::catch(|| self.run_until_cancelled()) {
            unwind::report("a recovery monitor panicked", &error);
            self.end_all(Some(&error));
        }
    }

    fn ending(&mut self) {
        self.end_all(self.service.session().check_open().err().as_ref());
    }
}

impl Monitor {
    fn run_until_cancelled(&self) {
        let Common { waker, cancel, .. } = &*self.common;
        while !cancel.is_cancelled() {
            // Replaced before the runs are read: a later change ends the wait below.
            let wake = cancel.child();
            let previous = std::mem::replace(&mut *waker.token.lock(), wake.clone());
            drop(previous);
            let now = waker.now();
            match self.next_due() {
                Some((due, run)) if due <= now => self.take_step(&run),
                next => {
                    let wait = next.map_or(Duration::MAX, |(due, _)| due.saturating_duration_since(now));
                    // An error means that the wait was ended early.
                    let _ = waker.clock.tick(wait, &wake);
                }
            }
        }
    }

    /// Ends the monitoring of all runs, with an error or because the monitor is closed.
    fn end_all(&self, error: Option<&Error>) {
        let runs = self.common.runs.lock().take();
        for run in runs.into_iter().flatten() {
            match error {
                Some(error) => self.fail(&run, error),
                None => drop(run.end(RecoveryStatus::Stopped)),
            }
        }
    }

    /// Forgets the runs that are followed no longer, and returns the run whose step is due first.
    fn next_due(&self) -> Option<(Instant, Arc<Shared>)> {
        let runs = self.common.runs.lock().clone().unwrap_or_default();
        let (active, ended): (Vec<_>, Vec<_>) = runs.into_iter().partition(|run| run.is_active());
        if let Some(runs) = self.common.runs.lock().as_mut().filter(|_| !ended.is_empty()) {
            runs.retain(|run| !ended.iter().any(|it| Arc::ptr_eq(it, run)));
        }
        let due = |run: Arc<Shared>| {
            let due = run.state.lock().plan.due();
            due.map(|due| (due, run))
        };
        active.into_iter().filter_map(due).min_by_key(|(due, _)| *due)
    }

    /// Takes the step that is due. Whatever happens in it, the thread goes on: a panic ends the run with an error.
    fn take_step(&self, run: &Arc<Shared>) {
        let step = run.state.lock().plan.begin();
        let outcome = unwind::catch(|| match step {
            Step::Check => self.check(run),
            Step::Attempt(number) => self.attempt(run, number),
        });
        if let Err(error) = outcome {
            unwind::report("a step of a recovery panicked", &error);
            self.fail(run, &error);
        }
    }

    fn check(&self, run: &Arc<Shared>) {
        let client = run.client();
        let answer = self.rest.get_training_run(client.model_id());
        let (now, policy) = (self.common.waker.now(), &self.common.policy);
        match answer {
            Ok(found) if found.corrupted => {
                let after = {
                    let mut state = run.state.lock();
                    state.corrupted = Some(found);
                    state.plan.corrupted(now, policy)
                };
                self.tell(&client, 0, RecoveryStep::Detected);
                if after == AfterFailure::GiveUp {
                    let message = "the training run is corrupted again, and no attempt to recover it is left";
                    self.fail(run, &Error::new(ErrorKind::Poisoned, message));
                }
            }
            Ok(_) => run.state.lock().plan.healthy(now, policy),
            // The monitor is being closed, or the run was stopped.
            Err(_) if run.cancel.is_cancelled() => {}
            Err(error) => {
                let after = run.state.lock().plan.check_failed(now, policy, &error);
                self.tell(&client, 0, RecoveryStep::CheckFailed { error: error.clone() });
                if after == AfterFailure::GiveUp {
                    self.fail(run, &error);
                }
            }
        }
    }

    fn attempt(&self, run: &Arc<Shared>, number: u32) {
        let client = run.client();
        let made = self.choose(run).and_then(|path| {
            let checkpoint = path.clone();
            self.tell(&client, number, RecoveryStep::Started { checkpoint });
            Ok((self.create(run, &path)?, path))
        });
        let (now, policy) = (self.common.waker.now(), &self.common.policy);
        match made {
            Ok((current, checkpoint)) => {
                let advance = |plan: &mut super::plan::Plan| plan.recovered(now, policy);
                let Some(previous) = run.replace(&current, &checkpoint, advance) else { return };
                let model_id = current.model_id().to_string();
                let step = RecoveryStep::Recovered { model_id, checkpoint: checkpoint.clone() };
                self.tell(&client, number, step);
                let recovery = Recovery { previous, current, checkpoint };
                unwind::shield("a hook of a recovery panicked", || self.hooks.on_recovery(&recovery));
            }
            Err(_) if run.cancel.is_cancelled() => {}
            Err(error) => {
                let after = run.state.lock().plan.attempt_failed(now, policy, &error);
                match after {
                    AfterFailure::Repeat(pause) => {
                        self.tell(&client, number, RecoveryStep::Failed { error, pause });
                    }
                    AfterFailure::GiveUp => self.fail(run, &gave_up(&error, number)),
                }
            }
        }
    }

    /// The checkpoint to continue from.
    fn choose(&self, run: &Shared) -> Result<TrainingPath> {
        if let RecoveryCheckpoint::Path(path) = &self.common.policy.checkpoint {
            return Ok(path.clone());
        }
        let (client, found, recovered_from) = {
            let state = run.state.lock();
            (state.client.clone(), state.corrupted.clone(), state.recovered_from.clone())
        };
        if let Some(path) = found.as_ref().and_then(|it| it.last_checkpoint.as_ref()).and_then(training_path)
        {
            return Ok(path);
        }
        let listed = latest(self.rest.list_checkpoints(client.model_id())?);
        listed.or(recovered_from).ok_or_else(|| {
            let message = format!(
                "the training run {:?} is corrupted and has no checkpoint to continue from; save one with save_state",
                client.model_id()
            );
            Error::new(ErrorKind::NotFound, message)
        })
    }

    /// Creates a client from a checkpoint.
    fn create(&self, run: &Shared, path: &TrainingPath) -> Result<TrainingClient> {
        let metadata = |it: &TrainingRun| Some(it.user_metadata.clone()).filter(|it| !it.is_empty());
        let user_metadata = run.state.lock().corrupted.as_ref().and_then(metadata);
        let policy = &self.common.policy;
        let options = FromStateOptions {
            restore_optimizer: policy.restore_optimizer,
            user_metadata,
            ..Default::default()
        };
        let mut pending = self.service.start_training_client_from_state(path.as_str(), &options)?;
        // Ends the wait below if the run is stopped or the monitor closed.
        let _registration = run.cancel.on_cancel(Arc::new(CancelsAttempt(pending.canceller())));
        match pending.wait_timeout(policy.attempt_timeout)? {
            Some(client) => Ok(client),
            None => {
                pending.cancel();
                let limit = policy.attempt_timeout;
                let message = format!("the new client was not created within attempt_timeout ({limit:?})");
                Err(Error::timeout(Phase::Total, message))
            }
        }
    }

    /// Ends the monitoring of a run with an error, and tells it.
    fn fail(&self, run: &Shared, error: &Error) {
        if !run.end(RecoveryStatus::Failed(error.clone())) {
            return;
        }
        let (client, attempts) = {
            let state = run.state.lock();
            (state.client.clone(), state.plan.attempts_in_progress().unwrap_or(0))
        };
        self.tell(&client, attempts, RecoveryStep::GaveUp { error: error.clone() });
        unwind::shield("a hook of a recovery panicked", || self.hooks.on_failure(&client, error));
    }

    fn tell(&self, client: &TrainingClient, attempt: u32, step: RecoveryStep) {
        let run_id = client.model_id().to_string();
        self.observed.tell(|observer| observer.on_recovery(&RecoveryEvent { run_id, attempt, step }));
    }
}

/// Cancels the creation of a client.
struct CancelsAttempt(Canceller);

impl Wake for CancelsAttempt {
    fn wake(&self) {
        self.0.cancel();
    }
}

/// The last error of a recovery that failed. Its kind stays, so that its predicates do.
fn gave_up(error: &Error, n_attempts: u32) -> Error {
    let times = if n_attempts == 1 { "attempt" } else { "attempts" };
    error.clone().adding(&format!(" (the recovery of the training run failed after {n_attempts} {times})"))
}

fn training_path(checkpoint: &Checkpoint) -> Option<TrainingPath> {
    match checkpoint.path() {
        Ok(CheckpointPath::Training(path)) => Some(path),
        _ => None,
    }
}

/// The newest training state; of those without a readable time the last.
fn latest(checkpoints: Vec<Checkpoint>) -> Option<TrainingPath> {
    let time = |it: &Checkpoint| it.time.as_ref().and_then(|time| time.to_system_time());
    let states = checkpoints.iter().filter_map(|it| Some((time(it), training_path(it)?)));
    states.max_by_key(|(time, _)| *time).map(|(_, path)| path)
}
