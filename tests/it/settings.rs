//! Settings of the client (headers, version, project) and flags that the server may change during a session.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::json;
use tinkex::testing::{Act, FakeServer, VirtualClock};
use tinkex::types::LossFn;
use tinkex::{CloseStatus, ErrorKind, ServiceClient};

use crate::util::{TEST_TIMEOUT, datum, eventually};

const CONFIG: &str = "/api/v1/client/config";
const DYNAMIC: &str = "/api/v1/client/dynamic_config";
const HEARTBEAT: &str = "/api/v1/session_heartbeat";

fn dynamic(interval: f64) -> Act {
    Act::json(json!({"refresh_interval_sec": interval, "sample_cancel_enabled": true}))
}

/// Advances the clock by `seconds` at a time until a condition holds.
fn advance_until(time: &VirtualClock, seconds: u64, what: &str, holds: impl Fn() -> bool) {
    eventually(what, || {
        time.advance(Duration::from_secs(seconds));
        holds()
    });
}

#[test]
fn the_flags_are_refreshed_even_after_a_failure_until_the_endpoint_is_missing() {
    let (server, time) = (FakeServer::new(), VirtualClock::new());
    let (requested_at, clock) = (Arc::new(std::sync::Mutex::new(Vec::new())), time.clock());
    server.script({
        let requested_at = requested_at.clone();
        move |seen| {
            if seen.path != DYNAMIC {
                return None;
            }
            let mut requested_at = requested_at.lock().unwrap();
            requested_at.push(clock.now());
            match requested_at.len() {
                1 => Some(dynamic(0.1)),
                2 => Some(Act::status(503, "busy")),
                3 => Some(dynamic(300.0)),
                _ => None,
            }
        }
    });
    let service = server.in_memory_at(time.clone()).build().unwrap();
    let _training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    let n_requests = || server.requests_to(DYNAMIC).len();
    advance_until(&time, 1, "the flags are requested three times", || n_requests() == 3);
    // The interval is now 300 s. The fourth request gets a 404, after which the client does not request these flags
    // again.
    let beats = server.requests_to(HEARTBEAT).len();
    advance_until(&time, 10, "the flags are requested a fourth time", || n_requests() == 4);
    let beats_before = server.requests_to(HEARTBEAT).len();
    assert!(beats < beats_before);
    advance_until(&time, 100, "many more heartbeats", || {
        beats_before + 20 < server.requests_to(HEARTBEAT).len()
    });
    assert_eq!(n_requests(), 4);
    // The client waits at least 10 s between two requests, even if the server asks for less, and also after a failure.
    let requested_at = requested_at.lock().unwrap();
    let gaps: Vec<_> = requested_at.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
    assert!(10 <= gaps[0] && 10 <= gaps[1] && 300 <= gaps[2], "{gaps:?}");
}

#[test]
fn a_missing_endpoint_of_flags_is_requested_once() {
    let (server, time) = (FakeServer::new(), VirtualClock::new());
    let service = server.in_memory_at(time.clone()).build().unwrap();
    let _training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    advance_until(&time, 100, "many heartbeats", || 20 < server.requests_to(HEARTBEAT).len());
    assert_eq!(server.requests_to(DYNAMIC).len(), 1);
}

#[test]
fn heartbeats_continue_while_a_request_for_flags_hangs() {
    let (server, time) = (FakeServer::new(), VirtualClock::new());
    server.next(DYNAMIC, dynamic(10.0));
    let (release, released) = mpsc::channel::<()>();
    let released = Arc::new(std::sync::Mutex::new(released));
    server.script(move |seen| {
        if seen.path == DYNAMIC {
            // Blocks until the test sends a message with `release`, or drops `release` at its end.
            let _ = released.lock().unwrap().recv_timeout(TEST_TIMEOUT);
        }
        None
    });
    let service = server.in_memory_at(time.clone()).build().unwrap();
    let _training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    advance_until(&time, 1, "the flags are requested again", || server.requests_to(DYNAMIC).len() == 2);
    let beats = server.requests_to(HEARTBEAT).len();
    advance_until(&time, 10, "heartbeats", || beats + 3 <= server.requests_to(HEARTBEAT).len());
    release.send(()).unwrap();
}

#[test]
fn the_end_of_a_session_may_carry_a_detail() {
    let server = FakeServer::new();
    let service = server.in_memory().build().unwrap();
    let _training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    service.close_with(CloseStatus::Errored, "no data").unwrap();
    let finish = server.requests_to("/api/v1/sessions/session-1/finish");
    assert_eq!(finish[0].json().unwrap(), json!({"reason": {"type": "errored"}, "detail": "no data"}));
    service.close_with(CloseStatus::Success, "again").unwrap();
    assert_eq!(server.requests_to("/api/v1/sessions/session-1/finish").len(), 1);
}

#[test]
fn the_sdk_version_that_is_sent_to_servers_can_be_set() {
    let server = FakeServer::new();
    let service = server.in_memory().sdk_version("0.99.1").build().unwrap();
    service.create_lora_training_client("fake/model", Default::default()).unwrap();
    for seen in server.requests() {
        assert_eq!(seen.header("x-stainless-package-version"), Some("0.99.1"));
        let in_body = seen.json().and_then(|it| Some(it.get("sdk_version")?.as_str()?.to_string()));
        assert!(in_body.is_none_or(|it| it == "0.99.1"), "{seen:?}");
    }
    let config = &server.requests_to("/api/v1/client/config")[0];
    assert_eq!(config.json().unwrap(), json!({"sdk_version": "0.99.1"}));
    let error = ServiceClient::builder().api_key("tml-x").sdk_version("1\r\nX: 2").build().unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Config);
}

#[test]
fn headers_of_the_caller_replace_the_clients_own() {
    let server = FakeServer::new();
    let headers = [("x-api-key", "gateway"), ("X-Team", "research"), ("USER-AGENT", "mine")];
    let service = server.in_memory().default_headers_overrides(headers).build().unwrap();
    service.create_lora_training_client("fake/model", Default::default()).unwrap();
    for seen in server.requests() {
        let all = |name: &str| -> Vec<&str> {
            seen.headers.iter().filter(|header| header.0 == name).map(|header| header.1.as_str()).collect()
        };
        assert_eq!(all("x-api-key"), ["gateway"]);
        assert_eq!(all("x-team"), ["research"]);
        assert_eq!(all("user-agent"), ["mine"]);
    }
}

#[test]
fn an_invalid_header_is_refused_before_anything_is_sent() {
    for (name, value) in [("X Team", "hunter2"), ("X-Team", "hunter2\r\nX: 1"), ("Content-Length", "hunter2")]
    {
        let builder = ServiceClient::builder().api_key("tml-x").default_headers_overrides([(name, value)]);
        let error = builder.build().unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Config);
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
}

#[test]
fn retry_after_may_be_a_date() {
    let (server, time) = (FakeServer::new(), VirtualClock::new());
    let busy = Act::status(503, "busy")
        .with_header("date", "Fri, 20 Nov 2026 13:19:11 GMT")
        .with_header("retry-after", "Fri, 20 Nov 2026 13:19:48 GMT");
    server.next("/api/v1/get_server_capabilities", busy);
    server.in_memory_at(time.clone()).build().unwrap().get_server_capabilities().unwrap();
    assert_eq!(time.pauses(), [Duration::from_secs(37)]);
}

#[test]
fn an_empty_base_url_or_project_counts_as_unset() {
    let server = FakeServer::new();
    let service = server.in_memory().project_id("p").project_id(" ").build().unwrap();
    service.create_sampling_client("fake/model").unwrap();
    let opened = server.requests_to("/api/v1/create_session")[0].json().unwrap();
    assert!(opened.get("project_id").is_none(), "{opened}");
    let error = service.create_rest_client().copy_weights("tinker://r/weights/a", &Default::default());
    assert_eq!(crate::util::path_of(&error.unwrap_err()), "destination_project_id");
    let is_default =
        |client: ServiceClient| format!("{client:?}").contains("https://tinker.thinkingmachines.dev/");
    assert!(is_default(server.in_memory().base_url("").build().unwrap()));
    assert!(!is_default(server.in_memory().build().unwrap()));
    // A client from a handle uses the URL in the handle, unless the caller sets another one.
    let handle = service.create_sampling_client("fake/model").unwrap().get_sampler_handle();
    let clone = server.in_memory().base_url("").from_sampler_handle(&handle).unwrap();
    assert_eq!(clone.get_sampler_handle().base_url(), "http://memory.invalid");
}

#[test]
fn unavailable_flags_have_their_defaults_within_seconds_and_are_read_later() {
    for trouble in [Act::status(500, "oops"), Act::Stall] {
        let (server, time) = (FakeServer::new(), VirtualClock::new());
        server.always(CONFIG, trouble);
        server.always(DYNAMIC, Act::status(503, "busy"));
        let service = server.in_memory_at(time.clone()).build().unwrap();
        let before = time.clock().now();
        let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
        assert!(time.clock().now() - before <= Duration::from_secs(30));
        let n_parts = || {
            let before = server.requests_to("/api/v1/forward_backward").len();
            training.forward(vec![datum(); 4], LossFn::CrossEntropy).wait().unwrap();
            server.requests_to("/api/v1/forward_backward").len() - before
        };
        assert_eq!(n_parts(), 1, "the default length of a part");
        server.always(CONFIG, Act::json(json!({"fwdbwd_max_chunk_len": 2})));
        advance_until(&time, 5, "the flags are read", || n_parts() == 2);
        // The dynamic flags keep their defaults until the server sends them.
        server.always(DYNAMIC, dynamic(300.0));
        let before = server.requests_to(DYNAMIC).len();
        advance_until(&time, 5, "the dynamic flags are requested", || {
            before < server.requests_to(DYNAMIC).len()
        });
        service.close(CloseStatus::Success).unwrap();
    }
}

#[test]
fn tokens_are_used_as_soon_as_the_flags_require_them() {
    let (server, time) = (FakeServer::new(), VirtualClock::new());
    server.always(CONFIG, Act::status(500, "oops"));
    let service = server.in_memory_at(time.clone()).build().unwrap();
    let rest = service.create_rest_client();
    rest.get_server_capabilities().unwrap();
    let keys = || -> Vec<String> {
        server
            .requests_to("/api/v1/get_server_capabilities")
            .iter()
            .map(|it| it.header("x-api-key").unwrap().into())
            .collect()
    };
    assert_eq!(keys(), ["tml-test"]);
    server.always(CONFIG, Act::json(json!({"pjwt_auth_enabled": true})));
    server.always("/api/v1/auth/token", Act::json(json!({"jwt": "eyJ.fresh"})));
    advance_until(&time, 5, "a token is used", || {
        rest.get_server_capabilities().unwrap();
        keys().last().unwrap() == "eyJ.fresh"
    });
}

#[test]
fn no_flags_are_assumed_without_a_credential_that_can_be_sent_directly() {
    let server = FakeServer::new();
    server.always(CONFIG, Act::status(500, "oops"));
    let builder = server.in_memory().api_key("not-a-key").credential_command("echo tml-printed");
    let error = builder.build().unwrap().get_server_capabilities().unwrap_err();
    assert_eq!(error.http_status(), Some(500), "{error}");
    let paths: Vec<_> = server.requests().iter().map(|it| it.path.clone()).collect();
    assert!(paths.iter().all(|it| it == CONFIG), "{paths:?}");
}

#[test]
fn no_flags_are_assumed_after_a_refused_credential_or_connection() {
    for act in [Act::status(401, r#"{"detail":"bad key"}"#), Act::Refuse(Duration::from_secs(1))] {
        let server = FakeServer::new();
        server.always(CONFIG, act);
        let service = server.in_memory().build().unwrap();
        let error = service.create_sampling_client("fake/model").unwrap_err();
        assert!(error.http_status() == Some(401) || error.is_connection(), "{error}");
        assert!(server.requests_to("/api/v1/create_session").is_empty());
    }
}
