//! The REST client, which reads and manages runs, checkpoints and sessions, and opens no session of its own.

mod account;
mod checkpoints;
mod listing;
mod sessions;

use serde_json::{Value, json};
use tinkex::testing::{Act, FakeServer, VirtualClock};
use tinkex::types::{AccessScope, LoraConfig, Ttl};
use tinkex::{CloseStatus, Error, ErrorKind, RestClient, ServiceClient};

use crate::util::{TEST_TIMEOUT, eventually, path_of};

/// Creates an empty fake server and a REST client.
fn rest() -> (FakeServer, RestClient) {
    let server = FakeServer::new();
    let rest = server.in_memory().build().unwrap().create_rest_client();
    (server, rest)
}

fn paths(server: &FakeServer) -> Vec<String> {
    server.requests().iter().map(|it| format!("{} {}", it.method, it.path)).collect()
}

#[test]
fn nothing_is_sent_before_the_first_call_and_no_call_opens_a_session() {
    let (server, rest) = rest();
    assert!(server.requests().is_empty());
    assert_eq!(rest.list_training_runs().count(), 0);
    assert_eq!(rest.get_server_capabilities().unwrap().supported_models.len(), 1);
    assert_eq!(
        paths(&server),
        [
            "POST /api/v1/client/config",
            "POST /api/v1/client/dynamic_config",
            "GET /api/v1/training_runs?limit=20&offset=0&access_scope=owned",
            "GET /api/v1/get_server_capabilities",
        ]
    );
}

#[test]
fn clients_of_one_service_share_the_flags_of_the_server() {
    let server = FakeServer::new();
    let service = server.in_memory().build().unwrap();
    service.create_lora_training_client("fake/model", LoraConfig::default()).unwrap();
    let rest = service.create_rest_client();
    assert_eq!(rest.list_training_runs().count(), 1);
    assert_eq!(server.requests_to("/api/v1/client/config").len(), 1);
}

#[test]
fn a_client_outlives_the_service_handle_that_made_it() {
    let (server, rest) = rest();
    assert_eq!(rest.healthz().unwrap(), "ok");
    assert_eq!(paths(&server), ["GET /api/v1/healthz"], "healthz needs no flags and no token");
    rest.get_server_capabilities().unwrap();
}

#[test]
fn a_server_with_token_authentication_gets_tokens() {
    let (server, rest) = rest();
    server.always("/api/v1/client/config", Act::json(json!({"pjwt_auth_enabled": true})));
    server.always("/api/v1/auth/token", Act::json(json!({"jwt": "eyJ.first"})));
    rest.get_server_capabilities().unwrap();
    let seen = &server.requests_to("/api/v1/get_server_capabilities")[0];
    assert_eq!(seen.header("x-api-key"), Some("eyJ.first"));
}

#[test]
fn the_access_scope_is_sent_in_every_query() {
    let server = FakeServer::new();
    let service = server.in_memory().build().unwrap();
    service.create_lora_training_client("fake/model", LoraConfig::default()).unwrap();
    let rest = service.create_rest_client().access_scope(AccessScope::Accessible);
    rest.list_training_runs().project_id("p 1").first_page().unwrap();
    rest.get_training_run("model-1").unwrap();
    rest.list_sessions().first_page().unwrap();
    rest.get_session("session-1").unwrap();
    let sent = paths(&server);
    for path in [
        "GET /api/v1/training_runs?limit=20&offset=0&access_scope=accessible&project_id=p%201",
        "GET /api/v1/training_runs/model-1?access_scope=accessible",
        "GET /api/v1/sessions?limit=20&offset=0&access_scope=accessible",
        "GET /api/v1/sessions/session-1?access_scope=accessible",
    ] {
        assert!(sent.iter().any(|it| it == path), "{path} in {sent:?}");
    }
}

#[test]
fn a_training_run_is_read_with_few_fields_and_with_unknown_ones() {
    let (server, rest) = rest();
    let path = "/api/v1/training_runs/r?access_scope=owned";
    server.next(path, Act::json(json!({})));
    let run = rest.get_training_run("r").unwrap();
    assert_eq!((run.training_run_id.as_str(), run.lora_rank, run.corrupted), ("", None, false));
    server.next(
        path,
        Act::json(json!({
            "training_run_id": 17, "base_model": null, "is_lora": true, "lora_rank": 8.0, "corrupted": true,
            "last_request_time": "2026-11-20T13:19:11.5+01:00", "new_field": {"a": [1]},
            "user_metadata": {"a": "b", "n": 3, "x": null},
            "last_checkpoint": {"checkpoint_id": "weights/x", "checkpoint_type": "quantum", "size_bytes": 10.0,
                "time": "soon", "tinker_path": "tinker://r/weights/x", "user_metadata": null},
        })),
    );
    let run = rest.get_training_run("r").unwrap();
    assert_eq!((run.training_run_id.as_str(), run.lora_rank, run.corrupted), ("17", Some(8), true));
    assert_eq!((run.user_metadata["a"].as_str(), run.user_metadata["n"].as_str()), ("b", "3"));
    let time = run.last_request_time.unwrap();
    assert_eq!(time.as_str(), "2026-11-20T13:19:11.5+01:00");
    assert!(time.to_system_time().is_some());
    let last = run.last_checkpoint.unwrap();
    assert_eq!(last.checkpoint_type.as_ref().unwrap().as_str(), "quantum");
    assert_eq!((last.size_bytes, last.path().unwrap().name()), (Some(10), "x"));
    // A timestamp that cannot be parsed is kept as text.
    assert_eq!(last.time.as_ref().map(|it| (it.as_str(), it.to_system_time())), Some(("soon", None)));
}

#[test]
fn weights_and_samplers_are_read_with_few_fields() {
    let (server, rest) = rest();
    server.next("/api/v1/weights_info", Act::json(json!({})));
    let info = rest.get_weights_info_by_tinker_path("tinker://r/sampler_weights/x").unwrap();
    assert_eq!((info.base_model, info.lora_rank, info.optimizer.as_str()), (None, None, "adamw"));
    server.next(
        "/api/v1/weights_info",
        Act::json(json!({"base_model": "m", "optimizer_config": {"type": "dimuon", "version": 1}, "lora_rank": 4.0})),
    );
    let info = rest.get_weights_info_by_tinker_path("tinker://r/weights/x").unwrap();
    assert_eq!((info.lora_rank, info.optimizer.as_str()), (Some(4), "dimuon"));
    server.next("/api/v1/samplers/s:sample:0", Act::json(json!({"sampler_id": "s:sample:0"})));
    assert_eq!(rest.get_sampler("s:sample:0").unwrap().base_model, None);
}

/// Endpoints and errors of all calls that name no object: for these, a 404 means a missing endpoint.
fn errors_of_unnamed(rest: &RestClient) -> Vec<(&'static str, Error)> {
    let search = || rest.search_sessions(Default::default()).page(None).unwrap_err();
    vec![
        ("GET healthz", rest.healthz().unwrap_err()),
        ("GET get_server_capabilities", rest.get_server_capabilities().unwrap_err()),
        ("GET training_runs", rest.list_training_runs().first_page().unwrap_err()),
        ("GET checkpoints", rest.list_user_checkpoints().next().unwrap().unwrap_err()),
        ("GET sessions", rest.list_sessions().next().unwrap().unwrap_err()),
        ("POST sessions/search", search()),
        ("GET auth/apikey/me", rest.get_api_key_info().unwrap_err()),
        ("DELETE auth/apikey/me", rest.revoke_api_key().unwrap_err()),
    ]
}

/// Endpoints and errors of all calls that name an object, such as a run.
fn errors_of_naming(rest: &RestClient) -> Vec<(&'static str, Error)> {
    let path = "tinker://r/weights/x";
    let copy = tinkex::types::CopyOptions { destination_project_id: Some("p".into()), ..Default::default() };
    const CHECKPOINT: &str = "training_runs/{id}/checkpoints/{id}";
    vec![
        ("GET training_runs/{id}", rest.get_training_run("r").unwrap_err()),
        ("GET training_runs/{id}/checkpoints", rest.list_checkpoints("r").unwrap_err()),
        (CHECKPOINT, rest.delete_checkpoint("r", "weights/x").unwrap_err()),
        ("/publish", rest.publish_checkpoint_from_tinker_path(path).unwrap_err()),
        ("/publish", rest.unpublish_checkpoint_from_tinker_path(path).unwrap_err()),
        ("/ttl", rest.set_checkpoint_ttl_from_tinker_path(path, Default::default()).unwrap_err()),
        (
            "/external_weights_urls",
            rest.get_external_weights_urls("tinker://r/external_weights/x").unwrap_err(),
        ),
        ("/archive", rest.get_checkpoint_archive_url(path).unwrap_err()),
        ("POST weights_info", rest.get_weights_info_by_tinker_path(path).unwrap_err()),
        ("POST copy_weights", rest.copy_weights(path, &copy).unwrap_err()),
        ("GET sessions/{id}", rest.get_session("s").unwrap_err()),
        ("PUT sessions/{id}/project", rest.assign_session_project("s", "p").unwrap_err()),
        ("GET sessions/{id}/trace_export", rest.export_session_trace("s").unwrap_err()),
        ("GET samplers/{id}", rest.get_sampler("s").unwrap_err()),
    ]
}

/// Creates a server that refuses every request except those for flags.
fn refusing(status: u16, detail: &str) -> (FakeServer, RestClient) {
    let (server, rest) = rest();
    let body = json!({ "detail": detail }).to_string();
    server.script(move |it| (!it.path.contains("/client/")).then(|| Act::status(status, body.clone())));
    (server, rest)
}

#[test]
fn a_missing_endpoint_is_incompatible_and_requested_once() {
    for (status, detail) in [(404, "Not Found"), (405, "Method Not Allowed")] {
        let (server, rest) = refusing(status, detail);
        for round in 0..2 {
            for (endpoint, error) in errors_of_unnamed(&rest) {
                assert_eq!(error.kind(), &ErrorKind::Incompatible, "{endpoint}: {error}");
                assert!(error.to_string().contains(endpoint), "{endpoint}: {error}");
                assert!(!error.is_retryable() && !error.is_user_error(), "{error}");
                // The first call gets the server's answer. The second call fails without a request, because the client
                // remembers that the endpoint is missing.
                assert_eq!(error.http_status().is_some(), round == 0, "{endpoint}");
            }
        }
        assert_eq!(server.requests().len(), 2 + errors_of_unnamed(&rest).len());
    }
}

#[test]
fn a_missing_thing_is_not_taken_for_a_missing_endpoint() {
    let (server, rest) = refusing(404, "this thing does not exist");
    for _ in 0..2 {
        for (endpoint, error) in errors_of_naming(&rest) {
            assert_eq!(error.kind(), &ErrorKind::NotFound, "{endpoint}: {error}");
            assert!(
                error.to_string().contains("this thing does not exist") && error.is_user_error(),
                "{error}"
            );
        }
    }
    assert_eq!(
        server.requests_to("/api/v1/sessions/s?access_scope=owned").len(),
        2,
        "the request is sent again"
    );
}

#[test]
fn an_ambiguous_404_says_that_the_endpoint_may_be_missing() {
    let (_, rest) = refusing(404, "Not Found");
    for (endpoint, error) in errors_of_naming(&rest) {
        assert_eq!(error.kind(), &ErrorKind::NotFound, "{endpoint}: {error}");
        assert!(error.to_string().contains("does not offer this call"), "{endpoint}: {error}");
    }
}

#[test]
fn a_405_is_a_missing_endpoint_even_if_the_request_names_a_thing() {
    let (server, rest) = refusing(405, "Method Not Allowed");
    for _ in 0..2 {
        for (endpoint, error) in errors_of_naming(&rest) {
            assert_eq!(error.kind(), &ErrorKind::Incompatible, "{endpoint}: {error}");
            assert!(error.to_string().contains(endpoint), "{endpoint}: {error}");
        }
    }
    assert_eq!(server.requests().len(), 2 + errors_of_naming(&rest).len());
}

#[test]
fn a_missing_token_exchange_is_not_taken_for_a_missing_list() {
    let (server, rest) = rest();
    server.always("/api/v1/client/config", Act::json(json!({"pjwt_auth_enabled": true})));
    server.always("/api/v1/auth/token", Act::status(404, r#"{"detail":"Not Found"}"#));
    for _ in 0..2 {
        let error = rest.list_training_runs().first_page().unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::NotFound, "{error}");
        assert!(error.to_string().contains("/auth/token"), "{error}");
    }
}

#[test]
fn a_missing_project_is_not_taken_for_a_missing_endpoint() {
    let (server, rest) = refusing(404, "no such project");
    let error = rest.list_training_runs().project_id("p").first_page().unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::NotFound);
    let search = tinkex::types::SessionSearch { project_ids: vec!["p".into()], ..Default::default() };
    assert_eq!(rest.search_sessions(search).page(None).unwrap_err().kind(), &ErrorKind::NotFound);
    server.script(|_| None);
    assert!(rest.list_training_runs().first_page().is_ok());
}

#[test]
fn ids_that_would_change_the_path_are_refused_before_anything_is_sent() {
    let (server, rest) = rest();
    for (path, error) in [
        ("training_run_id", rest.get_training_run("../sessions").unwrap_err()),
        ("training_run_id", rest.list_checkpoints("").unwrap_err()),
        ("session_id", rest.get_session("a//b").unwrap_err()),
        ("session_id", rest.assign_session_project(".", "p").unwrap_err()),
        ("session_id", rest.export_session_trace("").unwrap_err()),
        ("project_id", rest.assign_session_project("s", "").unwrap_err()),
        ("sampler_id", rest.get_sampler("").unwrap_err()),
        ("checkpoint_id", rest.delete_checkpoint("r", "x").unwrap_err()),
        ("training_run_id", rest.delete_checkpoint("a/b", "weights/x").unwrap_err()),
        ("path", rest.delete_checkpoint("..", "weights/x").unwrap_err()),
    ] {
        assert_eq!(path_of(&error), path, "{error}");
    }
    assert!(server.requests().is_empty());
}

#[test]
fn a_busy_server_gets_the_request_again_and_an_answer_without_json_is_an_error() {
    let (server, rest) = rest();
    server.next("/api/v1/get_server_capabilities", Act::status(503, "busy"));
    server.next("/api/v1/get_server_capabilities", Act::status(429, "slow down"));
    rest.get_server_capabilities().unwrap();
    assert_eq!(server.requests_to("/api/v1/get_server_capabilities").len(), 3);
    server.next("/api/v1/get_server_capabilities", Act::status(200, "<html>"));
    let error = rest.get_server_capabilities().unwrap_err();
    assert_eq!((error.kind(), error.operation()), (&ErrorKind::Decode, Some("get_server_capabilities")));
    server.next("/api/v1/get_server_capabilities", Act::status(402, r#"{"detail":"no funds"}"#));
    let error = rest.get_server_capabilities().unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Billing, "an unpaid account is an error at once");
}

#[test]
fn closing_the_service_ends_a_call_in_flight_and_refuses_later_ones() {
    let server = FakeServer::new();
    let listening = server.listen().unwrap();
    let service = listening.client().build().unwrap();
    let rest = service.create_rest_client();
    let path = "/api/v1/training_runs?limit=20&offset=0&access_scope=owned";
    server.always(path, Act::Stall);
    let (done, waiting) = std::sync::mpsc::channel();
    let other = rest.clone();
    let thread = std::thread::spawn(move || drop(done.send(other.list_training_runs().next())));
    eventually("the request is out", || !server.requests_to(path).is_empty());
    assert_eq!(service.dump().operations[0].operation, "list_training_runs");
    service.close(CloseStatus::Success).unwrap();
    let error = waiting.recv_timeout(TEST_TIMEOUT).unwrap().unwrap().unwrap_err();
    assert!(error.is_closed(), "{error}");
    assert!(rest.get_session("s").unwrap_err().is_closed());
    assert!(rest.healthz().unwrap_err().is_closed());
    thread.join().unwrap();
}

#[test]
fn every_call_works_over_a_real_socket() {
    let server = FakeServer::new();
    let listening = server.listen().unwrap();
    let service: ServiceClient = listening.client().build().unwrap();
    let training = service.create_lora_training_client("fake/model", LoraConfig::default()).unwrap();
    let path = training.save_state("x", Default::default()).wait().unwrap().path;
    let rest = service.create_rest_client();
    let run = rest.get_training_run_by_tinker_path(&path).unwrap();
    assert_eq!(rest.list_checkpoints(&run.training_run_id).unwrap()[0].path().unwrap(), (&path).into());
    rest.publish_checkpoint_from_tinker_path(&path).unwrap();
    rest.set_checkpoint_ttl_from_tinker_path(&path, Default::default()).unwrap();
    rest.delete_checkpoint_from_tinker_path(&path).unwrap();
    assert_eq!(rest.list_user_checkpoints().count(), 0);
    assert_eq!(rest.delete_checkpoint_from_tinker_path(&path).unwrap_err().kind(), &ErrorKind::NotFound);
}

/// Logger that collects warnings in [`WARNINGS`].
struct Warnings;

static WARNINGS: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());

impl log::Log for Warnings {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            WARNINGS.lock().unwrap().push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

#[test]
fn a_long_call_logs_a_warning_after_30_seconds_and_then_once_a_minute() {
    crate::util::alone("rest::a_long_call_logs_a_warning_after_30_seconds_and_then_once_a_minute", || {
        log::set_logger(&Warnings).unwrap();
        log::set_max_level(log::LevelFilter::Warn);
        let (server, time) = (FakeServer::new(), VirtualClock::new());
        let (open, gate) = std::sync::mpsc::channel::<()>();
        let gate = std::sync::Mutex::new(gate);
        server.script(move |seen| {
            if seen.path == "/api/v1/healthz" {
                // Blocks until the test drops the sender.
                let _ = gate.lock().unwrap().recv();
            }
            None
        });
        let service = server.in_memory_at(time.clone()).build().unwrap();
        let rest = service.create_rest_client();
        rest.get_server_capabilities().unwrap();
        let call = std::thread::spawn(move || rest.healthz());
        eventually("the call is out", || !server.requests_to("/api/v1/healthz").is_empty());
        let second = std::time::Duration::from_secs(1);
        eventually("two warnings", || {
            time.advance(second);
            2 <= WARNINGS.lock().unwrap().len()
        });
        drop(open);
        call.join().unwrap().unwrap();
        let warnings = WARNINGS.lock().unwrap().clone();
        let since = |warning: &String| -> u64 {
            let rest = warning.strip_prefix("still waiting: healthz is Submitting since ").unwrap();
            rest.split('s').next().unwrap().parse().unwrap()
        };
        let since: Vec<_> = warnings.iter().map(since).collect();
        assert!(30 <= since[0] && 60 <= since[1] - since[0], "{warnings:?}");
        for _ in 0..200 {
            time.advance(second);
            std::thread::yield_now();
        }
        assert_eq!(WARNINGS.lock().unwrap().len(), warnings.len(), "no warnings after the end of the call");
    });
}
