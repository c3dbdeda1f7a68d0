//! Property tests of all messages in the table of [`messages`](super::messages): round trips, unknown fields, missing
//! fields, and damaged input.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::messages::{JSON, OTHERS};
use super::train::ForwardBackwardCall;
use super::{json, messages, sample, tensor, train};
use crate::types::*;

/// Fields that contain a map with arbitrary keys. The tests add no unknown field to these objects, because it would be
/// read as an entry of the map.
const MAPS: [&str; 7] =
    ["user_metadata", "metrics", "urls", "sessions", "org_details", "user_details", "event_details"];

/// For each message, the fields without which it cannot be read. An answer needs only the fields that identify
/// something, such as a request id; a request needs all fields without a default. All other fields may be missing.
const REQUIRED: &[(&str, &[&str])] = &[
    ("ClientConfigRequest", &["sdk_version"]),
    ("SessionHeartbeatRequest", &["session_id"]),
    ("FinishSessionRequest", &["reason", "reason.type"]),
    ("CreateModelRequest", &["base_model", "model_seq_id", "session_id"]),
    ("GetInfoRequest", &["model_id"]),
    ("OptimStepRequest", &["model_id"]),
    ("SaveWeightsRequest", &["model_id"]),
    ("LoadWeightsRequest", &["optimizer", "path"]),
    ("SaveWeightsForSamplerRequest", &["model_id"]),
    ("SaveWeightsExternalRequest", &["model_id", "path"]),
    ("JoinSamplingSessionRequest", &["sampling_session_id"]),
    (
        "CreateCustomLossRequest",
        &[
            "custom_loss_seq_id",
            "graph",
            "graph.format",
            "graph.nodes",
            "graph.nodes[].name",
            "graph.nodes[].op",
            "graph.nodes[].target",
            "inputs",
            "inputs[].name",
            "inputs[].rank",
            "name",
            "session_id",
        ],
    ),
    ("UnloadModelRequest", &["model_id"]),
    ("CreateSamplingSessionRequest", &["sampling_session_seq_id", "session_id"]),
    (
        "SampleRequest",
        &[
            "prompt",
            "prompt.chunks",
            "prompt.chunks[].data",
            "prompt.chunks[].dmel",
            "prompt.chunks[].format",
            "prompt.chunks[].location",
            "prompt.chunks[].tokens",
            "prompt.chunks[].type",
            "target_prompt_logprobs.data",
        ],
    ),
    ("RetrieveFutureRequest", &["request_id"]),
    ("CancelFutureRequest", &["request_id"]),
    (
        "RetrieveFuturesRequest",
        &["target", "target.cloned_sampler_id", "target.sampling_session_id", "target.type"],
    ),
    ("WeightsInfoRequest", &["tinker_path"]),
    ("CopyWeightsRequest", &["destination_project_id", "source_path"]),
    ("AssignProjectRequest", &["project_id"]),
    ("TelemetryRequest", &["events", "platform", "sdk_version", "session_id"]),
    ("AuthTokenResponse", &["jwt"]),
    ("CreateSessionResponse", &["session_id"]),
    ("UntypedFuture", &["request_id"]),
    ("SaveWeightsResponse", &["path"]),
    ("CreateCustomLossResponse", &["loss_id"]),
    ("CreateSamplingSessionResponse", &["sampling_session_id"]),
    ("CopyWeightsResponse", &["tinker_path"]),
    ("SessionPage", &["next_cursor.last_created_at", "next_cursor.last_session_id"]),
];

fn required(message: &str) -> &'static [&'static str] {
    REQUIRED.iter().find(|it| it.0 == message).map_or(&[], |it| it.1)
}

/// Collects the paths of all fields of an example: names joined by dots, with `[]` for the items of a list.
fn field_paths(example: &Value, path: &str, all: &mut Vec<String>) {
    match example {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                field_paths(value, &path, all);
                all.push(path);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| field_paths(item, &format!("{path}[]"), all)),
        _ => {}
    }
}

/// Removes the field at a path. In a list, removes it from each item.
fn remove(value: &mut Value, path: &str) {
    match value {
        Value::Array(items) => {
            let path = path.strip_prefix("[].").expect("a path into a list");
            items.iter_mut().for_each(|item| remove(item, path));
        }
        Value::Object(fields) => {
            let end = path.find(['.', '[']).unwrap_or(path.len());
            let (name, rest) = path.split_at(end);
            if rest.is_empty() {
                fields.remove(name);
            } else if let Some(value) = fields.get_mut(name) {
                remove(value, rest.strip_prefix('.').unwrap_or(rest));
            }
        }
        _ => {}
    }
}

/// Generates a message from its example, with random texts and numbers.
struct Fill {
    random: fastrand::Rng,
    /// Leave out each optional field with a probability of 1/4.
    leave_out: bool,
    /// Add an unknown field to each object.
    unknown: bool,
    required: &'static [&'static str],
    path: String,
}

impl Fill {
    fn fill(&mut self, name: &str, example: &Value) -> Value {
        match example {
            Value::String(text) => match text.strip_prefix('=') {
                Some(literal) => literal.into(),
                None => self.text().into(),
            },
            Value::Number(it) if it.is_f64() => (f64::from(self.random.i16(..)) / 8.0 + 0.0625).into(),
            Value::Number(_) => self.random.u32(..1 << 31).into(),
            Value::Bool(_) => self.random.bool().into(),
            Value::Null => Value::Null,
            Value::Array(items) => {
                let len = self.path.len();
                self.path.push_str("[]");
                let filled = items.iter().map(|item| self.fill(name, item)).collect();
                self.path.truncate(len);
                filled
            }
            Value::Object(fields) => {
                let mut filled = serde_json::Map::new();
                for (name, value) in fields {
                    let len = self.path.len();
                    self.path.push_str(if len == 0 { "" } else { "." });
                    self.path.push_str(name);
                    let is_optional = self.leave_out && !self.required.contains(&self.path.as_str());
                    if !(is_optional && self.random.u8(..4) == 0) {
                        filled.insert(name.clone(), self.fill(name, value));
                    }
                    self.path.truncate(len);
                }
                if self.unknown && !MAPS.contains(&name) {
                    filled.insert("an_unknown_field".into(), json!({"a": [1, null, "x"]}));
                }
                filled.into()
            }
        }
    }

    fn text(&mut self) -> String {
        let n = self.random.usize(1..8);
        (0..n)
            .map(|_| {
                *self
                    .random
                    .choice(&['a', 'Z', '/', ':', ' ', 'ü', '"', '\\', '\n', '7', '😀'])
                    .expect("some")
            })
            .collect()
    }
}

fn filled(message: &messages::Message, seed: u64, leave_out: bool, unknown: bool) -> Vec<u8> {
    let example: Value = serde_json::from_str(message.example).expect("JSON");
    let (required, path) = (required(message.name), String::new());
    let mut fill = Fill { random: fastrand::Rng::with_seed(seed), leave_out, unknown, required, path };
    fill.fill("", &example).to_string().into_bytes()
}

fn any_message() -> impl Strategy<Value = &'static messages::Message> {
    (0..JSON.len()).prop_map(|i| &JSON[i])
}

fn sampling_params() -> impl Strategy<Value = SamplingParams> {
    let stop = prop_oneof![
        vec(".{1,5}", 0..3).prop_map(Stop::Strings),
        vec(0..i32::MAX, 1..3).prop_map(Stop::Tokens)
    ];
    let seed = proptest::option::of(0..i64::MAX as u64);
    let max_tokens = proptest::option::of(1u32..);
    let top_k = prop_oneof![Just(-1), 1..i32::MAX];
    (max_tokens, seed, proptest::option::of(stop), 0f32..9.0, top_k, 0.001f32..=1.0).prop_map(
        |(max_tokens, seed, stop, temperature, top_k, top_p)| SamplingParams {
            max_tokens,
            seed,
            stop,
            temperature,
            top_k,
            top_p,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn every_json_message_is_read_as_it_was_written(message in any_message(), seed: u64, leave_out: bool) {
        let body = filled(message, seed, leave_out, false);
        let round_trip = message.round_trip.unwrap_or(|_| Some(true));
        let same = round_trip(&body);
        let body = String::from_utf8_lossy(&body);
        prop_assert_ne!(same, Some(false), "{} changes {}", message.name, body);
        prop_assert_eq!(same, Some(true), "{} cannot be read: {}", message.name, body);
    }

    #[test]
    fn unknown_fields_are_ignored(message in any_message(), seed: u64) {
        let body = filled(message, seed, false, true);
        prop_assert!((message.decode)(&body), "{}: {}", message.name, String::from_utf8_lossy(&body));
    }

    #[test]
    fn a_sample_request_is_read_as_it_was_written(
        prompt in super::properties::prompt(), params in sampling_params(), n in 1u32.., seq_id: u64
    ) {
        let body = sample::encode_sample("id", seq_id, &prompt, n, &params, &SampleOptions::default(), false).expect("a body");
        let request: json::SampleRequest = json::request(&body).expect("a request");
        prop_assert_eq!((request.num_samples, request.seq_id), (n, Some(seq_id)));
        prop_assert_eq!(request.prompt.read().expect("a prompt"), prompt);
        prop_assert_eq!(request.sampling_params.read().expect("parameters"), params);
    }

    #[test]
    fn a_legacy_request_is_read_as_it_was_written(
        data in vec(super::properties::datum(), 0..4), loss in super::properties::loss(), seq_id in 1u32..=i32::MAX as u32
    ) {
        let tensor_json = |(name, tensor): (&String, &TensorData)| (name.clone(), json!(tensor::TensorJson::from(tensor)));
        let datum = |datum: &Datum| {
            let inputs = datum.loss_fn_inputs.iter().map(tensor_json);
            let model_input = json::ModelInputJson::from(&datum.model_input);
            json!({"model_input": model_input, "loss_fn_inputs": Value::Object(inputs.collect())})
        };
        let config = loss.config.iter().map(|(name, value)| {
            let value = match value {
                LossValue::Number(number) => json!(number),
                LossValue::Text(text) => json!(text),
            };
            (name.clone(), value)
        });
        let input = json!({
            "data": data.iter().map(datum).collect::<Vec<_>>(), "loss_fn": loss.loss_fn.as_str(),
            "loss_fn_config": Value::Object(config.collect()),
        });
        let body = json!({"model_id": "m", "seq_id": seq_id, "forward_input": input}).to_string();
        let call = train::decode_forward_backward_json(body.as_bytes(), "forward_input").expect("a request");
        prop_assert_eq!(call, ForwardBackwardCall { model_id: "m".into(), seq_id, data, loss, forward_only: true });
    }

    #[test]
    fn unknown_enum_values_are_kept(word in "[a-z_]{0,12}") {
        let reply = json::FutureReply::classify(json!({"type": "try_again", "queue_state": &word}));
        let pending = matches!(reply, json::FutureReply::Pending { queue_state: Some(_), .. });
        prop_assert!(pending);
        let sequences = json!({"sequences": [{"tokens": [1], "stop_reason": &word}]});
        let response = sample::sample_response_from_json(&sequences, &[]).expect("a sample");
        let expected = match word.as_str() {
            "stop" => StopReason::Stop,
            "length" => StopReason::Length,
            _ => StopReason::Other(word.clone()),
        };
        prop_assert_eq!(&response.sequences[0].stop_reason, &expected);
        let kind: CheckpointType = json::response(json!(&word).to_string().as_bytes()).expect("a type");
        prop_assert_eq!(kind.as_str(), word);
    }

    #[test]
    fn no_reader_panics_on_random_bytes(bytes in vec(any::<u8>(), 0..300)) {
        for message in OTHERS.iter().chain(JSON) {
            let _ = (message.decode)(&bytes);
        }
    }

    #[test]
    fn no_reader_panics_on_a_damaged_example(
        message in any_message(), seed: u64, at: prop::sample::Index, with in vec(any::<u8>(), 0..4), len in 0usize..4
    ) {
        let mut body = filled(message, seed, true, true);
        let from = at.index(body.len());
        let to = (from + len).min(body.len());
        body.splice(from..to, with);
        for message in OTHERS.iter().chain(JSON) {
            let _ = (message.decode)(&body);
        }
    }
}

#[test]
fn exactly_the_listed_fields_of_a_message_are_required() {
    let mut found = Vec::new();
    for message in JSON {
        let example: Value = serde_json::from_slice(&filled(message, 1, false, false)).expect("JSON");
        let mut all = Vec::new();
        field_paths(&example, "", &mut all);
        all.sort();
        all.dedup();
        all.retain(|path| {
            let mut rest = example.clone();
            remove(&mut rest, path);
            !(message.decode)(rest.to_string().as_bytes())
        });
        if !all.is_empty() {
            found.push((message.name, all));
        }
    }
    let owned = |fields: &[&str]| fields.iter().map(|field| field.to_string()).collect();
    let expected: Vec<(&str, Vec<String>)> =
        REQUIRED.iter().map(|(name, fields)| (*name, owned(fields))).collect();
    assert_eq!(found, expected, "{found:#?}");
}

#[test]
fn every_json_message_is_in_the_table() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/wire/json");
    let mut missing = Vec::new();
    for file in std::fs::read_dir(folder).expect("the sources").flatten() {
        let text = std::fs::read_to_string(file.path()).expect("a source");
        let names = text.lines().filter_map(|it| it.strip_prefix("pub(crate) struct "));
        let names = names.filter_map(|it| it.split([' ', '<', '(']).next());
        let messages = names.filter(|it| it.ends_with("Request") || it.ends_with("Response"));
        missing.extend(
            messages.map(str::to_string).filter(|name| JSON.iter().all(|message| message.name != name)),
        );
    }
    // This message is never read, because its fields are references.
    missing.retain(|name| name != "SearchSessionsRequest");
    assert!(missing.is_empty(), "src/wire/messages.rs lacks an example of {missing:?}");
}
