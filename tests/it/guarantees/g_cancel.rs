//! Tests of the guarantee G-CANCEL (see `guarantees/mod.rs`). It covers these findings of `src/_docs/findings.md`:
//! 000-B, 000-E, 002-5, N-02, N-05.
//!
//! Each operation has a cancel token. This token is a child of the tokens of its client and its session, so closing the
//! client or the session cancels the operation too. The operation checks its token before each request, and a cancelled
//! token wakes every wait of the operation. So a thread ends its cancelled work on its own, and no thread is killed.

use std::time::{Duration, Instant};

use tinkex::sync::Clock;
use tinkex::testing::{Act, FakeServer};
use tinkex::types::AdamParams;

use super::{Gate, sample};
use crate::util::eventually;

const SAMPLE: &str = "/api/v1/asample";
const RETRIEVE: &str = "/api/v1/retrieve_future";

#[test]
fn a_sample_that_is_cancelled_in_the_queue_for_a_permit_leaves_the_queue() {
    let (server, gate) = (FakeServer::new(), Gate::new());
    let held = gate.clone();
    server.script(move |seen| {
        if seen.path == SAMPLE {
            held.pass();
        }
        None
    });
    let service = server.in_memory().build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    let first: Vec<_> = (0..400).map(|_| sample(&sampler, 1)).collect();
    eventually("all permits are taken", || server.requests_to(SAMPLE).len() == 400);
    let queued = sample(&sampler, 1);
    eventually("one more has begun", || service.dump().operations.len() == 401);
    // Give the client's thread time to wait for a permit for `queued`. If this time is too short, the test checks less
    // but does not fail.
    std::thread::sleep(Duration::from_millis(50));
    let later = sample(&sampler, 1);
    eventually("a second one has begun", || service.dump().operations.len() == 402);
    queued.cancel();
    assert!(queued.wait().unwrap_err().is_cancelled());
    eventually("its turn gave up", || service.dump().operations.len() == 401);
    // One permit becomes free. The client must give it to `later`, which still waits, and not to the cancelled sample.
    gate.let_one_pass();
    eventually("the later one is sent", || server.requests_to(SAMPLE).len() == 401);
    gate.open();
    tinkex::wait_all(first).unwrap();
    later.wait().unwrap();
    assert_eq!(server.requests_to(SAMPLE).len(), 401);
}

#[test]
fn an_operation_that_is_cancelled_during_a_pause_does_not_wait_for_its_end() {
    let server = FakeServer::new();
    let service = server.in_memory().clock(Clock::default()).build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    let started = Instant::now();
    // 60 s is the longest pause that the client accepts from a server.
    server.always(RETRIEVE, Act::status(429, "later").with_header("retry-after", "60"));
    let step = training.optim_step(AdamParams::default());
    eventually("the operation pauses", || server.requests_to(RETRIEVE).len() == 2);
    step.cancel();
    assert!(step.wait().unwrap_err().is_cancelled());
    eventually("its turn gave up", || service.dump().operations.is_empty());
    assert!(started.elapsed() < Duration::from_secs(55), "{:?}", started.elapsed());
    assert_eq!(server.requests_to(RETRIEVE).len(), 2);
}

#[test]
fn a_sample_that_is_dropped_is_not_polled_any_more() {
    let server = FakeServer::new();
    let service = server.in_memory().clock(Clock::default()).build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    server.always(RETRIEVE, Act::status(408, "{}"));
    let pending = sample(&sampler, 1);
    eventually("the sample is polled", || !server.requests_to(RETRIEVE).is_empty());
    drop(pending);
    eventually("its turn gave up", || service.dump().operations.is_empty());
    let n = server.requests_to(RETRIEVE).len();
    std::thread::sleep(Duration::from_millis(120));
    assert_eq!(server.requests_to(RETRIEVE).len(), n);
}
