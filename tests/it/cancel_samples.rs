//! Samples that nobody waits for any more: the server is told, if it wants to know.

use std::time::Duration;

use serde_json::{Value, json};
use tinkex::sync::CancelToken;
use tinkex::testing::{Act, FakeServer, VirtualClock};
use tinkex::types::{ModelInput, SampleResponse, SamplingParams};
use tinkex::{CloseStatus, Pending, SamplingClient, ServiceClient};

use crate::util::{PATIENCE, eventually};

const CANCEL: &str = "/api/v1/cancel_future";
const ONE: &str = "/api/v1/retrieve_future";
const MANY: &str = "/api/v1/retrieve_futures";

fn sample(sampler: &SamplingClient) -> Pending<SampleResponse> {
    sampler.sample(&ModelInput::from_ints([1]), 1, &SamplingParams::default())
}

/// A server that never finishes a sample, with samples waited for together or one by one.
fn busy(together: bool, dynamic: Value) -> (FakeServer, ServiceClient, SamplingClient) {
    let server = FakeServer::new();
    if together {
        server.polls_together();
    }
    server.always(MANY, Act::json(json!({"completions": [], "cursor": 0})));
    server.always(ONE, Act::json(json!({"type": "try_again"})));
    server.always("/api/v1/client/dynamic_config", Act::json(dynamic));
    let service = server.in_memory().build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    (server, service, sampler)
}

fn enabled() -> Value {
    json!({"sample_cancel_enabled": true, "sample_cancel_max_batch_size": 4})
}

fn cancelled(server: &FakeServer) -> Vec<String> {
    let ids = server.requests_to(CANCEL).into_iter().map(|it| it.json().unwrap());
    let mut ids: Vec<String> = ids.map(|it| it["request_id"].as_str().unwrap().to_string()).collect();
    ids.sort();
    ids
}

/// Waits until the server has accepted a sample, and returns what it calls it.
fn accepted(pending: &Pending<SampleResponse>) -> String {
    eventually("a promise", || pending.status().request_id.is_some());
    pending.status().request_id.unwrap()
}

#[test]
fn a_sample_that_is_dropped_or_cancelled_is_cancelled_on_the_server() {
    for together in [false, true] {
        let (server, _service, sampler) = busy(together, enabled());
        let (dropped, given_up) = (sample(&sampler), sample(&sampler));
        let mut expected = vec![accepted(&dropped), accepted(&given_up)];
        expected.sort();
        drop(dropped);
        given_up.cancel();
        assert!(given_up.wait().unwrap_err().is_cancelled());
        eventually("both are told", || cancelled(&server).len() == 2);
        assert_eq!(cancelled(&server), expected);
    }
}

#[test]
fn a_server_that_does_not_want_to_know_is_told_nothing() {
    let (server, service, sampler) = busy(true, json!({"sample_cancel_enabled": false}));
    for _ in 0..3 {
        let pending = sample(&sampler);
        accepted(&pending);
        drop(pending);
    }
    service.close(CloseStatus::Success).unwrap();
    assert!(cancelled(&server).is_empty());
}

#[test]
fn a_sample_that_is_given_up_while_it_is_sent_is_cancelled_as_soon_as_it_is_known() {
    let (server, _service, sampler) = busy(true, enabled());
    let (held, release) = (CancelToken::new(), CancelToken::new());
    let (holding, released) = (held.clone(), release.clone());
    server.script(move |seen| {
        if seen.path == "/api/v1/asample" {
            holding.cancel();
            released.wait_timeout(PATIENCE);
        }
        None
    });
    let pending = sample(&sampler);
    assert!(held.wait_timeout(PATIENCE));
    drop(pending);
    release.cancel();
    eventually("it is told", || cancelled(&server) == ["request-1"]);
}

#[test]
fn what_is_not_accepted_and_what_is_done_is_not_cancelled() {
    let (server, service, sampler) = busy(false, enabled());
    let token = CancelToken::new();
    token.cancel();
    assert!(sample(&sampler.with_cancel(&token)).wait().unwrap_err().is_cancelled());
    assert!(server.requests_to("/api/v1/asample").is_empty());
    server.behave(ONE);
    let mut done = sample(&sampler);
    done.wait_timeout(PATIENCE).unwrap();
    drop(done);
    server.always(ONE, Act::json(json!({"error": "no", "category": "user"})));
    assert!(sample(&sampler).wait().is_err());
    service.close(CloseStatus::Success).unwrap();
    assert!(cancelled(&server).is_empty());
}

#[test]
fn a_token_cancels_the_samples_of_its_handle_and_no_others() {
    let (server, _service, sampler) = busy(true, enabled());
    let token = CancelToken::new();
    let other = sample(&sampler);
    let round: Vec<_> = (0..10).map(|_| sample(&sampler.with_cancel(&token))).collect();
    let ids: Vec<_> = round.iter().map(accepted).collect();
    let other_id = accepted(&other);
    token.cancel();
    for pending in round {
        assert!(pending.wait().unwrap_err().is_cancelled());
    }
    eventually("all are told", || cancelled(&server).len() == ids.len());
    assert!(!cancelled(&server).contains(&other_id) && !other.is_done());
}

#[test]
fn closing_a_client_cancels_its_samples_on_the_server() {
    for together in [false, true] {
        let (server, service, sampler) = busy(together, enabled());
        let pending: Vec<_> = (0..3).map(|_| sample(&sampler)).collect();
        let mut ids: Vec<_> = pending.iter().map(accepted).collect();
        ids.sort();
        let other = sample(&service.create_sampling_client("fake/model").unwrap());
        accepted(&other);
        sampler.close();
        eventually("all are told", || cancelled(&server).len() == ids.len());
        assert_eq!(cancelled(&server), ids);
        // The end of the session says the rest.
        service.close(CloseStatus::Success).unwrap();
        assert_eq!(cancelled(&server), ids);
    }
}

#[test]
fn no_more_are_cancelled_at_once_than_the_server_wants() {
    let (server, _service, sampler) = busy(true, enabled());
    let token = CancelToken::new();
    let round: Vec<_> = (0..11).map(|_| sample(&sampler.with_cancel(&token))).collect();
    round.iter().for_each(|it| drop(accepted(it)));
    let release = CancelToken::new();
    let released = release.clone();
    server.script(move |seen| {
        if seen.path == CANCEL {
            released.wait_timeout(PATIENCE);
        }
        None
    });
    token.cancel();
    // Nobody who cancels waits for the server, which has at most a batch in its hands.
    for pending in round {
        assert!(pending.wait().unwrap_err().is_cancelled());
    }
    eventually("some are being told", || !server.requests_to(CANCEL).is_empty());
    assert!(server.requests_to(CANCEL).len() <= 4);
    release.cancel();
    eventually("all are told", || cancelled(&server).len() == 11);
}

#[test]
fn a_cancellation_that_fails_is_not_repeated_for_ever() {
    let (server, _service, sampler) = busy(true, enabled());
    server.next(CANCEL, Act::status(400, r#"{"detail":"no"}"#));
    let first = sample(&sampler);
    accepted(&first);
    drop(first);
    eventually("the first is told", || cancelled(&server).len() == 1);
    let second = sample(&sampler);
    let id = accepted(&second);
    drop(second);
    eventually("the second is told", || cancelled(&server).contains(&id));
    assert_eq!(cancelled(&server).len(), 2);
}

#[test]
fn a_sample_whose_time_is_over_is_cancelled_on_the_server() {
    let server = FakeServer::new();
    server.always(ONE, Act::json(json!({"type": "try_again"})));
    server.always("/api/v1/client/dynamic_config", Act::json(enabled()));
    let service = server
        .in_memory_at(VirtualClock::new())
        .timeouts(|it| it.operation = Duration::from_secs(30))
        .build()
        .unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    assert!(sample(&sampler).wait().unwrap_err().is_timeout());
    eventually("it is told", || cancelled(&server) == ["request-1"]);
}
