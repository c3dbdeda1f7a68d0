//! If a sample is cancelled, dropped or times out in the client, the client also cancels it on the server, with a
//! request to `cancel_future`. The server's flags must enable that.

use std::time::Duration;

use serde_json::{Value, json};
use tinkex::sync::CancelToken;
use tinkex::testing::{Act, FakeServer, VirtualClock};
use tinkex::types::{ModelInput, SampleResponse, SamplingParams};
use tinkex::{CloseStatus, Pending, SamplingClient, ServiceClient};

use crate::util::{TEST_TIMEOUT, eventually};

const CANCEL: &str = "/api/v1/cancel_future";
const RETRIEVE: &str = "/api/v1/retrieve_future";
const RETRIEVE_TOGETHER: &str = "/api/v1/retrieve_futures";

fn sample(sampler: &SamplingClient) -> Pending<SampleResponse> {
    sampler.sample(&ModelInput::from_ints([1]), 1, &SamplingParams::default())
}

/// A server that never finishes a sample, and a client of that server. The client polls for all samples in one request
/// if `together` is set, and for each sample separately otherwise. `dynamic` are the dynamic flags of the server: flags
/// that may change while the client runs (PROTOCOL §3.1 #2).
fn busy(together: bool, dynamic: Value) -> (FakeServer, ServiceClient, SamplingClient) {
    let server = FakeServer::new();
    if together {
        server.polls_together();
    }
    server.always(RETRIEVE_TOGETHER, Act::json(json!({"completions": [], "cursor": 0})));
    server.always(RETRIEVE, Act::json(json!({"type": "try_again"})));
    server.always("/api/v1/client/dynamic_config", Act::json(dynamic));
    let service = server.in_memory().build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    (server, service, sampler)
}

/// Dynamic flags of a server that enables cancellation and allows at most 4 cancellation requests at the same time.
fn enabled() -> Value {
    json!({"sample_cancel_enabled": true, "sample_cancel_max_batch_size": 4})
}

/// The request ids of the samples that `server` was asked to cancel, sorted.
fn cancelled(server: &FakeServer) -> Vec<String> {
    let bodies = server.requests_to(CANCEL).into_iter().map(|seen| seen.json().unwrap());
    let mut ids: Vec<String> = bodies.map(|body| body["request_id"].as_str().unwrap().to_string()).collect();
    ids.sort();
    ids
}

/// Waits until the server has accepted a sample, and returns its request id.
fn accepted(pending: &Pending<SampleResponse>) -> String {
    eventually("the sample is accepted", || pending.status().request_id.is_some());
    pending.status().request_id.unwrap()
}

#[test]
fn a_sample_that_is_dropped_or_cancelled_is_cancelled_on_the_server() {
    for together in [false, true] {
        let (server, _service, sampler) = busy(together, enabled());
        let (dropped, aborted) = (sample(&sampler), sample(&sampler));
        let mut expected = vec![accepted(&dropped), accepted(&aborted)];
        expected.sort();
        drop(dropped);
        aborted.cancel();
        assert!(aborted.wait().unwrap_err().is_cancelled());
        eventually("both are cancelled on the server", || cancelled(&server).len() == 2);
        assert_eq!(cancelled(&server), expected);
    }
}

#[test]
fn a_server_that_disables_cancellation_gets_none() {
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
fn a_sample_dropped_during_its_submission_is_cancelled_once_its_request_id_is_known() {
    let (server, _service, sampler) = busy(true, enabled());
    let (held, release) = (CancelToken::new(), CancelToken::new());
    let (holding, released) = (held.clone(), release.clone());
    server.script(move |seen| {
        if seen.path == "/api/v1/asample" {
            holding.cancel();
            released.wait_timeout(TEST_TIMEOUT);
        }
        None
    });
    let pending = sample(&sampler);
    assert!(held.wait_timeout(TEST_TIMEOUT));
    drop(pending);
    release.cancel();
    eventually("it is cancelled on the server", || cancelled(&server) == ["request-1"]);
}

#[test]
fn samples_that_were_not_accepted_or_are_done_are_not_cancelled() {
    let (server, service, sampler) = busy(false, enabled());
    let token = CancelToken::new();
    token.cancel();
    assert!(sample(&sampler.with_cancel(&token)).wait().unwrap_err().is_cancelled());
    assert!(server.requests_to("/api/v1/asample").is_empty());
    server.behave(RETRIEVE);
    let mut done = sample(&sampler);
    done.wait_timeout(TEST_TIMEOUT).unwrap().unwrap();
    drop(done);
    server.always(RETRIEVE, Act::json(json!({"error": "no", "category": "user"})));
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
    eventually("all are cancelled on the server", || cancelled(&server).len() == ids.len());
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
        eventually("all are cancelled on the server", || cancelled(&server).len() == ids.len());
        assert_eq!(cancelled(&server), ids);
        // The other sample is not cancelled by a request: the end of the session ends it on the server.
        service.close(CloseStatus::Success).unwrap();
        assert_eq!(cancelled(&server), ids);
    }
}

#[test]
fn no_more_cancellations_are_in_flight_than_the_servers_batch_size() {
    let (server, _service, sampler) = busy(true, enabled());
    let token = CancelToken::new();
    let round: Vec<_> = (0..11).map(|_| sample(&sampler.with_cancel(&token))).collect();
    for pending in &round {
        accepted(pending);
    }
    let release = CancelToken::new();
    let released = release.clone();
    server.script(move |seen| {
        if seen.path == CANCEL {
            released.wait_timeout(TEST_TIMEOUT);
        }
        None
    });
    token.cancel();
    // The server holds the cancellation requests. Nevertheless the cancelled samples end, and at most one batch of
    // cancellation requests is in flight.
    for pending in round {
        assert!(pending.wait().unwrap_err().is_cancelled());
    }
    eventually("cancellations are in flight", || !server.requests_to(CANCEL).is_empty());
    assert!(server.requests_to(CANCEL).len() <= 4);
    release.cancel();
    eventually("all are cancelled on the server", || cancelled(&server).len() == 11);
}

#[test]
fn a_refused_cancellation_is_not_retried() {
    let (server, _service, sampler) = busy(true, enabled());
    server.next(CANCEL, Act::status(400, r#"{"detail":"no"}"#));
    let first = sample(&sampler);
    accepted(&first);
    drop(first);
    eventually("the first is cancelled on the server", || cancelled(&server).len() == 1);
    let second = sample(&sampler);
    let id = accepted(&second);
    drop(second);
    eventually("the second is cancelled on the server", || cancelled(&server).contains(&id));
    assert_eq!(cancelled(&server).len(), 2);
}

#[test]
fn a_sample_that_times_out_is_cancelled_on_the_server() {
    let server = FakeServer::new();
    server.always(RETRIEVE, Act::json(json!({"type": "try_again"})));
    server.always("/api/v1/client/dynamic_config", Act::json(enabled()));
    let service = server
        .in_memory_at(VirtualClock::new())
        .timeouts(|timeouts| timeouts.operation = Duration::from_secs(30))
        .build()
        .unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    assert!(sample(&sampler).wait().unwrap_err().is_timeout());
    eventually("it is cancelled on the server", || cancelled(&server) == ["request-1"]);
}
