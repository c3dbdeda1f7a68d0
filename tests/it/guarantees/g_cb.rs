//! G-CB. Answers, as far as there is something to answer, 003-V3, 003-F5, N-19, N-35.
//!
//! There is no breaker yet, and so no count of failures stands between a program and its server.

use tinkex::testing::{Act, FakeServer};

#[test]
fn however_often_an_endpoint_failed_it_is_asked_again_by_default() {
    let server = FakeServer::new();
    let service = server.in_memory().build().unwrap();
    let path = "/api/v1/get_server_capabilities";
    for _ in 0..20 {
        server.next(path, Act::status(403, "no"));
    }
    for _ in 0..20 {
        assert_eq!(service.get_server_capabilities().unwrap_err().http_status(), Some(403));
    }
    service.get_server_capabilities().unwrap();
    assert_eq!(server.requests_to(path).len(), 21);
}
