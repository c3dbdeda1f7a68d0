//! Peers that are not a server of this API (another protocol, missing TLS, HTML pages), invalid URLs, and servers that
//! never answer.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use serde_json::json;
use tinkex::testing::{Act, FakeServer, VirtualClock};
use tinkex::types::AdamParams;
use tinkex::{Error, ErrorKind, Phase, ServiceClient};

use crate::util::{TEST_TIMEOUT, alone, eventually, training};

/// Starts a TCP listener that sends the same bytes on every connection, after it has read the request if `reads_first`
/// is true. Returns its address and the number of connections.
fn peer(words: &'static [u8], reads_first: bool) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            counter.fetch_add(1, Ordering::Relaxed);
            std::thread::spawn(move || {
                // Ignore I/O errors: the client may close the connection at any time.
                if reads_first {
                    drop(stream.read(&mut [0; 4096]));
                }
                drop(stream.write_all(words));
                // Read to the end: closing with unread bytes would reset the connection and lose the answer.
                drop(stream.shutdown(std::net::Shutdown::Write));
                drop(stream.read_to_end(&mut Vec::new()));
            });
        }
    });
    (address, count)
}

fn client(url: String) -> ServiceClient {
    ServiceClient::builder().without_environment().api_key("tml-x").base_url(url).build().unwrap()
}

/// Returns the error of the first call, which must come within [`TEST_TIMEOUT`].
fn first_call(service: &ServiceClient) -> Error {
    let begun = Instant::now();
    let error = service.create_lora_training_client("m", Default::default()).map(drop).unwrap_err();
    assert!(begun.elapsed() < TEST_TIMEOUT, "{error}");
    error
}

#[test]
fn a_peer_of_another_protocol_gets_one_request() {
    let (ssh, smtp) = (&b"SSH-2.0-OpenSSH_9.6\r\n"[..], &b"220 mail.example ESMTP\r\n"[..]);
    let (old, alert) = (&b"<html>It works!</html>"[..], &b"\x15\x03\x01\x00\x02\x02\x46"[..]);
    for (words, reads_first) in [(ssh, false), (smtp, false), (old, true), (alert, true)] {
        let (address, count) = peer(words, reads_first);
        let error = first_call(&client(format!("http://{address}")));
        assert_eq!(*error.kind(), ErrorKind::Decode, "{error:?}");
        let text = error.to_string();
        assert!(text.contains("not valid HTTP") && text.contains("base URL"), "{text}");
        assert_eq!(count.load(Ordering::Relaxed), 1, "{text}");
    }
}

#[test]
fn a_peer_without_tls_gets_one_request() {
    for (words, reads_first) in
        [(&b"SSH-2.0-OpenSSH_9.6\r\n"[..], false), (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], true)]
    {
        let (address, count) = peer(words, reads_first);
        let error = first_call(&client(format!("https://{address}")));
        assert!(error.is_connection() && error.to_string().contains("TLS"), "{error}");
        assert!(error.to_string().contains("http://"), "{error}");
        assert_eq!(count.load(Ordering::Relaxed), 1, "{error}");
    }
}

#[test]
fn a_server_that_never_answered_has_a_shorter_time_limit_than_one_that_did() {
    let (server, clock) = (FakeServer::new(), VirtualClock::new());
    let service = server.in_memory_at(clock).build().unwrap();
    let capabilities = "/api/v1/get_server_capabilities";
    for act in [Act::Stall, Act::status(503, "starting"), Act::StallBody(answer("{}"))] {
        let fresh = server.in_memory_at(VirtualClock::new()).build().unwrap();
        server.script(move |_| Some(act.clone()));
        let error = fresh.get_server_capabilities().unwrap_err();
        let elapsed = error.elapsed().unwrap();
        assert!(elapsed <= Duration::from_secs(90), "{elapsed:?}: {error}");
        server.script(|_| None);
    }
    service.get_server_capabilities().unwrap();
    server.always(capabilities, Act::status(503, "busy"));
    let elapsed = service.get_server_capabilities().unwrap_err().elapsed().unwrap();
    assert!(Duration::from_secs(200) < elapsed && elapsed <= Duration::from_secs(301), "{elapsed:?}");
}

fn answer(body: &str) -> tinkex::transport::Answer {
    tinkex::transport::Answer::new(200).with_body(body.to_string())
}

#[test]
fn an_html_page_is_an_error_of_a_call_with_an_empty_answer() {
    let (server, service, _training) = training();
    let rest = service.create_rest_client();
    let page = "<!DOCTYPE html><html><head><title>Please log in</title></head><body>x</body></html>";
    let deleted = "/api/v1/training_runs/r/checkpoints/weights/a";
    for act in [Act::status(200, page), Act::status(200, "hello").with_header("x", "y")] {
        server.next(deleted, act);
    }
    let error = rest.delete_checkpoint("r", "weights/a").unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Decode);
    assert!(error.to_string().contains("Please log in") && !error.to_string().contains('<'), "{error}");
    rest.delete_checkpoint("r", "weights/a").unwrap();
    server.next("/api/v1/get_server_capabilities", Act::status(200, "Welcome to\r\nnginx!\u{1b}[2J"));
    let error = rest.get_server_capabilities().unwrap_err();
    assert!(error.to_string().contains(r#"begins with "Welcome to nginx!""#), "{error}");
}

#[test]
fn an_error_about_a_redirect_names_its_target() {
    let (server, service, _training) = training();
    for status in [301, 302, 307, 308] {
        let act = Act::status(status, "").with_header("location", "https://new.example/api/v1/x");
        server.next("/api/v1/get_server_capabilities", act);
        let error = service.get_server_capabilities().unwrap_err();
        assert_eq!(error.http_status(), Some(status));
        assert!(error.to_string().contains("https://new.example/api/v1/x"), "{error}");
    }
}

#[test]
fn urls_from_the_server_must_be_http_urls() {
    let (server, service, _training) = training();
    let rest = service.create_rest_client();
    for bad in ["file:///etc/passwd", "ftp://x/y", "http://", "javascript:x", "http://a b/"] {
        let path = "/api/v1/training_runs/r/checkpoints/weights/a/archive";
        server.next(path, Act::status(302, "").with_header("location", bad));
        server.next(path, Act::json(json!({"url": bad})));
        for _ in 0..2 {
            let error = rest.get_checkpoint_archive_url("tinker://r/weights/a").unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Decode, "{bad}: {error:?}");
        }
        let path = "/api/v1/training_runs/r/checkpoints/external_weights/a/external_weights_urls";
        server.next(path, Act::json(json!({"urls": {"good": "https://x/1", "bad": bad}})));
        let error = rest.get_external_weights_urls("tinker://r/external_weights/a").unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Decode, "{bad}: {error:?}");
        server.next("/api/v1/sessions/s/trace_export", Act::json(json!({"status": "ready", "url": bad})));
        let error = rest.export_session_trace("s").unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Decode, "{bad}: {error:?}");
    }
    let safe = FakeServer::new();
    let service = safe.in_memory().base_url("https://safe.example").build().unwrap();
    safe.script(|seen| {
        let act = Act::json(json!({"url": "http://elsewhere/x"}));
        seen.path.ends_with("/archive").then_some(act)
    });
    let error = service.create_rest_client().get_checkpoint_archive_url("tinker://r/weights/a").unwrap_err();
    assert!(error.to_string().contains("https"), "{error}");
}

#[test]
fn an_invalid_url_is_refused_and_its_bad_part_shown() {
    for (url, part) in [
        ("http://127.0.0.1:99999", "99999"),
        ("http://127.0.0.1:8402abc", "8402abc"),
        ("http://[::1", "[::1"),
        ("https://bücher.example", "bücher.example"),
    ] {
        let error = ServiceClient::builder().api_key("tml-x").base_url(url).build().unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(part), "{error}");
        let proxy = ServiceClient::builder().api_key("tml-x").proxy(url).build().unwrap_err();
        assert_eq!(*proxy.kind(), ErrorKind::Config, "{url}");
    }
    // The URL of a sampler handle is checked, too.
    let (_server, service, _training) = training();
    let handle = service.create_sampling_client("fake/model").unwrap().get_sampler_handle();
    let json = URL_SAFE_NO_PAD.decode(handle.to_string().trim_end_matches('=')).unwrap();
    let json = String::from_utf8(json).unwrap().replace("memory.invalid", "memory.invalid:8402abc");
    let builder = ServiceClient::builder().without_environment().api_key("tml-x");
    let error = builder.from_sampler_handle(URL_SAFE.encode(json)).map(drop).unwrap_err();
    assert!(error.to_string().contains("8402abc"), "{error}");
}

#[test]
fn a_timeout_has_the_last_failure_as_its_cause() {
    let (server, clock) = (FakeServer::new(), VirtualClock::new());
    let service = server.in_memory_at(clock).timeouts(|it| it.operation = Duration::from_secs(600));
    let service = service.build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    server.always("/api/v1/retrieve_future", Act::status(502, "<html><title>502 Bad Gateway</title>"));
    let error = training.optim_step(AdamParams::default()).wait().unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Timeout(Phase::Total), "{error:?}");
    assert!(error.is_timeout() && error.is_retryable(), "{error}");
    assert_eq!(error.http_status(), Some(502), "{error}");
    assert!(error.to_string().contains("502 Bad Gateway"), "{error}");
}

#[test]
fn the_status_has_the_last_failure_until_a_request_succeeds() {
    let server = FakeServer::new();
    let listening = server.listen().unwrap();
    let service = listening.client().build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    server.always("/api/v1/retrieve_future", Act::status(502, "the gateway is bad"));
    let step = training.optim_step(AdamParams::default());
    let failure = || step.status().last_failure;
    eventually("a failure", || failure().is_some_and(|it| it.contains("the gateway is bad")));
    assert!(format!("{:?}", service.dump()).contains("the gateway is bad"));
    server.behave("/api/v1/retrieve_future");
    eventually("an end", || step.is_done());
    assert_eq!(failure(), None);
    // The status also shows failures of the submission.
    server.always("/api/v1/optim_step", Act::status(503, "too early"));
    let step = training.optim_step(AdamParams::default());
    eventually("a failure", || step.status().last_failure.is_some_and(|it| it.contains("too early")));
}

static LOGGED: Mutex<String> = Mutex::new(String::new());

struct Collector;

impl log::Log for Collector {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.target().starts_with("tinkex") && record.level() <= log::Level::Info {
            *LOGGED.lock().unwrap() += &format!("{} {}\n", record.level(), record.args());
        }
    }

    fn flush(&self) {}
}

fn is_logged(text: &str) -> bool {
    LOGGED.lock().unwrap().contains(text)
}

#[test]
fn log_lines_name_long_waits_and_have_no_control_characters() {
    alone("wrong_servers::log_lines_name_long_waits_and_have_no_control_characters", || {
        log::set_logger(&Collector).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
        // A listener that accepts connections and never answers.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let service = client(url.clone());
        let call = std::thread::spawn(move || service.get_server_capabilities().map(drop));
        eventually("a warning", || is_logged(&format!("{url} has not answered yet")));
        assert!(!call.is_finished());

        let server = FakeServer::new();
        let evil = "done\r\nERROR forged\u{1b}[2J\u{7}";
        let made = json!({"session_id": "session-1", "info_message": evil, "warning_message": evil});
        server.always("/api/v1/create_session", Act::json(made));
        let service = server.in_memory().build().unwrap();
        let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
        let paused =
            json!({"type": "try_again", "queue_state": "paused_capacity", "queue_state_reason": evil});
        server.next("/api/v1/retrieve_future", Act::json(paused));
        let noted =
            Act::json(json!({"type": "optim_step"})).with_header("x-deprecation-note", "old\u{1b}[1m");
        server.next("/api/v1/retrieve_future", noted);
        training.optim_step(AdamParams::default()).wait().unwrap();
        assert!(is_logged("INFO the server says: done ERROR forged"), "{}", LOGGED.lock().unwrap());
        assert!(is_logged("WARN the server says: done ERROR forged"));
        for line in LOGGED.lock().unwrap().lines() {
            assert!(!line.contains(char::is_control) && !line.starts_with("ERROR"), "{line:?}");
        }
        // The client warns once if it will send the key unencrypted to another machine.
        for (url, warned) in
            [("http://server.invalid", 1), ("https://server.invalid", 0), ("http://localhost:1", 0)]
        {
            LOGGED.lock().unwrap().clear();
            drop(client(url.into()));
            assert_eq!(LOGGED.lock().unwrap().matches("unencrypted").count(), warned, "{url}");
        }
    });
}

#[test]
fn the_error_of_a_poisoned_client_has_no_control_characters() {
    let (server, _service, training) = training();
    let evil = "\u{1b}[31mdown\r\nfor maintenance";
    server.always("/api/v1/optim_step", Act::status(403, json!({"detail": evil}).to_string()));
    server.next("/api/v1/optim_step", Act::Truncate(answer("{}")));
    // The answer breaks off: the client does not know if the server accepted this step, and is poisoned.
    training.optim_step(AdamParams::default()).wait().unwrap_err();
    let error = training.optim_step(AdamParams::default()).wait().unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Poisoned, "{error:?}");
    for text in [error.to_string(), format!("{error:?}"), error.cause().unwrap().message().to_string()] {
        assert!(!text.contains(char::is_control) && text.contains("down for maintenance"), "{text}");
    }
}
