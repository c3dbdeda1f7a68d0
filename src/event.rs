//! Events of a client for observers, and trace contexts for distributed tracing.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::lane::Lane;
use crate::metrics::Metrics;
use crate::sync::unwind;
use crate::types::{QueueState, TrainingPath};

/// Receives events of a client. The default methods do nothing.
///
/// Methods are called on the thread on which the event happens: a thread of the client, or a thread of the caller, for
/// example the one that drops a [`Pending`](crate::Pending). No lock of the client is held during the call. A slow
/// method delays the operation that causes the event. A panic in a method is logged and ignored.
///
/// # Example: print when training waits for capacity
/// ```
/// use std::sync::Arc;
/// use tinkex::ServiceClient;
/// use tinkex::event::{Observer, QueueStateChange};
///
/// struct Printer;
///
/// impl Observer for Printer {
///     fn on_queue_state(&self, change: &QueueStateChange) {
///         println!("{}: {:?} {:?}", change.operation, change.state, change.reason);
///     }
/// }
///
/// let builder = ServiceClient::builder().observer(Arc::new(Printer));
/// # drop(builder);
/// ```
pub trait Observer: Send + Sync {
    /// The server reported a new queue state for an operation that waits for its result.
    fn on_queue_state(&self, _change: &QueueStateChange) {}

    /// A request failed and will be retried.
    fn on_retry(&self, _retry: &Retry) {}

    /// The server refused a sample because it is overloaded (HTTP 429) or because the account is unpaid (HTTP 402). A
    /// pause begins, during which the client sends no sample.
    fn on_backoff(&self, _backoff: &Backoff) {}

    /// A circuit breaker changed its state.
    fn on_breaker(&self, _change: &BreakerChange) {}

    /// Operations wait because the account is unpaid (HTTP 402). Called at the start of the wait and once a minute.
    fn on_billing_pause(&self, _pause: &BillingPause) {}

    /// Heartbeats have failed for so long that the server may end the session. Called again after each further failed
    /// heartbeat.
    fn on_heartbeat_trouble(&self, _trouble: &HeartbeatTrouble) {}

    /// An operation was cancelled because its [`Pending`](crate::Pending) was dropped.
    fn on_drop(&self, _dropped: &Dropped) {}

    /// A [`RecoveryMonitor`](crate::recovery::RecoveryMonitor) took a step for a run. Called on the monitor's thread.
    fn on_recovery(&self, _event: &RecoveryEvent) {}
}

/// A change of the queue state of an operation.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct QueueStateChange {
    /// The method that submitted the operation.
    pub operation: &'static str,
    /// The server's id of the request.
    pub request_id: String,
    /// The new state. `Active` is also reported when a paused operation ends.
    pub state: QueueState,
    /// The reason for the state, in the server's words.
    pub reason: Option<String>,
    /// Time since the submission of the operation.
    pub elapsed: Duration,
}

/// A retry of a failed request.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Retry {
    /// The path of the endpoint.
    pub path: String,
    /// Number of attempts so far.
    pub attempts: u32,
    /// The error of the last attempt.
    pub error: Error,
    /// Time until the next attempt.
    pub pause: Duration,
}

/// A pause during which no client of the session sends a sample.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Backoff {
    /// Length of the pause.
    pub pause: Duration,
}

/// A wait for payment of the account.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BillingPause {
    /// Time since the first answer with HTTP 402.
    pub lasted: Duration,
    /// The error of the last answer with HTTP 402.
    pub error: Error,
}

/// A change of a circuit breaker's state; see [`CircuitBreaker`](crate::CircuitBreaker).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BreakerChange {
    /// The class of requests that the breaker stops.
    pub class: Lane,
    /// The new state.
    pub state: BreakerState,
}

/// The state of a circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BreakerState {
    /// All requests pass.
    Closed,
    /// No request passes.
    Open,
    /// A few requests pass and test whether the server is back.
    HalfOpen,
}

/// A period of failed heartbeats.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HeartbeatTrouble {
    /// The id of the session.
    pub session_id: String,
    /// Time since the last successful heartbeat.
    pub silent: Duration,
    /// The error of the last heartbeat.
    pub error: Error,
}

/// An operation that was cancelled because its [`Pending`](crate::Pending) was dropped.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Dropped {
    /// The method that submitted the operation.
    pub operation: &'static str,
    /// The server's id of the request, if it was accepted.
    pub request_id: Option<String>,
}

/// A step of a [`RecoveryMonitor`](crate::recovery::RecoveryMonitor) for one training run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RecoveryEvent {
    /// Id of the run. After a recovery, this is still the id of the corrupted run.
    pub run_id: String,
    /// Number of the attempt, from 1. 0 if the step is a check.
    pub attempt: u32,
    /// The step.
    pub step: RecoveryStep,
}

/// The steps of a recovery.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RecoveryStep {
    /// The run could not be checked.
    CheckFailed {
        /// The error of the check.
        error: Error,
    },
    /// The server reports that the run is corrupted.
    Detected,
    /// The creation of a new client begins.
    Started {
        /// The checkpoint that is loaded.
        checkpoint: TrainingPath,
    },
    /// The run continues with a new client.
    Recovered {
        /// Id of the new model, which is also the id of its run.
        model_id: String,
        /// The checkpoint that was loaded.
        checkpoint: TrainingPath,
    },
    /// The attempt failed, and another one follows.
    Failed {
        /// The error of the attempt.
        error: Error,
        /// Time until the next attempt.
        pause: Duration,
    },
    /// The run is followed no longer, because it could not be recovered or checked.
    GaveUp {
        /// The reason.
        error: Error,
    },
}

/// The optional observer of a client.
#[derive(Clone, Default)]
pub(crate) struct Observed(Option<Arc<dyn Observer>>);

impl Observed {
    pub(crate) fn by(observer: Arc<dyn Observer>) -> Self {
        Observed(Some(observer))
    }

    /// Calls `tell` with the observer. Without an observer `tell` does not run, so that no event is built.
    pub(crate) fn tell(&self, tell: impl FnOnce(&dyn Observer)) {
        if let Some(observer) = &self.0
            && let Err(error) = unwind::catch(|| tell(&**observer))
        {
            unwind::report("an observer panicked", &error);
        }
    }
}

impl fmt::Debug for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Observed" } else { "unobserved" })
    }
}

/// Identifies the trace and the span to which an operation belongs, in the format of W3C Trace Context.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TraceContext {
    /// Value of the header `traceparent`, such as `00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01`.
    pub traceparent: String,
    /// Value of the header `tracestate`.
    pub tracestate: Option<String>,
}

impl TraceContext {
    /// Creates a context without `tracestate`.
    pub fn new(traceparent: impl Into<String>) -> Self {
        TraceContext { traceparent: traceparent.into(), tracestate: None }
    }

    /// Sets the value of `tracestate`.
    #[must_use]
    pub fn with_tracestate(mut self, tracestate: impl Into<String>) -> Self {
        self.tracestate = Some(tracestate.into());
        self
    }
}

type Trace = dyn Fn() -> Option<TraceContext> + Send + Sync;

/// Observer, metrics and tracing of a client.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seeing {
    pub(crate) observed: Observed,
    pub(crate) metrics: Metrics,
    pub(crate) trace: Tracing,
}

/// The caller's function that returns trace contexts, if there is one.
#[derive(Clone, Default)]
pub(crate) struct Tracing(Option<Arc<Trace>>);

impl Tracing {
    pub(crate) fn by(trace: Arc<Trace>) -> Self {
        Tracing(Some(trace))
    }

    /// The trace context for an operation that the current thread submits now.
    pub(crate) fn current(&self) -> Option<Arc<TraceContext>> {
        let source = self.0.as_ref()?;
        let context = match unwind::catch(|| source()) {
            Ok(context) => context?,
            Err(error) => {
                unwind::report("a trace hook panicked", &error);
                return None;
            }
        };
        let printable =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        let is_valid = printable(&context.traceparent) && context.tracestate.as_deref().is_none_or(printable);
        if !is_valid {
            log::warn!(target: "tinkex", "a trace context is ignored because it is not a valid header value");
        }
        is_valid.then(|| Arc::new(context))
    }
}

impl fmt::Debug for Tracing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Tracing" } else { "untraced" })
    }
}
