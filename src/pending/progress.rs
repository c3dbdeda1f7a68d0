//! How far an operation is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Served;
use crate::error::Error;
use crate::event::{Observed, QueueStateChange, Seeing, TraceContext};
use crate::sync::Mutex;
use crate::types::QueueState;

/// What is known of an operation now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// The verb.
    pub operation: &'static str,
    /// How far it is.
    pub stage: Stage,
    /// The server's id, once it accepted the request.
    pub request_id: Option<String>,
    /// What the server said last of its queue.
    pub queue_state: Option<QueueState>,
    /// Why, in the server's words.
    pub queue_state_reason: Option<String>,
    /// HTTP requests made for it.
    pub attempts: u32,
    /// How long ago the server last answered anything about it.
    pub last_contact: Option<Duration>,
    /// How long ago it was submitted.
    pub elapsed: Duration,
    /// How the last request for it failed, if none has succeeded since and it is tried again.
    pub last_failure: Option<String>,
}

/// How far an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// In the mailbox of its client, behind earlier ones, or waiting for a permit.
    Queued,
    /// Being sent.
    Submitting,
    /// Accepted by the server, which works on it.
    Waiting,
    /// Its result, or its error, is there.
    Done,
}

/// The shared record of how far an operation is.
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
    /// What the server calls the request whose result is waited for.
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

    /// With those who look at it from outside, on the thread that submits.
    pub(crate) fn seen_by(mut self, seeing: &Seeing) -> Self {
        self.observed = seeing.observed.clone();
        self.trace = seeing.trace.current();
        self
    }

    /// With the server that it is asked of.
    pub(crate) fn of_server(mut self, served: Served) -> Self {
        self.served = Some(served);
        self
    }

    /// The server has never answered anything yet.
    pub(crate) fn awaits_first_contact(&self) -> bool {
        self.served.as_ref().is_some_and(|it| !it.yet())
    }

    pub(crate) fn trace(&self) -> Option<&Arc<TraceContext>> {
        self.trace.as_ref()
    }

    /// The public method, as servers want to be told it.
    pub(crate) fn sdk_method(&self) -> &'static str {
        self.sdk_method
    }

    /// The verb alone.
    pub(crate) fn operation(&self) -> &'static str {
        verb(self.sdk_method)
    }

    pub(crate) fn submitted(&self) -> Instant {
        self.submitted
    }

    /// When the operation gives up by itself.
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

    /// The result of a request of a type is waited for.
    pub(crate) fn awaiting(&self, request_type: &'static str) {
        self.state.lock().request_type = Some(request_type);
    }

    pub(crate) fn attempt(&self) {
        self.state.lock().attempts += 1;
    }

    pub(crate) fn contact(&self, now: Instant) {
        self.state.lock().last_contact = Some(now);
    }

    /// A request of the operation failed and will be sent again.
    pub(crate) fn failed(&self, error: Error) {
        let before = self.state.lock().last_failure.replace(error);
        // Without the lock: it may be the last of a long chain.
        drop(before);
    }

    /// A request of the operation succeeded.
    pub(crate) fn recovered(&self) {
        let before = self.state.lock().last_failure.take();
        drop(before);
    }

    /// How the last request failed, if none has succeeded since.
    pub(crate) fn last_failure(&self) -> Option<Error> {
        self.state.lock().last_failure.clone()
    }

    /// Takes note of what the server says of its queue, and tells the observer of what is new.
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

    /// An operation that was paused is paused no more, however it ended.
    pub(crate) fn unqueue(&self, now: Instant) {
        if self.state.lock().queue.is_some() {
            self.queue(QueueState::Active, None, now);
        }
    }

    /// How far the operation is.
    pub(crate) fn look(&self, now: Instant) -> Status {
        self.status(false, now)
    }

    /// Adds what is known here to an error of this operation.
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

    /// The error that ends this operation: with what is known here, and the one account of its attempts and its time.
    pub(crate) fn account(&self, error: Error, now: Instant) -> Error {
        let attempts = self.state.lock().attempts;
        let elapsed = now.saturating_duration_since(self.submitted);
        self.explain(error, now).accounted(attempts, elapsed)
    }

    /// How far the operation is, in words.
    pub(crate) fn describe(&self, done: bool, now: Instant) -> String {
        let status = self.status(done, now);
        let mut text = format!("{} is {:?} since {:.0?}", status.operation, status.stage, status.elapsed);
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
