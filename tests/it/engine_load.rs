//! The engine under many sessions and many connections: its memory stays flat, and every client is answered.

#![expect(clippy::print_stdout, reason = "the figures are worth reading, not only their limits")]

use std::time::Duration;

use serde_json::{Value, json};
use tinkex::local::Options;

use crate::util::engine::{Client, pass, sample, step};
use crate::util::memory::{kilobytes, max_connections, raise_max_files};
use crate::util::raw_http::Connection;
use crate::util::{HOUR, alone_with_figures, eventually};

/// Number of sessions, unless `TINKEX_LOAD_SESSIONS` is another, and of those after which the memory must stay as it is.
const SESSIONS: usize = 5000;
const WARM_UP: usize = 1000;
/// Number of sessions that are open at the same time.
const WAVE: usize = 250;
/// Growth of the memory between `WARM_UP` and `SESSIONS` that counts as none, in kB. The results of sessions that have
/// ended are kept for two minutes, which is longer than the test.
const FLAT: usize = 16 << 10;

/// Opens a session and uses it. Some of the sessions train a model, some sample.
fn use_session(client: &Client, i: usize) -> String {
    let body = json!({"tags": [], "type": "create_session", "display_name": format!("session {i}"),
                      "user_metadata": {"team": "red"}});
    let (status, made) = client.post("create_session", &body);
    assert_eq!(status, 200, "{made}");
    let session = made["session_id"].as_str().unwrap().to_string();
    if i.is_multiple_of(20) {
        let lora = json!({"rank": 4, "seed": 1});
        let body = json!({"session_id": session, "model_seq_id": 0, "base_model": "tinkex/nano", "lora_config": lora});
        let model = client.run("create_model", &body);
        let model = model["model_id"].as_str().unwrap();
        client.run("forward_backward", &pass(model, 1, "forward_backward_input"));
        client.run("save_weights_for_sampler", &json!({"model_id": model, "seq_id": 2}));
        // Waits for a request that never comes.
        client.submit("optim_step", &step(model, 4));
    }
    if i.is_multiple_of(10) {
        let body = json!({"session_id": session, "sampling_session_seq_id": 7, "base_model": "tinkex/nano"});
        let (status, made) = client.post("create_sampling_session", &body);
        assert_eq!(status, 200, "{made}");
        let sampler = made["sampling_session_id"].as_str().unwrap();
        client.run("asample", &sample(sampler, 0, json!({"max_tokens": 2, "seed": 1})));
    }
    session
}

/// Number of sessions that have not ended, at most 200.
fn active(client: &Client) -> usize {
    let (status, found) =
        client.post("sessions/search", &json!({"statuses": [{"type": "active"}], "limit": 200}));
    assert_eq!(status, 200, "{found}");
    found["sessions"].as_array().unwrap().len()
}

/// Opens sessions in waves; `end` ends those of a wave, whose ids it gets.
fn assert_flat(client: &Client, end: impl Fn(Vec<String>)) {
    let sessions = std::env::var("TINKEX_LOAD_SESSIONS").map_or(SESSIONS, |it| it.parse().unwrap());
    let (mut after_warm_up, mut made) = (0, 0);
    while made < sessions {
        end((0..WAVE).map(|i| use_session(client, made + i)).collect());
        made += WAVE;
        if made == WARM_UP {
            after_warm_up = kilobytes("VmRSS");
        }
        if made.is_multiple_of(WARM_UP.max(sessions / 20)) {
            println!("engine_load: {} kB after {made} sessions", kilobytes("VmRSS"));
        }
    }
    let after_all = kilobytes("VmRSS");
    assert!(after_all < after_warm_up + FLAT, "{after_warm_up} kB grew to {after_all} kB");
    let (_, listed) = client.get("sessions?limit=1");
    assert!(
        listed["cursor"]["total_count"].as_u64().unwrap() < 1100,
        "too many sessions are listed: {listed}"
    );
}

#[test]
fn finished_sessions_leave_no_memory_behind() {
    alone_with_figures("engine_load::finished_sessions_leave_no_memory_behind", || {
        let client = Client::with(Options { session_timeout: HOUR, ..Options::default() });
        assert_flat(&client, |sessions| {
            for session in sessions {
                let body = json!({"reason": {"type": "success"}});
                let (status, answer) = client.post(&format!("sessions/{session}/finish"), &body);
                assert_eq!(status, 200, "{answer}");
            }
            assert_eq!(active(&client), 1, "the first session of the client");
        });
    });
}

#[test]
fn sessions_that_go_silent_leave_no_memory_behind() {
    alone_with_figures("engine_load::sessions_that_go_silent_leave_no_memory_behind", || {
        let quick = Duration::from_secs(1);
        let options = Options { session_timeout: quick, pause_after: quick / 2, ..Options::default() };
        let client = Client::with(options);
        assert_flat(&client, |_| eventually("all sessions are ended", || active(&client) == 0));
    });
}

/// Trains a new model for a step and samples from it.
fn train_and_sample(client: &Client, number: u64) -> Value {
    let model = client.model(number);
    let losses = client.losses(&model, 1, 2);
    let sampler = client.run("save_weights_for_sampler", &json!({"model_id": model, "seq_id": 5}));
    let sampler = sampler["sampling_session_id"].as_str().unwrap();
    let sampled = client.sample(sampler, 0, json!({"max_tokens": 8, "seed": 3}));
    json!({"losses": losses, "sample": sampled["sequences"]})
}

#[test]
fn idle_connections_cost_little_and_are_answered_when_they_ask() {
    const WANTED: usize = 2000;
    /// Largest memory of an idle connection, in kB: both ends of it, with the buffers of the library and of this test.
    const MOST: usize = 32;
    alone_with_figures("engine_load::idle_connections_cost_little_and_are_answered_when_they_ask", || {
        raise_max_files();
        let n = max_connections(WANTED);
        if n < WANTED {
            println!("engine_load: the system allows only {n} connections instead of {WANTED}");
        }
        let client = Client::with(Options { idle_timeout: HOUR, ..Options::default() });
        let expected = train_and_sample(&client, 0);
        let before = kilobytes("VmRSS");
        const REQUEST: &[u8] = b"GET /api/v1/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let ask = |connection: &mut Connection, bytes: &[u8]| {
            assert!(connection.send(bytes));
            let answer = connection.response(false).unwrap().expect("an answer");
            assert_eq!(answer.status, 200, "{answer:?}");
        };
        let mut connections: Vec<Connection> = (0..n).map(|_| Connection::new(&client.server)).collect();
        for (i, connection) in connections.iter_mut().enumerate() {
            match i % 3 {
                0 => ask(connection, REQUEST),
                // The other part follows later.
                1 => assert!(connection.send(&REQUEST[..20])),
                _ => {}
            }
        }
        assert_eq!(train_and_sample(&client, 1), expected, "beside idle connections");
        let each = kilobytes("VmRSS").saturating_sub(before) / n.max(1);
        println!("engine_load: an idle connection takes {each} kB, both of its ends");
        assert!(each < MOST, "an idle connection takes {each} kB");
        for (i, connection) in connections.iter_mut().enumerate() {
            ask(connection, if i % 3 == 1 { &REQUEST[20..] } else { REQUEST });
        }
        drop(connections);
        assert_eq!(train_and_sample(&client, 2), expected, "after idle connections");
    });
}
