//! Sessions: search, status, projects, trace export.

use std::time::Duration;

use tinkex::Category;
use tinkex::types::{FailureReason, FinishReason, SessionOwner, SessionSearch, SessionStatus, StatusFilter};

use super::*;

const SEARCH: &str = "/api/v1/sessions/search";

#[test]
fn every_condition_of_a_search_is_sent_as_the_protocol_says() {
    let (server, rest) = rest();
    let search = SessionSearch {
        session_id: Some("s".into()),
        project_ids: vec!["p".into()],
        user_metadata: [("a".to_string(), "b".to_string())].into(),
        display_name: Some("n".into()),
        owner: SessionOwner::User { owner_urns: vec!["u".into()] },
        statuses: vec![
            StatusFilter::Active,
            StatusFilter::ClientFinished { reasons: vec![FinishReason::Errored] },
            StatusFilter::ClientFinished { reasons: vec![] },
        ],
        limit: 7,
    };
    rest.search_sessions(search).page(None).unwrap();
    assert_eq!(
        server.requests_to(SEARCH)[0].json().unwrap(),
        json!({
            "session_id": "s", "project_ids": ["p"], "user_metadata": {"a": "b"}, "display_name": "n",
            "owner": {"type": "user", "owner_urns": ["u"]},
            "statuses": [{"type": "active"}, {"type": "client_finished", "reasons": ["errored"]},
                         {"type": "client_finished"}],
            "limit": 7,
        })
    );
}

#[test]
fn an_invalid_search_is_refused_before_anything_is_sent() {
    let (server, rest) = rest();
    let with = |change: fn(&mut SessionSearch)| {
        let mut search = SessionSearch::default();
        change(&mut search);
        path_of(&rest.search_sessions(search).next().unwrap().unwrap_err())
    };
    assert_eq!(with(|it| it.limit = 0), "limit");
    assert_eq!(with(|it| it.limit = 201), "limit");
    assert_eq!(with(|it| it.display_name = Some(String::new())), "display_name");
    assert_eq!(with(|it| it.owner = SessionOwner::User { owner_urns: vec![] }), "owner.owner_urns");
    assert!(server.requests_to(SEARCH).is_empty());
}

#[test]
fn every_status_of_a_session_is_read_and_an_unknown_one_kept() {
    let (server, rest) = rest();
    let status = |value: Value| {
        server
            .next(SEARCH, Act::json(json!({"sessions": [{"session_id": "s", "status": value, "later": 1}]})));
        rest.search_sessions(Default::default()).next().unwrap().unwrap().status
    };
    assert_eq!(status(json!(null)), None);
    assert_eq!(status(json!({"type": "active"})), Some(SessionStatus::Active));
    let detail = Some("by hand".to_string());
    assert_eq!(
        status(json!({"type": "cancelled", "detail": "by hand"})),
        Some(SessionStatus::Cancelled { detail: detail.clone() })
    );
    assert_eq!(
        status(json!({"type": "client_finished", "reason": {"type": "interrupted"}, "detail": "by hand"})),
        Some(SessionStatus::ClientFinished { reason: FinishReason::Interrupted, detail })
    );
    assert_eq!(
        status(json!({"type": "client_finished", "reason": {"type": "bored"}})),
        Some(SessionStatus::ClientFinished { reason: FinishReason::Other("bored".into()), detail: None })
    );
    let failed = |category: &str, reason: Value| json!({"type": "failed", "category": category, "message": "m", "reason": reason});
    for (value, category, reason) in [
        (
            failed("user", json!({"type": "request", "request_id": 7, "request_type": "Sample"})),
            Category::User,
            FailureReason::Request { request_id: "7".into(), request_type: "Sample".into() },
        ),
        (
            failed("internal", json!({"type": "training_run", "training_run_id": "t"})),
            Category::Other("internal".into()),
            FailureReason::TrainingRun { training_run_id: "t".into() },
        ),
        (
            failed("x", json!({"type": "sampling_session", "sampling_session_id": "t"})),
            Category::Other("x".into()),
            FailureReason::SamplingSession { sampling_session_id: "t".into() },
        ),
        (failed("user", json!(null)), Category::User, FailureReason::Other(Default::default())),
    ] {
        assert_eq!(status(value), Some(SessionStatus::Failed { category, message: "m".into(), reason }));
    }
    let Some(SessionStatus::Other(kept)) = status(json!({"type": "dreaming", "of": "sheep"})) else {
        panic!()
    };
    assert_eq!(kept["of"], "sheep");
}

#[test]
fn a_session_lists_its_training_runs_and_can_change_its_project() {
    let server = FakeServer::new();
    let service = server.in_memory().build().unwrap();
    service.create_lora_training_client("fake/model", LoraConfig::default()).unwrap();
    let rest = service.create_rest_client();
    let id = rest.list_sessions().next().unwrap().unwrap();
    let session = rest.get_session(&id).unwrap();
    assert_eq!((session.training_run_ids, session.display_name), (vec!["model-1".to_string()], None));
    rest.assign_session_project(&id, "p").unwrap();
    let seen = &server.requests_to("/api/v1/sessions/session-1/project")[0];
    assert_eq!((seen.method.as_str(), seen.json().unwrap()), ("PUT", json!({"project_id": "p"})));
    let found = rest.search_sessions(Default::default()).next().unwrap().unwrap();
    assert_eq!((found.session_id, found.status), (id, Some(SessionStatus::Active)));
}

const TRACE: &str = "/api/v1/sessions/s/trace_export";

/// Creates a client with a virtual clock, which the client's sleeps advance. `operation` is the time limit of its
/// operations in seconds.
fn timed(operation: u64) -> (FakeServer, VirtualClock, RestClient) {
    let (server, clock) = (FakeServer::new(), VirtualClock::new());
    let builder =
        server.in_memory_at(clock.clone()).timeouts(|it| it.operation = Duration::from_secs(operation));
    let rest = builder.build().unwrap().create_rest_client();
    (server, clock, rest)
}

#[test]
fn a_trace_is_polled_every_five_seconds_and_debug_hides_its_url() {
    let (server, clock, rest) = timed(600);
    server.next(TRACE, Act::json(json!({"status": "pending"})));
    server.next(TRACE, Act::json(json!({"status": "warming_up"})));
    let url = "https://storage.invalid/s.pftrace?signature=secret";
    server.next(TRACE, Act::json(json!({"status": "ready", "url": url})));
    let trace = rest.export_session_trace("s").unwrap();
    assert_eq!(trace.expose(), url);
    assert_eq!(format!("{trace:?}"), "https://storage.invalid/s.pftrace?***");
    assert_eq!(clock.pauses(), [Duration::from_secs(5); 2]);
    assert_eq!(server.requests_to(TRACE).len(), 3);
}

#[test]
fn a_trace_that_cannot_be_written_or_is_never_ready_is_an_error() {
    let (server, _, rest) = timed(60);
    server.next(TRACE, Act::json(json!({"status": "failed", "error": "too large"})));
    let error = rest.export_session_trace("s").unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::RequestFailed { .. }), "{error:?}");
    assert!(error.to_string().contains("too large"), "{error}");
    server.next(TRACE, Act::json(json!({"status": "ready"})));
    assert_eq!(rest.export_session_trace("s").unwrap_err().kind(), &ErrorKind::Decode);
    server.always(TRACE, Act::json(json!({"status": "pending"})));
    let error = rest.export_session_trace("s").unwrap_err();
    assert!(error.is_timeout() && error.elapsed().unwrap() <= Duration::from_secs(60), "{error:?}");
}

#[test]
fn closing_the_service_ends_the_wait_for_a_trace() {
    let server = FakeServer::new();
    let listening = server.listen().unwrap();
    let service = listening.client().build().unwrap();
    let rest = service.create_rest_client();
    server.always(TRACE, Act::json(json!({"status": "pending"})));
    let (done, waiting) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || drop(done.send(rest.export_session_trace("s"))));
    eventually("the trace is requested", || !server.requests_to(TRACE).is_empty());
    service.close(CloseStatus::Success).unwrap();
    assert!(waiting.recv_timeout(TEST_TIMEOUT).unwrap().unwrap_err().is_closed());
    assert_eq!(server.requests_to(TRACE).len(), 1, "closing ended the pause");
    thread.join().unwrap();
}
