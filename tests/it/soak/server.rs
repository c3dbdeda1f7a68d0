//! The fake server of the soak. It records every request, injects faults, and reports violations by the clients, such
//! as requests out of order or two different requests with one sequence id.
//!
//! It answers a long operation with a promise: a request id with which the client polls for the result.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fastrand::Rng;
use serde_json::{Value, json};
use tinkex::testing::{Act, FakeServer, Seen};
use tinkex::transport::Answer;

use super::chaos::Fault;
use super::request::{CHUNK, Kind, Request, Sample, Train, base_model};

/// The records ("books") of the server: requests, promises and faults. Clones share the state.
#[derive(Clone)]
pub(super) struct Books {
    state: Arc<Mutex<State>>,
}

struct State {
    rng: Rng,
    models: HashMap<String, Model>,
    /// Fingerprint and promise of each accepted `create_model` and sample, to recognize retries. The key is the session
    /// and the number of the model, or the sampler and the sequence id of the sample.
    made: HashMap<(String, u64), (u64, String)>,
    promises: HashMap<String, Promise>,
    /// Injected faults by operation.
    injected: HashMap<u32, Vec<Fault>>,
    /// Injected faults of requests that belong to no operation, by path.
    injected_at: HashMap<String, Vec<Fault>>,
    /// Operations for which a poll was answered with a paused queue.
    paused: HashSet<u32>,
    counts: Counts,
    violations: Vec<String>,
}

/// Totals of the server: requests, injected faults, recognized retries, and accepted requests.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) exchanges: u64,
    pub(super) faults: u64,
    pub(super) repeats: u64,
    pub(super) accepted: u64,
}

/// Training requests of one model.
#[derive(Default)]
struct Model {
    /// Accepted requests by sequence id.
    accepted: HashMap<u64, Accepted>,
    /// All sequence ids from 1 to this one are accepted.
    whole_up_to: u64,
    /// Accepted operations, with the index of the part.
    done: HashSet<(u32, usize)>,
    /// The last accepted operation of each thread that runs operations ([`THREADS`]), to check the order of its calls.
    last: HashMap<u32, u32>,
}

/// A training request that the server accepted; `print` is its fingerprint.
struct Accepted {
    request: Train,
    is_json: bool,
    print: u64,
    promise: String,
}

struct Promise {
    op: u32,
    result: Value,
    /// Number of polls that are still to be answered with `try_again`.
    not_yet: u32,
    /// True if the server answers the next poll with only the size of the result, provided that the client allows this.
    metadata: bool,
}

/// Number of threads that run operations. Operation `op` runs on thread `op % THREADS`.
pub(super) const THREADS: u32 = 16;

impl Books {
    pub(super) fn new(rng: Rng) -> Self {
        let state = State {
            rng,
            models: HashMap::new(),
            made: HashMap::new(),
            promises: HashMap::new(),
            injected: HashMap::new(),
            injected_at: HashMap::new(),
            paused: HashSet::new(),
            counts: Counts::default(),
            violations: Vec::new(),
        };
        Books { state: Arc::new(Mutex::new(state)) }
    }

    /// Makes the fake server answer its requests with [`act`](Self::act).
    pub(super) fn script(&self, server: &FakeServer) {
        let (books, scripted) = (self.clone(), server.clone());
        server.forget_requests();
        server.script(move |seen| Some(books.act(seen, &scripted)));
    }

    /// Faults injected into the requests of an operation, and into requests without an operation to the path of `url`.
    pub(super) fn injected(&self, op: u32, url: Option<&str>) -> Vec<Fault> {
        let path = url.and_then(|it| it.find("/api/").map(|at| &it[at..])).unwrap_or_default();
        let state = self.lock();
        let all = [state.injected.get(&op), state.injected_at.get(path)];
        all.into_iter().flatten().flatten().copied().collect()
    }

    /// True if a poll of the operation was answered with a paused queue.
    pub(super) fn was_paused(&self, op: u32) -> bool {
        self.lock().paused.contains(&op)
    }

    pub(super) fn counts(&self) -> Counts {
        self.lock().counts
    }

    /// Violations of the protocol by the clients.
    pub(super) fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Handles a request. At random, injects a fault.
    fn act(&self, seen: &Seen, server: &FakeServer) -> Act {
        let state = &mut *self.lock();
        state.counts.exchanges += 1;
        let Some(request) = Request::read(seen) else {
            state.violations.push(format!("an unreadable request: {} {:?}", seen.path, seen.body));
            return Act::status(422, r#"{"detail":"not a request of the soak"}"#);
        };
        let print = fingerprint(seen);
        let op = match &request {
            Request::Retrieve { promise, .. } => state.promises.get(promise).map(|it| it.op),
            other => other.op(),
        };
        let Some(fault) = Fault::roll(&mut state.rng).filter(|it| state.allows(*it, &request, seen)) else {
            return Act::Answer(state.handle(request, seen, print));
        };
        state.counts.faults += 1;
        match op {
            Some(op) => state.injected.entry(op).or_default().push(fault),
            None => state.injected_at.entry(seen.path.clone()).or_default().push(fault),
        }
        let answer = fault.is_done().then(|| state.handle(request, seen, print));
        fault.act(|| answer.unwrap_or_default(), &seen.path, server, &mut state.rng)
    }
}

impl State {
    /// True if the fault may be injected into this request.
    fn allows(&self, fault: Fault, request: &Request, seen: &Seen) -> bool {
        if matches!(fault, Fault::Failed(_)) {
            return matches!(request, Request::Retrieve { .. });
        }
        // After a final fault ([`Fault::is_final`]) in a request for flags, the client would use default flags and
        // split passes differently. So do not inject it.
        if seen.path.starts_with("/api/v1/client/") && fault.is_final() {
            return false;
        }
        // Do not refuse the repetition of an accepted request: no server does so.
        let accepted = match request {
            Request::Train(it) => {
                self.models.get(&it.model).is_some_and(|model| model.accepted.contains_key(&it.seq_id))
            }
            _ => false,
        };
        !(accepted && fault.is_refusal())
    }

    fn handle(&mut self, request: Request, seen: &Seen, print: u64) -> Answer {
        match request {
            Request::Train(it) => self.train(it, seen.json().is_some(), print),
            Request::CreateModel { session, number, op } => {
                let id = format!("model-{op}");
                self.models.entry(id.clone()).or_default();
                self.once((session, number), print, op, json!({"model_id": id, "type": "create_model"}))
            }
            Request::GetInfo { op } => {
                ok(json!({"model_id": format!("model-{op}"), "model_data": {"model_name": base_model(op)}}))
            }
            Request::CreateSampler { op } => ok(json!({"sampling_session_id": format!("sampler-{op}")})),
            Request::Sample(it) => {
                let result = sample(&it);
                self.once((it.sampler, it.seq_id), print, it.op, result)
            }
            Request::Retrieve { promise, allow_metadata } => self.retrieve(&promise, allow_metadata),
            Request::Other => match seen.path.as_str() {
                "/api/v1/client/config" => {
                    ok(json!({"pjwt_auth_enabled": false, "fwdbwd_max_chunk_len": CHUNK}))
                }
                "/api/v1/client/dynamic_config" => answer(404, json!({"detail": "Not Found"})),
                "/api/v1/create_session" => {
                    self.counts.accepted += 1;
                    ok(json!({"session_id": format!("session-{}", self.counts.accepted)}))
                }
                "/api/v1/get_server_capabilities" => {
                    ok(json!({"supported_models": [{"model_name": "soak"}]}))
                }
                _ => ok(json!({})),
            },
        }
    }

    fn train(&mut self, it: Train, is_json: bool, print: u64) -> Answer {
        let Some(model) = self.models.get_mut(&it.model) else {
            self.violations.push(format!("an unknown model: {it:?}"));
            return answer(404, json!({"detail": "no such model"}));
        };
        if let Some(known) = model.accepted.get(&it.seq_id) {
            let promise = known.promise.clone();
            if known.print != print {
                // While the client does not know whether the server reads protobuf or JSON, it may repeat a failed pass
                // in the other format. Any other difference is a violation.
                if known.request != it || known.is_json == is_json {
                    self.violations.push(format!("another request with an accepted id: {it:?}"));
                }
                return answer(409, json!({"detail": "another request has this id"}));
            }
            self.counts.repeats += 1;
            return ok(json!({"request_id": promise}));
        }
        let fault = model.accept(&it);
        if let Some(what) = fault {
            self.violations.push(format!("{what}: {it:?}, all ids up to {} are accepted", model.whole_up_to));
        }
        let promise = self.promise(it.op, result(&it));
        if let Some(model) = self.models.get_mut(&it.model) {
            let accepted = Accepted { request: it.clone(), is_json, print, promise: promise.clone() };
            model.accepted.insert(it.seq_id, accepted);
            while model.accepted.contains_key(&(model.whole_up_to + 1)) {
                model.whole_up_to += 1;
            }
        }
        ok(json!({"request_id": promise}))
    }

    /// Answers a request that has a number: the first request makes a promise, and repetitions get the same promise.
    fn once(&mut self, number: (String, u64), print: u64, op: u32, result: Value) -> Answer {
        let promise = match self.made.get(&number) {
            Some((known, promise)) => {
                let promise = promise.clone();
                if *known != print {
                    self.violations.push(format!("two requests with one number: {number:?}, operation {op}"));
                }
                self.counts.repeats += 1;
                promise
            }
            None => {
                let promise = self.promise(op, result);
                self.made.insert(number, (print, promise.clone()));
                promise
            }
        };
        ok(json!({"request_id": promise}))
    }

    /// Makes a promise, whose result is available after 0 to 3 further polls.
    fn promise(&mut self, op: u32, result: Value) -> String {
        self.counts.accepted += 1;
        let id = format!("promise-{}", self.counts.accepted);
        let not_yet = if self.rng.u32(..4) == 0 { self.rng.u32(1..4) } else { 0 };
        let metadata = self.rng.u32(..20) == 0;
        self.promises.insert(id.clone(), Promise { op, result, not_yet, metadata });
        id
    }

    fn retrieve(&mut self, id: &str, allow_metadata: bool) -> Answer {
        let Some(promise) = self.promises.get_mut(id) else {
            self.violations.push(format!("an unknown promise: {id}"));
            return answer(404, json!({"detail": "no such promise"}));
        };
        if 0 < promise.not_yet {
            promise.not_yet -= 1;
            let states = ["active", "paused_capacity", "paused_rate_limit", "something_new"];
            let state = states[self.rng.usize(..states.len())];
            if state.starts_with("paused") {
                self.paused.insert(promise.op);
            }
            let body = json!({"type": "try_again", "queue_state": state, "queue_state_reason": "soaking"});
            return answer(if self.rng.bool() { 200 } else { 408 }, body);
        }
        if promise.metadata && allow_metadata {
            promise.metadata = false;
            let size = promise.result.to_string().len();
            return ok(json!({"status": "complete_metadata", "response_payload_size": size}));
        }
        ok(promise.result.clone())
    }
}

impl Model {
    /// Accepts a request; returns a text if the request arrives out of order.
    fn accept(&mut self, it: &Train) -> Option<&'static str> {
        let first = it.seq_id.saturating_sub(it.part as u64);
        let others_are_there = (1..it.n_parts).all(|part| self.accepted.contains_key(&(first + part as u64)));
        let thread = it.op % THREADS;
        let last = self.last.insert(thread, it.op).unwrap_or(0);
        if self.whole_up_to + 1 < first || first == 0 {
            Some("a gap in the order")
        } else if !self.done.insert((it.op, it.part)) {
            Some("the same work with two ids")
        } else if it.op < last {
            Some("overtaken by a later call of its own thread")
        } else if it.part == 0 && !others_are_there {
            Some("the first part of a call came before the others")
        } else {
            None
        }
    }
}

/// Derives the result of a training request from the request, so that the caller can recognize the result of another
/// operation.
fn result(it: &Train) -> Value {
    match &it.kind {
        Kind::Step => json!({"metrics": {"op": it.op}}),
        Kind::Save { name, directory } => {
            json!({"path": format!("tinker://{}/{directory}/{name}", it.model)})
        }
        Kind::Pass { first, n } => {
            let datum = |i| json!({"logprobs": {"data": [it.op, i, 0], "dtype": "float32", "shape": [3]}});
            let outputs: Vec<Value> = (*first..first + n).map(datum).collect();
            json!({"loss_fn_output_type": "Soak", "loss_fn_outputs": outputs, "metrics": {"n:sum": n}})
        }
    }
}

/// Derives the result of a sample. The tokens of each sequence are the number of the operation and the index of the
/// sequence; the log-probabilities of the prompt are minus the number of the operation.
fn sample(it: &Sample) -> Value {
    let sequence = |i| json!({"stop_reason": "length", "tokens": [it.op, i], "logprobs": [-1.0, -1.0]});
    let sequences: Vec<Value> = (0..it.n_samples).map(sequence).collect();
    let logprobs: Vec<Value> =
        (0..it.n_prompt).map(|i| if i == 0 { Value::Null } else { json!(-f64::from(it.op)) }).collect();
    json!({"sequences": sequences, "prompt_logprobs": it.wants_logprobs.then_some(logprobs), "type": "sample"})
}

fn ok(value: Value) -> Answer {
    answer(200, value)
}

fn answer(status: u16, value: Value) -> Answer {
    Answer::new(status).with_header("content-type", "application/json").with_body(value.to_string())
}

/// Hash of path and body. A retry has the same hash.
fn fingerprint(seen: &Seen) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&seen.path, &seen.body).hash(&mut hasher);
    hasher.finish()
}
