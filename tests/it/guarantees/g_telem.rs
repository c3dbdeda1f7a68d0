//! Tests of the guarantee G-TELEM (see `guarantees/mod.rs`). It covers these findings of `src/_docs/findings.md`:
//! 000-C, 001-1, 001-7, 002-3, N-08, N-09, N-20, N-21, N-33.
//!
//! Telemetry reports events, such as failed operations, to the server; it is off by default. Events wait in a bounded
//! queue, and an event that does not fit is dropped, so that no operation waits for the queue. One thread with one
//! timer, the reporter, sends the events. Events that the server acknowledged count as delivered, all others as
//! dropped. The reporter starts and ends with the session, not with a single client.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tinkex::testing::{Act, FakeServer, VirtualClock};
use tinkex::types::{AdamParams, CustomLoss, Datum, ModelInput, SamplingParams, Ttl};
use tinkex::{CloseStatus, Error, SamplingClient, ServiceClient};

use crate::util::{HOUR, alone, client_threads, datum, eventually, in_time};

const PATH: &str = "/api/v1/telemetry";
const SAMPLE: &str = "/api/v1/asample";
/// Interval between two reports of the reporter.
const INTERVAL: Duration = Duration::from_secs(10);

struct Reporting {
    server: FakeServer,
    clock: VirtualClock,
    service: ServiceClient,
    sampler: SamplingClient,
}

/// A client with telemetry, in a session with a sampling client.
fn reporting() -> Reporting {
    // Timeouts that even a busy machine does not reach.
    reporting_within(Duration::from_secs(30), Duration::from_secs(60))
}

/// As [`reporting`], with the timeouts `close` and `finish`.
fn reporting_within(close: Duration, finish: Duration) -> Reporting {
    let (server, clock) = (FakeServer::new(), VirtualClock::new());
    let service = server
        .in_memory_at(clock.clone())
        .api_key("tml-hunter2")
        // With this idle time, idle threads end only when the session ends.
        .threads(|threads| (threads.max_in_flight, threads.idle) = (8, HOUR))
        .telemetry(true)
        .timeouts(|timeouts| (timeouts.close, timeouts.finish) = (close, finish))
        .build()
        .unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    Reporting { server, clock, service, sampler }
}

impl Reporting {
    /// Runs `n` samples that the server refuses; each makes two events.
    fn refused_samples(&self, n: usize) {
        self.server.always(SAMPLE, Act::status(422, r#"{"detail":"no such thing"}"#));
        let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
        let prompt = ModelInput::from_ints([1]);
        let samples: Vec<_> = (0..n).map(|_| self.sampler.sample(&prompt, 1, &params)).collect();
        for sample in samples {
            assert_eq!(sample.wait().unwrap_err().http_status(), Some(422));
        }
    }

    /// Runs a sample that succeeds.
    fn sample(&self) {
        let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
        self.sampler.sample(&ModelInput::from_ints([1]), 1, &params).wait().unwrap();
    }

    /// Advances the clock until the server has got `n` reports.
    fn until_requests(&self, n: usize) {
        eventually("the reports arrive", || {
            self.clock.advance(INTERVAL);
            n <= self.server.requests_to(PATH).len()
        });
    }

    /// Closes the client, checks that each queued event was delivered or dropped, and returns the numbers of delivered
    /// and dropped events.
    fn close(&self) -> (u64, u64) {
        self.service.close(CloseStatus::Success).unwrap();
        let counts = self.service.telemetry().unwrap();
        assert_eq!(counts.queued, counts.delivered + counts.dropped, "{counts:?}");
        (counts.delivered, counts.dropped)
    }

    /// Bodies of all reports.
    fn bodies(&self) -> Vec<Value> {
        self.server.requests_to(PATH).iter().map(|it| it.json().unwrap()).collect()
    }

    /// Events of all reports.
    fn events(&self) -> Vec<Value> {
        self.bodies().iter().flat_map(|it| it["events"].as_array().unwrap().clone()).collect()
    }

    /// Number of `SESSION_END` events in all reports.
    fn ends(&self) -> usize {
        self.events().iter().filter(|it| it["event"] == "SESSION_END").count()
    }
}

/// Blocks the reporter thread, in real time, until the value is dropped.
struct Blocked(Arc<AtomicBool>);

impl Blocked {
    fn reports_of(server: &FakeServer) -> Self {
        let free = Arc::new(AtomicBool::new(false));
        let is_free = free.clone();
        server.script(move |seen| {
            while seen.path == PATH && !is_free.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(2));
            }
            None
        });
        Blocked(free)
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

#[test]
fn nothing_is_reported_unless_asked_for() {
    let (server, clock) = (FakeServer::new(), VirtualClock::new());
    let service = server.in_memory_at(clock.clone()).build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    server.next("/api/v1/optim_step", Act::status(422, "no"));
    training.optim_step(AdamParams::default()).wait().unwrap_err();
    clock.advance(10 * INTERVAL);
    service.close(CloseStatus::Success).unwrap();
    assert_eq!((service.telemetry(), server.requests_to(PATH).len()), (None, 0));
}

#[test]
fn session_start_and_end_events_match_those_of_the_official_sdk() {
    let client = reporting();
    client.clock.advance(Duration::from_millis(62_500));
    assert_eq!(client.close(), (2, 0));
    let recorded =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/wire/sdk-0.38.0.jsonl"));
    let recorded: Vec<Value> = recorded
        .unwrap()
        .lines()
        .map(|it| serde_json::from_str::<Value>(it).unwrap())
        .filter(|it| it["path"] == PATH)
        .map(|it| it["request_body"].clone())
        .collect();
    for body in client.bodies() {
        assert_eq!(keys(&body), keys(&recorded[0]));
        assert_eq!((&body["session_id"], &body["sdk_version"]), (&json!("session-1"), &json!("0.38.0")));
    }
    let events = client.events();
    for (i, kind) in ["SESSION_START", "SESSION_END"].iter().enumerate() {
        let official = recorded.iter().flat_map(|it| it["events"].as_array().unwrap());
        let official = official.clone().find(|it| it["event"] == *kind).unwrap();
        assert_eq!(keys(&events[i]), keys(official));
        assert_eq!((&events[i]["event"], &events[i]["event_session_index"]), (&json!(kind), &json!(i)));
        assert_eq!(events[i]["severity"], official["severity"]);
        let format = |event: &Value| {
            event["timestamp"].as_str().unwrap().replace(|character: char| character.is_ascii_digit(), "0")
        };
        assert_eq!(format(&events[i]), format(official));
    }
    // The duration may exceed 62.5 s: pauses of other parts of the client may have advanced the virtual clock too.
    let duration = events[1]["duration"].as_str().unwrap();
    assert!("0:01:02.500000" <= duration && duration.len() == 14, "{duration}");
}

#[test]
fn events_are_sent_in_batches_with_numbers_that_have_no_gap() {
    let client = reporting();
    client.refused_samples(125);
    // More than one batch (100 events) is queued, so the first batch is sent before the interval has passed.
    eventually("the first reports arrive", || !client.server.requests_to(PATH).is_empty());
    assert_eq!(client.close(), (252, 0));
    assert!(client.bodies().iter().all(|it| (1..=100).contains(&it["events"].as_array().unwrap().len())));
    let events = client.events();
    assert!(events.iter().map(|it| it["event_session_index"].as_u64().unwrap()).eq(0..252));
    let ids: BTreeSet<_> = events.iter().map(|it| it["event_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 252);
    let processes: BTreeSet<_> = client.bodies().iter().map(|it| it["process_uuid"].to_string()).collect();
    assert_eq!(processes.len(), 1);
}

#[test]
fn a_failed_operation_is_reported_and_the_session_goes_on() {
    let client = reporting();
    let training = client.service.create_lora_training_client("fake/model", Default::default()).unwrap();
    client
        .server
        .next("/api/v1/retrieve_future", Act::json(json!({"error": "too hot", "category": "server"})));
    training.optim_step(AdamParams::default()).wait().unwrap_err();
    client.refused_samples(1);
    client.until_requests(1);
    assert_eq!(client.ends(), 0);
    client.close();
    fn summary(event: &Value) -> (&str, &str) {
        let name = event.get("event_name").unwrap_or(&event["event"]);
        (name.as_str().unwrap(), event["severity"].as_str().unwrap())
    }
    let events = client.events();
    let summaries: Vec<_> = events.iter().map(summary).collect();
    assert_eq!(
        summaries,
        [
            ("SESSION_START", "INFO"),
            ("APIFuture.result_async.application_error", "ERROR"),
            ("UNHANDLED_EXCEPTION", "ERROR"),
            ("InternalClientHolder.execute_with_retries.exception", "ERROR"),
            ("user_error", "WARNING"),
            ("SESSION_END", "INFO"),
        ]
    );
    assert_eq!(events[1]["event_data"]["request_type"], "OptimStep");
    assert_eq!(events[1]["event_data"]["is_user_error"], false);
    assert_eq!(events[4]["event_data"]["status_code"], 422);
}

#[test]
fn a_failed_result_is_reported_under_the_servers_name_for_its_request() {
    let client = reporting();
    let training = client.service.create_lora_training_client("fake/model", Default::default()).unwrap();
    let failed = r#"{"error":"out of memory","category":"server"}"#;
    client.server.always("/api/v1/retrieve_future", Act::status(200, failed));
    training.save_weights_external("x", Ttl::Never, &[]).wait().unwrap_err();
    training.save_weights_for_sampler("x", Ttl::Never).wait().unwrap_err();
    let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
    client.sampler.sample(&ModelInput::from_ints([1]), 1, &params).wait().unwrap_err();
    let never = |_: &[Datum], _: &[&[f32]]| -> Result<CustomLoss, Error> { unreachable!() };
    training.forward_backward_custom(vec![datum()], never).wait().unwrap_err();
    client.close();
    let types: Vec<_> = client
        .events()
        .iter()
        .filter_map(|it| it["event_data"]["request_type"].as_str().map(str::to_string))
        .collect();
    assert_eq!(types, ["SaveWeightsExternal", "SaveWeightsForSampler", "Sample", "Forward"]);
}

#[test]
fn a_full_queue_drops_events_and_counts_them() {
    let client = reporting();
    let blocked = Blocked::reports_of(&client.server);
    client.refused_samples(50);
    eventually("the reporter has taken a batch", || client.server.requests_to(PATH).len() == 1);
    // One event is still in the queue, whose capacity is 10 000 events. The next samples make 10 100 events, of which
    // 101 do not fit.
    client.refused_samples(5050);
    let counts = client.service.telemetry().unwrap();
    assert_eq!((counts.queued, counts.delivered, counts.dropped), (10_201, 0, 101));
    drop(blocked);
    eventually("the others arrive", || client.service.telemetry().unwrap().delivered == 10_100);
    assert_eq!(client.close(), (10_101, 101));
    assert!(client.events().iter().map(|it| it["event_session_index"].as_u64().unwrap()).eq(0..10_101));
}

#[test]
fn a_hanging_endpoint_delays_no_operation_and_close_only_up_to_its_timeout() {
    in_time(|| {
        let client = reporting_within(Duration::from_secs(1), Duration::from_millis(1500));
        let _blocked = Blocked::reports_of(&client.server);
        client.refused_samples(60);
        client.server.behave(SAMPLE);
        client.sample();
        // `close` shuts the transport down and waits for the reporter. The blocked request of the reporter does not end
        // even then, so only the time limits of the close (`close` and `finish`) end this wait.
        assert_eq!(client.close(), (0, 122));
    });
}

#[test]
fn an_endpoint_that_fails_costs_reports_and_nothing_else() {
    let acts = [
        (Act::status(404, "no such endpoint"), 2),
        (Act::status(422, "refused"), 2),
        (Act::status(503, "busy"), usize::MAX),
        (Act::Reset, usize::MAX),
        (Act::Stall, usize::MAX),
        (Act::Garbage(Bytes::from_static(b"nonsense")), usize::MAX),
    ];
    for (act, most_requests) in acts {
        let client = reporting();
        client.server.always(PATH, act.clone());
        client.sample();
        client.until_requests(1);
        client.sample();
        assert_eq!(client.close(), (0, 2), "{act:?}");
        assert!(client.server.requests_to(PATH).len() <= most_requests, "{act:?}");
    }
}

#[test]
fn a_report_that_meets_a_busy_server_is_sent_again() {
    let client = reporting();
    client.server.next(PATH, Act::status(503, "busy"));
    client.until_requests(2);
    assert_eq!(client.close(), (2, 0));
}

#[test]
fn a_panic_while_reporting_loses_one_batch() {
    let client = reporting();
    let armed = AtomicBool::new(true);
    client.server.script(move |seen| {
        assert!(seen.path != PATH || !armed.swap(false, Ordering::Relaxed), "the transport panics");
        None
    });
    client.until_requests(1);
    client.refused_samples(1);
    client.until_requests(2);
    assert_eq!(client.close(), (3, 1));
    assert_eq!(client.ends(), 1);
}

#[test]
fn no_report_contains_a_credential_even_if_the_server_repeats_it() {
    let client = reporting();
    client.server.always(
        SAMPLE,
        Act::status(422, r#"{"detail":"tml-hunter2 and eyJhbGci.eyJzdWIi.c2ln are not valid"}"#),
    );
    let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
    client.sampler.sample(&ModelInput::from_ints([1]), 1, &params).wait().unwrap_err();
    assert_eq!(client.close(), (4, 0));
    let bodies = client.bodies().iter().map(Value::to_string).collect::<String>();
    assert!(bodies.contains("are not valid"));
    for secret in ["hunter2", "hbGci", "zdWIi", "c2ln", "x-api-key", "X-API-Key"] {
        assert!(!bodies.contains(secret), "{secret}: {bodies}");
    }
}

#[test]
fn closing_one_client_does_not_end_reporting_and_the_session_end_is_reported_once() {
    let client = reporting();
    let other = client.service.create_sampling_client("fake/model").unwrap();
    other.close();
    drop(other);
    let training = client.service.create_lora_training_client("fake/model", Default::default()).unwrap();
    training.close();
    client.until_requests(1);
    client.refused_samples(1);
    client.until_requests(2);
    assert_eq!(client.ends(), 0);
    client.close();
    assert_eq!(client.close(), (4, 0));
    assert_eq!(client.ends(), 1);
}

#[test]
fn dropping_the_last_handle_reports_the_session_end_too() {
    let client = reporting();
    let server = client.server.clone();
    drop(client);
    let body = server.requests_to(PATH).last().unwrap().json().unwrap();
    assert_eq!(body["events"].as_array().unwrap().last().unwrap()["event"], "SESSION_END");
}

#[test]
fn a_client_without_a_session_reports_its_failures_under_a_sessionless_id() {
    let server = FakeServer::new();
    let service = server.in_memory().telemetry(true).build().unwrap();
    server.next("/api/v1/get_server_capabilities", Act::status(403, "no"));
    service.get_server_capabilities().unwrap_err();
    service.close(CloseStatus::Success).unwrap();
    let body = server.requests_to(PATH)[0].json().unwrap();
    assert!(body["session_id"].as_str().unwrap().starts_with("sessionless-"), "{body}");
    assert_eq!(body["events"][1]["event_name"], "user_error");
}

#[test]
fn the_reporter_has_one_thread_which_ends_with_the_session() {
    alone("guarantees::g_telem::the_reporter_has_one_thread_which_ends_with_the_session", || {
        let client = reporting();
        client.refused_samples(200);
        let threads =
            || client_threads().into_iter().filter(|it| it.starts_with("tk-tele")).collect::<Vec<_>>();
        // A new thread sets its own name, some time after it was spawned.
        eventually("the reporter runs", || !threads().is_empty());
        assert_eq!(threads(), ["tk-tele-0"]);
        client.close();
        // The kernel still lists a thread for some milliseconds after it was joined.
        eventually("the reporter ends", || threads().is_empty());
    });
}
