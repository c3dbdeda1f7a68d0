//! Tests of the guarantee G-LIFE (see `guarantees/mod.rs`). It covers these findings of `src/_docs/findings.md`: 000-A,
//! 000-F, 001-3, 001-4, 001-5, 001-T, N-03.
//!
//! A client is a handle, a thread and a cancel token. Closing or dropping the client ends these three and nothing else.
//! Nothing restarts a client. So there is no limit on restarts, which the failures of one client could use up for the
//! other clients.

use std::time::Duration;

use tinkex::CloseStatus;
use tinkex::testing::{Act, FakeServer};
use tinkex::types::{AdamParams, ModelInput, SamplingParams};

use crate::util::{HOUR, alone, client_threads, eventually, in_time, training};

#[test]
fn fifty_clients_can_be_made_and_closed_without_hurting_their_siblings() {
    let (_server, service, sibling) = training();
    for _ in 0..50 {
        let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
        training.optim_step(AdamParams::default()).wait().unwrap();
        training.close();
        training.close();
        assert!(training.optim_step(AdamParams::default()).wait().unwrap_err().is_closed());
    }
    sibling.optim_step(AdamParams::default()).wait().unwrap();
}

#[test]
fn closing_ends_everything_that_waits_in_bounded_time_and_leaves_no_thread() {
    alone(
        "guarantees::g_life::closing_ends_everything_that_waits_in_bounded_time_and_leaves_no_thread",
        || in_time(close_while_everything_waits),
    );
}

fn close_while_everything_waits() {
    let server = FakeServer::new();
    let listening = server.listen().unwrap();
    // `finish` bounds the request that tells the server about the end of the session. The other timeouts are so long
    // that all other requests and threads end only when the session ends.
    let builder = listening.client().timeouts(|timeouts| {
        (timeouts.exchange, timeouts.poll, timeouts.finish) = (HOUR, HOUR, Duration::from_secs(3));
    });
    let service = builder.threads(|threads| threads.idle = HOUR).build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    // From now on the server accepts connections and never responds.
    server.script(|_| Some(Act::Stall));
    let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
    let steps: Vec<_> = (0..5).map(|_| training.optim_step(AdamParams::default())).collect();
    let samples: Vec<_> = (0..20).map(|_| sampler.sample(&ModelInput::from_ints([1]), 1, &params)).collect();
    eventually("the first requests arrived", || {
        !server.requests_to("/api/v1/optim_step").is_empty()
            && server.requests_to("/api/v1/asample").len() == 20
    });
    // `close` fails, because the server does not respond to the request that ends the session.
    let _ = service.close(CloseStatus::Interrupted);
    for step in steps {
        let error = step.wait().unwrap_err();
        assert!(error.is_closed(), "{error:?}");
    }
    for sample in samples {
        let error = sample.wait().unwrap_err();
        assert!(error.is_closed(), "{error:?}");
    }
    assert!(training.optim_step(AdamParams::default()).wait().unwrap_err().is_closed());
    assert!(service.get_server_capabilities().unwrap_err().is_closed());
    service.close(CloseStatus::Success).unwrap();
    drop((training, sampler, service));
    eventually("no thread stays", || client_threads().is_empty());
}

#[test]
fn dropping_the_last_handle_leaves_no_thread() {
    alone("guarantees::g_life::dropping_the_last_handle_leaves_no_thread", || {
        let server = FakeServer::new();
        let listening = server.listen().unwrap();
        // With this idle time, idle threads end only when the session ends.
        let service = listening.client().threads(|threads| threads.idle = HOUR).build().unwrap();
        let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
        drop(service);
        // A pending operation keeps the session alive.
        let pending = training.optim_step(AdamParams::default());
        drop(training);
        pending.wait().unwrap();
        eventually("no thread stays", || client_threads().is_empty());
        assert!(server.requests_to("/api/v1/sessions/session-1/finish").is_empty());
    });
}

#[test]
fn closing_one_client_immediately_ends_its_waits_and_no_others() {
    in_time(|| {
        let server = FakeServer::new();
        let listening = server.listen().unwrap();
        let service = listening.client().timeouts(|timeouts| timeouts.poll = HOUR).build().unwrap();
        let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
        let sibling = service.create_lora_training_client("fake/model", Default::default()).unwrap();
        // The first poll hangs for longer than this test may take.
        server.next("/api/v1/retrieve_future", Act::Stall);
        let pending = training.optim_step(AdamParams::default());
        eventually("the poll hangs", || server.requests_to("/api/v1/retrieve_future").len() == 3);
        training.close();
        let error = pending.wait().unwrap_err();
        assert!(error.is_closed() && !error.is_cancelled(), "{error:?}");
        assert_eq!(error.operation(), Some("optim_step"));
        sibling.optim_step(AdamParams::default()).wait().unwrap();
    });
}

#[test]
fn clients_that_are_closed_from_many_threads_at_once_leave_the_service_usable() {
    let (_server, service, sibling) = training();
    std::thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let sampler = service.create_sampling_client("fake/model").unwrap();
                    let twin = sampler.clone();
                    sampler.close();
                    twin.close();
                }
            });
        }
    });
    sibling.optim_step(AdamParams::default()).wait().unwrap();
    service.create_sampling_client("fake/model").unwrap();
}

#[test]
fn a_closed_service_refuses_every_verb_without_sending_anything() {
    let (server, service, training) = training();
    service.close(CloseStatus::Success).unwrap();
    let before = server.requests().len();
    assert!(service.get_server_capabilities().unwrap_err().is_closed());
    assert!(service.create_sampling_client("fake/model").unwrap_err().is_closed());
    assert!(service.create_lora_training_client("fake/model", Default::default()).unwrap_err().is_closed());
    assert!(training.optim_step(AdamParams::default()).wait().unwrap_err().is_closed());
    assert_eq!(server.requests().len(), before);
}
