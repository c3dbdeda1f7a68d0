//! Bugs that were reported about other clients and servers of this API, as tests of this crate. The name of each test
//! begins with the repository and the number of the issue.

use std::time::Duration;

use tinkex::ErrorKind;
use tinkex::testing::{Act, FakeServer};
use tinkex::types::{AdamParams, LossFn, ModelInput, SamplingParams};

use crate::util::{datum, seq_ids, training};

const RETRIEVE: &str = "/api/v1/retrieve_future";

#[test]
fn skyrl_2162_a_result_whose_delivery_broke_off_is_requested_again() {
    let (server, _service, training) = training();
    server.next_altered(RETRIEVE, Act::Truncate);
    server.next(RETRIEVE, Act::status(404, r#"{"detail":"not here yet"}"#));
    training.optim_step(AdamParams::default()).wait().unwrap();
    assert_eq!(server.requests_to("/api/v1/optim_step").len(), 1);
}

#[test]
fn fireworks_cookbook_344_an_unknown_promise_is_polled_again() {
    let server = FakeServer::new();
    let service = server.in_memory().build().unwrap();
    for _ in 0..3 {
        server.next(RETRIEVE, Act::status(404, r#"{"detail":"no such promise"}"#));
    }
    service.create_lora_training_client("fake/model", Default::default()).unwrap();
}

#[test]
fn skyrl_2048_a_later_part_never_overtakes_the_request_before_it() {
    let (server, _service, training) = training();
    let first = training.forward_backward(vec![datum(); 2500], LossFn::CrossEntropy);
    let second = training.forward_backward(vec![datum(); 2500], LossFn::CrossEntropy);
    first.wait().unwrap();
    second.wait().unwrap();
    let ids = seq_ids(&server);
    assert!(ids[..3].iter().all(|id| *id <= 3) && ids[2] == 1, "{ids:?}");
    assert!(ids[3..].iter().all(|id| 3 < *id) && ids[5] == 4, "{ids:?}");
}

#[test]
fn skyrl_1489_a_step_submitted_behind_a_pass_arrives_behind_it() {
    let (server, _service, training) = training();
    server.next("/api/v1/forward_backward", Act::status(503, "busy"));
    let pass = training.forward_backward(vec![datum()], LossFn::CrossEntropy);
    let step = training.optim_step(AdamParams::default());
    pass.wait().unwrap();
    step.wait().unwrap();
    assert_eq!(seq_ids(&server), [1, 1, 2]);
}

#[test]
fn tinker_cookbook_234_a_server_without_answers_ends_the_wait_as_stuck() {
    let server = FakeServer::new();
    // Otherwise the sample is submitted again until the time limit of the operation, which may pass during a submission.
    server.always("/api/v1/client/config", Act::json(serde_json::json!({"sample_no_retries": true})));
    // The pauses between the heartbeats advance the virtual time, too: a shorter limit of the operation might pass before
    // the waiting thread looks at the time for the first time.
    let limited = server.in_memory().timeouts(|it| {
        it.silence = Duration::from_secs(60);
        it.operation = Duration::from_secs(10 * 24 * 3600);
    });
    let service = limited.build().unwrap();
    server.always("/api/v1/session_heartbeat", Act::Reset);
    let sampler = service.create_sampling_client("fake/model").unwrap();
    server.always(RETRIEVE, Act::Stall);
    let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
    let error = sampler.sample(&ModelInput::from_ints([1]), 1, &params).wait().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Stuck { .. }) && error.is_retryable(), "{error:?}");
}

#[test]
fn tinker_cookbook_372_after_the_last_retry_the_error_has_the_attempts_and_the_client_can_be_dropped() {
    let server = FakeServer::new();
    let service = server.in_memory().timeouts(|it| it.submit = Duration::from_secs(30)).build().unwrap();
    server.always("/api/v1/get_server_capabilities", Act::status(503, "busy"));
    let error = service.get_server_capabilities().unwrap_err();
    assert!(
        error.attempts().unwrap() >= 7 && error.elapsed().unwrap() <= Duration::from_secs(30),
        "{error:?}"
    );
    drop(service);
}
