//! What happens inside of a client, for those who want to see it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::http::transport::Lane;
use crate::metrics::Metrics;
use crate::sync::unwind;
use crate::types::QueueState;

/// Is told what happens inside of a client. Every method does nothing unless it is implemented.
///
/// Methods are called on the client's own threads, with no lock held, as it happens: one that takes long holds up the
/// operation that it is about, one that panics is logged and ignored.
///
/// # Example: say when training waits for capacity
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
    /// The server said something new about the queue in which an operation waits.
    fn on_queue_state(&self, _change: &QueueStateChange) {}

    /// A request failed and will be sent again.
    fn on_retry(&self, _retry: &Retry) {}

    /// The server has too many samples: none is sent for a while.
    fn on_backoff(&self, _backoff: &Backoff) {}

    /// A circuit breaker opened, closed, or lets a few requests pass to see whether the server is back.
    fn on_breaker(&self, _change: &BreakerChange) {}

    /// The server wants to be paid (HTTP 402): operations wait for it. Told when it begins and once a minute.
    fn on_billing_pause(&self, _pause: &BillingPause) {}

    /// Heartbeats have failed for so long that the server may end the session.
    fn on_heartbeat_trouble(&self, _trouble: &HeartbeatTrouble) {}

    /// An operation was given up by dropping its handle.
    fn on_drop(&self, _dropped: &Dropped) {}
}

/// What the server says of its queue.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct QueueStateChange {
    /// The verb of the operation.
    pub operation: &'static str,
    /// The server's id of the request.
    pub request_id: String,
    /// The state now; also `Active` when an operation that was paused is done.
    pub state: QueueState,
    /// Why, in the server's words.
    pub reason: Option<String>,
    /// How long ago the operation was submitted.
    pub elapsed: Duration,
}

/// A request that will be sent again.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Retry {
    /// The path of the endpoint.
    pub path: String,
    /// How often it was sent so far.
    pub attempts: u32,
    /// How it failed.
    pub error: Error,
    /// How long until it is sent again.
    pub pause: Duration,
}

/// A pause of all samples.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Backoff {
    /// How long.
    pub pause: Duration,
}

/// An account that has to be settled.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BillingPause {
    /// For how long operations have waited.
    pub lasted: Duration,
    /// The server's words.
    pub error: Error,
}

/// A circuit breaker whose state changed; see [`CircuitBreaker`](crate::CircuitBreaker).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BreakerChange {
    /// The class of requests that it stands before.
    pub class: Lane,
    /// Its state now.
    pub state: BreakerState,
}

/// Whether a circuit lets requests pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BreakerState {
    /// All pass.
    Closed,
    /// None passes.
    Open,
    /// A few pass, to see whether the server is back.
    HalfOpen,
}

/// Heartbeats that fail.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HeartbeatTrouble {
    /// The session.
    pub session_id: String,
    /// For how long none succeeded.
    pub silent: Duration,
    /// How the last one failed.
    pub error: Error,
}

/// An operation whose handle was dropped.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Dropped {
    /// The verb.
    pub operation: &'static str,
    /// The server's id, if it had accepted the request.
    pub request_id: Option<String>,
}

/// The observer of a client, or none.
#[derive(Clone, Default)]
pub(crate) struct Observed(Option<Arc<dyn Observer>>);

impl Observed {
    pub(crate) fn by(observer: Arc<dyn Observer>) -> Self {
        Observed(Some(observer))
    }

    /// Tells the observer, if there is one. What it is told is made only then.
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

/// The place of an operation in a distributed trace, as W3C Trace Context writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// Such as `00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01`.
    pub traceparent: String,
    /// What goes with it, if anything.
    pub tracestate: Option<String>,
}

type Trace = dyn Fn() -> Option<TraceContext> + Send + Sync;

/// How a client is seen from outside.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seeing {
    pub(crate) observed: Observed,
    pub(crate) metrics: Metrics,
    pub(crate) trace: Tracing,
}

/// Where the place in a trace comes from.
#[derive(Clone, Default)]
pub(crate) struct Tracing(Option<Arc<Trace>>);

impl Tracing {
    pub(crate) fn by(trace: Arc<Trace>) -> Self {
        Tracing(Some(trace))
    }

    /// The place of what the current thread is about to submit.
    pub(crate) fn current(&self) -> Option<Arc<TraceContext>> {
        let ask = self.0.as_ref()?;
        let context = match unwind::catch(|| ask()) {
            Ok(it) => it?,
            Err(error) => {
                unwind::report("a trace hook panicked", &error);
                return None;
            }
        };
        let printable = |it: &str| !it.is_empty() && it.bytes().all(|it| (b' '..=b'~').contains(&it));
        let good = printable(&context.traceparent) && context.tracestate.as_deref().is_none_or(printable);
        if !good {
            log::warn!(target: "tinkex", "a trace context that cannot be a header was left out");
        }
        good.then(|| Arc::new(context))
    }
}

impl fmt::Debug for Tracing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Tracing" } else { "untraced" })
    }
}
