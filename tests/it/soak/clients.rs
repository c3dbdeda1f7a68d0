//! The clients of a round: made when they are needed, closed at random, replaced when they are of no more use.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tinkex::event::{Backoff, Dropped, HeartbeatTrouble, Observer, QueueStateChange, Retry, TraceContext};
use tinkex::testing::Listening;
use tinkex::{Metrics, PausePolicy, SamplingClient, ServiceClient, TrainingClient};

/// What panics that are meant to be say.
pub(super) const ON_PURPOSE: &str = "soak: a panic on purpose";

/// How long an operation may take before it gives up by itself.
pub(super) const OPERATION: Duration = Duration::from_secs(60);

/// A service client and the places of the clients that it made.
pub(super) struct Service {
    pub(super) client: ServiceClient,
    pub(super) closed: Arc<AtomicBool>,
    pub(super) gives_up_pauses: bool,
    pub(super) metrics: Metrics,
    pub(super) training: Vec<Place<TrainingClient>>,
    pub(super) sampling: Vec<Place<SamplingClient>>,
}

/// Where a client is, if there is one.
pub(super) struct Place<C>(Mutex<Option<Held<C>>>);

/// A client in use by many threads.
#[derive(Clone)]
pub(super) struct Held<C> {
    pub(super) client: C,
    /// The operation that made it.
    pub(super) made_by: u32,
    pub(super) closed: Arc<AtomicBool>,
    /// A training client whose order is lost.
    pub(super) lost: Arc<AtomicBool>,
}

impl<C: Clone> Place<C> {
    pub(super) fn get(&self) -> Option<Held<C>> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        held.filter(|it| !it.closed.load(Ordering::SeqCst) && !it.lost.load(Ordering::SeqCst))
    }

    pub(super) fn put(&self, client: C, made_by: u32) {
        let held = Held { client, made_by, closed: Arc::default(), lost: Arc::default() };
        let before = self.0.lock().unwrap_or_else(PoisonError::into_inner).replace(held);
        // Dropped without the lock.
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
            .timeouts(|it| {
                (it.connect, it.exchange, it.poll, it.heartbeat) = (s(1), ms(1500), s(1), s(1));
                (it.submit, it.operation, it.close) = (s(20), OPERATION, s(2));
            })
            .observer(Arc::new(Careless))
            .trace_context(|| {
                stumble();
                let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_string();
                Some(TraceContext::new(traceparent))
            })
            .telemetry(number % 2 == 1)
            .metrics(metrics.clone());
        let builder = match gives_up_pauses {
            true => builder.pause_policy(PausePolicy::WaitAtMost(ms(20))),
            false => builder,
        };
        Service {
            client: builder.build().unwrap(),
            closed: Arc::default(),
            gives_up_pauses,
            metrics,
            training: (0..8).map(|_| Place(Mutex::default())).collect(),
            sampling: (0..4).map(|_| Place(Mutex::default())).collect(),
        }
    }

    /// How many operations of this service are in flight, and how many there were, by its own count.
    pub(super) fn counted(&self) -> (f64, u64) {
        let numbers = self.metrics.snapshot();
        let in_flight = numbers.gauges.get("tinkex_operations_in_flight").copied().unwrap_or(0.0);
        (in_flight, numbers.counters.get("tinkex_operations_total").copied().unwrap_or(0))
    }
}

/// Panics once in a hundred times.
pub(super) fn stumble() {
    if fastrand::u32(..100) == 0 {
        std::panic::panic_any(ON_PURPOSE);
    }
}

/// An observer that looks at what it is told and sometimes panics.
struct Careless;

impl Observer for Careless {
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

/// A tag of a result that panics when it is dropped: what a channel does with it that nobody reads any more.
pub(super) struct Spiteful;

impl Drop for Spiteful {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            stumble();
        }
    }
}
