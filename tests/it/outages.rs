//! Outages of the server that last longer than the client retries one request: the client submits samples again under a
//! new sequence id.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tinkex::sync::CancelToken;
use tinkex::testing::{Act, Clock, FakeServer, VirtualClock};
use tinkex::types::{AdamParams, LossGraph, ModelInput, SamplingParams};
use tinkex::{CloseStatus, ErrorKind, SamplingClient, ServiceClient};

use crate::util::TEST_TIMEOUT;

const SAMPLE: &str = "/api/v1/asample";
const RETRIEVE: &str = "/api/v1/retrieve_future";
const CONFIG: &str = "/api/v1/client/config";
const OUTAGE: Duration = Duration::from_secs(1200);

/// Makes the server answer every request with `act` for the time [`OUTAGE`].
fn outage(server: &FakeServer, clock: &Clock, act: Act) {
    let (clock, over) = (clock.clone(), clock.now() + OUTAGE);
    server.script(move |_| (clock.now() < over).then(|| act.clone()));
}

fn client(server: &FakeServer) -> (ServiceClient, SamplingClient, Clock) {
    let clock = VirtualClock::new();
    let service = server.in_memory_at(clock.clone()).build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    (service, sampler, clock.clock())
}

fn params() -> SamplingParams {
    SamplingParams { max_tokens: Some(1), ..Default::default() }
}

#[test]
fn samples_survive_an_outage_of_20_minutes_and_each_resubmission_has_a_new_seq_id() {
    for act in [Act::Reset, Act::status(503, "down"), Act::status(408, "late"), Act::Stall] {
        let server = FakeServer::new();
        let (_service, sampler, clock) = client(&server);
        outage(&server, &clock, act.clone());
        let result = sampler.sample(&ModelInput::from_ints([1]), 1, &params()).wait();
        assert!(result.is_ok(), "{act:?}: {result:?}");
        let seen = server.requests_to(SAMPLE);
        let mut numbers: Vec<_> =
            seen.iter().map(|it| it.json().unwrap()["seq_id"].as_u64().unwrap()).collect();
        assert!(numbers.is_sorted(), "{act:?}: {numbers:?}");
        numbers.dedup();
        assert!(3 <= numbers.len(), "{act:?}: {numbers:?}");
        // Retries must back off: a fixed short pause would give more requests.
        assert!(seen.len() < 400, "{act:?}: {} requests", seen.len());
    }
}

#[test]
fn calls_that_wait_together_for_a_server_that_is_gone_fail_together() {
    let server = FakeServer::new();
    let all_wait = CancelToken::new();
    let held = all_wait.clone();
    server.script(move |seen| {
        (seen.path == CONFIG).then(|| {
            held.wait_timeout(TEST_TIMEOUT);
            Act::Refuse(Duration::ZERO)
        })
    });
    let service = server.in_memory_at(VirtualClock::new()).build().unwrap();
    let graph = Arc::new(LossGraph::trace("l", &[("logprobs", 1)], |it| it.logprobs().sum()).unwrap());
    let calls: Vec<_> = (0..4).map(|_| service.create_custom_loss(graph.clone())).collect();
    all_wait.cancel();
    for call in calls {
        assert!(call.wait().unwrap_err().is_connection());
    }
    let attempts = server.requests_to(CONFIG).len();
    // A later call makes attempts of its own. Their number depends on random pauses.
    assert!(service.get_server_capabilities().unwrap_err().is_connection());
    let of_one = server.requests_to(CONFIG).len() - attempts;
    assert!(2 <= of_one && attempts < 2 * of_one, "{attempts} attempts for 4 calls, {of_one} for one");
}

#[test]
fn a_sample_without_an_answer_for_too_long_is_submitted_again() {
    let server = FakeServer::new();
    let (_service, sampler, clock) = client(&server);
    let (times, over) = (clock.clone(), clock.now() + OUTAGE);
    server.script(move |seen| (seen.path != SAMPLE && times.now() < over).then_some(Act::Reset));
    sampler.sample(&ModelInput::from_ints([1]), 1, &params()).wait().unwrap();
    let n = server.requests_to(SAMPLE).len();
    assert!((2..10).contains(&n), "{n} submissions");
}

#[test]
fn an_outage_ends_a_sample_if_the_server_forbids_retries() {
    let server = FakeServer::new();
    server.always(CONFIG, Act::json(json!({"sample_no_retries": true})));
    let (_service, sampler, clock) = client(&server);
    outage(&server, &clock, Act::status(503, "down"));
    let error = sampler.sample(&ModelInput::from_ints([1]), 1, &params()).wait().unwrap_err();
    assert_eq!(error.http_status(), Some(503));
    assert!(error.elapsed().unwrap() <= Duration::from_secs(301), "{error:?}");
}

#[test]
fn a_sample_refused_with_x_should_retry_false_is_not_retried() {
    let server = FakeServer::new();
    let (_service, sampler, _) = client(&server);
    server.always(SAMPLE, Act::status(503, "no").with_header("x-should-retry", "false"));
    let error = sampler.sample(&ModelInput::from_ints([1]), 1, &params()).wait().unwrap_err();
    assert_eq!((error.http_status(), server.requests_to(SAMPLE).len()), (Some(503), 1));
}

#[test]
fn a_sample_with_an_unknown_promise_is_submitted_twice_at_most() {
    let server = FakeServer::new();
    let (service, sampler, clock) = client(&server);
    server.always(RETRIEVE, Act::status(404, r#"{"detail":"no such promise"}"#));
    let before = clock.now();
    let error = sampler.sample(&ModelInput::from_ints([1]), 1, &params()).wait().unwrap_err();
    assert_eq!((error.kind(), error.http_status()), (&ErrorKind::PromiseExpired, Some(404)));
    assert_eq!(server.requests_to(SAMPLE).len(), 2);
    assert!(clock.now() - before < Duration::from_secs(60), "{:?}", clock.now() - before);
    // A training request whose promise is unknown fails; it is not submitted again.
    server.behave(RETRIEVE);
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    server.always(RETRIEVE, Act::status(404, r#"{"detail":"no such promise"}"#));
    let error = training.optim_step(AdamParams::default()).wait().unwrap_err();
    assert_eq!((error.kind(), error.http_status()), (&ErrorKind::PromiseExpired, Some(404)));
}

#[test]
fn a_first_request_without_an_answer_is_repeated() {
    let server = FakeServer::new();
    let listening = server.listen().unwrap();
    let ms = Duration::from_millis;
    let service = listening.client().timeouts(|it| (it.connect, it.exchange) = (ms(500), ms(600)));
    // The server accepts the connection and does not answer. The client must not take this for a wrong address.
    server.next(CONFIG, Act::Stall);
    service.build().unwrap().create_sampling_client("fake/model").unwrap();
    assert_eq!(server.requests_to(CONFIG).len(), 2);
}

#[test]
fn finish_is_retried_if_the_server_is_busy() {
    const FINISH: &str = "/api/v1/sessions/session-1/finish";
    for act in [Act::Reset, Act::status(503, "busy"), Act::status(429, "busy"), Act::Stall] {
        let server = FakeServer::new();
        let (service, _sampler, _) = client(&server);
        server.next(FINISH, act.clone());
        let result = service.close(CloseStatus::Success);
        assert!(result.is_ok(), "{act:?}: {result:?}");
        assert_eq!(server.requests_to(FINISH).len(), 2, "{act:?}");
    }
    // The retries end at the time limit of `finish`.
    let server = FakeServer::new();
    let (service, _sampler, clock) = client(&server);
    server.always(FINISH, Act::status(503, "busy"));
    let before = clock.now();
    assert_eq!(service.close(CloseStatus::Success).unwrap_err().http_status(), Some(503));
    assert!(clock.now() - before <= Duration::from_secs(10), "{:?}", clock.now() - before);
}
