//! G-CACHE. Answers 000-G, 001-8, 003-D5, 003-D7.
//!
//! What is fetched once belongs to one thread: the service's actor asks for the flags and opens the session, one turn at a
//! time, and everybody else waits for that turn. A failure is not remembered.

use serde_json::json;
use tinkex::testing::{Act, FakeServer};

/// Sixteen threads that each need the session, all at once.
fn sixteen(server: &FakeServer) {
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
    sixteen(&server);
    assert_eq!(server.requests_to("/api/v1/client/config").len(), 1);
    assert_eq!(server.requests_to("/api/v1/client/dynamic_config").len(), 1);
    assert_eq!(server.requests_to("/api/v1/create_session").len(), 1);
}

#[test]
fn sixteen_threads_that_need_a_token_fetch_it_once() {
    let server = FakeServer::new();
    server.always("/api/v1/client/config", Act::json(json!({"pjwt_auth_enabled": true})));
    server.always("/api/v1/auth/token", Act::json(json!({"jwt": "eyJ.only"})));
    sixteen(&server);
    assert_eq!(server.requests_to("/api/v1/auth/token").len(), 1);
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
