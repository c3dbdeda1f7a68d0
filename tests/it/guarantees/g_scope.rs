//! Tests of the guarantee G-SCOPE (see `guarantees/mod.rs`). It covers these findings of `src/_docs/findings.md`:
//! 001-6, 003-D2, 003-D4, 004-1.
//!
//! The handles and the pending operations of a client own its state by reference counting; there is no global registry
//! of clients. Threads that outlive a call belong to the session. When the session ends it joins its threads, except
//! the one on which the session ends, because a thread cannot join itself.

use tinkex::testing::FakeServer;

use super::{Gate, sample};
use crate::util::{alone, client_threads, eventually};

#[test]
fn a_session_that_ends_on_one_of_its_own_threads_leaves_no_thread() {
    alone("guarantees::g_scope::a_session_that_ends_on_one_of_its_own_threads_leaves_no_thread", || {
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
        // After the drop below, the pending operation is the last owner of the session, so the session ends on the
        // thread of this operation.
        sample(&sampler, 1).on_done((), tx);
        drop((sampler, service));
        gate.open();
        rx.recv().unwrap().1.unwrap();
        eventually("no thread stays", || client_threads().is_empty());
    });
}

#[test]
fn a_client_is_usable_as_soon_as_it_is_returned() {
    let server = FakeServer::new();
    let service = server.in_memory().build().unwrap();
    for _ in 0..50 {
        let sampler = service.create_sampling_client("fake/model").unwrap();
        let pending = sample(&sampler, 1);
        drop(sampler);
        // The pending operation keeps the session alive.
        pending.wait().unwrap();
    }
}
