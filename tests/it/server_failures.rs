//! Servers that are slow, send malformed responses or are unreachable; clients that are closed with work in flight.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tinkex::testing::{Act, FakeServer, VirtualClock};
use tinkex::types::{AdamParams, Datum, LossFn, ModelInput, SamplingParams};
use tinkex::{CloseStatus, ErrorKind, Phase, Sent, ServiceClient};

use crate::util::{HOUR, TEST_TIMEOUT, alone, client_threads, datum, eventually};

#[test]
fn an_unreachable_server_is_an_error_with_its_url_within_the_connect_timeout() {
    // The listener is dropped in this statement, so that no process listens on its port.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let service = ServiceClient::builder()
        .api_key("tml-x")
        .base_url(&url)
        .timeouts(|timeouts| timeouts.connect = Duration::from_millis(300))
        .build()
        .unwrap();
    for error in [
        service.get_server_capabilities().unwrap_err(),
        service.create_lora_training_client("m", Default::default()).unwrap_err(),
        service.create_sampling_client("m").unwrap_err(),
    ] {
        assert!(error.is_connection() && error.is_retryable(), "{error}");
        assert!(error.to_string().contains(&url), "{error}");
        assert!(error.elapsed().unwrap() < TEST_TIMEOUT, "{error}");
    }
}

#[test]
fn an_unknown_host_is_an_error_that_names_it() {
    let url = "http://no-such-host.invalid";
    let service = ServiceClient::builder()
        .api_key("tml-x")
        .base_url(url)
        .timeouts(|timeouts| timeouts.connect = Duration::from_millis(300))
        .build()
        .unwrap();
    let error = service.get_server_capabilities().unwrap_err();
    assert!(error.to_string().contains(url), "{error}");
    // Without an address no request was sent, so that the error is retryable.
    let kinds = [ErrorKind::Connection { sent: Sent::No }, ErrorKind::Timeout(Phase::Resolve)];
    assert!(kinds.contains(error.kind()) && error.is_retryable(), "{error:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn running_out_of_file_descriptors_poisons_no_client() {
    alone("server_failures::running_out_of_file_descriptors_poisons_no_client", || {
        let id = std::process::id().to_string();
        let limited = std::process::Command::new("prlimit").args(["--pid", &id, "--nofile=128:128"]).status();
        assert!(limited.unwrap().success());
        let server = FakeServer::new();
        let listening = server.listen().unwrap();
        let n_sockets = || {
            let files = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
            let targets = files.filter_map(|it| std::fs::read_link(it.path()).ok());
            targets.filter(|it| it.to_string_lossy().starts_with("socket:")).count()
        };
        let before = n_sockets();
        let service =
            listening.client().timeouts(|timeouts| timeouts.submit = Duration::from_secs(2)).build().unwrap();
        // Let the server close each connection, so that the next request needs a new socket.
        for path in ["client/config", "create_session", "create_model", "get_info", "retrieve_future"] {
            let close = |answer| Act::Answer(answer).with_header("connection", "close");
            server.always_altered(&format!("/api/v1/{path}"), close);
        }
        let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
        // A connection that is closed later would free descriptors for a new one.
        eventually("all connections are closed", || n_sockets() == before);
        let mut files: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
        let error = training.optim_step(AdamParams::default()).wait().unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Connection { sent: Sent::No }, "{error:?}");
        assert!(error.is_retryable() && error.to_string().contains("os error 24"), "{error}");
        files.clear();
        training.optim_step(AdamParams::default()).wait().unwrap();
        assert_eq!(server.requests_to("/api/v1/optim_step").len(), 1);
    });
}

#[test]
fn when_the_server_dies_every_waiting_operation_ends_with_an_error_and_no_thread_stays() {
    alone(
        "server_failures::when_the_server_dies_every_waiting_operation_ends_with_an_error_and_no_thread_stays",
        || {
            let server = FakeServer::new();
            let listening = server.listen().unwrap();
            let ms = Duration::from_millis;
            let service = listening.client().timeouts(|timeouts| {
                // Samples are retried for the whole time `operation`, so that this test takes 15 s.
                (timeouts.silence, timeouts.operation, timeouts.finish) = (ms(200), ms(15_000), ms(1000));
            });
            let service = service.build().unwrap();
            let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
            let sampler = service.create_sampling_client("fake/model").unwrap();
            server.always("/api/v1/retrieve_future", Act::Stall);
            let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
            let steps: Vec<_> = (0..5).map(|_| training.optim_step(AdamParams::default())).collect();
            let passes: Vec<_> =
                (0..5).map(|_| training.forward_backward(vec![datum()], LossFn::CrossEntropy)).collect();
            let samples: Vec<_> =
                (0..20).map(|_| sampler.sample(&ModelInput::from_ints([1]), 1, &params)).collect();
            eventually("everything was accepted", || {
                server.requests_to("/api/v1/retrieve_future").len() >= 31
            });
            drop(listening);
            for step in steps {
                assert!(step.wait().unwrap_err().is_retryable());
            }
            for pass in passes {
                assert!(pass.wait().unwrap_err().is_retryable());
            }
            for sample in samples {
                assert!(sample.wait().unwrap_err().is_retryable());
            }
            let started = Instant::now();
            // `close` reports that its request failed, but closes the client.
            assert!(service.close(CloseStatus::Errored).is_err());
            drop((training, sampler, service));
            assert!(started.elapsed() < TEST_TIMEOUT, "{:?}", started.elapsed());
            eventually("no thread stays", || client_threads().is_empty());
        },
    );
}

#[test]
fn a_result_of_more_than_ten_megabytes_arrives_whole() {
    let server = FakeServer::new();
    let listening = server.listen().unwrap();
    let service = listening.client().build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    let n = 1_500_000;
    let logprobs = vec![-0.12345f32; n];
    let result = json!({"loss_fn_output_type": "x", "metrics": {"loss:sum": 1},
        "loss_fn_outputs": [{"logprobs": {"data": logprobs, "dtype": "float32", "shape": [n]}}]});
    let body = result.to_string();
    assert!(body.len() > 12_000_000);
    server.next("/api/v1/retrieve_future", Act::status(200, body));
    // The client accepts a larger result if the pass has more targets. So send one target for each log-probability of
    // the result.
    let data = vec![Datum::cross_entropy(&[1], &vec![1; n])];
    let output = training.forward(data, LossFn::CrossEntropy).wait().unwrap();
    assert_eq!(output.logprobs(0).unwrap(), &logprobs[..]);
}

#[test]
fn failed_submissions_are_retried_with_the_same_idempotency_key() {
    let server = FakeServer::new();
    let listening = server.listen().unwrap();
    // The wait for the stalled request must be short, but a normal response must arrive in time on a busy machine.
    let service =
        listening.client().timeouts(|timeouts| timeouts.exchange = Duration::from_secs(2)).build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    let path = "/api/v1/optim_step";
    server.next(path, Act::Reset);
    server.next(path, Act::Stall);
    server.next(path, Act::Garbage("this is not HTTP\r\n\r\n".into()));
    server.next(path, Act::status(503, "busy").with_header("retry-after-ms", "1"));
    training.optim_step(AdamParams::default()).wait().unwrap();
    let seen = server.requests_to(path);
    assert_eq!(seen.len(), 5);
    let keys: Vec<_> = seen.iter().map(|it| it.header("x-idempotency-key").unwrap()).collect();
    assert!(keys.iter().all(|it| *it == keys[0]), "{keys:?}");
    let counts: Vec<_> = seen.iter().map(|it| it.header("x-stainless-retry-count").unwrap()).collect();
    assert_eq!(counts, ["0", "1", "2", "3", "4"]);
    let bodies: Vec<_> = seen.iter().map(|it| &it.body).collect();
    assert!(bodies.iter().all(|it| *it == bodies[0]));
}

#[test]
fn a_slow_but_steady_response_is_read_to_its_end() {
    let server = FakeServer::new();
    let listening = server.listen().unwrap();
    let service = listening.client().build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    let Act::Answer(answer) = Act::json(json!({"metrics": {"a": 1.5}})) else { unreachable!() };
    server.next("/api/v1/retrieve_future", Act::Drip(answer, Duration::from_millis(5)));
    assert_eq!(training.optim_step(AdamParams::default()).wait().unwrap().metrics["a"], 1.5);
}

#[test]
fn an_expired_token_is_renewed_and_the_request_replayed_once() {
    let server = FakeServer::new();
    server.always("/api/v1/client/config", Act::json(json!({"pjwt_auth_enabled": true})));
    server.next("/api/v1/auth/token", Act::json(json!({"jwt": "eyJ.first"})));
    server.next("/api/v1/auth/token", Act::json(json!({"jwt": "eyJ.second"})));
    let rejected = Act::status(401, "{}").with_header("www-authenticate", "Bearer error=\"invalid_token\"");
    server.next("/api/v1/create_model", rejected);
    let service = server.in_memory().build().unwrap();
    service.create_lora_training_client("fake/model", Default::default()).unwrap();
    let keys = |path: &str| -> Vec<String> {
        server.requests_to(path).iter().map(|it| it.header("x-api-key").unwrap().to_string()).collect()
    };
    assert_eq!(keys("/api/v1/client/config"), ["tml-test"]);
    assert_eq!(keys("/api/v1/auth/token"), ["tml-test", "tml-test"]);
    assert_eq!(keys("/api/v1/create_session"), ["eyJ.first"]);
    assert_eq!(keys("/api/v1/create_model"), ["eyJ.first", "eyJ.second"]);
    let seen = server.requests_to("/api/v1/create_model");
    assert_eq!(seen[0].header("x-idempotency-key"), seen[1].header("x-idempotency-key"));
    assert_eq!(seen[1].header("x-stainless-retry-count"), Some("0"));
}

#[test]
fn a_server_without_create_from_checkpoint_gets_three_requests_instead() {
    let server = FakeServer::new();
    let refused = Act::status(422, r#"{"detail":[{"loc":["body","model_id"],"msg":"Field required"}]}"#);
    server.next("/api/v1/load_weights", refused);
    let info = json!({"base_model": "fake/model", "is_lora": true, "lora_rank": 7, "train_mlp": false});
    server.next("/api/v1/weights_info", Act::json(info));
    let service = server.in_memory().build().unwrap();
    let training = service.create_training_client_from_state_with_optimizer("tinker://r/weights/x").unwrap();
    let made = server.requests_to("/api/v1/create_model")[0].json().unwrap();
    assert_eq!((&made["lora_config"]["rank"], &made["lora_config"]["train_mlp"]), (&json!(7), &json!(false)));
    // The refused `load_weights` asked for a new model with `model_seq_id` 0. So `create_model` uses 1.
    let numbers = [&server.requests_to("/api/v1/load_weights")[0].json().unwrap(), &made]
        .map(|it| it["model_seq_id"].clone());
    assert_eq!(numbers, [0, 1]);
    let loaded = server.requests_to("/api/v1/load_weights")[1].json().unwrap();
    assert_eq!((&loaded["seq_id"], &loaded["optimizer"]), (&json!(1), &json!(true)));
    training.optim_step(AdamParams::default()).wait().unwrap();
    assert_eq!(server.requests_to("/api/v1/optim_step")[0].json().unwrap()["seq_id"], 2);
}

#[test]
fn a_credential_does_not_follow_a_redirect() {
    let elsewhere = FakeServer::new();
    let other = elsewhere.listen().unwrap();
    let server = FakeServer::new();
    let listening = server.listen().unwrap();
    let path = "/api/v1/get_server_capabilities";
    server.next(path, Act::status(302, "").with_header("location", &format!("{}{path}", other.url())));
    let service = listening.client().build().unwrap();
    let error = service.get_server_capabilities().unwrap_err();
    assert_eq!(error.http_status(), Some(302));
    assert!(elsewhere.requests().is_empty());
}

#[test]
fn a_sample_refused_with_410_is_not_submitted_again() {
    let server = FakeServer::new();
    let service = server.in_memory().build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    server.always("/api/v1/asample", Act::status(410, r#"{"detail":"the session is finished"}"#));
    let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
    let error = sampler.sample(&ModelInput::from_ints([1]), 1, &params).wait().unwrap_err();
    assert_eq!(error.http_status(), Some(410));
    assert_eq!(server.requests_to("/api/v1/asample").len(), 1);
}

#[test]
fn a_sample_on_a_busy_server_ends_at_its_deadline() {
    let server = FakeServer::new();
    let clock = VirtualClock::new();
    let service = server
        .in_memory_at(clock)
        .timeouts(|timeouts| timeouts.operation = Duration::from_secs(60))
        .build()
        .unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    server.always("/api/v1/asample", Act::status(429, "too many"));
    let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
    let error = sampler.sample(&ModelInput::from_ints([1]), 1, &params).wait().unwrap_err();
    assert!(error.is_retryable() && error.elapsed().unwrap() <= Duration::from_secs(61), "{error:?}");
}

#[test]
fn dropping_everything_while_the_server_hangs_leaves_no_thread() {
    alone("server_failures::dropping_everything_while_the_server_hangs_leaves_no_thread", || {
        let server = FakeServer::new();
        let listening = server.listen().unwrap();
        // During the test no request times out and no idle thread ends: only the drop can end the threads.
        let service = listening
            .client()
            .timeouts(|timeouts| timeouts.exchange = HOUR)
            .threads(|threads| threads.idle = HOUR);
        let service = service.build().unwrap();
        let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
        server.always("/api/v1/optim_step", Act::Stall);
        drop(training.optim_step(AdamParams::default()));
        eventually("the request hangs", || !server.requests_to("/api/v1/optim_step").is_empty());
        let started = Instant::now();
        drop(training);
        drop(service);
        assert!(started.elapsed() < TEST_TIMEOUT, "{:?}", started.elapsed());
        eventually("no thread stays", || client_threads().is_empty());
    });
}

/// Serves one connection of a fake proxy. On connection 0, answers every request with a 400 without a body, which
/// means that the proxy dropped the request (PROTOCOL §1.10), and counts it in `n_dropped`. On other connections,
/// answers with a valid result.
fn proxy_connection(stream: TcpStream, number: usize, n_dropped: &AtomicUsize) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut out = stream;
    loop {
        let (mut length, mut line) = (0, String::new());
        while reader.read_line(&mut line)? != 0 && line != "\r\n" {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            line.clear();
        }
        if line.is_empty() {
            return Ok(());
        }
        reader.read_exact(&mut vec![0; length])?;
        let (status, body) = if number == 0 {
            n_dropped.fetch_add(1, Ordering::Relaxed);
            (400, "")
        } else {
            (200, r#"{"supported_models":[{"model_name":"m"}]}"#)
        };
        write!(out, "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len())?;
    }
}

#[test]
fn a_connection_on_which_a_proxy_drops_requests_is_not_used_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let n_dropped = Arc::new(AtomicUsize::new(0));
    let counter = n_dropped.clone();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().flatten().enumerate() {
            let counter = counter.clone();
            std::thread::spawn(move || proxy_connection(stream, number, &counter));
        }
    });
    let service = ServiceClient::builder().without_environment().api_key("tml-x").base_url(&url);
    let service = service.build().unwrap();
    assert_eq!(service.get_server_capabilities().unwrap().supported_models.len(), 1);
    assert_eq!(n_dropped.load(Ordering::Relaxed), 1);
}
