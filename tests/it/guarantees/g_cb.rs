//! Tests of the guarantee G-CB (see `guarantees/mod.rs`). It covers these findings of `src/_docs/findings.md`: 003-V3,
//! 003-F5, N-19, N-35.
//!
//! Each class of requests has its own circuit breaker, with its own lock. After several failures in a row the breaker
//! opens: no request of its class is sent. After a while the breaker is half-open: it admits a few requests as trials.
//! If a trial succeeds, the breaker closes: all requests are sent again.
//!
//! A trial is counted when it is admitted, and each outcome is recorded once. Each change between open, half-open and
//! closed starts a new epoch. If a request was admitted in an older epoch, its outcome is ignored. Breakers are off by
//! default.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tinkex::event::{BreakerChange, BreakerState, Observer};
use tinkex::testing::{Act, FakeServer, VirtualClock};
use tinkex::transport::{Answer, Broken, Exchange, Lane, Transport};
use tinkex::types::AdamParams;
use tinkex::{CircuitBreaker, ErrorKind, ServiceClient};

use super::{Gate, sample};
use crate::util::{eventually, in_time};

const CAPABILITIES: &str = "/api/v1/get_server_capabilities";
const RETRIEVE: &str = "/api/v1/retrieve_future";
const RESET: Duration = Duration::from_secs(30);

/// Settings of a breaker that opens after three failures and admits one trial after [`RESET`].
fn three(it: &mut CircuitBreaker) {
    (it.failures, it.reset, it.trials) = (3, RESET, 1);
}

#[derive(Default)]
struct Changes(Mutex<Vec<(Lane, BreakerState)>>);

impl Observer for Changes {
    fn on_breaker(&self, change: &BreakerChange) {
        self.0.lock().unwrap().push((change.class, change.state));
    }
}

#[test]
fn by_default_no_number_of_failures_stops_requests() {
    let server = FakeServer::new();
    let service = server.in_memory().build().unwrap();
    server.always(CAPABILITIES, Act::status(500, "down"));
    for n in 1..=20 {
        let error = service.get_server_capabilities().unwrap_err();
        assert_eq!((error.kind(), error.http_status()), (&ErrorKind::Status { code: 500 }, Some(500)), "{n}");
    }
    server.behave(CAPABILITIES);
    service.get_server_capabilities().unwrap();
}

#[test]
fn after_three_failures_nothing_is_sent_until_a_trial_succeeds() {
    let (server, time, changes) = (FakeServer::new(), VirtualClock::new(), Arc::new(Changes::default()));
    let service =
        server.in_memory_at(time.clone()).circuit_breaker(three).observer(changes.clone()).build().unwrap();
    server.always(CAPABILITIES, Act::status(500, "down"));
    let error = service.get_server_capabilities().unwrap_err();
    assert_eq!((error.kind(), error.http_status()), (&ErrorKind::CircuitOpen, Some(500)));
    let error = service.get_server_capabilities().unwrap_err();
    assert_eq!((error.kind(), error.http_status()), (&ErrorKind::CircuitOpen, None));
    assert!(error.is_retryable() && error.retry_after().is_some_and(|it| it <= RESET), "{error:?}");
    assert_eq!(server.requests_to(CAPABILITIES).len(), 3);

    time.advance(RESET);
    assert_eq!(service.get_server_capabilities().unwrap_err().kind(), &ErrorKind::CircuitOpen);
    assert_eq!(server.requests_to(CAPABILITIES).len(), 4, "one request more, the trial");

    time.advance(RESET);
    server.behave(CAPABILITIES);
    service.get_server_capabilities().unwrap();
    service.get_server_capabilities().unwrap();
    use BreakerState::{Closed, HalfOpen, Open};
    let states: Vec<_> = changes.0.lock().unwrap().iter().map(|it| it.1).collect();
    assert_eq!(states, [Open, HalfOpen, Open, HalfOpen, Closed]);
    assert_eq!(service.metrics().snapshot().counters["tinkex_breaker_changes_total"], 5);
}

#[test]
fn a_half_open_breaker_admits_only_the_allowed_number_of_trials() {
    in_time(|| {
        let (server, time, gate) = (FakeServer::new(), VirtualClock::new(), Gate::new());
        let service = server.in_memory_at(time.clone()).circuit_breaker(three).build().unwrap();
        server.always(CAPABILITIES, Act::status(500, "down"));
        service.get_server_capabilities().unwrap_err();
        time.advance(RESET);
        server.behave(CAPABILITIES);
        let held = gate.clone();
        server.script(move |seen| {
            if seen.path == CAPABILITIES {
                held.pass();
            }
            None
        });
        std::thread::scope(|scope| {
            let trial = scope.spawn(|| service.get_server_capabilities());
            eventually("the trial was sent", || server.requests_to(CAPABILITIES).len() == 4);
            for _ in 0..10 {
                assert_eq!(service.get_server_capabilities().unwrap_err().kind(), &ErrorKind::CircuitOpen);
            }
            gate.open();
            trial.join().unwrap().unwrap();
        });
        service.get_server_capabilities().unwrap();
        assert_eq!(server.requests_to(CAPABILITIES).len(), 5);
    });
}

#[test]
fn a_refusal_is_not_a_failure_and_other_classes_of_requests_go_on() {
    let server = FakeServer::new();
    let service = server.in_memory().circuit_breaker(three).build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    for _ in 0..10 {
        server.next(CAPABILITIES, Act::status(403, "no"));
        assert_eq!(service.get_server_capabilities().unwrap_err().http_status(), Some(403));
    }
    server.always(CAPABILITIES, Act::status(500, "down"));
    assert_eq!(service.get_server_capabilities().unwrap_err().kind(), &ErrorKind::CircuitOpen);
    sample(&sampler, 3).wait().unwrap();
}

#[test]
fn a_promised_result_is_polled_again_when_the_breaker_closes() {
    let server = FakeServer::new();
    let service = server.in_memory().circuit_breaker(three).build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    for _ in 0..4 {
        server.next(RETRIEVE, Act::status(502, "down"));
    }
    let before = server.requests_to(RETRIEVE).len();
    training.optim_step(AdamParams::default()).wait().unwrap();
    assert_eq!(
        server.requests_to(RETRIEVE).len() - before,
        5,
        "three failures, a trial that failed, a result"
    );
}

#[test]
fn heartbeats_go_on_while_the_breaker_is_open() {
    let (server, time) = (FakeServer::new(), VirtualClock::new());
    let builder = server.in_memory_at(time.clone()).circuit_breaker(three);
    let service = builder.circuit_breaker(|it| it.reset = Duration::MAX).build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    server.always(CAPABILITIES, Act::status(500, "down"));
    assert_eq!(service.get_server_capabilities().unwrap_err().kind(), &ErrorKind::CircuitOpen);
    let beats = || server.requests_to("/api/v1/session_heartbeat").len();
    let before = beats();
    eventually("heartbeats are sent", || {
        time.advance(Duration::from_secs(10));
        before + 3 <= beats()
    });
    drop(sampler);
}

/// A transport that panics.
struct Panics;

impl Transport for Panics {
    fn exchange(&self, _: &Exchange) -> Result<Answer, Broken> {
        panic!("the transport panics");
    }

    fn shutdown(&self) {}
}

#[test]
fn a_request_that_panics_counts_as_a_failure() {
    let service = ServiceClient::builder()
        .api_key("tml-test")
        .without_environment()
        .transport(Arc::new(Panics))
        .circuit_breaker(three)
        .build()
        .unwrap();
    for _ in 0..3 {
        assert!(service.get_server_capabilities().unwrap_err().is_panic());
    }
    assert_eq!(service.get_server_capabilities().unwrap_err().kind(), &ErrorKind::CircuitOpen);
}

#[test]
fn unusable_breaker_settings_are_refused() {
    let server = FakeServer::new();
    let wrong: [fn(&mut CircuitBreaker); 3] =
        [|it| it.failures = 0, |it| it.trials = 0, |it| it.reset = Duration::ZERO];
    for change in wrong {
        let error = server.in_memory().circuit_breaker(change).build().unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Config, "{error}");
    }
}
