//! Tests of the guarantee G-REPLY (see `guarantees/mod.rs`). It covers these findings of `src/_docs/findings.md`:
//! 000-B, 001-2, 002-2, 003-V2, 003-F4, 004-4, N-01, N-14, N-31, N-36.
//!
//! The job that executes an operation owns the reply of the operation. If the reply is dropped, its destructor sends an
//! error to the caller. So the caller gets exactly one answer: also if the job panics, is refused by a closed pool of
//! threads, or never gets a thread.

use tinkex::ErrorKind;
use tinkex::testing::{Act, FakeServer};
use tinkex::types::{AdamParams, LossFn, ModelInput, SamplingParams};

use crate::util::{datum, in_time, training};

/// Makes the transport panic once, on the thread of the client that sends to `path`.
fn panic_once(server: &FakeServer, path: &'static str) {
    let armed = std::sync::atomic::AtomicBool::new(true);
    server.script(move |seen| {
        if seen.path == path && armed.swap(false, std::sync::atomic::Ordering::Relaxed) {
            panic!("the transport panics");
        }
        None::<Act>
    });
}

#[test]
fn a_panic_in_an_actors_turn_reaches_the_caller_with_its_message_and_siblings_go_on() {
    in_time(|| {
        let (server, service, training) = training();
        panic_once(&server, "/api/v1/optim_step");
        let error = training.optim_step(AdamParams::default()).wait().unwrap_err();
        assert!(error.is_panic() && error.to_string().contains("the transport panics"), "{error}");
        // The sending of the request panicked, so it is unknown whether the server accepted the request. Therefore the
        // client is poisoned: it refuses all later calls. Other clients are not affected.
        assert_eq!(
            *training.optim_step(AdamParams::default()).wait().unwrap_err().kind(),
            ErrorKind::Poisoned
        );
        let other = service.create_lora_training_client("fake/model", Default::default()).unwrap();
        other.optim_step(AdamParams::default()).wait().unwrap();
    });
}

#[test]
fn a_panic_in_a_job_reaches_the_caller_with_its_message_and_the_client_goes_on() {
    in_time(|| {
        let (server, _service, training) = training();
        panic_once(&server, "/api/v1/retrieve_future");
        let error = training.forward_backward(vec![datum()], LossFn::CrossEntropy).wait().unwrap_err();
        assert!(error.is_panic() && error.to_string().contains("the transport panics"), "{error}");
        training.forward_backward(vec![datum()], LossFn::CrossEntropy).wait().unwrap();
        training.optim_step(AdamParams::default()).wait().unwrap();
    });
}

#[test]
fn a_panic_in_one_part_of_a_batch_is_the_error_of_the_batch() {
    in_time(|| {
        let (server, _service, training) = training();
        panic_once(&server, "/api/v1/retrieve_future");
        let error = training.forward_backward(vec![datum(); 2500], LossFn::CrossEntropy).wait().unwrap_err();
        assert!(error.is_panic() && error.to_string().contains("the transport panics"), "{error}");
        training.forward_backward(vec![datum(); 2500], LossFn::CrossEntropy).wait().unwrap();
    });
}

#[test]
fn a_panic_while_sampling_fails_only_that_sample() {
    in_time(|| {
        let server = FakeServer::new();
        let service = server.in_memory().build().unwrap();
        let sampler = service.create_sampling_client("fake/model").unwrap();
        let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
        panic_once(&server, "/api/v1/asample");
        let error = sampler.sample(&ModelInput::from_ints([1]), 1, &params).wait().unwrap_err();
        assert!(error.is_panic() && error.to_string().contains("the transport panics"), "{error}");
        sampler.sample(&ModelInput::from_ints([1]), 1, &params).wait().unwrap();
    });
}

#[test]
fn a_panic_while_a_client_is_made_reaches_the_caller_and_the_service_goes_on() {
    in_time(|| {
        let server = FakeServer::new();
        let service = server.in_memory().build().unwrap();
        panic_once(&server, "/api/v1/create_session");
        let error = service.create_sampling_client("fake/model").unwrap_err();
        assert!(error.is_panic() && error.to_string().contains("the transport panics"), "{error}");
        service.create_sampling_client("fake/model").unwrap();
    });
}

#[test]
fn every_operation_is_answered_once_despite_panics_and_refusals() {
    in_time(|| {
        let server = FakeServer::new();
        let service = server.in_memory().build().unwrap();
        let sampler = service.create_sampling_client("fake/model").unwrap();
        let n = std::sync::atomic::AtomicUsize::new(0);
        server.script(move |seen| {
            let turn = n.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            match (seen.path.as_str(), turn % 7) {
                ("/api/v1/asample", 0) | ("/api/v1/retrieve_future", 0) => panic!("the transport panics"),
                ("/api/v1/asample", 1) => Some(Act::status(422, "no")),
                _ => None,
            }
        });
        let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
        let (tx, rx) = crossbeam_channel::unbounded();
        for tag in 0..100 {
            sampler.sample(&ModelInput::from_ints([1]), 1, &params).on_done(tag, tx.clone());
        }
        drop(tx);
        let mut tags: Vec<i32> = rx.iter().map(|it| it.0).collect();
        tags.sort();
        assert_eq!(tags, (0..100).collect::<Vec<_>>());
    });
}
