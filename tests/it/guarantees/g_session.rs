//! Tests of the guarantee G-SESSION (see `guarantees/mod.rs`). It covers these findings of `src/_docs/findings.md`:
//! 000-D, 001-9, 001-10, 002-4, N-04.
//!
//! Each session has a thread that only sends heartbeats, so that no other work waits for a heartbeat. Each heartbeat
//! runs in its own `catch_unwind`, so that the heartbeats go on after a panic. The end of the session wakes this thread
//! and joins it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tinkex::CloseStatus;
use tinkex::testing::{Act, FakeServer, VirtualClock};
use tinkex::types::LoraConfig;

use super::Gate;
use crate::util::{eventually, in_time};

const HEARTBEAT: &str = "/api/v1/session_heartbeat";

/// Advances the clock until `n` heartbeats have arrived.
fn await_heartbeats(server: &FakeServer, clock: &VirtualClock, n: usize) {
    eventually("heartbeats", || {
        if server.requests_to(HEARTBEAT).len() < n {
            clock.advance(Duration::from_secs(10));
        }
        n <= server.requests_to(HEARTBEAT).len()
    });
}

#[test]
fn heartbeats_are_sent_every_ten_seconds_despite_failures_until_the_session_is_finished() {
    let (server, clock) = (FakeServer::new(), VirtualClock::new());
    let service = server.in_memory_at(clock.clone()).build().unwrap();
    service.create_lora_training_client("fake/model", LoraConfig::default()).unwrap();
    server.next(HEARTBEAT, Act::status(500, "x"));
    server.next(HEARTBEAT, Act::status(401, "x"));
    (1..=4).for_each(|n| await_heartbeats(&server, &clock, n));
    assert_eq!(server.requests_to(HEARTBEAT)[0].json().unwrap()["session_id"], "session-1");
    let n_refused = Arc::new(AtomicUsize::new(0));
    let counted = n_refused.clone();
    server.script(move |seen| {
        (seen.path == HEARTBEAT).then(|| {
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
    assert_eq!(n_refused.load(Ordering::Relaxed), 1, "a finished session sends heartbeats");
}

#[test]
fn a_hanging_heartbeat_delays_neither_new_clients_nor_other_services() {
    in_time(|| {
        let (server, gate, clock) = (FakeServer::new(), Gate::new(), VirtualClock::new());
        let hangs = gate.clone();
        server.script(move |seen| {
            if seen.path == HEARTBEAT {
                hangs.pass();
            }
            None
        });
        let service = server.in_memory_at(clock.clone()).build().unwrap();
        service.create_sampling_client("fake/model").unwrap();
        await_heartbeats(&server, &clock, 1);
        service.create_sampling_client("fake/model").unwrap();
        service.create_lora_training_client("fake/model", Default::default()).unwrap();
        let (other, other_clock) = (FakeServer::new(), VirtualClock::new());
        let sibling = other.in_memory_at(other_clock.clone()).build().unwrap();
        sibling.create_sampling_client("fake/model").unwrap();
        await_heartbeats(&other, &other_clock, 3);
        gate.open();
    });
}

#[test]
fn heartbeats_go_on_after_a_panic_in_one() {
    let (server, clock) = (FakeServer::new(), VirtualClock::new());
    let armed = AtomicBool::new(true);
    server.script(move |seen| {
        assert!(seen.path != HEARTBEAT || !armed.swap(false, Ordering::Relaxed), "the heartbeat panics");
        None
    });
    let service = server.in_memory_at(clock.clone()).build().unwrap();
    service.create_sampling_client("fake/model").unwrap();
    await_heartbeats(&server, &clock, 3);
}

#[test]
fn no_heartbeat_starts_after_close_has_returned() {
    let (server, clock) = (FakeServer::new(), VirtualClock::new());
    let service =
        server.in_memory_at(clock.clone()).timeouts(|timeouts| timeouts.close = Duration::from_secs(30));
    let service = service.build().unwrap();
    service.create_sampling_client("fake/model").unwrap();
    await_heartbeats(&server, &clock, 1);
    service.close(CloseStatus::Success).unwrap();
    let n = server.requests_to(HEARTBEAT).len();
    for _ in 0..20 {
        clock.advance(Duration::from_secs(60));
        std::thread::yield_now();
    }
    assert_eq!(service.dump().pools.iter().find(|it| it.name == "tk-beat").unwrap().threads, 0);
    assert_eq!(server.requests_to(HEARTBEAT).len(), n);
}
