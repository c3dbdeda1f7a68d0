//! Fake servers that give recorded answers of SkyRL, an open-source server with the same API. `tests/python/skyrl.py`
//! made the recordings in `tests/data/skyrl`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use tinkex::testing::{Act, FakeServer, Seen};
use tinkex::transport::Answer;

/// Parses a recording: one JSON object for each line, which is one request with its answer.
pub(crate) fn lines(recorded: &str) -> Vec<Value> {
    recorded.lines().map(|it| serde_json::from_str(it).unwrap()).collect()
}

/// Makes the answer of a line. If `promise` is given, it replaces the request id in the answer.
pub(crate) fn act(line: &Value, promise: Option<&str>) -> Act {
    let status = u16::try_from(line["status"].as_u64().unwrap()).unwrap();
    let mut body = match line.get("base64") {
        Some(it) => STANDARD.decode(it.as_str().unwrap()).unwrap(),
        None => line["body"].as_str().unwrap().as_bytes().to_vec(),
    };
    if let Some(promise) = promise {
        let mut answer: Value = serde_json::from_slice(&body).unwrap();
        answer["request_id"] = json!(promise);
        body = answer.to_string().into();
    }
    let kind = line["type"].as_str().unwrap().to_string();
    // A 302 redirects to the archive of a checkpoint. Recordings of single verbs lack the address: use a constant.
    let somewhere = (status == 302).then_some("http://skyrl.test/download");
    let location = line["location"].as_str().or(somewhere).map(|it| ("location".to_string(), it.to_string()));
    let mut answer = Answer::new(status).with_header("content-type", kind).with_body(body);
    answer.headers.extend(location);
    Act::Answer(answer)
}

/// Starts a fake server that gives the answers of a recorded run. Also returns the set of requests that the server gets
/// but that were not recorded; the server answers them with 404.
///
/// Requests are equal if they have the same method, path and [`asks`]. Equal requests get the recorded answers in
/// order; the last answer is then repeated. Names that the client chooses, such as those of checkpoints, are not
/// compared, and the answers contain the recorded names.
pub(crate) fn replay(recorded: &str) -> (FakeServer, Arc<Mutex<BTreeSet<String>>>) {
    let mut answers: BTreeMap<String, VecDeque<Act>> = BTreeMap::new();
    for line in lines(recorded) {
        let path = line["path"].as_str().unwrap();
        let key = key(line["method"].as_str().unwrap(), path, &line["asks"]);
        answers.entry(key).or_default().push_back(act(&line, None));
    }
    let answers = Mutex::new(answers);
    let unknown = Arc::new(Mutex::new(BTreeSet::new()));
    let server = FakeServer::new();
    let noted = unknown.clone();
    server.script(move |seen| {
        let key = key(&seen.method, path(seen), &asks(seen));
        let mut answers = answers.lock().unwrap();
        let Some(queue) = answers.get_mut(&key) else {
            noted.lock().unwrap().insert(key);
            return Some(Act::status(404, r#"{"detail":"not recorded"}"#));
        };
        match queue.len() {
            1 => queue.front().cloned(),
            _ => queue.pop_front(),
        }
    });
    (server, unknown)
}

fn key(method: &str, path: &str, asks: &Value) -> String {
    if asks.is_null() { format!("{method} {path}") } else { format!("{method} {path} {asks}") }
}

/// Returns the path with its query. For billing, drops the query: it holds dates, which differ from the recorded ones.
fn path(seen: &Seen) -> &str {
    match seen.path.split_once('?') {
        Some((path, _)) if path.contains("/billing/") => path,
        _ => &seen.path,
    }
}

/// Extracts the part of a body that distinguishes requests to the same path. Must give the same value as the function
/// `what_is_asked` of `tests/python/skyrl.py`, which wrote the field `asks` of the recording.
fn asks(seen: &Seen) -> Value {
    let body = || seen.json().unwrap_or_default();
    match seen.path.trim_start_matches("/api/v1/") {
        "retrieve_future" => json!({"request_id": body()["request_id"]}),
        "save_weights" => json!({"model_id": body()["model_id"]}),
        "forward_backward" | "forward" => {
            const LOSSES: [&str; 6] = ["cross_entropy", "importance_sampling", "cispo", "ppo", "dro", "gspo"];
            let place = |name: &str| seen.body.windows(name.len()).position(|it| it == name.as_bytes());
            let loss = LOSSES.iter().filter_map(|name| Some((place(name)?, *name))).min();
            loss.map_or(Value::Null, |(_, name)| json!({"loss_fn": name}))
        }
        "asample" => {
            let mut wanted: Map<String, Value> = body().as_object().cloned().unwrap_or_default();
            for id in ["prompt", "sampling_session_id", "seq_id", "type"] {
                wanted.remove(id);
            }
            Value::Object(wanted)
        }
        _ => Value::Null,
    }
}
