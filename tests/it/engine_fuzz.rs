//! A fuzzer for the engine: sends damaged requests, and checks every answer.
//!
//! The corpus has a valid request for each endpoint. A request is damaged in its body (bytes, JSON, protobuf, zstd), in its
//! address, in its headers, or in what says where it ends. Whatever comes, these rules must hold:
//! - an answer is well-formed HTTP; a connection is closed without one only if the request breaks the rules of HTTP;
//! - no status is above 499, except 503 while the engine is busy, and no request hangs;
//! - the body of a refusal is JSON of the documented form;
//! - a connection goes on after an answer, unless the answer says that it is closed;
//! - what was accepted ends, and its failures are those of the client, not of the engine;
//! - nothing panics, no thread ends, and a valid program computes the same numbers as before.
//!
//! ```text
//! TINKEX_FUZZ_REQUESTS=100000 TINKEX_FUZZ_SEED=7 cargo test --features local,testing --test it engine_fuzz
//! ```
//! A failure names the seed, the round and the bytes of the request. `TINKEX_FUZZ_ROUND` runs only one round.

mod bytes;
mod corpus;
mod damage;
mod json;
mod protobuf;
mod zstd;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::{Value, json};
use tinkex::local::Options;

use crate::util::engine::{Client, pass, step};
use crate::util::raw_http::{Connection, Response};
use crate::util::{TEST_TIMEOUT, alone_with_figures};

use self::corpus::{Objects, create_model};
use self::damage::Sent;

/// Number of requests between two runs of the valid program. Objects are made anew for each round.
const ROUND: usize = 500;

/// Number of problems of one round that are reported together.
const MOST_PROBLEMS: usize = 20;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|it| it.parse().unwrap_or_else(|_| panic!("{name} is not a number: {it}")))
}

#[test]
fn no_request_whatever_its_bytes_breaks_the_engine() {
    alone_with_figures("engine_fuzz::no_request_whatever_its_bytes_breaks_the_engine", fuzz);
}

#[expect(clippy::print_stdout, reason = "a long run is judged by its numbers")]
fn fuzz() {
    let requests = setting("TINKEX_FUZZ_REQUESTS").unwrap_or(10_000) as usize;
    let seed = setting("TINKEX_FUZZ_SEED").unwrap_or(1);
    let rounds = match setting("TINKEX_FUZZ_ROUND") {
        Some(round) => round..round + 1,
        None => 0..requests.div_ceil(ROUND) as u64,
    };
    let panics = Panics::record();
    let client = Client::with(Options {
        long_poll: Duration::from_millis(20),
        max_models: 16,
        max_sessions: 64,
        max_disk_bytes: Some(512 << 20),
        ..Options::default()
    });
    let mut control = Control::new(&client);
    let threads = engine_threads();
    let (mut statuses, mut outcomes) = (BTreeMap::new(), (0, 0));
    for round in rounds {
        let mut fuzzer = Fuzzer::new(&client, seed, round);
        let problems: Vec<String> =
            (0..ROUND).filter_map(|_| fuzzer.send_one(&mut statuses).err()).take(MOST_PROBLEMS).collect();
        let found = format!("TINKEX_FUZZ_SEED={seed} TINKEX_FUZZ_ROUND={round}");
        assert!(problems.is_empty(), "{found}: {}", problems.join("\n\n"));
        let (succeeded, failed) = fuzzer.finish();
        outcomes = (outcomes.0 + succeeded, outcomes.1 + failed);
        control.check(round);
        panics.check(seed, round);
        assert_eq!(engine_threads(), threads, "threads after round {round} of seed {seed}");
    }
    let (succeeded, failed) = outcomes;
    let summary =
        format!("statuses {statuses:?}; of the accepted requests {succeeded} succeeded, {failed} failed");
    println!("engine_fuzz: {summary}");
    let of = |class: u16| statuses.iter().filter(|it| it.0 / 100 == class).map(|it| it.1).sum::<usize>();
    assert!(0 < of(2).min(of(4)).min(succeeded).min(failed), "too uniform to be a test: {summary}");
}

/// Names of the engine's threads, except those of the pool for blocking work, which come and go.
fn engine_threads() -> Vec<String> {
    let names = std::fs::read_dir("/proc/self/task").unwrap();
    let names = names.filter_map(|it| std::fs::read_to_string(it.ok()?.path().join("comm")).ok());
    let mut names: Vec<String> = names.filter(|it| !it.starts_with("tinkex-blocking")).collect();
    names.sort();
    names
}

/// The panics of all threads.
struct Panics(Arc<Mutex<Vec<String>>>);

impl Panics {
    fn record() -> Panics {
        let all: Arc<Mutex<Vec<String>>> = Arc::default();
        let (kept, before) = (all.clone(), std::panic::take_hook());
        std::panic::set_hook(Box::new(move |info| {
            kept.lock().unwrap().push(info.to_string());
            before(info);
        }));
        Panics(all)
    }

    fn check(&self, seed: u64, round: u64) {
        let all = self.0.lock().unwrap();
        assert!(all.is_empty(), "panics in round {round} of seed {seed}: {all:?}");
    }
}

/// A valid program, whose results must not depend on what other clients send.
struct Control<'a> {
    client: &'a Client,
    session: String,
    runs: u64,
    expected: Value,
}

impl<'a> Control<'a> {
    fn new(client: &'a Client) -> Self {
        let mut control = Control { client, session: client.session.clone(), runs: 0, expected: Value::Null };
        control.expected = control.run();
        control
    }

    fn check(&mut self, round: u64) {
        let found = self.run();
        assert_eq!(found, self.expected, "the valid program after round {round}");
    }

    /// Trains a new model for a step, saves it and samples from it.
    fn run(&mut self) -> Value {
        let (client, number) = (self.client, self.runs);
        self.runs += 1;
        let model = create_model(client, &self.session, number);
        let first = client.run("forward_backward", &pass(&model, 1, "forward_backward_input"));
        client.run("optim_step", &step(&model, 2));
        let second = client.run("forward_backward", &pass(&model, 3, "forward_backward_input"));
        client.run(
            "save_weights",
            &json!({"model_id": model, "seq_id": 4, "path": "control", "overwrite": true}),
        );
        let sampler = client.run("save_weights_for_sampler", &json!({"model_id": model, "seq_id": 5}));
        let sampler = sampler["sampling_session_id"].as_str().unwrap();
        let params = json!({"max_tokens": 12, "seed": 5, "temperature": 1.0});
        let sampled = client.sample(sampler, 0, params);
        client.run("unload_model", &json!({"model_id": model}));
        json!({"losses": [first["metrics"], second["metrics"]], "logprobs": second["loss_fn_outputs"],
               "sample": sampled["sequences"]})
    }
}

struct Fuzzer<'a> {
    client: &'a Client,
    rng: Rng,
    objects: Objects,
    /// Open for the next request if the answer to the last one did not say otherwise.
    connection: Option<Connection>,
    /// Requests that were accepted and may be pending.
    accepted: Vec<String>,
    /// Sessions that the requests created.
    sessions: Vec<String>,
}

impl<'a> Fuzzer<'a> {
    fn new(client: &'a Client, seed: u64, round: u64) -> Self {
        let objects = Objects::new(client);
        let sessions = vec![objects.session.clone()];
        let rng = Rng::with_seed(seed.wrapping_mul(1_000_003).wrapping_add(round));
        Fuzzer { client, rng, objects, connection: None, accepted: Vec::new(), sessions }
    }

    /// Sends a damaged request and checks the answer.
    fn send_one(&mut self, statuses: &mut BTreeMap<u16, usize>) -> Result<(), String> {
        let requests = self.objects.requests(&mut self.rng);
        let request = &requests[self.rng.usize(..requests.len())];
        let sent = damage::damage(&mut self.rng, request, self.client.server.api_key());
        let answers = self
            .answers(&sent)
            .and_then(|answers| answers.iter().try_for_each(|it| check(it, &sent)).map(|()| answers));
        let describe = |problem: String| {
            let bytes: String =
                sent.bytes.iter().take(6000).map(|it| it.escape_ascii().to_string()).collect();
            let (name, what, n) = (&request.target, sent.what, sent.bytes.len());
            format!("{problem}\n{} {name}, damaged: {what}; {n} bytes were sent:\n{bytes}", request.method)
        };
        for answer in answers.map_err(describe)? {
            *statuses.entry(answer.status).or_default() += 1;
            self.note(&answer);
        }
        Ok(())
    }

    /// Sends a request and returns all answers to it.
    fn answers(&mut self, sent: &Sent) -> Result<Vec<Response>, String> {
        let is_fresh = sent.half_closed || self.connection.is_none();
        let mut connection = match self.connection.take() {
            Some(it) if !is_fresh => it,
            _ => Connection::new(&self.client.server),
        };
        // The engine may answer and close the connection before it has read everything.
        connection.send(&sent.bytes);
        if sent.half_closed {
            connection.end_sending();
        }
        let mut answers: Vec<Response> = Vec::new();
        while answers.last().is_none_or(|it| !it.closes()) && (sent.half_closed || answers.is_empty()) {
            let Some(answer) = connection.response(sent.is_head)? else { break };
            answers.push(answer);
        }
        let is_closed = answers.last().is_some_and(Response::closes);
        match sent.answers {
            // An earlier answer may say that the connection is closed.
            Some(n) if answers.len() != n && !(is_closed && answers.len() < n && !answers.is_empty()) => {
                let on = if is_fresh { "a new" } else { "an open" };
                return Err(format!(
                    "{} answers instead of {n}, on {on} connection: {answers:?}",
                    answers.len()
                ));
            }
            _ => {}
        }
        if is_closed || sent.half_closed {
            connection.expect_end()?;
        } else if !answers.is_empty() {
            self.connection = Some(connection);
        }
        Ok(answers)
    }

    /// Remembers what an answer accepted or created.
    fn note(&mut self, answer: &Response) {
        let Ok(body) = serde_json::from_slice::<Value>(&answer.body) else { return };
        if answer.status != 200 {
            return;
        }
        self.objects.note(&body);
        let text = |name: &str| body[name].as_str().map(str::to_owned);
        if body["type"] == "create_session" {
            self.sessions.extend(text("session_id"));
        } else if body.get("type").is_none_or(|it| it != "try_again") {
            self.accepted.extend(text("request_id"));
        }
        if body.get("sample_sequence_ids").is_some() && self.rng.bool() {
            // Damaged samples may be long. Half of them is left to the end of the round, or to the engine.
            let _ = self.client.post("cancel_future", &json!({"request_id": body["request_id"]}));
        }
    }

    /// Ends the sessions of the round, and checks that everything that was accepted ends.
    /// Returns how many of the accepted requests succeeded, and how many failed.
    fn finish(self) -> (usize, usize) {
        let mut outcomes = (0, 0);
        let Fuzzer { client, accepted, sessions, .. } = self;
        for id in &accepted {
            client.post("cancel_future", &json!({"request_id": id}));
        }
        for session in sessions {
            let reason = json!({"reason": {"type": "success"}});
            let (status, answer) = client.post(&format!("sessions/{session}/finish"), &reason);
            assert!([200, 404].contains(&status), "{answer}");
        }
        let deadline = Instant::now() + TEST_TIMEOUT;
        for id in &accepted {
            let result = loop {
                let (status, result) = client.post("retrieve_future", &json!({"request_id": id}));
                assert!([200, 410].contains(&status), "{id}: {result}");
                if result["type"] != "try_again" {
                    break result;
                }
                assert!(Instant::now() < deadline, "{id} does not end: {result}");
            };
            assert_ne!(result["category"], "server", "{id}: {result}");
            let count = if result["category"] == "user" { &mut outcomes.1 } else { &mut outcomes.0 };
            *count += 1;
        }
        let (_, listed) = client.get("checkpoints?limit=1000");
        for checkpoint in listed["checkpoints"].as_array().unwrap() {
            let path = checkpoint["tinker_path"].as_str().unwrap().strip_prefix("tinker://").unwrap();
            let (run, name) = path.split_once('/').unwrap();
            let url = client.url(&format!("training_runs/{run}/checkpoints/{name}"));
            let request = client.agent.delete(url).header("X-API-Key", client.server.api_key());
            assert_eq!(request.call().unwrap().status(), 204, "{path}");
        }
        outcomes
    }
}

/// Checks one answer.
fn check(answer: &Response, sent: &Sent) -> Result<(), String> {
    let Response { status, body, .. } = answer;
    let shown = || format!("{status} {:?} {:?}", answer.headers, String::from_utf8_lossy(body));
    if 500 <= *status && *status != 503 {
        return Err(format!("an error of the engine: {}", shown()));
    }
    if sent.is_head || *status == 204 || *status == 302 {
        return Ok(());
    }
    if *status < 400 && answer.header("content-type") != Some("application/json") {
        return Ok(());
    }
    // The HTTP library refuses what is not HTTP without a body.
    if sent.answers.is_none() && body.is_empty() && answer.closes() && [400, 414, 431].contains(status) {
        return Ok(());
    }
    if answer.header("content-type") != Some("application/json") {
        return Err(format!("not JSON: {}", shown()));
    }
    let value: Value = serde_json::from_slice(body).map_err(|it| format!("{it}: {}", shown()))?;
    if *status < 400 {
        return Ok(());
    }
    let is_entry = |it: &Value| it["msg"].is_string() && it["loc"].is_array() && it["type"].is_string();
    let detail = &value["detail"];
    let is_list = detail.as_array().is_some_and(|it| !it.is_empty() && it.iter().all(is_entry));
    if detail.is_string() || is_list {
        Ok(())
    } else {
        Err(format!("not the form of a refusal: {}", shown()))
    }
}
