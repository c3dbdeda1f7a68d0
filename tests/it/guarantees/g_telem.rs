//! G-TELEM. Answers 000-C, 001-1, 001-7, 002-3, N-08, N-09, N-20, N-21, N-33.
//!
//! The queue is bounded and nobody waits for it; one thread with one timer sends; what the server acknowledged counts as
//! delivered and everything else as dropped; only the session starts and ends it.

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
/// The reporter's interval.
const INTERVAL: Duration = Duration::from_secs(10);

struct Reporting {
    server: FakeServer,
    clock: VirtualClock,
    service: ServiceClient,
    sampler: SamplingClient,
}

/// A client that reports, with a session and something to do in it.
fn reporting() -> Reporting {
    // Bounds that no machine reaches.
    reporting_within(Duration::from_secs(30), Duration::from_secs(60))
}

/// As [`reporting`], with so much time for its end, and for telling the server of that.
fn reporting_within(close: Duration, finish: Duration) -> Reporting {
    let (server, clock) = (FakeServer::new(), VirtualClock::new());
    let service = server
        .in_memory_at(clock.clone())
        .api_key("tml-hunter2")
        // A thread without work ends with the session only.
        .threads(|it| (it.max_in_flight, it.idle) = (8, HOUR))
        .telemetry(true)
        .timeouts(|it| (it.close, it.finish) = (close, finish))
        .build()
        .unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    Reporting { server, clock, service, sampler }
}

impl Reporting {
    /// Samples that the server refuses; each is worth two events.
    fn refused_samples(&self, n: usize) {
        self.server.always(SAMPLE, Act::status(422, r#"{"detail":"no such thing"}"#));
        let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
        let prompt = ModelInput::from_ints([1]);
        let samples: Vec<_> = (0..n).map(|_| self.sampler.sample(&prompt, 1, &params)).collect();
        for sample in samples {
            assert_eq!(sample.wait().unwrap_err().http_status(), Some(422));
        }
    }

    /// Work that succeeds.
    fn sample(&self) {
        let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
        self.sampler.sample(&ModelInput::from_ints([1]), 1, &params).wait().unwrap();
    }

    /// Lets intervals pass until the server has got so many requests.
    fn until_requests(&self, n: usize) {
        eventually("the reports arrive", || {
            self.clock.advance(INTERVAL);
            n <= self.server.requests_to(PATH).len()
        });
    }

    /// Closes the client, which must have nothing left to tell, and returns how many events were delivered and dropped.
    fn close(&self) -> (u64, u64) {
        self.service.close(CloseStatus::Success).unwrap();
        let counts = self.service.telemetry().unwrap();
        assert_eq!(counts.queued, counts.delivered + counts.dropped, "{counts:?}");
        (counts.delivered, counts.dropped)
    }

    fn bodies(&self) -> Vec<Value> {
        self.server.requests_to(PATH).iter().map(|it| it.json().unwrap()).collect()
    }

    fn events(&self) -> Vec<Value> {
        self.bodies().iter().flat_map(|it| it["events"].as_array().unwrap().clone()).collect()
    }

    fn ends(&self) -> usize {
        self.events().iter().filter(|it| it["event"] == "SESSION_END").count()
    }
}

/// Blocks the thread that reports, in real time, until the value is dropped.
struct Blocked(Arc<AtomicBool>);

impl Blocked {
    fn reports_of(server: &FakeServer) -> Self {
        let free = Arc::new(AtomicBool::new(false));
        let seen = free.clone();
        server.script(move |it| {
            while it.path == PATH && !seen.load(Ordering::Acquire) {
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
fn beginning_and_end_of_a_session_look_as_the_official_sdk_reports_them() {
    let it = reporting();
    it.clock.advance(Duration::from_millis(62_500));
    assert_eq!(it.close(), (2, 0));
    let recorded =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/wire/sdk-0.38.0.jsonl"));
    let recorded: Vec<Value> = recorded
        .unwrap()
        .lines()
        .map(|it| serde_json::from_str::<Value>(it).unwrap())
        .filter(|it| it["path"] == PATH)
        .map(|it| it["request_body"].clone())
        .collect();
    for body in it.bodies() {
        assert_eq!(keys(&body), keys(&recorded[0]));
        assert_eq!((&body["session_id"], &body["sdk_version"]), (&json!("session-1"), &json!("0.38.0")));
    }
    let events = it.events();
    for (i, kind) in ["SESSION_START", "SESSION_END"].iter().enumerate() {
        let official = recorded.iter().flat_map(|it| it["events"].as_array().unwrap());
        let official = official.clone().find(|it| it["event"] == *kind).unwrap();
        assert_eq!(keys(&events[i]), keys(official));
        assert_eq!((&events[i]["event"], &events[i]["event_session_index"]), (&json!(kind), &json!(i)));
        assert_eq!(events[i]["severity"], official["severity"]);
        let form =
            |it: &Value| it["timestamp"].as_str().unwrap().replace(|it: char| it.is_ascii_digit(), "0");
        assert_eq!(form(&events[i]), form(official));
    }
    // Other parts of the client may have let time pass too.
    let duration = events[1]["duration"].as_str().unwrap();
    assert!("0:01:02.500000" <= duration && duration.len() == 14, "{duration}");
}

#[test]
fn events_are_sent_in_batches_with_numbers_that_have_no_gap() {
    let it = reporting();
    it.refused_samples(125);
    // More than a batch waits, so that it goes without waiting for the interval.
    eventually("the first reports arrive", || !it.server.requests_to(PATH).is_empty());
    assert_eq!(it.close(), (252, 0));
    assert!(it.bodies().iter().all(|it| (1..=100).contains(&it["events"].as_array().unwrap().len())));
    let events = it.events();
    assert!(events.iter().map(|it| it["event_session_index"].as_u64().unwrap()).eq(0..252));
    let ids: BTreeSet<_> = events.iter().map(|it| it["event_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 252);
    let processes: BTreeSet<_> = it.bodies().iter().map(|it| it["process_uuid"].to_string()).collect();
    assert_eq!(processes.len(), 1);
}

#[test]
fn a_failed_operation_is_reported_and_the_session_goes_on() {
    let it = reporting();
    let training = it.service.create_lora_training_client("fake/model", Default::default()).unwrap();
    it.server.next("/api/v1/retrieve_future", Act::json(json!({"error": "too hot", "category": "server"})));
    training.optim_step(AdamParams::default()).wait().unwrap_err();
    it.refused_samples(1);
    it.until_requests(1);
    assert_eq!(it.ends(), 0);
    it.close();
    let told = |it: &Value| {
        let name = it.get("event_name").unwrap_or(&it["event"]).as_str().unwrap().to_string();
        (name, it["severity"].as_str().unwrap().to_string())
    };
    let events = it.events();
    let told: Vec<_> = events.iter().map(told).collect();
    let told: Vec<_> = told.iter().map(|it| (it.0.as_str(), it.1.as_str())).collect();
    assert_eq!(
        told,
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
    let it = reporting();
    let training = it.service.create_lora_training_client("fake/model", Default::default()).unwrap();
    let failed = r#"{"error":"out of memory","category":"server"}"#;
    it.server.always("/api/v1/retrieve_future", Act::status(200, failed));
    training.save_weights_external("x", Ttl::Never, &[]).wait().unwrap_err();
    training.save_weights_for_sampler("x", Ttl::Never).wait().unwrap_err();
    let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
    it.sampler.sample(&ModelInput::from_ints([1]), 1, &params).wait().unwrap_err();
    let never = |_: &[Datum], _: &[&[f32]]| -> Result<CustomLoss, Error> { unreachable!() };
    training.forward_backward_custom(vec![datum()], never).wait().unwrap_err();
    it.close();
    let types: Vec<_> = it
        .events()
        .iter()
        .filter_map(|it| it["event_data"]["request_type"].as_str().map(str::to_string))
        .collect();
    assert_eq!(types, ["SaveWeightsExternal", "SaveWeightsForSampler", "Sample", "Forward"]);
}

#[test]
fn a_full_queue_drops_events_and_counts_them() {
    let it = reporting();
    let blocked = Blocked::reports_of(&it.server);
    it.refused_samples(50);
    eventually("a batch is in hand", || it.server.requests_to(PATH).len() == 1);
    // One event is left, and ten thousand have room.
    it.refused_samples(5050);
    let counts = it.service.telemetry().unwrap();
    assert_eq!((counts.queued, counts.delivered, counts.dropped), (10_201, 0, 101));
    drop(blocked);
    eventually("the others arrive", || it.service.telemetry().unwrap().delivered == 10_100);
    assert_eq!(it.close(), (10_101, 101));
    assert!(it.events().iter().map(|it| it["event_session_index"].as_u64().unwrap()).eq(0..10_101));
}

#[test]
fn an_endpoint_that_stands_still_delays_no_operation_and_close_only_within_its_bound() {
    in_time(|| {
        let it = reporting_within(Duration::from_secs(1), Duration::from_millis(1500));
        let _blocked = Blocked::reports_of(&it.server);
        it.refused_samples(60);
        it.server.behave(SAMPLE);
        it.sample();
        // The transport does not even return when it is shut down: nothing ends this wait but its bound.
        assert_eq!(it.close(), (0, 122));
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
        let it = reporting();
        it.server.always(PATH, act.clone());
        it.sample();
        it.until_requests(1);
        it.sample();
        assert_eq!(it.close(), (0, 2), "{act:?}");
        assert!(it.server.requests_to(PATH).len() <= most_requests, "{act:?}");
    }
}

#[test]
fn a_report_that_meets_a_busy_server_is_sent_again() {
    let it = reporting();
    it.server.next(PATH, Act::status(503, "busy"));
    it.until_requests(2);
    assert_eq!(it.close(), (2, 0));
}

#[test]
fn a_panic_on_the_way_costs_one_batch() {
    let it = reporting();
    let armed = AtomicBool::new(true);
    it.server.script(move |seen| {
        assert!(seen.path != PATH || !armed.swap(false, Ordering::Relaxed), "the moon is blue");
        None
    });
    it.until_requests(1);
    it.refused_samples(1);
    it.until_requests(2);
    assert_eq!(it.close(), (3, 1));
    assert_eq!(it.ends(), 1);
}

#[test]
fn no_report_contains_a_credential_even_if_the_server_repeats_it() {
    let it = reporting();
    it.server.always(
        SAMPLE,
        Act::status(422, r#"{"detail":"tml-hunter2 and eyJhbGci.eyJzdWIi.c2ln are no good"}"#),
    );
    let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
    it.sampler.sample(&ModelInput::from_ints([1]), 1, &params).wait().unwrap_err();
    assert_eq!(it.close(), (4, 0));
    let bodies = it.bodies().iter().map(Value::to_string).collect::<String>();
    assert!(bodies.contains("are no good"));
    for secret in ["hunter2", "hbGci", "zdWIi", "c2ln", "x-api-key", "X-API-Key"] {
        assert!(!bodies.contains(secret), "{secret}: {bodies}");
    }
}

#[test]
fn closing_one_client_ends_no_reports_and_the_end_is_told_once() {
    let it = reporting();
    let other = it.service.create_sampling_client("fake/model").unwrap();
    other.close();
    drop(other);
    let training = it.service.create_lora_training_client("fake/model", Default::default()).unwrap();
    training.close();
    it.until_requests(1);
    it.refused_samples(1);
    it.until_requests(2);
    assert_eq!(it.ends(), 0);
    it.close();
    assert_eq!(it.close(), (4, 0));
    assert_eq!(it.ends(), 1);
}

#[test]
fn dropping_the_last_handle_tells_the_end_as_well() {
    let it = reporting();
    let server = it.server.clone();
    drop(it);
    let body = server.requests_to(PATH).last().unwrap().json().unwrap();
    assert_eq!(body["events"].as_array().unwrap().last().unwrap()["event"], "SESSION_END");
}

#[test]
fn a_client_without_a_session_reports_its_failures_under_a_name_of_its_own() {
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
        let it = reporting();
        it.refused_samples(200);
        let threads =
            || client_threads().into_iter().filter(|it| it.starts_with("tk-tele")).collect::<Vec<_>>();
        // A thread gives itself its name, some time after it was started.
        eventually("it has begun", || !threads().is_empty());
        assert_eq!(threads(), ["tk-tele-0"]);
        it.close();
        // The system lists a thread for some milliseconds after it was joined.
        eventually("it ends", || threads().is_empty());
    });
}
