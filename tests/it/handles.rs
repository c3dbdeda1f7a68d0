//! Sampler handles. A handle is a text that identifies a sampling session. From this text, another process can make a
//! client that samples in the same session: a clone. Each clone has a number. The first sequence id of a clone is its
//! number times 10^9, so that clones use different ids (PROTOCOL §9.7).

use std::collections::BTreeSet;

use serde_json::json;
use tinkex::testing::{Act, FakeServer};
use tinkex::types::{ModelInput, SamplingParams};
use tinkex::{CloseStatus, SamplerHandle, SamplingClient, ServiceClient};

use crate::util::path_of;

const BILLION: u64 = 1_000_000_000;
const SAMPLE: &str = "/api/v1/asample";

/// A handle written by the official Python SDK 0.38.0.
const OFFICIAL: &str = "eyJzZXNzaW9uX2lkIjoicy0xIiwic2FtcGxpbmdfc2Vzc2lvbl9pZCI6InMtMTpzYW1wbGU6MCIsImhvbGRlciI6eyJiYXNlX3VybCI6Imh0dHA6Ly9tZW1vcnkuaW52YWxpZCIsImRlZmF1bHRfaGVhZGVyc19vdmVycmlkZXMiOnt9LCJjbGllbnRfY29uZmlnIjp7InBqd3RfYXV0aF9lbmFibGVkIjpmYWxzZSwiY3JlZGVudGlhbF9kZWZhdWx0X3NvdXJjZSI6ImFwaV9rZXkiLCJzYW1wbGVfZGlzcGF0Y2hfYnl0ZXNfc2VtYXBob3JlX3NpemUiOjEwNDg1NzYwLCJpbmZsaWdodF9yZXNwb25zZV9ieXRlc19zZW1hcGhvcmVfc2l6ZSI6NTI0Mjg4MDAsInBhcmFsbGVsX2Z3ZGJ3ZF9jaHVua3MiOnRydWUsInByb3RvX2NvbXByZXNzX2Z3ZGJ3ZCI6ZmFsc2UsImZ3ZGJ3ZF9tYXhfY2h1bmtfbGVuIjoxMDI0LCJmd2Rid2RfbWF4X2NodW5rX2J5dGVzX2NvdW50Ijo1MDAwMDAwLCJmd2Rid2RfZGlzcGF0Y2hfYnl0ZXNfc2VtYXBob3JlX3NpemUiOjUwMDAwMDAwLCJiaWxsaW5nX2V4Y2VwdGlvbl9tYXhfcGF1c2VfZHVyYXRpb25fc2VjIjozNjAwLCJzYW1wbGVfbm9fcmV0cmllcyI6ZmFsc2UsInNhbXBsZV9lbmFibGVfc3R1Y2tfZGV0ZWN0aW9uIjp0cnVlLCJzYW1wbGVfbWF4X2NvbmN1cnJlbnRfcmVxdWVzdHMiOjIwMDAsInVzZV9weXF3ZXN0X3RyYW5zcG9ydCI6dHJ1ZSwic2FtcGxlX3VzZV9yZXRyaWV2ZV9mdXR1cmVzIjpmYWxzZSwiY3VzdG9tX2xvc3Nfc2VydmVyX3NpZGUiOmZhbHNlLCJzYW1wbGVfam9pbl9zYW1wbGluZ19zZXNzaW9uIjpmYWxzZX0sImNsaWVudF9keW5hbWljX2NvbmZpZyI6eyJyZWZyZXNoX2ludGVydmFsX3NlYyI6MzAwLCJzYW1wbGVfY2FuY2VsX2VuYWJsZWQiOmZhbHNlLCJzYW1wbGVfY2FuY2VsX21heF9iYXRjaF9zaXplIjo2NH0sImFwaV9rZXkiOm51bGx9LCJiYXNlX21vZGVsIjoiUXdlbi9Rd2VuMy04QiIsInJlY29yZF9zdGFiaWxpdHlfaW5mbyI6dHJ1ZX0=";

fn sample(sampler: &SamplingClient) {
    let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
    sampler.sample(&ModelInput::from_ints([1]), 1, &params).wait().unwrap();
}

fn seq_ids(server: &FakeServer) -> Vec<u64> {
    server.requests_to(SAMPLE).iter().map(|seen| seen.json().unwrap()["seq_id"].as_u64().unwrap()).collect()
}

fn handle_of(server: &FakeServer) -> (ServiceClient, SamplerHandle) {
    let service = server.in_memory().api_key("tml-secret").build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    let handle = sampler.get_sampler_handle();
    (service, handle)
}

#[test]
fn clones_share_the_sampling_session_and_use_distinct_sequence_ids() {
    let server = FakeServer::new();
    let (_service, handle) = handle_of(&server);
    let text = handle.to_string();
    assert_eq!(text.parse::<SamplerHandle>().unwrap(), handle);
    assert_eq!(serde_json::to_value(&handle).unwrap(), json!(text));
    assert_eq!(serde_json::from_value::<SamplerHandle>(json!(text)).unwrap(), handle);
    let clones: Vec<_> = (0..3).map(|_| server.in_memory().from_sampler_handle(&handle).unwrap()).collect();
    for clone in &clones {
        assert_eq!(clone.get_base_model(), Some("fake/model"));
        assert_eq!(clone.sampling_session_id(), "sampler-1");
        sample(clone);
        sample(clone);
    }
    let ids = seq_ids(&server);
    let clone_numbers: BTreeSet<_> = ids.iter().map(|id| id / BILLION).collect();
    assert_eq!(clone_numbers.len(), 3, "{ids:?}");
    assert!(clone_numbers.iter().all(|number| (1..=BILLION).contains(number)));
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 6);
    assert!(ids.chunks(2).all(|pair| pair[0] % BILLION == 0 && pair[1] == pair[0] + 1));
    // Only the first client requested flags and sessions: the handle contains them for the clones.
    for path in ["client/config", "create_session", "create_sampling_session"] {
        assert_eq!(server.requests_to(&format!("/api/v1/{path}")).len(), 1, "{path}");
    }
}

#[test]
fn a_handle_holds_every_field_that_the_official_sdk_reads_and_no_key() {
    let server = FakeServer::new();
    let (_service, handle) = handle_of(&server);
    let json = decoded(&handle.to_string());
    assert!(!json.to_string().contains("tml-") && !format!("{handle:?}").contains("tml-"));
    let names =
        |object: &serde_json::Value| object.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let set = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<BTreeSet<_>>();
    assert_eq!(
        names(&json),
        set(&["session_id", "sampling_session_id", "holder", "base_model", "record_stability_info"])
    );
    let holder = &json["holder"];
    let fields =
        ["base_url", "default_headers_overrides", "client_config", "client_dynamic_config", "api_key"];
    assert_eq!(names(holder), set(&fields));
    assert!(holder["api_key"].is_null());
    assert_eq!(names(&holder["client_config"]).len(), 17);
    assert_eq!(holder["client_config"]["billing_exception_max_pause_duration_sec"].to_string(), "3600");
    assert_eq!(
        holder["client_dynamic_config"].to_string(),
        json!({
            "refresh_interval_sec": 300, "sample_cancel_enabled": false, "sample_cancel_max_batch_size": 64
        })
        .to_string()
    );
}

#[test]
fn a_handle_passes_unknown_flags_on() {
    let server = FakeServer::new();
    let flags = json!({"use_pyqwest_transport": false, "flag_of_tomorrow": {"a": [1]}, "fwdbwd_max_chunk_len": "all"});
    server.always("/api/v1/client/config", Act::json(flags));
    let dynamic = json!({"refresh_interval_sec": 60, "dynamic_flag_of_tomorrow": 7});
    server.always("/api/v1/client/dynamic_config", Act::json(dynamic));
    let (_service, handle) = handle_of(&server);
    let clone = server.in_memory().from_sampler_handle(&handle).unwrap();
    for handle in [handle, clone.get_sampler_handle()] {
        let holder = &decoded(&handle.to_string())["holder"];
        let config = &holder["client_config"];
        assert_eq!(config["flag_of_tomorrow"], json!({"a": [1]}));
        assert_eq!(config["use_pyqwest_transport"], false);
        assert_eq!(config["fwdbwd_max_chunk_len"], 1024, "an unreadable flag is not passed on");
        assert_eq!(config.as_object().unwrap().len(), 18);
        assert_eq!(holder["client_dynamic_config"]["dynamic_flag_of_tomorrow"], 7);
        assert_eq!(holder["client_dynamic_config"]["refresh_interval_sec"], 60);
    }
}

#[test]
fn a_handle_of_the_official_sdk_is_accepted() {
    let server = FakeServer::new();
    let sampler = server.in_memory().from_sampler_handle(OFFICIAL).unwrap();
    assert_eq!(sampler.get_base_model(), Some("Qwen/Qwen3-8B"));
    sample(&sampler);
    let body = server.requests_to(SAMPLE)[0].json().unwrap();
    assert_eq!(body["sampling_session_id"], "s-1:sample:0");
    assert_eq!(body["record_stability_info"], true);
    assert_eq!(sampler.get_sampler_handle().session_id(), "s-1");
    assert_eq!(decoded(&sampler.get_sampler_handle().to_string())["record_stability_info"], true);
}

#[test]
fn a_clone_keeps_the_session_alive_and_does_not_finish_it() {
    let server = FakeServer::new();
    let clock = tinkex::testing::VirtualClock::new();
    let sampler = server.in_memory_at(clock.clone()).from_sampler_handle(OFFICIAL).unwrap();
    sample(&sampler);
    const BEAT: &str = "/api/v1/session_heartbeat";
    crate::util::eventually("a heartbeat", || {
        clock.advance(std::time::Duration::from_secs(10));
        !server.requests_to(BEAT).is_empty()
    });
    assert_eq!(server.requests_to(BEAT)[0].json().unwrap()["session_id"], "s-1");
    sampler.close();
    drop(sampler);
    assert!(server.requests_to("/api/v1/sessions/s-1/finish").is_empty());
}

#[test]
fn a_clone_gets_its_number_from_a_server_that_numbers_clones() {
    let server = FakeServer::new();
    server.polls_together();
    server.always(
        "/api/v1/client/config",
        Act::json(json!({"sample_join_sampling_session": true, "sample_use_retrieve_futures": true})),
    );
    let (service, handle) = handle_of(&server);
    for _ in 0..2 {
        sample(&server.in_memory().from_sampler_handle(&handle).unwrap());
    }
    assert_eq!(
        server.requests_to("/api/v1/join_sampling_session")[0].json().unwrap(),
        json!({"sampling_session_id": "sampler-1", "type": "join_sampling_session"})
    );
    assert_eq!(seq_ids(&server), [BILLION, 2 * BILLION]);
    let polls = server.requests_to("/api/v1/retrieve_futures");
    let polled: BTreeSet<_> = polls
        .iter()
        .map(|poll| poll.json().unwrap()["target"]["cloned_sampler_id"].as_u64().unwrap())
        .collect();
    assert_eq!(polled, [1, 2].into());
    // A clone number whose sequence ids would overflow is an error. If the endpoint is missing, the clone draws a
    // number at random.
    server.next("/api/v1/join_sampling_session", Act::json(json!({"client_counter": u64::MAX})));
    assert!(server.in_memory().from_sampler_handle(&handle).is_err());
    server.next("/api/v1/join_sampling_session", Act::status(404, r#"{"detail":"Not Found"}"#));
    sample(&server.in_memory().from_sampler_handle(&handle).unwrap());
    assert!(BILLION <= *seq_ids(&server).last().unwrap());
    service.close(CloseStatus::Success).unwrap();
}

fn handle_with_headers(headers: serde_json::Value) -> String {
    let mut json = decoded(OFFICIAL);
    json["holder"]["default_headers_overrides"] = headers;
    SamplerHandleText(&json.to_string()).to_string()
}

#[test]
fn headers_of_a_handle_are_sent_except_credentials_and_framing() {
    let server = FakeServer::new();
    let handle = handle_with_headers(json!({
        "X-Team": "theirs", "X-Stage": "test", "X-Gateway-Token": "open-sesame",
        "x-api-key": "tml-theirs", "Authorization": "Bearer theirs", "CF-Access-Client-Id": "theirs",
        "Content-Length": "7", "transfer-encoding": "chunked", "Host": "elsewhere", "Content-Type": "text/plain",
        "X-Idempotency-Key": "always-the-same",
    }));
    let builder = server.in_memory().default_headers_overrides([("x-team", "mine"), ("X-Shift", "night")]);
    let sampler = builder.from_sampler_handle(&handle).unwrap();
    sample(&sampler);
    sample(&sampler);
    let seen = server.requests_to(SAMPLE);
    for seen in &seen {
        let header = |name| seen.header(name);
        assert_eq!(
            (header("x-team"), header("x-stage"), header("x-shift")),
            (Some("mine"), Some("test"), Some("night"))
        );
        assert_eq!(header("x-gateway-token"), Some("open-sesame"));
        assert_eq!(
            (header("x-api-key"), header("content-type")),
            (Some("tml-test"), Some("application/json"))
        );
        for name in ["authorization", "cf-access-client-id", "transfer-encoding", "host", "content-length"] {
            assert_eq!(header(name), None, "{name}");
        }
    }
    assert_ne!(seen[0].header("x-idempotency-key"), seen[1].header("x-idempotency-key"));
    // Secret headers of the handle are masked in errors.
    server.always(SAMPLE, Act::status(422, r#"{"detail":"what is open-sesame?"}"#));
    let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
    let error = sampler.sample(&ModelInput::from_ints([1]), 1, &params).wait().unwrap_err();
    assert!(!format!("{error} {error:?}").contains("open-sesame"), "{error}");
    // A handle written by the clone contains the headers, except the secret ones.
    let written = decoded(&sampler.get_sampler_handle().to_string());
    let headers = json!({"x-team": "mine", "X-Stage": "test", "X-Shift": "night"});
    assert_eq!(written["holder"]["default_headers_overrides"], headers);
}

#[test]
fn a_handle_with_an_invalid_header_is_refused_without_showing_its_value() {
    let server = FakeServer::new();
    for (name, value) in [("X Team", "hunter2"), ("X-Team", "hunter2\r\nX-Other: 1"), ("", "hunter2")] {
        let handle = handle_with_headers(json!({ name: value }));
        let error = server.in_memory().from_sampler_handle(&handle).unwrap_err();
        assert_eq!(path_of(&error), "handle");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
    assert!(server.requests().is_empty());
}

#[test]
fn an_invalid_handle_is_refused_without_showing_its_text() {
    let server = FakeServer::new();
    let encoded = |json: &str| SamplerHandleText(json).to_string();
    for text in [
        "",
        "tml-secret!",
        "e30=",
        &encoded("[1]"),
        &encoded(r#"{"session_id":"","sampling_session_id":"x"}"#),
    ] {
        let error = server.in_memory().from_sampler_handle(text).unwrap_err();
        assert_eq!(path_of(&error), "handle");
        assert!(!error.to_string().contains("tml-secret"));
    }
    assert!(server.requests().is_empty());
}

/// Displays a text in URL-safe base64.
struct SamplerHandleText<'a>(&'a str);

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl std::fmt::Display for SamplerHandleText<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for bytes in self.0.as_bytes().chunks(3) {
            let word = bytes
                .iter()
                .enumerate()
                .fold(0u32, |word, (i, byte)| word | u32::from(*byte) << (16 - 8 * i));
            for i in 0..=bytes.len() {
                write!(f, "{}", DIGITS[(word >> (18 - 6 * i)) as usize % 64] as char)?;
            }
        }
        Ok(())
    }
}

fn decoded(text: &str) -> serde_json::Value {
    let mut bytes = Vec::new();
    for digits in text.trim_end_matches('=').as_bytes().chunks(4) {
        let value = |digit: &u8| DIGITS.iter().position(|it| it == digit).unwrap() as u32;
        let word = digits.iter().enumerate().fold(0, |word, (i, digit)| word | value(digit) << (18 - 6 * i));
        bytes.extend(&word.to_be_bytes()[1..digits.len()]);
    }
    serde_json::from_slice(&bytes).unwrap()
}
