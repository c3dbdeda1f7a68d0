//! The recorded exchanges of the official SDK, reproduced: for every request of our verbs the crate is driven through
//! the same call against a server that answers as the recorded one did, and must send the same message.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::Value;

use super::create::{CreatedModel, CreatedSampler};
use super::{SamplingClient, ServiceClient, TrainingClient};
use crate::error::ErrorKind;
use crate::http::Answer;
use crate::session::Owner;
use crate::testing::{Act, FakeServer, Seen};
use crate::types::{AdamParams, LoraConfig, ModelInfo, SampleOptions, SaveStateOptions, Ttl};
use crate::wire::{json, train};

/// One recorded exchange.
struct Recorded {
    n: u64,
    method: String,
    path: String,
    request: Value,
    headers: Value,
    answer: Answer,
}

fn recordings(file: &str) -> Vec<Recorded> {
    let path = format!("{}/tests/data/wire/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).expect("the recordings");
    text.lines().map(|it| Recorded::read(serde_json::from_str(it).expect("a line of JSON"))).collect()
}

impl Recorded {
    fn read(line: Value) -> Self {
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_string();
        let headers = line["response_headers"].as_object().expect("headers");
        // The body is written anew here, and may then have another length.
        let headers = headers.iter().filter(|it| it.0 != "content-length");
        let headers = headers.map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_string()));
        Recorded {
            n: line["n"].as_u64().expect("a number"),
            method: text("method"),
            path: text("path"),
            request: line["request_body"].clone(),
            headers: line["request_headers"].clone(),
            answer: Answer {
                status: line["status"].as_u64().expect("a status") as u16,
                headers: headers.collect(),
                body: bytes(&line["response_body"]),
            },
        }
    }
}

/// A body as it was on the wire: protobuf stands beside its decoded form.
fn bytes(body: &Value) -> Bytes {
    match (body.get("_b64"), body) {
        (Some(text), _) => STANDARD.decode(text.as_str().expect("base64")).expect("base64").into(),
        (None, Value::String(text)) => text.clone().into(),
        (None, other) => other.to_string().into(),
    }
}

/// What a request says, whatever the order of its fields.
#[derive(Debug, PartialEq)]
enum Message {
    Nothing,
    Json(Value),
    Pass(Box<train::ForwardBackwardCall>),
}

impl Message {
    fn of(content_type: Option<&str>, body: &[u8]) -> Self {
        match content_type {
            Some("application/x-protobuf") => {
                Message::Pass(Box::new(train::decode_forward_backward_request(body).expect("a pass")))
            }
            _ if body.is_empty() || body == b"null" => Message::Nothing,
            _ => Message::Json(serde_json::from_slice(body).expect("JSON")),
        }
    }
}

/// The headers that servers read (PROTOCOL §1.5), apart from those whose value is each client's own.
const HEADERS: [&str; 9] = [
    "accept",
    "content-type",
    "content-encoding",
    "x-api-key",
    "x-sdk-version",
    "x-sdk-method",
    "x-tinker-request-type",
    "x-tinker-sampling-backpressure",
    "x-stainless-retry-count",
];

fn check(recorded: &Recorded, seen: &Seen) {
    let place = format!("exchange {} to {}", recorded.n, recorded.path);
    let header = |name: &str| recorded.headers[name].as_str();
    assert_eq!((&seen.method, &seen.path), (&recorded.method, &recorded.path), "{place}");
    for name in HEADERS {
        assert_eq!(seen.header(name), header(name), "{name} of {place}");
    }
    assert_eq!(seen.header("x-idempotency-key").is_some(), header("x-idempotency-key").is_some(), "{place}");
    let body = match seen.header("content-encoding") {
        Some("zstd") => zstd::stream::decode_all(&seen.body[..]).expect("zstd").into(),
        _ => seen.body.clone(),
    };
    let content_type = header("content-type");
    let expected = Message::of(content_type, &bytes(&recorded.request));
    assert_eq!(Message::of(content_type, &body), expected, "{place}");
}

/// A client in the state in which the official one was when it made a call.
struct Replay {
    server: FakeServer,
    service: ServiceClient,
    owner: Arc<Owner>,
}

impl Replay {
    fn new(recorded: &Recorded, all: &[Recorded]) -> Self {
        let server = FakeServer::new();
        for first in ["/api/v1/client/config", "/api/v1/client/dynamic_config", "/api/v1/create_session"] {
            let same = all.iter().find(|it| it.path == first).expect("a start");
            server.always(first, Act::Answer(same.answer.clone()));
        }
        // A server that failed is asked again by both clients; here its later answers do not matter.
        server.next(&recorded.path, Act::Answer(recorded.answer.clone()));
        let metadata = all.iter().find(|it| it.path == "/api/v1/create_session").expect("a session");
        let mut builder = server.in_memory().api_key("tml-dummy");
        for (key, value) in metadata.request["user_metadata"].as_object().expect("metadata") {
            builder = builder.user_metadata(key, value.as_str().expect("text"));
        }
        let service = builder.build().expect("a client");
        let owner = service.owner().clone();
        Replay { server, service, owner }
    }

    /// A training client whose next request has a sequence id.
    fn training(&self, model_id: &str, seq_id: u64) -> TrainingClient {
        // The flags must be known, as they are to a client that was made in the usual way.
        self.service.create_sampling_client("any").expect("an open session");
        let info = ModelInfo { model_id: model_id.into(), ..Default::default() };
        let created = CreatedModel { info, first_seq_id: u32::try_from(seq_id).expect("an id") };
        TrainingClient::start(self.owner.clone(), created).expect("a thread")
    }

    /// As [`call`](Self::call), for the verbs of clients without a session.
    fn call_rest(&self, recorded: &Recorded, verb: &str) {
        let rest = self.service.create_rest_client();
        let parts: Vec<&str> = recorded.path.split(['/', '?']).collect();
        // `/api/v1/training_runs/<run>/checkpoints/<segment>/<name>/<action>`
        let run = parts.get(4).copied().unwrap_or_default();
        let path = || format!("tinker://{run}/{}/{}", parts[6], parts[7]);
        let request = &recorded.request;
        let error = match verb {
            "get_server_capabilities" => rest.get_server_capabilities().err(),
            "list_training_runs" => rest.list_training_runs().first_page().err(),
            "get_training_run" => rest.get_training_run(run).err(),
            "get_training_run_by_tinker_path" => {
                rest.get_training_run_by_tinker_path(&format!("tinker://{run}/weights/any")).err()
            }
            "get_weights_info_by_tinker_path" => {
                rest.get_weights_info_by_tinker_path(request["tinker_path"].as_str().expect("a path")).err()
            }
            "list_checkpoints" => rest.list_checkpoints(run).err(),
            "list_user_checkpoints" => rest.list_user_checkpoints().first_page().err(),
            "list_sessions" => rest.list_sessions().first_page().err(),
            "get_session" => rest.get_session(run).err(),
            "get_sampler" => rest.get_sampler(run).err(),
            "set_checkpoint_ttl_from_tinker_path" => {
                let ttl = request["ttl_seconds"].as_u64().map(std::time::Duration::from_secs);
                let ttl = ttl.map_or(Ttl::Never, Ttl::After);
                rest.set_checkpoint_ttl_from_tinker_path(&path(), ttl).err()
            }
            "publish_checkpoint_from_tinker_path" => rest.publish_checkpoint_from_tinker_path(&path()).err(),
            "delete_checkpoint_from_tinker_path" => rest.delete_checkpoint_from_tinker_path(&path()).err(),
            other => panic!("no verb {other}"),
        };
        // Every recorded answer is understood, and what that server lacks is told from what it has not.
        let kind = error.as_ref().map(|it| it.kind().clone());
        let expected = match (recorded.answer.status, verb) {
            (200..300, _) => None,
            (404, "get_training_run" | "get_session") => Some(ErrorKind::NotFound),
            (404 | 405, _) => Some(ErrorKind::Incompatible),
            (status, _) => panic!("an answer of {status} was recorded"),
        };
        assert_eq!(kind, expected, "exchange {} to {}: {error:?}", recorded.n, recorded.path);
    }

    /// Makes the call that the official client made, whatever comes of it. False if it is none of our verbs.
    fn call(&self, recorded: &Recorded) -> bool {
        let verb = recorded.headers["x-sdk-method"].as_str().unwrap_or_default();
        if let Some(verb) = verb.strip_prefix("RestClient.") {
            self.call_rest(recorded, verb);
            return true;
        }
        let request = &recorded.request;
        let text = |key: &str| request[key].as_str().unwrap_or_default().to_string();
        let number = |key: &str| request[key].as_u64().unwrap_or_default();
        let session = self.owner.session();
        let _whatever_came_of_it = match recorded.path.strip_prefix("/api/v1/").unwrap_or_default() {
            "client/config" | "client/dynamic_config" | "get_server_capabilities" => {
                self.service.get_server_capabilities().err()
            }
            "create_session" => self.service.create_sampling_client("any").err(),
            "session_heartbeat" => return false,
            "create_model" => {
                session.model_seq_id.store(number("model_seq_id"), Ordering::Relaxed);
                let lora: LoraConfig = serde_json::from_value(request["lora_config"].clone()).expect("LoRA");
                self.service.create_lora_training_client(&text("base_model"), lora).err()
            }
            "load_weights" if request["session_id"].is_string() => {
                session.model_seq_id.store(number("model_seq_id"), Ordering::Relaxed);
                let path = text("path");
                if !path.starts_with("tinker://") {
                    // Refused here before anything is sent.
                    assert!(self.service.create_training_client_from_state(path.as_str()).is_err());
                    return false;
                }
                match request["optimizer"] == true {
                    true => {
                        self.service.create_training_client_from_state_with_optimizer(path.as_str()).err()
                    }
                    false => self.service.create_training_client_from_state(path.as_str()).err(),
                }
            }
            "load_weights" => {
                let training = self.training(&text("model_id"), number("seq_id"));
                let path = text("path");
                match request["optimizer"] == true {
                    true => training.load_state_with_optimizer(path.as_str()).wait().err(),
                    false => training.load_state(path.as_str()).wait().err(),
                }
            }
            "forward_backward" => {
                let pass = train::decode_forward_backward_request(&bytes(request)).expect("a pass");
                let training = self.training(&pass.model_id, u64::from(pass.seq_id));
                match pass.forward_only {
                    true => training.forward(pass.data, pass.loss).wait().err(),
                    false => training.forward_backward(pass.data, pass.loss).wait().err(),
                }
            }
            "optim_step" => {
                let adam: AdamParams =
                    serde_json::from_value(request["adam_params"].clone()).expect("parameters");
                self.training(&text("model_id"), number("seq_id")).optim_step(adam).wait().err()
            }
            "save_weights" => {
                let training = self.training(&text("model_id"), number("seq_id"));
                let overwrite = request["overwrite"] == true;
                let options = SaveStateOptions { overwrite, ..Default::default() };
                training.save_state_with(&text("path"), &options).wait().err()
            }
            "save_weights_external" => {
                let training = self.training(&text("model_id"), number("seq_id"));
                training.save_weights_external(&text("path"), Ttl::Never, &[]).wait().err()
            }
            "save_weights_for_sampler" => {
                let training = self.training(&text("model_id"), number("seq_id"));
                match request["path"].as_str() {
                    Some(name) => training.save_weights_for_sampler(name, Ttl::Never).wait().err(),
                    None => {
                        let seq_id = number("sampling_session_seq_id");
                        session.sampling_session_seq_id.store(seq_id, Ordering::Relaxed);
                        training.save_weights_and_get_sampling_client().err()
                    }
                }
            }
            "create_sampling_session" => {
                let seq_id = number("sampling_session_seq_id");
                session.sampling_session_seq_id.store(seq_id, Ordering::Relaxed);
                let model =
                    request["model_path"].as_str().or(request["base_model"].as_str()).expect("a model");
                self.service.create_sampling_client(model).err()
            }
            "asample" => {
                let request: json::SampleRequest = json::request(&bytes(request)).expect("a sample");
                self.sample(recorded, request)
            }
            name if name.ends_with("/finish") => {
                self.service.create_sampling_client("any").expect("an open session");
                self.service.close(crate::CloseStatus::Success).err()
            }
            _ => return false,
        };
        true
    }

    fn sample(&self, recorded: &Recorded, request: json::SampleRequest) -> Option<crate::Error> {
        let created = CreatedSampler {
            sampling_session_id: request.sampling_session_id.expect("a session"),
            base_model: None,
        };
        let seq_id = request.seq_id.expect("a number");
        let sampler = SamplingClient::start_at(self.owner.clone(), created, seq_id).expect("a thread");
        let prompt = request.prompt.read().expect("a prompt");
        let params = match request.sampling_params.read() {
            Ok(it) => it,
            // Refused here before anything is sent: `max_tokens` of 0.
            Err(_) => {
                assert_eq!(recorded.answer.status, 400);
                return None;
            }
        };
        if recorded.headers["x-sdk-method"] == "SamplingClient.compute_logprobs" {
            return sampler.compute_logprobs(&prompt).wait().err();
        }
        let options = SampleOptions {
            include_prompt_logprobs: request.prompt_logprobs.unwrap_or_default(),
            topk_prompt_logprobs: request.topk_prompt_logprobs,
            topk_sample_logprobs: request.topk_sample_logprobs,
            prompt_alt_tokens_k: request.prompt_alt_tokens_k,
            prompt_logprobs_last_n: request.prompt_logprobs_last_n,
            target_prompt_logprobs: request
                .target_prompt_logprobs
                .map(|it| it.read("target").expect("a tensor")),
        };
        let sampler = sampler.record_stability_info(request.record_stability_info == Some(true));
        sampler.sample_with(&prompt, request.num_samples, &params, &options).wait().err()
    }
}

/// Replays every recorded request of our verbs, and returns how many of each endpoint there were.
fn replay(file: &str) -> std::collections::BTreeMap<String, usize> {
    let all = recordings(file);
    let mut counts = std::collections::BTreeMap::new();
    for recorded in &all {
        // What is sent again after a failure is the subject of other tests.
        if recorded.headers["x-stainless-retry-count"] != "0" {
            continue;
        }
        let replay = Replay::new(recorded, &all);
        if !replay.call(recorded) {
            continue;
        }
        match replay.server.requests_to(&recorded.path).first() {
            Some(seen) => {
                check(recorded, seen);
                *counts.entry(recorded.path.clone()).or_default() += 1;
            }
            // What is refused here was refused there, or is the datum without targets that made that server fail.
            None => {
                let n = recorded.n;
                assert!(matches!(recorded.answer.status, 400 | 500), "exchange {n}: nothing was sent");
            }
        }
    }
    counts
}

#[test]
fn every_recorded_request_of_our_verbs_is_reproduced() {
    let counts = replay("sdk-0.38.0.jsonl");
    let count = |path: &str| counts.get(&format!("/api/v1/{path}")).copied().unwrap_or_default();
    for (path, at_least) in [
        ("client/config", 2),
        ("client/dynamic_config", 2),
        ("get_server_capabilities", 2),
        ("create_session", 1),
        ("create_model", 5),
        ("load_weights", 5),
        ("forward_backward", 38),
        ("optim_step", 32),
        ("save_weights", 2),
        ("save_weights_for_sampler", 2),
        ("save_weights_external", 1),
        ("create_sampling_session", 3),
        ("asample", 17),
        ("sessions/session_f39fe152/finish", 1),
        // The verbs of clients without a session.
        ("training_runs?limit=20&offset=0&access_scope=owned", 1),
        ("training_runs/model_17aeb7f9?access_scope=owned", 2),
        ("training_runs/nope?access_scope=owned", 1),
        ("weights_info", 1),
        ("training_runs/model_17aeb7f9/checkpoints", 2),
        ("checkpoints?limit=100&offset=0", 1),
        ("sessions?limit=20&offset=0&access_scope=owned", 1),
        ("sessions/session_f39fe152?access_scope=owned", 1),
        ("samplers/sampling_b002db23", 1),
        ("training_runs/model_17aeb7f9/checkpoints/weights/step1/ttl", 1),
        ("training_runs/model_17aeb7f9/checkpoints/weights/step1/publish", 1),
        ("training_runs/model_17aeb7f9/checkpoints/sampler_weights/s1", 1),
    ] {
        assert!(at_least <= count(path), "{path}: only {} of {at_least}", count(path));
    }
}

#[cfg(feature = "zstd")]
#[test]
fn every_recorded_compressed_request_is_reproduced() {
    let counts = replay("sdk-0.38.0-zstd.jsonl");
    assert_eq!(counts["/api/v1/forward_backward"], 2);
}

#[test]
fn the_recorded_way_to_an_archive_is_found() {
    let all = recordings("sdk-0.38.0.jsonl");
    let recorded = all.iter().find(|it| it.path.ends_with("/archive")).expect("an archive");
    let replay = Replay::new(recorded, &all);
    // That server knows the weights of samplers by their names alone.
    let usual = recorded.path.replace("/s1/", "/sampler_weights/s1/");
    replay.server.next(&usual, Act::status(404, r#"{"detail":"Not Found"}"#));
    let rest = replay.service.create_rest_client();
    let archive = rest.get_checkpoint_archive_url("tinker://model_17aeb7f9/s1").expect("an address");
    assert_eq!(Some(archive.url.expose()), recorded.answer.header("location"));
    assert_eq!(archive.expires.expect("an end").as_str(), "2026-11-20T15:19:59Z");
    assert_eq!(replay.server.requests_to(&recorded.path).len(), 1);
}
