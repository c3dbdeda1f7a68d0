//! The context that an error reports: number of attempts, elapsed time, and the reason of the last failure or pause.

use std::time::Duration;

use serde_json::json;
use tinkex::testing::{Act, FakeServer, VirtualClock};
use tinkex::types::{AdamParams, ModelInput, SampleResponse, SamplingParams};
use tinkex::{Error, ErrorKind, PausePolicy, Phase, Result, Timeouts};

const SAMPLE: &str = "/api/v1/asample";
const S: fn(u64) -> Duration = Duration::from_secs;

/// Samples on a server that answers each submission with `act`.
fn sample(act: Act, timeouts: impl FnOnce(&mut Timeouts)) -> (FakeServer, Result<SampleResponse>) {
    let server = FakeServer::new();
    let service = server.in_memory_at(VirtualClock::new()).timeouts(timeouts).build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    server.always(SAMPLE, act);
    let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
    let result = sampler.sample(&ModelInput::from_ints([1]), 1, &params).wait();
    (server, result)
}

fn attempts_and_elapsed(error: &Error) -> (u32, Duration) {
    (error.attempts().unwrap(), error.elapsed().unwrap())
}

#[test]
fn a_sample_rejected_with_429_until_its_deadline_reports_all_attempts_and_the_whole_time() {
    let act = Act::status(429, r#"{"detail":"too many samples"}"#);
    let (server, result) = sample(act, |timeouts| timeouts.operation = S(600));
    let error = result.unwrap_err();
    assert_eq!(attempts_and_elapsed(&error), (601, S(600)), "{error}");
    assert_eq!(server.requests_to(SAMPLE).len(), 601);
    assert!(
        error.to_string().contains("too many samples") && error.to_string().contains("601 attempts"),
        "{error}"
    );
    assert_eq!(error.http_status(), Some(429));
}

#[test]
fn a_sample_that_meets_an_outage_until_its_deadline_reports_all_attempts_and_the_whole_time() {
    for act in [Act::status(503, r#"{"detail":"down"}"#), Act::Reset] {
        let (server, result) = sample(act.clone(), |timeouts| timeouts.operation = S(600));
        let error = result.unwrap_err();
        let (attempts, elapsed) = attempts_and_elapsed(&error);
        assert_eq!(attempts as usize, server.requests_to(SAMPLE).len(), "{act:?}: {error}");
        assert!(S(580) < elapsed && elapsed <= S(600), "{act:?}: {error}");
    }
}

#[test]
fn a_sample_that_times_out_during_a_shared_pause_reports_the_rejection_that_caused_it() {
    let server = FakeServer::new();
    let service = server
        .in_memory_at(VirtualClock::new())
        .timeouts(|timeouts| timeouts.operation = S(3))
        .build()
        .unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    // After a 429 for a large prompt, such as the 20 000 tokens below, no sample is sent for 5 s. An operation may take
    // only 3 s here.
    server.always(SAMPLE, Act::status(429, r#"{"detail":"too many samples"}"#));
    let error = sampler.sample(&ModelInput::from_ints(vec![1; 20_000]), 1, &SamplingParams::default()).wait();
    let error = error.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Timeout(Phase::Admission)), "{error:?}");
    assert!(error.to_string().contains("too many samples"), "{error}");
    assert_eq!(error.cause().unwrap().http_status(), Some(429));
}

#[test]
fn a_sample_that_cannot_be_submitted_ends_at_the_submit_timeout() {
    for act in [Act::Reset, Act::status(503, "down"), Act::status(408, "late")] {
        let (server, result) =
            sample(act.clone(), |timeouts| (timeouts.submit, timeouts.operation) = (S(8), S(60)));
        let error = result.unwrap_err();
        let (attempts, elapsed) = attempts_and_elapsed(&error);
        assert!(S(2) < elapsed && elapsed <= S(8), "{act:?}: {error}");
        assert_eq!(attempts as usize, server.requests_to(SAMPLE).len(), "{act:?}: {error}");
    }
}

#[test]
fn wait_at_most_bounds_the_time_that_a_sample_waits_for_a_rate_limit() {
    let server = FakeServer::new();
    let policy = PausePolicy::WaitAtMost(S(30));
    let service = server.in_memory_at(VirtualClock::new()).pause_policy(policy).build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    server.always(SAMPLE, Act::status(429, r#"{"detail":"too many samples"}"#));
    let error =
        sampler.sample(&ModelInput::from_ints([1]), 1, &SamplingParams::default()).wait().unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Paused, "{error:?}");
    assert_eq!(attempts_and_elapsed(&error), (31, S(30)));
    assert!(
        error.to_string().contains("longer than the allowed 30.0s: HTTP 429: too many samples"),
        "{error}"
    );
}

#[test]
fn an_attempt_that_the_deadline_cut_short_is_reported_as_the_end_of_the_operation() {
    let server = FakeServer::new();
    let service = server.in_memory_at(VirtualClock::new());
    let service = service.timeouts(|timeouts| timeouts.operation = S(30)).build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    server.always(SAMPLE, Act::Stall);
    server.always("/api/v1/optim_step", Act::Stall);
    let sampled = sampler.sample(&ModelInput::from_ints([1]), 1, &SamplingParams::default());
    let error = sampled.wait().unwrap_err();
    assert!(error.to_string().contains("sample did not finish within Timeouts::operation (30s)"), "{error}");
    let error = training.optim_step(AdamParams::default()).wait().unwrap_err();
    assert!(
        error.to_string().contains("optim_step did not finish within Timeouts::operation (30s)"),
        "{error}"
    );
    assert!(!error.is_retryable(), "{error}");
}

#[test]
fn a_poisoned_error_and_its_cause_each_report_their_own_attempts_and_time() {
    let server = FakeServer::new();
    let service = server
        .in_memory_at(VirtualClock::new())
        .timeouts(|timeouts| timeouts.submit = S(60))
        .build()
        .unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    server.always("/api/v1/optim_step", Act::status(503, "down"));
    let first = training.optim_step(AdamParams::default()).wait().unwrap_err();
    let n = server.requests_to("/api/v1/optim_step").len();
    assert_eq!(first.attempts().unwrap() as usize, n, "{first}");
    assert!(3 < n);
    assert!(!first.is_retryable(), "the same call on this client would fail: {first}");
    let later = training.optim_step(AdamParams::default()).wait().unwrap_err();
    assert_eq!((later.kind(), later.attempts()), (&ErrorKind::Poisoned, Some(0)), "{later}");
    assert!(later.elapsed() < first.elapsed(), "{later:?}");
    assert!(!later.to_string().contains("attempts"), "{later}");
    assert_eq!(later.cause().unwrap().attempts().unwrap() as usize, n);
}

#[test]
fn a_call_that_fails_while_the_session_is_opened_reports_the_attempts_to_open_it() {
    let server = FakeServer::new();
    let service = server
        .in_memory_at(VirtualClock::new())
        .timeouts(|timeouts| timeouts.submit = S(60))
        .build()
        .unwrap();
    server.always("/api/v1/create_session", Act::status(503, "down"));
    let error = service.create_lora_training_client("fake/model", Default::default()).unwrap_err();
    let n = server.requests_to("/api/v1/create_session").len();
    assert_eq!(error.attempts().unwrap() as usize, n, "{error}");
    assert!(3 < n);
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
fn with_the_pause_policy_fail_the_error_has_the_reason_of_the_pause_and_no_limit() {
    let server = FakeServer::new();
    let service = server.in_memory().pause_policy(PausePolicy::Fail).build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    let paused = json!({"type": "try_again", "queue_state": "paused_rate_limit", "queue_state_reason": "8 models at most"});
    server.always("/api/v1/retrieve_future", Act::json(paused));
    let error = training.optim_step(AdamParams::default()).wait().unwrap_err();
    assert_eq!(error.message(), "the server pauses for a rate limit (8 models at most)");
}
