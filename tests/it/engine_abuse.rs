//! Broken and malicious clients of the engine must not affect its other clients: access control, limits of connections
//! and of memory.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tinkex::local::{Options, Server};

use crate::util::engine::{Client, pass, step};
#[cfg(target_os = "linux")]
use crate::util::memory::{growth, max_connections};
use crate::util::raw_http::{Connection, Response, connect, post};
use crate::util::{HOUR, TEST_TIMEOUT, alone, eventually};

/// Reads the status of a response; 0 if the connection was closed without one.
fn status(stream: &mut TcpStream) -> u16 {
    let mut response = Vec::new();
    let mut part = [0; 1024];
    while !response.windows(2).any(|it| it == b"\r\n") {
        match stream.read(&mut part) {
            Ok(n) if 0 < n => response.extend_from_slice(&part[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("no response"),
            _ => return 0,
        }
    }
    let line = String::from_utf8_lossy(&response);
    line.split(' ').nth(1).unwrap().parse().unwrap()
}

/// Waits until the server closes a connection; `false` if it does not within `TEST_TIMEOUT`.
fn is_closed(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

/// Sends a GET request with `key` and `headers`, and returns the status.
fn get(server: &Server, key: &str, headers: &[&str]) -> u16 {
    let mut stream = connect(server);
    let mut head = format!("GET /api/v1/get_server_capabilities HTTP/1.1\r\nX-API-Key: {key}\r\n");
    headers.iter().for_each(|it| head.push_str(&format!("{it}\r\n")));
    stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
    status(&mut stream)
}

#[test]
fn requests_need_the_key_of_this_start_and_a_local_host_header() {
    let server = Server::start(Options { threads: 1, ..Options::default() }).unwrap();
    let other = Server::start(Options { threads: 1, ..Options::default() }).unwrap();
    assert_ne!(server.api_key(), other.api_key());
    assert!(server.api_key().starts_with("tml-") && 30 < server.api_key().len());
    let local = "Host: localhost:1234";
    for (key, expected) in [(server.api_key(), 200), (other.api_key(), 401), ("tml-local", 401), ("", 401)] {
        assert_eq!(get(&server, key, &[local]), expected, "{key:?}");
    }
    let key = server.api_key();
    for host in ["Host: 127.0.0.1", "Host: LOCALHOST", "Host: [::1]:80"] {
        assert_eq!(get(&server, key, &[host]), 200, "{host}");
    }
    assert_eq!(get(&server, key, &[local, "Origin: http://127.0.0.1:3000"]), 200);
    for foreign in ["Host: evil.example", "Host: evil.example:80", "Host: 127.0.0.1.evil.example"] {
        assert_eq!(get(&server, key, &[foreign]), 403, "{foreign}");
        assert_eq!(get(&server, key, &[local, foreign]), 403, "{foreign}");
    }
    assert_eq!(get(&server, key, &[]), 403, "without a Host header");
    for origin in ["Origin: http://evil.example", "Origin: null", "Origin: https://evil.example:443"] {
        assert_eq!(get(&server, key, &[local, origin]), 403, "{origin}");
    }
    let mut health = connect(&server);
    health.write_all(b"GET /api/v1/healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n").unwrap();
    assert_eq!(status(&mut health), 403, "the health check needs a local host too");

    let options = Options {
        api_key: Some("tml-mine".into()),
        allowed_hosts: vec!["engine.test".into()],
        threads: 1,
        ..Options::default()
    };
    let named = Server::start(options).unwrap();
    assert_eq!(get(&named, "tml-mine", &["Host: engine.test:8000", "Origin: https://engine.test"]), 200);
    assert_eq!(get(&named, "tml-mine", &["Host: other.test"]), 403);
}

#[test]
fn a_new_connection_replaces_the_one_that_has_been_idle_longest() {
    let server = Server::start(Options { threads: 1, max_connections: 4, ..Options::default() }).unwrap();
    let mut idle: Vec<TcpStream> = (0..12).map(|_| connect(&server)).collect();
    for stream in &mut idle {
        // Send half of a request head. The engine does not count it as a request, so the connection stays idle. The
        // write fails if the engine has closed the connection already.
        let _ = stream.write_all(b"GET /api/v1/healthz HTTP/1.1\r\n");
    }
    assert_eq!(get(&server, server.api_key(), &["Host: localhost"]), 200);
    let (gone, kept) = idle.split_at_mut(9);
    assert!(gone.iter_mut().all(is_closed));
    // The engine has closed only as many connections as needed: the last three are still served.
    for stream in kept {
        stream.write_all(b"Host: localhost\r\n\r\n").unwrap();
        assert_eq!(status(stream), 200);
    }
}

#[test]
fn a_waiting_connection_is_served_when_another_is_done() {
    let client = Client::with(Options { max_connections: 1, ..Options::default() });
    let request = b"GET /api/v1/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut streams: Vec<TcpStream> = (0..4).map(|_| connect(&client.server)).collect();
    // Send on the last connection first. The engine allows one connection: to make place for the next one, it may have
    // closed the earlier connections, because they were idle. Writes to these fail.
    for stream in streams.iter_mut().rev() {
        let _ = stream.write_all(request);
    }
    assert_eq!(status(&mut streams[3]), 200);
}

#[test]
fn idle_and_stalled_connections_are_closed() {
    let quick = Duration::from_secs(2);
    let client = Client::with(Options { idle_timeout: quick, stall_timeout: quick, ..Options::default() });
    let mut silent = connect(&client.server);
    let mut half = connect(&client.server);
    half.write_all(b"GET /api/v1/healthz HTTP/1.1\r\nHost: local").unwrap();
    let mut kept = connect(&client.server);
    kept.write_all(b"GET /api/v1/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    assert_eq!(status(&mut kept), 200);
    let mut body = connect(&client.server);
    let head = post("optim_step", client.server.api_key(), "Content-Length: 100\r\n");
    body.write_all(format!("{head}{{\"mod").as_bytes()).unwrap();
    assert_eq!(status(&mut body), 408);
    for stream in [&mut silent, &mut half, &mut kept, &mut body] {
        assert!(is_closed(stream));
    }
}

#[test]
fn a_client_that_does_not_read_its_responses_is_disconnected() {
    let client = Client::with(Options { stall_timeout: Duration::from_secs(2), ..Options::default() });
    let mut stream = connect(&client.server);
    // Thousands of unread responses fill all buffers between the engine and this client. Then the engine cannot write
    // for 2 s and closes the connection.
    let key = client.server.api_key();
    let request = format!(
        "GET /api/v1/get_server_capabilities HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\n\r\n"
    );
    let requests = request.repeat(1000);
    let deadline = Instant::now() + TEST_TIMEOUT;
    while stream.write_all(requests.as_bytes()).is_ok() {
        assert!(Instant::now() < deadline, "the engine keeps reading requests");
    }
}

/// Writes `part` up to `times` times, until the server stops reading.
fn write_repeatedly(stream: &mut TcpStream, part: &[u8], times: usize) {
    for _ in 0..times {
        if stream.write_all(part).is_err() {
            return;
        }
    }
}

/// A request whose result never comes: the engine waits for the model's request before it.
fn pending(client: &Client) -> String {
    let model = client.model(0);
    client.submit("forward_backward", &pass(&model, 2, "forward_backward_input"))
}

/// The bytes of a POST request with a body.
fn posted(client: &Client, path: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let head = post(path, client.server.api_key(), &format!("Content-Length: {}\r\n", body.len()));
    (head + &body).into_bytes()
}

/// The next answer, which has to come.
fn answer(connection: &mut Connection) -> Response {
    connection.response(false).unwrap().expect("an answer")
}

#[test]
fn a_client_that_closes_its_sending_side_is_answered() {
    let client = Client::with(Options { long_poll: HOUR, ..Options::default() });
    let key = client.server.api_key();
    let host = client.server.url().strip_prefix("http://").unwrap();
    let get =
        |path: &str| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nX-API-Key: {key}\r\n\r\n").into_bytes();
    // Two requests at once; the engine answers them on its threads for slow work.
    let two = get("/api/v1/sessions").repeat(2);
    // A wait for a result that does not come ends at once.
    let wait = posted(&client, "retrieve_future", &json!({"request_id": pending(&client)}));
    for (requests, answers) in [(two, 2), (wait, 1)] {
        let mut connection = Connection::new(&client.server);
        assert!(connection.send(&requests));
        connection.end_sending();
        for _ in 0..answers {
            let answer = answer(&mut connection);
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        connection.expect_end().unwrap();
    }
    // A large file that the client reads slowly arrives whole.
    let body = json!({"session_id": client.session, "model_seq_id": 1, "base_model": "tinkex/nano",
                      "lora_config": {"rank": 128}});
    let model = client.run("create_model", &body)["model_id"].as_str().unwrap().to_string();
    client.run("save_weights", &json!({"model_id": model, "seq_id": 1, "path": "large"}));
    let mut connection = Connection::new(&client.server);
    connection.send(&get(&format!("/api/v1/training_runs/{model}/checkpoints/weights/large/archive")));
    let location = answer(&mut connection).header("location").unwrap().to_string();
    let mut connection = Connection::new(&client.server);
    connection.send(&get(location.strip_prefix(client.server.url()).unwrap()));
    connection.end_sending();
    // The engine fills the buffers of the socket meanwhile.
    client.run("optim_step", &step(&model, 2));
    let archive = answer(&mut connection);
    assert!(archive.status == 200 && 8 << 20 < archive.body.len(), "{} bytes", archive.body.len());
}

#[test]
fn the_connection_of_a_dead_client_is_freed_while_it_waits_for_a_result() {
    let client = Client::with(Options { long_poll: HOUR, max_connections: 2, ..Options::default() });
    let wait = posted(&client, "retrieve_future", &json!({"request_id": pending(&client)}));
    for _ in 0..8 {
        let mut dead = Connection::new(&client.server);
        assert!(dead.send(&wait));
    }
    assert_eq!(get(&client.server, client.server.api_key(), &["Host: localhost"]), 200);
}

#[test]
fn an_answer_before_the_end_of_the_body_says_whether_the_connection_goes_on() {
    let client = Client::with(Options { stall_timeout: Duration::from_secs(2), ..Options::default() });
    let key = client.server.api_key();
    let body = [b' '; 5000];
    for (path, key, status) in [("session_heartbeat", "wrong", 401), ("unknown", "wrong", 401)] {
        // A whole body is discarded, and the connection can be used again.
        let mut connection = Connection::new(&client.server);
        let head = post(path, key, "Content-Length: 5000\r\n");
        for _ in 0..2 {
            connection.send(&[head.as_bytes(), &body].concat());
            let answer = answer(&mut connection);
            assert!(answer.status == status && !answer.closes(), "{answer:?}");
        }
        // Of a body that does not come, bytes would be taken for the next request.
        connection.send(head.as_bytes());
        let refused = answer(&mut connection);
        assert!(refused.status == status && refused.closes(), "{refused:?}");
        connection.expect_end().unwrap();
    }
    for (framing, status) in [
        ("Content-Length: 1000000000000\r\nExpect: 100-continue\r\n", 413),
        ("Content-Length: 1000000000000\r\n", 413),
        ("Content-Length: 5000\r\n", 408),
        ("Transfer-Encoding: chunked\r\n", 408),
    ] {
        let mut connection = Connection::new(&client.server);
        connection.send(post("session_heartbeat", key, framing).as_bytes());
        let refused = answer(&mut connection);
        assert!(refused.status == status && refused.closes(), "{framing}: {refused:?}");
    }
    // A request without a body to an endpoint that reads none.
    let mut connection = Connection::new(&client.server);
    for _ in 0..2 {
        connection.send(b"GET /api/v1/healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc");
        let answer = answer(&mut connection);
        assert!(answer.status == 200 && !answer.closes(), "{answer:?}");
    }
}

#[test]
fn every_refusal_has_the_form_of_the_protocol() {
    let client = Client::new();
    let key = client.server.api_key();
    let id = "a".repeat(5000);
    for (method, path, status) in [
        ("POST", "/api/v1/healthz", 405),
        ("DELETE", "/download/a/b", 405),
        ("GET", "/api/v1/asample", 405),
        ("GET", "/", 404),
        ("GET", "/download/a/b", 404),
        ("GET", "/download/a", 404),
        ("GET", "/download/%ff/b", 400),
        ("GET", "/api/v1/samplers/%ff", 400),
        ("GET", "/api/v1/sessions/%c3%28", 400),
        ("DELETE", "/api/v1/training_runs/a/checkpoints/weights/%ed%a0%80", 400),
        ("GET", "/api/v1/training_runs/..%2f..%2fetc/checkpoints", 404),
        ("GET", &format!("/api/v1/sessions/{id}"), 404),
        ("DELETE", &format!("/api/v1/training_runs/{id}/checkpoints/weights/{id}"), 400),
    ] {
        let mut connection = Connection::new(&client.server);
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\n\r\n");
        connection.send(head.as_bytes());
        let answer = answer(&mut connection);
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        assert!(body["detail"].as_str().is_some_and(|it| !it.is_empty()), "{method} {path}: {body}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn hostile_clients_cost_at_most_64_megabytes() {
    const MOST: usize = 64 << 10;
    alone("engine_abuse::hostile_clients_cost_at_most_64_megabytes", || {
        let quick = Duration::from_secs(3);
        let client =
            Client::with(Options { idle_timeout: quick * 4, stall_timeout: quick, ..Options::default() });
        let key = client.server.api_key().to_string();
        let model = client.model(0);
        client.run("forward_backward", &pass(&model, 1, "forward_backward_input"));
        let assert_alive = || {
            let body = json!({"session_id": client.session}).to_string();
            let mut stream = connect(&client.server);
            let head = post("session_heartbeat", &key, &format!("Content-Length: {}\r\n", body.len()));
            stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
            assert_eq!(status(&mut stream), 200);
        };
        let refused = |name: &str, expected: &[u16], found: u16| {
            // Status 0 means that no response was read: a client that still writes when the server closes may lose the
            // response.
            assert!(expected.contains(&found) || found == 0, "{name}: {found}");
        };

        let grown = growth(|| {
            std::thread::scope(|scope| {
                for i in 0..8 {
                    let (server, key) = (&client.server, &key);
                    scope.spawn(move || {
                        let mut stream = connect(server);
                        let spaces = [b' '; 64 << 10];
                        let has_length = i % 2 == 0;
                        let framing = if has_length {
                            "Content-Length: 104857600\r\n"
                        } else {
                            "Transfer-Encoding: chunked\r\n"
                        };
                        stream.write_all(post("forward_backward", key, framing).as_bytes()).unwrap();
                        if has_length {
                            write_repeatedly(&mut stream, &spaces, 1500);
                        } else {
                            let chunk = [b"10000\r\n".as_slice(), &spaces, b"\r\n"].concat();
                            write_repeatedly(&mut stream, &chunk, 1600);
                        }
                        refused("an endless body", &[413, 503, 408], status(&mut stream));
                    });
                }
            });
            assert_alive();
        });
        assert!(grown < MOST, "endless bodies: {grown} kB");

        let grown = growth(|| {
            // Each request announces a body of 16 MiB, the largest that the engine accepts for `forward_backward`. The
            // client sends less than that, and then stops.
            let mut streams: Vec<_> = (0..8).map(|_| connect(&client.server)).collect();
            for stream in &mut streams {
                stream
                    .write_all(post("forward_backward", &key, "Content-Length: 16777216\r\n").as_bytes())
                    .unwrap();
                stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
                write_repeatedly(stream, &[b' '; 64 << 10], 250);
                stream.set_write_timeout(Some(TEST_TIMEOUT)).unwrap();
                assert_alive();
            }
            streams.iter_mut().for_each(|it| refused("a body that stops", &[408, 503], status(it)));
        });
        assert!(grown < MOST, "bodies that stop: {grown} kB");

        let start = format!(
            r#"{{"model_id":"{model}","seq_id":2,"forward_backward_input":{{"loss_fn":"cross_entropy","data":[{{"model_input":{{"chunks":[{{"type":"encoded_text","tokens":[1"#
        );
        let end = r#"]}]},"loss_fn_inputs":{"target_tokens":{"data":[1],"dtype":"int64","shape":[1]}}}]}}"#;
        for (megabytes, expected) in [(120, [413]), (15, [413]), (3, [200])] {
            let grown = growth(|| {
                let part = ",1".repeat(32 << 10);
                let times = megabytes << 4;
                let length = start.len() + end.len() + part.len() * times;
                let mut stream = connect(&client.server);
                let framing = format!("Content-Length: {length}\r\nContent-Type: application/json\r\n");
                let head = post("forward_backward", &key, &framing);
                stream.write_all(head.as_bytes()).unwrap();
                stream.write_all(start.as_bytes()).unwrap();
                write_repeatedly(&mut stream, part.as_bytes(), times);
                write_repeatedly(&mut stream, end.as_bytes(), 1);
                refused("token ids", &expected, status(&mut stream));
                assert_alive();
            });
            assert!(grown < MOST, "{megabytes} MB of token ids: {grown} kB");
        }

        // 7 million empty data: each datum takes two bytes in the body, and much more memory when it is decoded.
        let grown = growth(|| {
            let data = [0x1a, 0].repeat(7 << 20);
            let mut stream = connect(&client.server);
            let framing =
                format!("Content-Length: {}\r\nContent-Type: application/x-protobuf\r\n", data.len());
            stream.write_all(post("forward_backward", &key, &framing).as_bytes()).unwrap();
            write_repeatedly(&mut stream, &data, 1);
            refused("empty data", &[422], status(&mut stream));
            assert_alive();
        });
        assert!(grown < MOST, "empty data: {grown} kB");

        let mut bomb = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
        std::io::copy(&mut std::io::repeat(0).take(1 << 30), &mut bomb).unwrap();
        let bomb = bomb.finish().unwrap();
        let grown = growth(|| {
            let mut stream = connect(&client.server);
            let framing = format!("Content-Length: {}\r\nContent-Encoding: zstd\r\n", bomb.len());
            stream.write_all(post("forward_backward", &key, &framing).as_bytes()).unwrap();
            stream.write_all(&bomb).unwrap();
            assert_eq!(status(&mut stream), 413);
        });
        assert!(grown < MOST, "a decompression bomb: {grown} kB");

        let mut streams = Vec::new();
        let grown = growth(|| {
            let name = "x".repeat(12 << 10);
            for i in 0..max_connections(2000) {
                let mut stream = connect(&client.server);
                let head = format!("POST /api/v1/asample HTTP/1.1\r\nHost: localhost\r\nX-Name: {name}");
                if i % 2 == 0 {
                    stream.write_all(head.as_bytes()).unwrap();
                }
                streams.push(stream);
                if i % 100 == 0 {
                    assert_alive();
                }
            }
            assert_alive();
        });
        assert!(grown < MOST, "unfinished request heads: {grown} kB");
        assert!(streams.iter_mut().all(is_closed));
        drop(streams);

        let result = client.run("forward_backward", &pass(&model, 3, "forward_backward_input"));
        assert!(result["metrics"].is_object(), "{result}");
        eventually("the engine serves requests", || client.get("get_server_capabilities").0 == 200);
    });
}

#[test]
fn unusable_options_are_refused_by_name() {
    type Change = fn(&mut Options);
    let table: [(Change, &str); 11] = [
        (|it| it.api_key = Some(String::new()), "api_key"),
        (|it| it.api_key = Some("a\nb".into()), "api_key"),
        (|it| it.data_dir = Some("".into()), "data_dir"),
        (|it| it.threads = 100_000, "threads"),
        (|it| it.max_connections = 0, "max_connections"),
        (|it| it.max_models = 0, "max_models"),
        (|it| it.max_sessions = 0, "max_sessions"),
        (|it| it.max_samplers = 0, "max_samplers"),
        (|it| it.max_waiting_requests = 0, "max_waiting_requests"),
        (|it| it.stall_timeout = Duration::ZERO, "stall_timeout"),
        (|it| it.idle_timeout = Duration::ZERO, "idle_timeout"),
    ];
    for (change, named) in table {
        let mut options = Options::default();
        change(&mut options);
        let error =
            Server::start(options).err().unwrap_or_else(|| panic!("the invalid `{named}` is accepted"));
        assert!(error.is_user_error() && error.to_string().contains(named), "{error}");
    }
}
