//! Tests of the guarantee G-POLL (see `guarantees/mod.rs`). It covers these findings of `src/_docs/findings.md`: 000-E,
//! 002-5, 003-V1, 003-D1, 003-M1, 003-M2, 003-F1, 003-F2, N-12, N-13, N-15, N-18.
//!
//! A promise is the id of a result that the server computes; the client polls for the result. Polling is a loop around
//! a state machine. It counts each kind of failure separately, keeps at least 50 ms between two requests, and limits
//! each pause and each request to the time that the operation has left.

use std::time::Duration;

use tinkex::testing::{Act, FakeServer, VirtualClock};
use tinkex::types::AdamParams;

use crate::util::in_time;

const RETRIEVE: &str = "/api/v1/retrieve_future";
const FLOOR: Duration = Duration::from_millis(50);

/// Runs an optimizer step whose polls get the responses `acts`, and returns the pauses between the polls.
fn pauses(acts: impl IntoIterator<Item = Act>) -> Vec<Duration> {
    let (server, clock) = (FakeServer::new(), VirtualClock::new());
    let service = server.in_memory_at(clock.clone()).build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    let before = clock.pauses().len();
    acts.into_iter().for_each(|act| server.next(RETRIEVE, act));
    training.optim_step(AdamParams::default()).wait().unwrap();
    clock.pauses().split_off(before)
}

#[test]
fn an_operation_ends_at_its_own_deadline() {
    in_time(|| {
        let server = FakeServer::new();
        let clock = VirtualClock::new();
        let service = server
            .in_memory_at(clock)
            .timeouts(|timeouts| timeouts.operation = Duration::from_secs(600))
            .build()
            .unwrap();
        let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
        server.always(RETRIEVE, Act::status(408, r#"{"queue_state":"paused_rate_limit"}"#));
        // Do not record the requests: there may be very many.
        server.forget_requests();
        let error = training.optim_step(AdamParams::default()).wait().unwrap_err();
        assert!(error.is_timeout(), "{error}");
        assert!(error.elapsed().unwrap() >= Duration::from_secs(600), "{error}");
        assert!(error.to_string().contains("600s"), "{error}");
    });
}

#[test]
fn a_long_poll_gets_no_more_time_than_the_operation_has_left() {
    let (server, clock) = (FakeServer::new(), VirtualClock::new());
    let service = server
        .in_memory_at(clock)
        .timeouts(|timeouts| {
            timeouts.operation = Duration::from_secs(100);
            timeouts.silence = Duration::from_secs(3600);
        })
        .build()
        .unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    server.always(RETRIEVE, Act::Stall);
    let error = training.optim_step(AdamParams::default()).wait().unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert_eq!(error.elapsed(), Some(Duration::from_secs(100)));
}

#[test]
fn a_server_that_answers_at_once_is_polled_at_most_twenty_times_a_second() {
    assert_eq!(pauses(vec![Act::status(408, "{}"); 100]), [FLOOR; 100]);
}

#[test]
fn one_broken_connection_after_a_long_wait_pauses_for_one_second() {
    let mut acts = vec![Act::status(408, "{}"); 40];
    acts.extend(vec![Act::status(503, "busy"); 10]);
    acts.push(Act::Reset);
    assert_eq!(pauses(acts).last(), Some(&Duration::from_secs(1)));
}

#[test]
fn an_answer_between_two_broken_connections_starts_the_backoff_anew() {
    let pauses = pauses([Act::Reset, Act::Reset, Act::status(408, "{}"), Act::Reset]);
    assert_eq!(pauses, [Duration::from_secs(1), Duration::from_secs(2), FLOOR, Duration::from_secs(1)]);
}

#[test]
fn twenty_thousand_polls_fit_on_the_small_stack_of_a_waiter() {
    assert_eq!(pauses(vec![Act::status(408, "{}"); 20_000]).len(), 20_000);
}
