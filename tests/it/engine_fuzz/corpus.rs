//! One valid request for each endpoint of the engine.

use fastrand::Rng;
use serde_json::{Value, json};

use super::protobuf::write_varint;
use crate::util::engine::{Client, pass, sample, step};

/// Format of a body.
#[derive(Clone, Debug)]
pub(super) enum Body {
    None,
    Json(Value),
    /// A pass in the format of protobuf.
    Protobuf(Vec<u8>),
}

impl Body {
    pub(super) fn bytes(&self) -> Vec<u8> {
        match self {
            Body::None => Vec::new(),
            Body::Json(it) => it.to_string().into_bytes(),
            Body::Protobuf(it) => it.clone(),
        }
    }

    pub(super) fn content_type(&self) -> Option<&'static str> {
        match self {
            Body::None => None,
            Body::Json(_) => Some("application/json"),
            Body::Protobuf(_) => Some("application/x-protobuf"),
        }
    }
}

/// A valid request.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: &'static str,
    pub(super) target: String,
    pub(super) body: Body,
}

/// What the requests of a round name: everything is made anew for each round, so that a round does not depend on the
/// rounds before it.
pub(super) struct Objects {
    pub(super) session: String,
    /// A session for requests that end one.
    ended: String,
    model: String,
    /// A model for requests that unload one.
    unloaded: String,
    sampler: String,
    /// Path of a download, with its token.
    archive: String,
    trace: String,
    pass: String,
    sample: String,
    /// Number of the next request of `model`.
    next: u64,
    /// The last number that was used for anything else: samplers, samples, losses, models.
    used: u64,
}

/// Creates a session.
pub(super) fn open_session(client: &Client) -> String {
    let (status, made) = client.post("create_session", &json!({"tags": [], "type": "create_session"}));
    assert_eq!(status, 200, "{made}");
    made["session_id"].as_str().unwrap().into()
}

/// Creates a model of rank 4 in a session.
pub(super) fn create_model(client: &Client, session: &str, number: u64) -> String {
    let made = client.run("create_model", &create_model_body(session, number));
    made["model_id"].as_str().unwrap().into()
}

fn create_model_body(session: &str, number: u64) -> Value {
    json!({"session_id": session, "model_seq_id": number, "base_model": "tinkex/nano", "type": "create_model",
           "lora_config": {"rank": 4, "seed": 1, "train_attn": true, "train_mlp": true, "train_unembed": false},
           "user_metadata": {"team": "red"}, "optimizer_config": {"type": "adamw"}})
}

fn export(model: &str, seq: u64, path: &str) -> Value {
    json!({"model_id": model, "seq_id": seq, "path": path, "ttl_seconds": 7200, "type": "save_weights_external"})
}

fn save(model: &str, seq: u64, path: &str) -> Value {
    json!({"model_id": model, "seq_id": seq, "path": path, "ttl_seconds": 7200, "overwrite": true,
           "user_metadata": {"step": "1"}, "type": "save_weights"})
}

fn save_sampler(model: &str, seq: u64, path: &str) -> Value {
    json!({"model_id": model, "seq_id": seq, "path": path, "ttl_seconds": 7200, "type": "save_weights_for_sampler"})
}

/// A request for four tokens that asks for everything that a sample can report.
fn whole_sample(sampler: &str, seq: u64) -> Value {
    let params =
        json!({"max_tokens": 4, "seed": 7, "temperature": 0.5, "top_k": 8, "top_p": 0.9, "stop": [10]});
    let mut request = sample(sampler, seq, params);
    let prompt = request["prompt"]["chunks"][0]["tokens"].as_array().unwrap().len();
    for (name, value) in [
        ("prompt_logprobs", json!(true)),
        ("topk_prompt_logprobs", json!(2)),
        ("topk_sample_logprobs", json!(2)),
        ("prompt_alt_tokens_k", json!(2)),
        ("prompt_logprobs_last_n", json!(3)),
        ("num_samples", json!(2)),
        (
            "target_prompt_logprobs",
            json!({"data": vec![5; prompt - 1], "dtype": "int64", "shape": [prompt - 1, 1]}),
        ),
    ] {
        request[name] = value;
    }
    request
}

fn custom_loss(session: &str, number: u64) -> Value {
    json!({"session_id": session, "custom_loss_seq_id": number, "name": "mean", "type": "create_custom_loss",
    "inputs": [{"name": "logprobs", "rank": 1}],
    "graph": {"format": 1, "nodes": [
        {"op":"placeholder","name":"logprobs","target":"logprobs","args":[],"kwargs":{}},
        {"op":"call_method","name":"mean_1","target":"mean","args":[{"ref":"logprobs"}],"kwargs":{}},
        {"op":"call_function","name":"neg","target":"operator.neg","args":[{"ref":"mean_1"}],"kwargs":{}},
        {"op":"output","name":"output","target":"output",
         "args":[{"tuple":[{"ref":"neg"},{"dict":{"custom/mean:mean":{"ref":"mean_1"}}}]}],"kwargs":{}}
    ]}})
}

/// A pass over two data in the format of protobuf.
fn protobuf_pass(model: &str, seq: u64) -> Vec<u8> {
    fn field(number: u64, content: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write_varint(&mut out, number << 3 | 2);
        write_varint(&mut out, content.len() as u64);
        out.extend_from_slice(content);
        out
    }
    let tokens: Vec<u8> = [1i32, 2, 3].iter().flat_map(|it| it.to_le_bytes()).collect();
    let targets: Vec<u8> = [2i64, 3, 4].iter().flat_map(|it| it.to_le_bytes()).collect();
    let weights: Vec<u8> = [0f32, 1.0, 0.5].iter().flat_map(|it| it.to_le_bytes()).collect();
    // The data, the type of the numbers and the shape, packed.
    let tensor = |data: &[u8], dtype: u8| [field(1, data), vec![0x18, dtype], field(4, &[3])].concat();
    let input = |name: &str, tensor: &[u8]| field(2, &[field(1, name.as_bytes()), field(2, tensor)].concat());
    let datum = [
        field(1, &field(1, &field(1, &tokens))),
        input("target_tokens", &tensor(&targets, 2)),
        input("weights", &tensor(&weights, 1)),
    ]
    .concat();
    let mut number = vec![0x10];
    write_varint(&mut number, seq);
    [field(1, model.as_bytes()), number, field(3, &datum), field(3, &datum), field(4, b"cross_entropy")]
        .concat()
}

impl Objects {
    pub(super) fn new(client: &Client) -> Objects {
        let (session, ended) = (open_session(client), open_session(client));
        let (model, unloaded) = (create_model(client, &session, 0), create_model(client, &session, 1));
        let base = json!({"session_id": session, "sampling_session_seq_id": 0, "base_model": "tinkex/nano",
                          "type": "create_sampling_session"});
        let (status, made) = client.post("create_sampling_session", &base);
        assert_eq!(status, 200, "{made}");
        let sampler = made["sampling_session_id"].as_str().unwrap().to_string();
        let done = client.submit("forward_backward", &pass(&model, 1, "forward_backward_input"));
        client.wait(&done);
        for name in ["a", "deleted"] {
            let seq = if name == "a" { 2 } else { 3 };
            client.run("save_weights", &save(&model, seq, name));
        }
        client.run("save_weights_for_sampler", &save_sampler(&model, 4, "a"));
        client.run("save_weights_external", &export(&model, 5, "a"));
        client.run("create_custom_loss", &custom_loss(&session, 0));
        let sampled = client.submit("asample", &whole_sample(&sampler, 0));
        client.wait(&sampled);
        let archive =
            client.agent.get(client.url(&format!("training_runs/{model}/checkpoints/weights/a/archive")));
        let archive = archive.config().max_redirects(0).build().header("X-API-Key", client.server.api_key());
        let answer = archive.call().unwrap();
        let path = |url: &str| url.strip_prefix(client.server.url()).unwrap().to_string();
        let archive = path(answer.headers()["location"].to_str().unwrap());
        let (status, trace) = client.get(&format!("sessions/{session}/trace_export"));
        assert_eq!(status, 200, "{trace}");
        let trace = path(trace["url"].as_str().unwrap());
        let (pass, sample, next, used) = (done, sampled, 6, 100);
        Objects { session, ended, model, unloaded, sampler, archive, trace, pass, sample, next, used }
    }

    /// Notes that a request was accepted.
    pub(super) fn note(&mut self, future: &Value) {
        if future["model_id"] == *self.model && future["request_id"].is_string() {
            self.next += 1;
        }
    }

    /// One valid request for each endpoint, of which one may be sent. The requests of the model have the next number or,
    /// where the engine takes that, none: after a damaged number the others would wait for a request that never comes.
    pub(super) fn requests(&mut self, rng: &mut Rng) -> Vec<Request> {
        self.used += 1;
        let next = || self.used;
        let is_numbered = rng.bool();
        let seq = self.next;
        let numbered = |path: &str, mut body: Value| {
            if !is_numbered && let Some(members) = body.as_object_mut() {
                members.remove("seq_id");
            }
            Request { method: "POST", target: format!("/api/v1/{path}"), body: Body::Json(body) }
        };
        let (session, ended, sampler) = (&self.session, &self.ended, &self.sampler);
        let (model, unloaded) = (&self.model, &self.unloaded);
        let post = |path: &str, body: Value| Request {
            method: "POST",
            target: format!("/api/v1/{path}"),
            body: Body::Json(body),
        };
        let request = |method, target: &str| Request { method, target: target.into(), body: Body::None };
        let get = |path: &str| request("GET", &format!("/api/v1/{path}"));
        let checkpoints = format!("training_runs/{model}/checkpoints");
        let state = format!("tinker://{model}/weights/a");
        let weights = format!("tinker://{model}/sampler_weights/a");
        let mut loss = pass(model, seq, "forward_backward_input");
        loss["forward_backward_input"]["loss_fn"] = json!("custom");
        loss["forward_backward_input"]["loss_fn_config"] = json!({"loss_id": format!("{session}:loss:0")});
        let protobuf = || Request {
            method: "POST",
            target: "/api/v1/forward_backward".into(),
            body: Body::Protobuf(protobuf_pass(model, if is_numbered { seq } else { 0 })),
        };
        vec![
            post("client/config", json!({"sdk_version": "0.38.0"})),
            post("client/dynamic_config", json!({"sdk_version": "0.38.0"})),
            get("get_server_capabilities"),
            post("auth/token", json!({})),
            get("auth/apikey/me"),
            post(
                "create_session",
                json!({"tags": ["a"], "user_metadata": {"team": "red"}, "sdk_version": "0.38.0", "project_id": "p",
                       "display_name": "Red", "type": "create_session"}),
            ),
            post("session_heartbeat", json!({"session_id": session, "type": "session_heartbeat"})),
            post(
                &format!("sessions/{ended}/finish"),
                json!({"reason": {"type": "success"}, "detail": "done"}),
            ),
            post("create_model", create_model_body(session, next())),
            post("get_info", json!({"model_id": model, "type": "get_info"})),
            numbered("forward_backward", pass(model, seq, "forward_backward_input")),
            numbered("forward_backward", loss),
            numbered("forward", pass(model, seq, "forward_input")),
            protobuf(),
            protobuf(),
            protobuf(),
            numbered("optim_step", step(model, seq)),
            numbered("save_weights", save(model, seq, "b")),
            numbered("save_weights_external", export(model, seq, "b")),
            numbered("save_weights_for_sampler", save_sampler(model, seq, "b")),
            numbered(
                "save_weights_for_sampler",
                json!({"model_id": model, "seq_id": seq, "sampling_session_seq_id": next(),
                       "kind": "snapshot", "type": "save_weights_for_sampler"}),
            ),
            post(
                "load_weights",
                json!({"session_id": session, "model_seq_id": next(), "path": state, "optimizer": true,
                       "type": "load_weights"}),
            ),
            post(
                "load_weights",
                json!({"model_id": unloaded, "seq_id": 1, "path": state, "optimizer": false, "type": "load_weights"}),
            ),
            post("create_custom_loss", custom_loss(session, next())),
            post("unload_model", json!({"model_id": unloaded, "type": "unload_model"})),
            post(
                "create_sampling_session",
                json!({"session_id": session, "sampling_session_seq_id": next(), "model_path": weights,
                       "type": "create_sampling_session"}),
            ),
            post(
                "join_sampling_session",
                json!({"sampling_session_id": sampler, "type": "join_sampling_session"}),
            ),
            get(&format!("samplers/{sampler}")),
            post("asample", whole_sample(sampler, next())),
            post("asample", whole_sample(sampler, next())),
            post("cancel_future", json!({"request_id": self.sample})),
            post("retrieve_future", json!({"request_id": self.pass, "allow_metadata_only": true})),
            post("retrieve_future", json!({"request_id": self.sample})),
            post(
                "retrieve_futures",
                json!({"target": {"type": "sampling_session", "sampling_session_id": sampler, "cloned_sampler_id": 0},
                       "prev_cursor": 0, "timeout": 0.01, "retrieved_request_ids": [self.sample]}),
            ),
            post("weights_info", json!({"tinker_path": state})),
            post(
                "telemetry",
                json!({"events": [{"a": 1}], "platform": "linux", "sdk_version": "0.38.0", "session_id": session}),
            ),
            get("training_runs?limit=2&offset=0&project_id=p"),
            get(&format!("training_runs/{model}")),
            get(&checkpoints),
            request("DELETE", &format!("/api/v1/{checkpoints}/weights/deleted")),
            Request {
                method: "PUT",
                target: format!("/api/v1/{checkpoints}/weights/a/ttl"),
                body: Body::Json(json!({"ttl_seconds": 7200})),
            },
            post(&format!("{checkpoints}/weights/a/publish"), json!({})),
            request("DELETE", &format!("/api/v1/{checkpoints}/weights/a/publish")),
            get(&format!("{checkpoints}/weights/a/archive")),
            get(&format!("{checkpoints}/external_weights/a/external_weights_urls")),
            post(
                "copy_weights",
                json!({"destination_project_id": "p", "source_path": state, "ttl_seconds": 7200}),
            ),
            get("checkpoints?limit=3&offset=1"),
            get("sessions?limit=3&offset=1"),
            post(
                "sessions/search",
                json!({"display_name": "red", "project_ids": ["p"], "user_metadata": {"team": "red"},
                       "owner": {"type": "own"}, "limit": 5,
                       "statuses": [{"type": "client_finished", "reasons": ["success"]}, {"type": "active"}],
                       "cursor": {"last_created_at": "2030-01-01T00:00:00Z", "last_session_id": session}}),
            ),
            get(&format!("sessions/{session}")),
            Request {
                method: "PUT",
                target: format!("/api/v1/sessions/{session}/project"),
                body: Body::Json(json!({"project_id": "p"})),
            },
            get(&format!("sessions/{session}/trace_export")),
            get("billing/usage/events"),
            get("billing/usage/checkpoints/current?project_id=p"),
            request("GET", &self.archive),
            request("GET", &self.trace),
            get("healthz"),
        ]
    }
}
