//! Observability: events, metrics, the dump of operations in flight, and trace contexts.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tinkex::event::{
    Backoff, BillingPause, Dropped, HeartbeatTrouble, Observer, QueueStateChange, Retry, TraceContext,
};
use tinkex::testing::{Act, FakeServer, VirtualClock};
use tinkex::types::{AdamParams, ModelInput, SamplingParams};
use tinkex::{ErrorKind, Metrics, PausePolicy, Stage};

use crate::util::eventually;

const RETRIEVE: &str = "/api/v1/retrieve_future";

/// Observer that records its events.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Notes {
    fn note(&self, text: String) {
        self.0.lock().unwrap().push(text);
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Observer for Notes {
    fn on_queue_state(&self, it: &QueueStateChange) {
        self.note(format!("{} {:?} {}", it.operation, it.state, it.reason.clone().unwrap_or_default()));
    }

    fn on_retry(&self, it: &Retry) {
        self.note(format!("retry {} {} {:?}", it.path, it.attempts, it.error.http_status()));
    }

    fn on_backoff(&self, it: &Backoff) {
        self.note(format!("backoff {:?}", it.pause));
    }

    fn on_heartbeat_trouble(&self, it: &HeartbeatTrouble) {
        self.note(format!("heartbeat {} {}", it.session_id, it.silent > Duration::from_secs(120)));
    }

    fn on_billing_pause(&self, it: &BillingPause) {
        self.note(format!("unpaid for {:?}: {}", it.lasted, it.error.message()));
    }

    fn on_drop(&self, it: &Dropped) {
        self.note(format!("drop {}", it.operation));
    }
}

fn paused(reason: &str) -> Act {
    Act::json(json!({"type": "try_again", "queue_state": "paused_capacity", "queue_state_reason": reason}))
}

fn params() -> SamplingParams {
    SamplingParams { max_tokens: Some(1), ..Default::default() }
}

#[test]
fn the_observer_gets_each_new_queue_state_at_once_and_its_end() {
    let (server, notes) = (FakeServer::new(), Arc::new(Notes::default()));
    let service = server.in_memory().observer(notes.clone()).build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    for reason in ["full", "full", "fuller"] {
        server.next(RETRIEVE, paused(reason));
    }
    training.optim_step(AdamParams::default()).wait().unwrap();
    assert_eq!(
        notes.all(),
        ["optim_step PausedCapacity full", "optim_step PausedCapacity fuller", "optim_step Active "]
    );
}

#[test]
fn the_observer_gets_retries_backoff_and_drops() {
    let (server, notes) = (FakeServer::new(), Arc::new(Notes::default()));
    let service = server.in_memory().observer(notes.clone()).build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    server.next("/api/v1/optim_step", Act::status(503, "x"));
    training.optim_step(AdamParams::default()).wait().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    server.next("/api/v1/asample", Act::status(429, "x"));
    sampler.sample(&ModelInput::from_ints([1]), 1, &params()).wait().unwrap();
    assert_eq!(notes.all(), ["retry /api/v1/optim_step 1 Some(503)", "backoff 1s"]);

    let listening = server.listen().unwrap();
    let service = listening.client().observer(notes.clone()).build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    server.always(RETRIEVE, Act::Stall);
    drop(sampler.sample(&ModelInput::from_ints([1]), 1, &params()));
    assert_eq!(notes.all().last().unwrap(), "drop sample");
}

#[test]
fn heartbeats_that_fail_for_two_minutes_are_reported_to_the_observer() {
    let (server, notes) = (FakeServer::new(), Arc::new(Notes::default()));
    let clock = VirtualClock::new();
    let service = server.in_memory_at(clock.clone()).observer(notes.clone()).build().unwrap();
    service.create_sampling_client("fake/model").unwrap();
    server.always("/api/v1/session_heartbeat", Act::status(500, "x"));
    eventually("the observer gets the trouble", || {
        clock.advance(Duration::from_secs(10));
        !notes.all().is_empty()
    });
    assert_eq!(notes.all()[0], "heartbeat session-1 true");
    assert!(12 <= server.requests_to("/api/v1/session_heartbeat").len());
}

/// Observer that panics.
struct Panicking;

impl Observer for Panicking {
    fn on_queue_state(&self, _: &QueueStateChange) {
        panic!("no");
    }

    fn on_retry(&self, _: &Retry) {
        panic!("never");
    }
}

#[test]
fn a_panicking_observer_does_not_affect_the_client() {
    let server = FakeServer::new();
    let service = server.in_memory().observer(Arc::new(Panicking)).build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    server.next("/api/v1/optim_step", Act::status(503, "x"));
    server.next(RETRIEVE, paused("full"));
    training.optim_step(AdamParams::default()).wait().unwrap();
    training.optim_step(AdamParams::default()).wait().unwrap();
}

#[test]
fn a_pause_lasts_at_most_as_long_as_the_policy_allows() {
    for (policy, fails) in [
        (PausePolicy::Wait, false),
        (PausePolicy::WaitAtMost(Duration::from_secs(3600)), false),
        (PausePolicy::WaitAtMost(Duration::from_millis(60)), true),
        (PausePolicy::Fail, true),
    ] {
        let server = FakeServer::new();
        let service = server.in_memory().pause_policy(policy).build().unwrap();
        let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
        for _ in 0..5 {
            server.next(RETRIEVE, paused("full"));
        }
        let result = training.optim_step(AdamParams::default()).wait();
        assert_eq!(result.is_err(), fails, "{policy:?}");
        if let Err(error) = result {
            assert_eq!(*error.kind(), ErrorKind::Paused);
            assert!(error.is_retryable());
        }
    }
}

#[test]
fn a_busy_server_is_an_error_at_once_if_the_policy_is_to_fail() {
    let server = FakeServer::new();
    let service = server.in_memory().pause_policy(PausePolicy::Fail).build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    server.next("/api/v1/asample", Act::status(429, "x"));
    let error = sampler.sample(&ModelInput::from_ints([1]), 1, &params()).wait().unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::RateLimited);
}

#[test]
fn the_dump_lists_what_is_in_flight_and_nothing_else() {
    let server = FakeServer::new();
    let listening = server.listen().unwrap();
    let service = listening.client().build().unwrap();
    assert!(service.dump().to_string().contains("not open yet"));
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    server.always(RETRIEVE, Act::Stall);
    let pending = training.optim_step(AdamParams::default());
    eventually("the operation waits", || pending.status().stage == Stage::Waiting);
    let dump = service.dump();
    assert_eq!(dump.operations.len(), 1);
    assert_eq!(dump.operations[0].operation, "optim_step");
    assert_eq!(dump.operations[0].request_id.as_deref(), Some("request-2"));
    let text = dump.to_string();
    assert!(text.contains("session-1") && text.contains("request request-2"), "{text}");
    assert!(!text.contains("tml-"), "{text}");
    assert_eq!(service.metrics().snapshot().gauges["tinkex_operations_in_flight"], 1.0);
    training.close();
    assert!(pending.wait().unwrap_err().is_closed());
    drop(service);
}

#[test]
fn the_metrics_count_requests_retries_and_operations() {
    let server = FakeServer::new();
    let metrics = Metrics::default();
    let service = server.in_memory().metrics(metrics.clone()).build().unwrap();
    server.next("/api/v1/get_server_capabilities", Act::status(503, "x"));
    service.get_server_capabilities().unwrap();
    let snapshot = service.metrics().snapshot();
    let n = server.requests().len() as u64;
    assert_eq!(snapshot.counters["tinkex_requests_total"], n);
    // Two requests failed: the first one for the capabilities, with a 503, and the one for the dynamic flags, with a
    // 404, because this server lacks this endpoint.
    assert_eq!(snapshot.counters["tinkex_requests_failure"], 2);
    assert_eq!(snapshot.counters["tinkex_requests_success"], n - 2);
    assert_eq!(snapshot.counters["tinkex_retries_total"], 1);
    assert_eq!(snapshot.histograms["tinkex_request_duration_ms"].count, n);
    assert_eq!(metrics.snapshot().counters, snapshot.counters);
    metrics.reset();
    assert!(service.metrics().snapshot().counters.is_empty());

    let silent = server.in_memory().metrics(Metrics::disabled()).build().unwrap();
    silent.get_server_capabilities().unwrap();
    assert!(silent.metrics().snapshot().counters.is_empty());
}

thread_local! {
    static SPAN: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

#[test]
fn the_trace_context_is_that_of_the_submitting_thread() {
    let server = FakeServer::new();
    let builder = server.in_memory().trace_context(|| match SPAN.get() {
        0 => None,
        13 => panic!("no span 13"),
        99 => Some(TraceContext::new("bad\r\nx-api-key: evil")),
        span => Some(TraceContext::new(format!("00-trace-{span}")).with_tracestate("a=b")),
    });
    let service = builder.build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    for span in [7, 13, 99] {
        SPAN.set(span);
        training.optim_step(AdamParams::default()).wait().unwrap();
    }
    SPAN.set(0);
    let seen = |path: &str| -> Vec<Option<String>> {
        server.requests_to(path).iter().map(|it| it.header("traceparent").map(str::to_string)).collect()
    };
    assert_eq!(seen("/api/v1/create_model"), [None]);
    assert_eq!(seen("/api/v1/optim_step"), [Some("00-trace-7".into()), None, None]);
    assert_eq!(seen(RETRIEVE), [None, Some("00-trace-7".into()), None, None]);
    assert_eq!(server.requests_to("/api/v1/optim_step")[0].header("tracestate"), Some("a=b"));
}

#[test]
fn an_unpaid_request_is_repeated_and_the_observer_gets_the_pause() {
    let (server, notes) = (FakeServer::new(), Arc::new(Notes::default()));
    let service = server.in_memory().observer(notes.clone()).build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    for path in ["/api/v1/optim_step", RETRIEVE] {
        for _ in 0..9 {
            server.next(path, Act::status(402, r#"{"detail":"no funds"}"#));
        }
    }
    training.optim_step(AdamParams::default()).wait().unwrap();
    let keys: std::collections::HashSet<_> = server
        .requests_to("/api/v1/optim_step")
        .iter()
        .map(|it| it.header("x-idempotency-key").unwrap().to_string())
        .collect();
    assert_eq!(keys.len(), 1, "all attempts have one idempotency key");
    let notes = notes.all();
    let words: Vec<_> = notes.iter().filter(|it| it.starts_with("unpaid")).collect();
    assert_eq!(words, ["unpaid for 0ns: HTTP 402: no funds", "unpaid for 60s: HTTP 402: no funds"]);
}

#[test]
fn an_unpaid_request_fails_at_once_if_the_policy_is_to_fail() {
    let server = FakeServer::new();
    let service = server.in_memory().pause_policy(PausePolicy::Fail).build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    server.next("/api/v1/optim_step", Act::status(402, r#"{"detail":"no funds"}"#));
    let error = training.optim_step(AdamParams::default()).wait().unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Billing);
    // The next request reuses the sequence id of the refused one: the client is not poisoned.
    training.optim_step(AdamParams::default()).wait().unwrap();
}

#[test]
fn an_unpaid_request_fails_after_an_hour_or_the_servers_limit() {
    for (window, least) in [(None, 3600), (Some(60), 60)] {
        let (server, time) = (FakeServer::new(), VirtualClock::new());
        if let Some(seconds) = window {
            let config = json!({"billing_exception_max_pause_duration_sec": seconds});
            server.always("/api/v1/client/config", Act::json(config));
        }
        let service = server.in_memory_at(time.clone()).build().unwrap();
        let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
        server.always("/api/v1/optim_step", Act::status(402, r#"{"detail":"no funds"}"#));
        let before = time.clock().now();
        let error = training.optim_step(AdamParams::default()).wait().unwrap_err();
        let waited = (time.clock().now() - before).as_secs();
        assert!(
            error.kind() == &ErrorKind::Billing && (least..least + 6).contains(&waited),
            "{waited} s: {error}"
        );
    }
}
