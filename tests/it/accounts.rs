//! What an error says of the effort behind it: all attempts, all of the time, the last reason.

use std::time::Duration;

use serde_json::json;
use tinkex::testing::{Act, FakeServer, VirtualClock};
use tinkex::types::{AdamParams, ModelInput, SampleResponse, SamplingParams};
use tinkex::{Error, ErrorKind, PausePolicy, Phase, Result, Timeouts};

const SAMPLE: &str = "/api/v1/asample";
const S: fn(u64) -> Duration = Duration::from_secs;

/// A sample of a server that answers each submission with an act.
fn sample(act: Act, timeouts: impl FnOnce(&mut Timeouts)) -> (FakeServer, Result<SampleResponse>) {
    let server = FakeServer::new();
    let service = server.in_memory_at(VirtualClock::new()).timeouts(timeouts).build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    server.always(SAMPLE, act);
    let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
    let result = sampler.sample(&ModelInput::from_ints([1]), 1, &params).wait();
    (server, result)
}

fn account(error: &Error) -> (u32, Duration) {
    (error.attempts().unwrap(), error.elapsed().unwrap())
}

#[test]
fn a_sample_that_the_server_has_no_room_for_until_its_deadline_tells_all_attempts_and_the_whole_time() {
    let act = Act::status(429, r#"{"detail":"too many samples"}"#);
    let (server, result) = sample(act, |it| it.operation = S(600));
    let error = result.unwrap_err();
    assert_eq!(account(&error), (601, S(600)), "{error}");
    assert_eq!(server.requests_to(SAMPLE).len(), 601);
    assert!(
        error.to_string().contains("too many samples") && error.to_string().contains("601 attempts"),
        "{error}"
    );
    assert_eq!(error.http_status(), Some(429));
}

#[test]
fn a_sample_that_meets_an_outage_until_its_deadline_tells_all_attempts_and_the_whole_time() {
    for act in [Act::status(503, r#"{"detail":"down"}"#), Act::Reset] {
        let (server, result) = sample(act.clone(), |it| it.operation = S(600));
        let error = result.unwrap_err();
        let (attempts, elapsed) = account(&error);
        assert_eq!(attempts as usize, server.requests_to(SAMPLE).len(), "{act:?}: {error}");
        assert!(S(580) < elapsed && elapsed <= S(600), "{act:?}: {error}");
    }
}

#[test]
fn a_sample_whose_time_is_over_before_its_turn_comes_repeats_what_the_server_said_to_others() {
    let server = FakeServer::new();
    let service =
        server.in_memory_at(VirtualClock::new()).timeouts(|it| it.operation = S(3)).build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    // A large prompt makes everybody wait for five seconds.
    server.always(SAMPLE, Act::status(429, r#"{"detail":"too many samples"}"#));
    let error = sampler.sample(&ModelInput::from_ints(vec![1; 20_000]), 1, &SamplingParams::default()).wait();
    let error = error.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Timeout(Phase::Admission)), "{error:?}");
    assert!(error.to_string().contains("too many samples"), "{error}");
    assert_eq!(error.cause().unwrap().http_status(), Some(429));
}

#[test]
fn a_sample_of_a_dead_server_ends_with_the_time_that_its_submission_is_allowed() {
    for act in [Act::Reset, Act::status(503, "down"), Act::status(408, "late")] {
        let (server, result) = sample(act.clone(), |it| (it.submit, it.operation) = (S(8), S(60)));
        let error = result.unwrap_err();
        let (attempts, elapsed) = account(&error);
        assert!(S(2) < elapsed && elapsed <= S(8), "{act:?}: {error}");
        assert_eq!(attempts as usize, server.requests_to(SAMPLE).len(), "{act:?}: {error}");
    }
}

#[test]
fn a_caller_who_waits_a_while_for_a_rate_limit_waits_no_longer_with_a_sample() {
    let server = FakeServer::new();
    let policy = PausePolicy::WaitAtMost(S(30));
    let service = server.in_memory_at(VirtualClock::new()).pause_policy(policy).build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    server.always(SAMPLE, Act::status(429, r#"{"detail":"too many samples"}"#));
    let error =
        sampler.sample(&ModelInput::from_ints([1]), 1, &SamplingParams::default()).wait().unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Paused, "{error:?}");
    assert_eq!(account(&error), (31, S(30)));
    assert!(
        error.to_string().contains("longer than the allowed 30.0s: HTTP 429: too many samples"),
        "{error}"
    );
}

#[test]
fn a_poisoned_client_tells_its_own_attempts_and_time_and_the_cause_keeps_its_own() {
    let server = FakeServer::new();
    let service = server.in_memory_at(VirtualClock::new()).timeouts(|it| it.submit = S(60)).build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    server.always("/api/v1/optim_step", Act::status(503, "down"));
    let first = training.optim_step(AdamParams::default()).wait().unwrap_err();
    let n = server.requests_to("/api/v1/optim_step").len();
    assert_eq!(first.attempts().unwrap() as usize, n, "{first}");
    assert!(3 < n);
    let later = training.optim_step(AdamParams::default()).wait().unwrap_err();
    assert_eq!((later.kind(), later.attempts()), (&ErrorKind::Poisoned, Some(0)), "{later}");
    assert!(later.elapsed() < first.elapsed(), "{later:?}");
    assert!(!later.to_string().contains("attempts"), "{later}");
    assert_eq!(later.cause().unwrap().attempts().unwrap() as usize, n);
}

#[test]
fn an_error_after_the_submission_counts_the_requests_for_the_result_too() {
    let server = FakeServer::new();
    let service = server.in_memory().build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    server.next("/api/v1/retrieve_future", Act::json(json!({"type": "try_again"})));
    server.next("/api/v1/retrieve_future", Act::json(json!({"error": "no", "category": "user"})));
    let error = training.optim_step(AdamParams::default()).wait().unwrap_err();
    assert_eq!(error.attempts(), Some(3), "{error}");
}

#[test]
fn a_caller_who_does_not_wait_for_a_pause_is_told_its_reason_and_no_limit() {
    let server = FakeServer::new();
    let service = server.in_memory().pause_policy(PausePolicy::Fail).build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    let paused = json!({"type": "try_again", "queue_state": "paused_rate_limit", "queue_state_reason": "8 models at most"});
    server.always("/api/v1/retrieve_future", Act::json(paused));
    let error = training.optim_step(AdamParams::default()).wait().unwrap_err();
    assert_eq!(error.message(), "the server pauses for a rate limit (8 models at most)");
}
