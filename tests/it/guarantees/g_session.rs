//! G-SESSION. Answers 000-D, 001-9, 001-10, 002-4, N-04.
//!
//! A thread beats for one session and does nothing else, so that nothing queues behind a heartbeat; each beat runs in a
//! catch of its own; the session's end wakes the thread and waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tinkex::CloseStatus;
use tinkex::testing::{Act, FakeServer, VirtualClock};
use tinkex::types::LoraConfig;

use super::Gate;
use crate::util::{eventually, in_time};

const BEAT: &str = "/api/v1/session_heartbeat";

/// Moves the time until so many heartbeats have arrived.
fn beats(server: &FakeServer, clock: &VirtualClock, n: usize) {
    eventually("heartbeats", || {
        if server.requests_to(BEAT).len() < n {
            clock.advance(Duration::from_secs(10));
        }
        n <= server.requests_to(BEAT).len()
    });
}

#[test]
fn the_session_beats_every_ten_seconds_survives_failures_and_stops_when_finished() {
    let (server, clock) = (FakeServer::new(), VirtualClock::new());
    let service = server.in_memory_at(clock.clone()).build().unwrap();
    service.create_lora_training_client("fake/model", LoraConfig::default()).unwrap();
    server.next(BEAT, Act::status(500, "x"));
    server.next(BEAT, Act::status(401, "x"));
    (1..=4).for_each(|n| beats(&server, &clock, n));
    assert_eq!(server.requests_to(BEAT)[0].json().unwrap()["session_id"], "session-1");
    let n_refused = Arc::new(AtomicUsize::new(0));
    let counted = n_refused.clone();
    server.script(move |seen| {
        (seen.path == BEAT).then(|| {
            counted.fetch_add(1, Ordering::Relaxed);
            Act::status(410, r#"{"detail":"finished"}"#)
        })
    });
    eventually("the server says that the session is finished", || {
        clock.advance(Duration::from_secs(10));
        n_refused.load(Ordering::Relaxed) != 0
    });
    for _ in 0..50 {
        clock.advance(Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(n_refused.load(Ordering::Relaxed), 1, "a session that is finished beats no more");
}

#[test]
fn a_heartbeat_that_hangs_does_not_hold_up_the_making_of_clients_nor_another_service() {
    in_time(|| {
        let (server, gate, clock) = (FakeServer::new(), Gate::new(), VirtualClock::new());
        let hangs = gate.clone();
        server.script(move |seen| {
            if seen.path == BEAT {
                hangs.pass();
            }
            None
        });
        let service = server.in_memory_at(clock.clone()).build().unwrap();
        service.create_sampling_client("fake/model").unwrap();
        beats(&server, &clock, 1);
        service.create_sampling_client("fake/model").unwrap();
        service.create_lora_training_client("fake/model", Default::default()).unwrap();
        let (other, other_clock) = (FakeServer::new(), VirtualClock::new());
        let sibling = other.in_memory_at(other_clock.clone()).build().unwrap();
        sibling.create_sampling_client("fake/model").unwrap();
        beats(&other, &other_clock, 3);
        gate.open();
    });
}

#[test]
fn a_panic_in_one_heartbeat_is_survived_by_the_next() {
    let (server, clock) = (FakeServer::new(), VirtualClock::new());
    let armed = AtomicBool::new(true);
    server.script(move |seen| {
        assert!(seen.path != BEAT || !armed.swap(false, Ordering::Relaxed), "the beat skips");
        None
    });
    let service = server.in_memory_at(clock.clone()).build().unwrap();
    service.create_sampling_client("fake/model").unwrap();
    beats(&server, &clock, 3);
}

#[test]
fn no_heartbeat_starts_after_close_has_returned() {
    let (server, clock) = (FakeServer::new(), VirtualClock::new());
    let service = server.in_memory_at(clock.clone()).timeouts(|it| it.close = Duration::from_secs(30));
    let service = service.build().unwrap();
    service.create_sampling_client("fake/model").unwrap();
    beats(&server, &clock, 1);
    service.close(CloseStatus::Success).unwrap();
    let n = server.requests_to(BEAT).len();
    for _ in 0..20 {
        clock.advance(Duration::from_secs(60));
        std::thread::yield_now();
    }
    assert_eq!(service.dump().pools.iter().find(|it| it.name == "tk-beat").unwrap().threads, 0);
    assert_eq!(server.requests_to(BEAT).len(), n);
}
