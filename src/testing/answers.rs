//! The default answers of the fake server.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use serde_json::{Value, json};

use super::fake::Seen;
use super::records::Records;
use crate::http::Answer;
use crate::types::{
    ForwardBackwardOutput, PromptAltTokens, SampleResponse, SampledSequence, StopReason, TensorData,
    TokenLogprob, Values,
};
use crate::wire::json::SampleRequest;
use crate::wire::{sample, train};

/// The state behind the default answers.
#[derive(Default)]
pub(super) struct Answers {
    promises: HashMap<String, Answer>,
    models: usize,
    samplers: usize,
    records: Records,
    /// Offers `retrieve_futures` and announces it in the flags.
    pub(super) polls_together: bool,
    /// Runs custom losses and announces it in the flags.
    pub(super) runs_losses: bool,
    losses: usize,
    /// Ids of finished samples, with the sizes of their results.
    finished: Vec<(String, usize)>,
    /// Number of clients that joined a sampling session.
    joined: u64,
}

impl Answers {
    pub(super) fn answer(&mut self, seen: &Seen) -> Answer {
        let body = seen.json().unwrap_or_default();
        let text = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or_default().to_string();
        let name = seen.path.strip_prefix("/api/v1/").unwrap_or(&seen.path);
        if let Some((code, value)) = self.records.answer(seen) {
            return if code == 204 { Answer::new(code) } else { status(code, value) };
        }
        match name {
            "client/config" => ok(json!({
                "pjwt_auth_enabled": false,
                "sample_use_retrieve_futures": self.polls_together,
                "custom_loss_server_side": self.runs_losses,
            })),
            "client/dynamic_config" => status(404, json!({"detail": "Not Found"})),
            "create_session" => {
                self.records.add_session("session-1");
                ok(json!({"session_id": "session-1", "type": "create_session"}))
            }
            "telemetry" => ok(json!({"status": "accepted"})),
            "session_heartbeat" => ok(json!({"type": "session_heartbeat"})),
            "get_server_capabilities" => ok(json!({"supported_models": [{"model_name": "fake/model"}]})),
            "get_info" => {
                ok(json!({"model_id": text("model_id"), "model_data": {"model_name": "fake/model"}}))
            }
            "weights_info" => ok(json!({"base_model": "fake/model", "is_lora": true, "lora_rank": 32})),
            "create_sampling_session" => {
                self.samplers += 1;
                ok(json!({"sampling_session_id": format!("sampler-{}", self.samplers)}))
            }
            "create_model" => {
                let id = self.model();
                self.promise(ok(json!({"model_id": id, "type": "create_model"})))
            }
            "load_weights" => {
                let id = self.model();
                self.promise(ok(json!({"path": text("path"), "model_id": id, "type": "load_weights"})))
            }
            "create_custom_loss" if self.runs_losses => {
                self.losses += 1;
                let id = format!("loss-{}", self.losses);
                self.promise(ok(json!({"loss_id": id, "type": "create_custom_loss"})))
            }
            "unload_model" => self.promise(ok(json!({"model_id": text("model_id"), "type": "unload_model"}))),
            "optim_step" => self.promise(ok(json!({"metrics": {"grad_norm": 1.0}, "type": "optim_step"}))),
            "save_weights" => {
                let path = format!("tinker://{}/weights/{}", text("model_id"), text("path"));
                self.records.add_checkpoint(&text("model_id"), "weights", &text("path"));
                self.promise(ok(json!({"path": path, "type": "save_weights"})))
            }
            "save_weights_for_sampler" => match body.get("path") {
                Some(_) => {
                    let path = format!("tinker://{}/sampler_weights/{}", text("model_id"), text("path"));
                    self.records.add_checkpoint(&text("model_id"), "sampler_weights", &text("path"));
                    self.promise(ok(json!({"path": path, "type": "save_weights_for_sampler"})))
                }
                None => self.promise(ok(json!({"sampling_session_id": "sampler-of-model"}))),
            },
            "save_weights_external" => {
                let path = format!("tinker://{}/external_weights/{}", text("model_id"), text("path"));
                self.promise(ok(json!({"path": path, "size_bytes": 2048, "type": "save_weights_external"})))
            }
            "forward_backward" | "forward" => match read_pass(seen, name) {
                Ok(call) => self.promise(protobuf(train::encode_forward_backward_output(&pass(&call)))),
                Err(error) => status(422, json!({"detail": error.to_string()})),
            },
            "asample" => {
                let result = sample::encode_sample_response(&answers(&body));
                let size = result.len();
                // Store the result only: the answer below has more fields than the usual promise.
                drop(self.promise(protobuf(result)));
                let id = format!("request-{}", self.promises.len());
                let n = body["num_samples"].as_u64().unwrap_or(1);
                let sequence_ids: Vec<_> = (0..n).map(|it| format!("{id}:{it}")).collect();
                self.finished.push((id.clone(), size));
                ok(json!({"request_id": id, "sample_sequence_ids": sequence_ids}))
            }
            "join_sampling_session" => {
                self.joined += 1;
                ok(json!({"client_counter": self.joined, "type": "join_sampling_session"}))
            }
            "cancel_future" => ok(json!({})),
            "retrieve_futures" if self.polls_together => {
                let from = body["prev_cursor"].as_u64().and_then(|it| usize::try_from(it).ok());
                let entries = self.finished.iter().skip(from.unwrap_or(0)).map(|(id, size)| {
                    json!({"state": "finished", "request_id": id, "response_payload_uncompressed_size": size})
                });
                let completions: Vec<Value> = entries.collect();
                ok(json!({"completions": completions, "cursor": self.finished.len()}))
            }
            "retrieve_future" => match self.promises.get(&text("request_id")) {
                Some(answer) => answer.clone(),
                None => status(404, json!({"detail": "no such promise"})),
            },
            _ if name.starts_with("samplers/") => {
                ok(json!({"sampler_id": &name["samplers/".len()..], "base_model": "fake/model"}))
            }
            _ if name.ends_with("/finish") => ok(json!({})),
            _ => status(404, json!({"detail": "Not Found"})),
        }
    }

    /// Creates a model and returns its id.
    fn model(&mut self) -> String {
        self.models += 1;
        let id = format!("model-{}", self.models);
        self.records.add_run(&id);
        id
    }

    fn promise(&mut self, result: Answer) -> Answer {
        let id = format!("request-{}", self.promises.len() + 1);
        self.promises.insert(id.clone(), result);
        ok(json!({"request_id": id}))
    }
}

fn ok(value: Value) -> Answer {
    status(200, value)
}

fn status(status: u16, value: Value) -> Answer {
    Answer::new(status).with_header("content-type", "application/json").with_body(value.to_string())
}

fn protobuf(bytes: Vec<u8>) -> Answer {
    Answer::new(200).with_header("content-type", "application/x-protobuf").with_body(bytes)
}

fn uncompressed(seen: &Seen) -> Bytes {
    #[cfg(feature = "zstd")]
    if seen.header("content-encoding") == Some("zstd") {
        // A body that cannot be decompressed becomes empty, which cannot be decoded either.
        return zstd::stream::decode_all(&seen.body[..]).unwrap_or_default().into();
    }
    seen.body.clone()
}

/// Reads a request for a pass, in JSON or protobuf.
fn read_pass(seen: &Seen, name: &str) -> crate::error::Result<train::ForwardBackwardCall> {
    let is_json = seen.header("content-type").is_some_and(|kind| kind.contains("json"));
    if !is_json {
        return train::decode_forward_backward_request(&uncompressed(seen));
    }
    let field = if name == "forward" { "forward_input" } else { "forward_backward_input" };
    train::decode_forward_backward_json(&seen.body, field)
}

/// Largest number of log-probabilities for one datum, far above that of any test.
const MOST_TARGETS: usize = 1 << 24;

/// The result of a pass: each target has the log-probability −0.5.
fn pass(call: &train::ForwardBackwardCall) -> ForwardBackwardOutput {
    let outputs: Vec<_> = call
        .data
        .iter()
        .map(|datum| {
            let n = datum.n_targets().unwrap_or(0).min(MOST_TARGETS);
            BTreeMap::from([("logprobs".to_string(), vec![-0.5f32; n].into())])
        })
        .collect();
    let n: usize = outputs
        .iter()
        .map(|tensors| tensors.values().map(|it: &crate::types::TensorData| it.values.len()).sum::<usize>())
        .sum();
    ForwardBackwardOutput {
        loss_fn_output_type: "FakeOutput".into(),
        loss_fn_outputs: outputs,
        metrics: [("loss:sum".to_string(), 0.5 * n as f64)].into(),
        ..Default::default()
    }
}

/// The result of a sample: the token 7, at most twice. Alternatives to tokens start with 7, too. The log-probability is
/// −0.25 for sampled tokens, −1 for tokens of the prompt and −2 for requested targets.
fn answers(request: &Value) -> SampleResponse {
    let number = |value: &Value| value.as_u64().and_then(|it| usize::try_from(it).ok()).unwrap_or(0);
    let n = number(&request["num_samples"]).max(1);
    let length = request["sampling_params"]["max_tokens"].as_u64().map_or(2, |it| it.min(2) as usize);
    let prompt: usize = request["prompt"]["chunks"]
        .as_array()
        .map_or(0, |it| it.iter().filter_map(|it| it["tokens"].as_array()).map(Vec::len).sum());
    let row = |k: usize, first: f32| {
        let top = (0..k).map(|it| TokenLogprob { token: 7 + it as i32, logprob: first - it as f32 });
        top.collect::<Vec<_>>()
    };
    let asked = |name: &str| Some(number(&request[name])).filter(|it| 0 < *it);
    let sequence = SampledSequence {
        stop_reason: StopReason::Length,
        tokens: vec![7; length],
        logprobs: Some(vec![-0.25; length]),
        topk_logprobs: asked("topk_sample_logprobs").map(|k| vec![Some(row(k, -0.25)); length]),
        ..Default::default()
    };
    let unscored = asked("prompt_logprobs_last_n").map_or(1, |it| prompt.saturating_sub(it)).max(1);
    let logprobs = (0..prompt).map(|it| (unscored <= it).then_some(-1.0)).collect();
    let top = |k| (0..prompt).map(|it| (unscored <= it).then(|| row(k, -1.0))).collect();
    let read = serde_json::from_value(request.clone()).ok();
    let target = read.and_then(|it: SampleRequest| it.target_prompt_logprobs);
    let score = |it: TensorData| {
        let scores = it.as_i64().unwrap_or_default().iter().map(|it| if *it < 0 { f32::NAN } else { -2.0 });
        TensorData { values: Values::F32(scores.collect()), ..it }
    };
    let alternatives = |k: usize| {
        let shape = Some(vec![prompt.saturating_sub(1), k]);
        let tensor = |values| TensorData { values, shape: shape.clone(), sparse: None };
        let n = prompt.saturating_sub(1) * k;
        let tokens = tensor(Values::I64(vec![7; n]));
        PromptAltTokens { tokens, logprobs: tensor(Values::F32(vec![-0.5; n])) }
    };
    SampleResponse {
        sequences: vec![sequence; n],
        prompt_logprobs: (request["prompt_logprobs"] == true).then_some(logprobs),
        topk_prompt_logprobs: asked("topk_prompt_logprobs").map(top),
        target_prompt_logprobs: target.and_then(|it| it.read("target").ok()).map(score),
        prompt_alt_tokens: asked("prompt_alt_tokens_k").map(alternatives),
        ..Default::default()
    }
}
