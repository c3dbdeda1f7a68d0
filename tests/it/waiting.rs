//! Waiting for results: polls, timeouts, cancellation, and channels.

use std::time::Duration;

use serde_json::json;
use tinkex::testing::{Act, FakeServer, VirtualClock};
use tinkex::types::{AdamParams, LossFn, ModelInput, QueueState, SamplingParams};
use tinkex::{ErrorKind, Stage};

use crate::util::{TEST_TIMEOUT, datum, eventually, training};

const RETRIEVE: &str = "/api/v1/retrieve_future";

#[test]
fn every_answer_that_means_not_yet_is_polled_again() {
    let (server, _service, training) = training();
    server.next(RETRIEVE, Act::status(408, r#"{"type":"try_again","queue_state":"active"}"#));
    server.next(RETRIEVE, Act::json(json!({"type": "try_again", "request_id": "x", "queue_state": "odd"})));
    server.next(RETRIEVE, Act::status(503, "busy"));
    server.next(RETRIEVE, Act::status(429, "slow down"));
    server.next(RETRIEVE, Act::status(404, r#"{"detail":"not here yet"}"#));
    server.next(RETRIEVE, Act::status(400, ""));
    server.next(RETRIEVE, Act::Reset);
    server.next(RETRIEVE, Act::Stall);
    server.next(RETRIEVE, Act::Garbage("nonsense".into()));
    training.optim_step(AdamParams::default()).wait().unwrap();
    let polls: Vec<_> = server.requests_to(RETRIEVE).into_iter().skip(1).collect();
    assert_eq!(polls.len(), 10);
    for (i, poll) in polls.iter().enumerate() {
        assert_eq!(poll.header("x-tinker-request-iteration"), Some(i.to_string().as_str()));
        assert_eq!(poll.header("x-tinker-request-type"), Some("OptimStep"));
        assert_eq!(poll.header("x-tinker-create-promise-roundtrip-time").is_some(), i == 0);
    }
}

#[test]
fn a_large_result_is_announced_first_and_then_fetched_whole() {
    let (server, _service, training) = training();
    server.next(
        RETRIEVE,
        Act::json(json!({"status": "complete_metadata", "response_payload_size": 1u64 << 18})),
    );
    training.forward(vec![datum()], LossFn::CrossEntropy).wait().unwrap();
    let flags: Vec<_> = server
        .requests_to(RETRIEVE)
        .iter()
        .skip(1)
        .map(|it| it.json().unwrap()["allow_metadata_only"].clone())
        .collect();
    assert_eq!(flags, [true, false]);
}

#[test]
fn a_failed_request_has_the_servers_message_and_category() {
    let (server, _service, training) = training();
    server.next(RETRIEVE, Act::json(json!({"error": "prompt exceeds context window", "category": "user"})));
    let error = training.optim_step(AdamParams::default()).wait().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::RequestFailed { .. }) && error.is_user_error());
    let text = error.to_string();
    assert!(text.starts_with("optim_step failed: prompt exceeds context window"), "{text}");
    assert!(text.contains("request request-2"), "{text}");
}

#[test]
fn a_wait_that_times_out_leaves_the_operation_running() {
    let server = FakeServer::new();
    let listening = server.listen().unwrap();
    let service = listening.client().build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    let ready = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_ready = ready.clone();
    server.script(move |seen| {
        let early = seen.path == RETRIEVE && !is_ready.load(std::sync::atomic::Ordering::Acquire);
        early.then(|| {
            Act::json(
                json!({"type": "try_again", "queue_state": "paused_capacity", "queue_state_reason": "full"}),
            )
        })
    });
    let mut pending = training.optim_step(AdamParams::default());
    assert!(pending.wait_timeout(Duration::from_millis(20)).unwrap().is_none());
    eventually("the queue's state is known", || {
        let status = pending.status();
        status.stage == Stage::Waiting
            && status.queue_state == Some(QueueState::PausedCapacity)
            && status.queue_state_reason.as_deref() == Some("full")
            && status.request_id.is_some()
            && status.last_contact.is_some()
    });
    assert!(pending.try_wait().is_none() && !pending.is_done());
    ready.store(true, std::sync::atomic::Ordering::Release);
    pending.wait_timeout(TEST_TIMEOUT).unwrap().unwrap();
    assert_eq!(pending.status().stage, Stage::Done);
}

#[test]
fn cancelling_answers_at_once_and_dropping_cancels_samples_but_not_training() {
    let server = FakeServer::new();
    let listening = server.listen().unwrap();
    let service = listening.client().build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    server.always(RETRIEVE, Act::Stall);
    let pending = training.optim_step(AdamParams::default());
    let canceller = pending.canceller();
    let waiter = std::thread::spawn(move || pending.wait());
    canceller.cancel();
    assert!(waiter.join().unwrap().unwrap_err().is_cancelled());

    let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
    let sample = sampler.sample(&ModelInput::from_ints([1]), 1, &params);
    let canceller = sample.canceller();
    drop(sample);
    assert!(format!("{canceller:?}").contains("cancelled: true"));
    let step = training.optim_step(AdamParams::default());
    let canceller = step.canceller();
    drop(step);
    assert!(format!("{canceller:?}").contains("cancelled: false"));
}

#[test]
fn a_lost_sample_is_submitted_again_with_a_new_sequence_id() {
    let server = FakeServer::new();
    let service = server.in_memory().build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    server.next(RETRIEVE, Act::status(410, r#"{"detail":"promise expired"}"#));
    let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
    sampler.sample(&ModelInput::from_ints([1]), 1, &params).wait().unwrap();
    let numbers: Vec<_> =
        server.requests_to("/api/v1/asample").iter().map(|it| it.json().unwrap()["seq_id"].clone()).collect();
    assert_eq!(numbers, [0, 1]);
}

#[test]
fn a_lost_training_result_is_an_error() {
    let (server, _service, training) = training();
    server.next(RETRIEVE, Act::status(410, r#"{"detail":"promise expired"}"#));
    let error = training.optim_step(AdamParams::default()).wait().unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::PromiseExpired);
}

#[test]
fn a_busy_server_pauses_all_samples_and_gets_the_same_requests_again() {
    let server = FakeServer::new();
    let clock = VirtualClock::new();
    let service = server.in_memory_at(clock.clone()).build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    server.next("/api/v1/asample", Act::status(429, "too many"));
    let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
    sampler.sample(&ModelInput::from_ints([1]), 1, &params).wait().unwrap();
    let numbers: Vec<_> =
        server.requests_to("/api/v1/asample").iter().map(|it| it.json().unwrap()["seq_id"].clone()).collect();
    assert_eq!(numbers, [0, 0]);
    assert!(clock.pauses().contains(&Duration::from_secs(1)), "{:?}", clock.pauses());
}

#[test]
fn results_arrive_in_a_channel_with_their_tags() {
    let server = FakeServer::new();
    let service = server.in_memory().build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
    // A channel of capacity 1 is full after one result: the other results wait for the reader, and none is lost.
    let (tx, rx) = crossbeam_channel::bounded(1);
    for tag in 0..20 {
        sampler.sample(&ModelInput::from_ints([1]), 1, &params).on_done(tag, tx.clone());
    }
    drop(tx);
    let mut tags: Vec<i32> = rx.iter().map(|(tag, answer)| answer.map(|_| tag).unwrap()).collect();
    tags.sort();
    assert_eq!(tags, (0..20).collect::<Vec<_>>());
}

#[test]
fn a_submission_ends_with_its_operation_and_reports_the_last_failure() {
    let (server, time) = (FakeServer::new(), VirtualClock::new());
    let limit = Duration::from_secs(20);
    let service = server.in_memory_at(time.clone()).timeouts(|it| it.operation = limit).build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    server.always("/api/v1/optim_step", Act::status(503, r#"{"detail":"full"}"#));
    let before = time.clock().now();
    let error = training.optim_step(AdamParams::default()).wait().unwrap_err();
    assert!(time.clock().now() - before <= limit);
    assert!(error.http_status() == Some(503) && error.to_string().contains("full"), "{error}");
}

#[test]
fn the_last_result_is_in_its_channel_before_the_session_ends() {
    let server = FakeServer::new();
    let hour = |it: &mut tinkex::Timeouts| it.close = Duration::from_secs(3600);
    let service = server.in_memory().telemetry(true).timeouts(hour).build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    // Block telemetry: the end of the session waits for it.
    let (open, gate) = crossbeam_channel::bounded::<()>(0);
    server.always_altered("/api/v1/telemetry", move |answer| {
        // Blocks until the test drops the sender.
        let _ = gate.recv_timeout(TEST_TIMEOUT);
        Act::Answer(answer)
    });
    let (begin, begun) = crossbeam_channel::bounded::<()>(0);
    server.always_altered(RETRIEVE, move |answer| {
        // Blocks until the test drops the sender.
        let _ = begun.recv_timeout(TEST_TIMEOUT);
        Act::Answer(answer)
    });
    let (sender, receiver) = crossbeam_channel::unbounded();
    training.optim_step(AdamParams::default()).on_done(1, sender);
    drop((training, service));
    drop(begin);
    let (tag, result) = receiver.recv_timeout(TEST_TIMEOUT / 2).expect("a result while telemetry hangs");
    result.unwrap();
    assert_eq!(tag, 1);
    drop(open);
}
