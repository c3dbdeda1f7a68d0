//! Tests of the guarantee G-CACHE (see `guarantees/mod.rs`). It covers these findings of `src/_docs/findings.md`:
//! 000-G, 001-8, 003-D5, 003-D7.
//!
//! Flags, session and token are fetched once, even if many threads need them at the same time. The service has one
//! thread, its actor, which handles one message at a time. The actor fetches the flags and opens the session for the
//! first caller, and all later callers get the same flags and session. A failure is not cached: the next call tries
//! once more.

use serde_json::json;
use tinkex::testing::{Act, FakeServer};

use super::Gate;
use crate::util::{eventually, in_time};

/// Creates sixteen sampling clients from sixteen threads at the same time. Each of them needs the flags and the
/// session.
fn create_sixteen_samplers(server: &FakeServer) {
    let service = server.in_memory().build().unwrap();
    let start = std::sync::Barrier::new(16);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                start.wait();
                service.create_sampling_client("fake/model").unwrap();
            });
        }
    });
    assert_eq!(server.requests_to("/api/v1/create_sampling_session").len(), 16);
}

#[test]
fn sixteen_threads_that_come_first_fetch_the_flags_and_open_the_session_once() {
    let server = FakeServer::new();
    create_sixteen_samplers(&server);
    assert_eq!(server.requests_to("/api/v1/client/config").len(), 1);
    assert_eq!(server.requests_to("/api/v1/client/dynamic_config").len(), 1);
    assert_eq!(server.requests_to("/api/v1/create_session").len(), 1);
}

#[test]
fn sixteen_threads_that_need_a_token_fetch_it_once() {
    in_time(|| {
        const CAPABILITIES: &str = "/api/v1/get_server_capabilities";
        const TOKEN: &str = "/api/v1/auth/token";
        let (server, rejections, tokens) = (FakeServer::new(), Gate::new(), Gate::new());
        server.always("/api/v1/client/config", Act::json(json!({"pjwt_auth_enabled": true})));
        server.next(TOKEN, Act::json(json!({"jwt": "eyJ.first"})));
        let gates = (rejections.clone(), tokens.clone());
        server.script(move |seen| match (seen.path.as_str(), seen.header("x-api-key")) {
            // Reject the first token only after all threads have sent a request with it.
            (CAPABILITIES, Some("eyJ.first")) => {
                gates.0.pass();
                Some(Act::status(401, "{}").with_header("www-authenticate", "Bearer error=\"invalid_token\""))
            }
            // Issue the second token only after all threads have got the rejection.
            (TOKEN, _) => {
                gates.1.pass();
                Some(Act::json(json!({"jwt": "eyJ.second"})))
            }
            _ => None,
        });
        let service = server.in_memory().build().unwrap();
        service.create_sampling_client("fake/model").unwrap();
        let failures = || service.metrics().snapshot().counters["tinkex_requests_failure"];
        let before = failures();
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| service.get_server_capabilities().unwrap());
            }
            eventually("all threads have used the token", || server.requests_to(CAPABILITIES).len() == 16);
            rejections.open();
            eventually("all threads were rejected", || before + 16 <= failures());
            eventually("one thread fetches a token", || 2 <= server.requests_to(TOKEN).len());
            // Wait a little: if the client had the fault that this test looks for, other threads would now fetch a
            // token too.
            std::thread::sleep(std::time::Duration::from_millis(100));
            tokens.open();
        });
        assert_eq!(server.requests_to(TOKEN).len(), 2);
        assert_eq!(server.requests_to(CAPABILITIES).len(), 32);
    });
}

#[test]
fn a_failure_to_open_the_session_is_not_remembered() {
    let server = FakeServer::new();
    let service = server.in_memory().build().unwrap();
    server.next("/api/v1/create_session", Act::status(403, "not yet"));
    assert_eq!(service.create_sampling_client("fake/model").unwrap_err().http_status(), Some(403));
    service.create_sampling_client("fake/model").unwrap();
    assert_eq!(server.requests_to("/api/v1/client/config").len(), 1);
}
