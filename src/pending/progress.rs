//! The state of an operation: [`Progress`] is the record that the operation's threads update, [`Status`] is a copy of
//! the record for callers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Served;
use super::own_thread::OperationId;
use crate::error::words::one_line;
use crate::error::{Error, Phase};
use crate::event::{Observed, QueueStateChange, Seeing, TraceContext};
use crate::sync::Mutex;
use crate::types::QueueState;

/// The state of an operation at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// The name of the operation.
    pub operation: &'static str,
    /// The stage of the operation.
    pub stage: Stage,
    /// The id of the request. Set once the server has accepted the request.
    pub request_id: Option<String>,
    /// The last queue state that the server reported.
    pub queue_state: Option<QueueState>,
    /// The server's reason for the queue state.
    pub queue_state_reason: Option<String>,
    /// Number of HTTP requests made for the operation.
    pub attempts: u32,
    /// Time since the server last answered one of these requests.
    pub last_contact: Option<Duration>,
    /// Time since the operation was submitted.
    pub elapsed: Duration,
    /// The failure of the last request, if the request is retried and no request has succeeded since.
    pub last_failure: Option<String>,
}

/// The stages of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// Waiting in the queue of its client behind earlier operations, or because the client limits how much is sent at
    /// the same time.
    Queued,
    /// Being sent.
    Submitting,
    /// Accepted by the server; the result is being computed.
    Waiting,
    /// The result, or an error, is available.
    Done,
}

/// The shared record of the state of an operation.
#[derive(Clone)]
pub(crate) struct Progress {
    /// The public method, such as `TrainingClient.optim_step`.
    sdk_method: &'static str,
    submitted: Instant,
    deadline: Option<Instant>,
    observed: Observed,
    trace: Option<Arc<TraceContext>>,
    served: Option<Served>,
    state: Arc<Mutex<State>>,
}

struct State {
    stage: Stage,
    request_id: Option<String>,
    /// Type of the request whose result is awaited, as the server names it.
    request_type: Option<&'static str>,
    queue: Option<(QueueState, Option<String>)>,
    attempts: u32,
    last_contact: Option<Instant>,
    last_failure: Option<Error>,
}

impl Progress {
    pub(crate) fn new(sdk_method: &'static str, submitted: Instant, deadline: Option<Instant>) -> Self {
        let state = State {
            stage: Stage::Queued,
            request_id: None,
            request_type: None,
            queue: None,
            attempts: 0,
            last_contact: None,
            last_failure: None,
        };
        Progress {
            sdk_method,
            submitted,
            deadline,
            observed: Observed::default(),
            trace: None,
            served: None,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Adds the observer, and the trace context of the current thread. Called on the thread that submits the operation.
    pub(crate) fn seen_by(mut self, seeing: &Seeing) -> Self {
        self.observed = seeing.observed.clone();
        self.trace = seeing.trace.current();
        self
    }

    /// Adds the base URL of the server, and the flag that tells whether the server has answered.
    pub(crate) fn of_server(mut self, served: Served) -> Self {
        self.served = Some(served);
        self
    }

    /// Returns true if the server has never answered.
    pub(crate) fn awaits_first_contact(&self) -> bool {
        self.served.as_ref().is_some_and(|it| !it.yet())
    }

    pub(crate) fn trace(&self) -> Option<&Arc<TraceContext>> {
        self.trace.as_ref()
    }

    /// The public method with its type, such as `TrainingClient.optim_step`, as it is sent to the server.
    pub(crate) fn sdk_method(&self) -> &'static str {
        self.sdk_method
    }

    /// The name of the method without its type.
    pub(crate) fn operation(&self) -> &'static str {
        verb(self.sdk_method)
    }

    /// Identifies the operation as long as it exists.
    pub(crate) fn id(&self) -> OperationId {
        Arc::as_ptr(&self.state) as OperationId
    }

    /// The operation has not been started yet.
    pub(crate) fn is_queued(&self) -> bool {
        self.state.lock().stage == Stage::Queued
    }

    pub(crate) fn submitted(&self) -> Instant {
        self.submitted
    }

    /// Deadline of the operation itself.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    pub(super) fn observed(&self) -> &Observed {
        &self.observed
    }

    pub(super) fn request_id(&self) -> Option<String> {
        self.state.lock().request_id.clone()
    }

    pub(crate) fn submitting(&self) {
        self.state.lock().stage = Stage::Submitting;
    }

    pub(crate) fn accepted(&self, request_id: &str) {
        let mut state = self.state.lock();
        state.stage = Stage::Waiting;
        state.request_id = Some(request_id.into());
    }

    /// Records the type of the request whose result is awaited.
    pub(crate) fn awaiting(&self, request_type: &'static str) {
        self.state.lock().request_type = Some(request_type);
    }

    pub(crate) fn attempt(&self) {
        self.state.lock().attempts += 1;
    }

    pub(crate) fn contact(&self, now: Instant) {
        self.state.lock().last_contact = Some(now);
    }

    /// Records that a request of the operation failed and will be retried.
    pub(crate) fn failed(&self, error: Error) {
        let before = self.state.lock().last_failure.replace(error);
        // Drop without the lock: the error may be the last owner of a long chain of causes.
        drop(before);
    }

    /// Records that a request of the operation succeeded.
    pub(crate) fn recovered(&self) {
        let before = self.state.lock().last_failure.take();
        drop(before);
    }

    /// The failure of the last request, if no request has succeeded since.
    pub(crate) fn last_failure(&self) -> Option<Error> {
        self.state.lock().last_failure.clone()
    }

    /// Error of an operation that passed its deadline, `limit` after its submission. `cause` is the failure of its last
    /// request, if any.
    pub(crate) fn deadline_error(&self, limit: Duration, cause: impl Into<Option<Error>>) -> Error {
        let verb = self.operation();
        let text = format!("{verb} did not finish within Timeouts::operation ({limit:.0?})");
        let error = Error::timeout(Phase::Total, text);
        match cause.into() {
            Some(cause) => error.caused_by(cause),
            None => error,
        }
    }

    /// Records the queue state that the server reports, and calls the observer if the state has changed.
    pub(crate) fn queue(&self, state: QueueState, reason: Option<String>, now: Instant) {
        let said = (state, reason);
        let request_id = {
            let mut known = self.state.lock();
            if known.queue.as_ref() == Some(&said) {
                return;
            }
            known.queue = Some(said.clone());
            known.request_id.clone().unwrap_or_default()
        };
        let (state, reason) = said;
        let (operation, elapsed) = (self.operation(), now.saturating_duration_since(self.submitted));
        self.observed.tell(|it| {
            it.on_queue_state(&QueueStateChange { operation, request_id, state, reason, elapsed });
        });
    }

    /// Called at the end of the operation: if the server has reported a queue state, sets it to `Active` and calls the
    /// observer if that is a change.
    pub(crate) fn unqueue(&self, now: Instant) {
        if self.state.lock().queue.is_some() {
            self.queue(QueueState::Active, None, now);
        }
    }

    /// The current status, for an operation that is not done.
    pub(crate) fn look(&self, now: Instant) -> Status {
        self.status(false, now)
    }

    /// Adds the known facts of the operation to an error.
    pub(crate) fn explain(&self, error: Error, now: Instant) -> Error {
        let (request_id, request_type, attempts) = {
            let state = self.state.lock();
            (state.request_id.clone(), state.request_type, state.attempts)
        };
        error.with(|it| {
            it.operation = Some(self.operation().into());
            it.request_id = request_id;
            it.request_type = request_type;
            it.attempts = (0 < attempts).then_some(attempts);
            it.elapsed = Some(now.saturating_duration_since(self.submitted));
        })
    }

    /// Adds the known facts, the number of attempts and the elapsed time to the error that ends the operation.
    pub(crate) fn account(&self, error: Error, now: Instant) -> Error {
        let attempts = self.state.lock().attempts;
        let elapsed = now.saturating_duration_since(self.submitted);
        self.explain(error, now).accounted(attempts, elapsed)
    }

    /// Describes the state of the operation, for messages.
    pub(crate) fn describe(&self, done: bool, now: Instant) -> String {
        let status = self.status(done, now);
        let mut text = format!("{} is {:?} since {:.0?}", status.operation, status.stage, status.elapsed);
        if let Some(id) = &status.request_id {
            text += &format!(", request {}", one_line(id));
        }
        if let Some(queue) = &status.queue_state {
            text += &format!(", the server's queue is {queue:?}");
        }
        if let Some(reason) = &status.queue_state_reason {
            text += &format!(" ({reason})");
        }
        if let Some(ago) = status.last_contact {
            text += &format!(", last contact {ago:.0?} ago");
        }
        if let Some(served) = self.served.as_ref().filter(|it| !it.yet()) {
            text += &format!(", {} has not answered yet", served.by());
        }
        match status.last_failure {
            Some(failure) => text + &format!(", the last request failed: {failure}"),
            None => text,
        }
    }

    /// The base URL of the server, and the status without request id, number of attempts and times. Waits for which
    /// these are equal share one warning.
    pub(super) fn warning_state(&self, now: Instant) -> (Option<String>, Status) {
        let (request_id, last_contact) = (None, None);
        let status = Status {
            request_id,
            attempts: 0,
            last_contact,
            elapsed: Duration::ZERO,
            ..self.status(false, now)
        };
        (self.served.as_ref().map(|served| served.by().into()), status)
    }

    pub(super) fn status(&self, done: bool, now: Instant) -> Status {
        let state = self.state.lock();
        let (queue_state, queue_state_reason) = match &state.queue {
            Some((queue, reason)) => (Some(queue.clone()), reason.clone()),
            None => (None, None),
        };
        Status {
            operation: self.operation(),
            stage: if done { Stage::Done } else { state.stage },
            request_id: state.request_id.clone(),
            queue_state,
            queue_state_reason,
            attempts: state.attempts,
            last_contact: state.last_contact.map(|it| now.saturating_duration_since(it)),
            elapsed: now.saturating_duration_since(self.submitted),
            last_failure: state.last_failure.as_ref().map(Error::to_string),
        }
    }
}

pub(super) fn verb(sdk_method: &'static str) -> &'static str {
    sdk_method.rsplit('.').next().unwrap_or(sdk_method)
}
