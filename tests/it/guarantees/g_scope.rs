//! G-SCOPE. Answers 001-6, 003-D2, 003-D4, 004-1.
//!
//! A handle owns what it needs by counting references; there is no registry to be late for. Threads that outlive a call
//! belong to the session, which joins them at its end, but never one from itself.

use tinkex::testing::FakeServer;

use super::{Gate, sample};
use crate::util::{alone, client_threads, eventually};

#[test]
fn a_session_may_end_on_a_thread_of_its_own_and_leaves_none() {
    alone("guarantees::g_scope::a_session_may_end_on_a_thread_of_its_own_and_leaves_none", || {
        let (server, gate) = (FakeServer::new(), Gate::new());
        let held = gate.clone();
        server.script(move |seen| {
            if seen.path == "/api/v1/retrieve_future" {
                held.pass();
            }
            None
        });
        let service = server.in_memory().build().unwrap();
        let sampler = service.create_sampling_client("fake/model").unwrap();
        let (tx, rx) = crossbeam_channel::bounded(1);
        // From here on the callback is the last owner of the session.
        sample(&sampler, 1).on_done((), tx);
        drop((sampler, service));
        gate.open();
        rx.recv().unwrap().1.unwrap();
        eventually("no thread stays", || client_threads().is_empty());
    });
}

#[test]
fn a_client_is_complete_when_its_maker_returns() {
    let server = FakeServer::new();
    let service = server.in_memory().build().unwrap();
    for _ in 0..50 {
        let sampler = service.create_sampling_client("fake/model").unwrap();
        let pending = sample(&sampler, 1);
        drop(sampler);
        // The pending operation keeps alive what it needs.
        pending.wait().unwrap();
    }
}
