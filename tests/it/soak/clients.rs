//! The clients of one round of the soak test: the test runs in rounds, each with new clients. They are created on
//! demand, closed at random, and replaced when they are closed or poisoned.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tinkex::event::{Backoff, Dropped, HeartbeatTrouble, Observer, QueueStateChange, Retry, TraceContext};
use tinkex::testing::Listening;
use tinkex::{Metrics, PausePolicy, SamplingClient, ServiceClient, TrainingClient};

/// Payload of the panics that the soak causes deliberately.
pub(super) const ON_PURPOSE: &str = "soak: a panic on purpose";

/// Time limit of an operation.
pub(super) const OPERATION: Duration = Duration::from_secs(60);

/// A service client with slots for its training clients and sampling clients.
pub(super) struct Service {
    pub(super) client: ServiceClient,
    /// Set to true before the service is closed, so that errors of the kind `Closed` can be explained.
    pub(super) closed: Arc<AtomicBool>,
    /// True if an operation that the server pauses waits at most 20 ms and then fails with `Paused`.
    pub(super) gives_up_pauses: bool,
    pub(super) metrics: Metrics,
    pub(super) training: Vec<Slot<TrainingClient>>,
    pub(super) sampling: Vec<Slot<SamplingClient>>,
}

/// Storage for one client, empty until the first client is created.
pub(super) struct Slot<C>(Mutex<Option<Held<C>>>);

/// A client in a slot, shared by many threads.
#[derive(Clone)]
pub(super) struct Held<C> {
    pub(super) client: C,
    /// Number of the operation that created the client.
    pub(super) made_by: u32,
    /// Set before the client is closed.
    pub(super) closed: Arc<AtomicBool>,
    /// Set when an operation of the training client fails with `Poisoned`.
    pub(super) lost: Arc<AtomicBool>,
}

impl<C: Clone> Slot<C> {
    /// Returns the client, unless it is closed or poisoned.
    pub(super) fn get(&self) -> Option<Held<C>> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        held.filter(|it| !it.closed.load(Ordering::SeqCst) && !it.lost.load(Ordering::SeqCst))
    }

    pub(super) fn put(&self, client: C, made_by: u32) {
        let held = Held { client, made_by, closed: Arc::default(), lost: Arc::default() };
        let before = self.0.lock().unwrap_or_else(PoisonError::into_inner).replace(held);
        // Drop the old client outside the lock: its destructor may block.
        drop(before);
    }
}

impl Service {
    pub(super) fn new(number: usize, listening: &Listening) -> Self {
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        let metrics = Metrics::default();
        let gives_up_pauses = number % 4 == 3;
        let builder = listening
            .client()
            .timeouts(|timeouts| {
                (timeouts.connect, timeouts.exchange, timeouts.poll, timeouts.heartbeat) =
                    (s(1), ms(1500), s(1), s(1));
                (timeouts.submit, timeouts.operation, timeouts.close) = (s(20), OPERATION, s(2));
            })
            .observer(Arc::new(Panicking))
            .trace_context(|| {
                stumble();
                let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_string();
                Some(TraceContext::new(traceparent))
            })
            .telemetry(number % 2 == 1)
            .metrics(metrics.clone());
        let builder =
            if gives_up_pauses { builder.pause_policy(PausePolicy::WaitAtMost(ms(20))) } else { builder };
        Service {
            client: builder.build().unwrap(),
            closed: Arc::default(),
            gives_up_pauses,
            metrics,
            training: (0..8).map(|_| Slot(Mutex::default())).collect(),
            sampling: (0..4).map(|_| Slot(Mutex::default())).collect(),
        }
    }

    /// Returns the number of operations in flight and the number of all operations so far, from the client's metrics.
    pub(super) fn counted(&self) -> (f64, u64) {
        let numbers = self.metrics.snapshot();
        let in_flight = numbers.gauges.get("tinkex_operations_in_flight").copied().unwrap_or(0.0);
        (in_flight, numbers.counters.get("tinkex_operations_total").copied().unwrap_or(0))
    }
}

/// Panics deliberately with a probability of 1 %.
pub(super) fn stumble() {
    if fastrand::u32(..100) == 0 {
        std::panic::panic_any(ON_PURPOSE);
    }
}

/// An observer that panics in 1 % of its calls.
struct Panicking;

impl Observer for Panicking {
    fn on_queue_state(&self, _: &QueueStateChange) {
        stumble();
    }

    fn on_retry(&self, _: &Retry) {
        stumble();
    }

    fn on_backoff(&self, _: &Backoff) {
        stumble();
    }

    fn on_heartbeat_trouble(&self, _: &HeartbeatTrouble) {
        stumble();
    }

    fn on_drop(&self, _: &Dropped) {
        stumble();
    }
}

/// A tag for `Pending::on_done` whose destructor panics in 1 % of the calls. The soak test passes it together with a
/// channel that has no receiver: the tag cannot be delivered, so the client drops it.
pub(super) struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            stumble();
        }
    }
}
