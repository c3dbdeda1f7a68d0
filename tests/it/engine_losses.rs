//! Losses of the engine over plain HTTP: custom losses and `gspo`, a loss over whole sequences.

use serde_json::{Value, json};

use crate::util::engine::{Client, TEXT, step};
use tinkex::tokenizer::ByteTokenizer;

/// A pass over `TEXT` with the loss `loss` and `inputs` in addition to the targets.
fn pass(model: &str, seq: u64, loss: &str, config: Value, inputs: &[(&str, Vec<f32>)]) -> Value {
    let ids = ByteTokenizer.encode(TEXT);
    let n = ids.len() - 1;
    let mut all = json!({"target_tokens": {"data": ids[1..], "dtype": "int64", "shape": [n]}});
    for (name, data) in inputs {
        all[name] = json!({"data": data, "dtype": "float32", "shape": [data.len()]});
    }
    json!({"model_id": model, "seq_id": seq, "forward_backward_input": {
        "data": [{"model_input": {"chunks": [{"type": "encoded_text", "tokens": ids[..n]}]},
                  "loss_fn_inputs": all}],
        "loss_fn": loss, "loss_fn_config": config}})
}

/// Number of targets of [`pass`].
fn length() -> usize {
    ByteTokenizer.encode(TEXT).len() - 1
}

/// Body of a request that creates a custom loss. Its graph is the example of the protocol: the cross entropy.
fn cross_entropy(session: &str, number: u64) -> Value {
    json!({"session_id": session, "custom_loss_seq_id": number, "name": "nll", "type": "create_custom_loss",
    "inputs": [{"name": "logprobs", "rank": 1}, {"name": "weights", "rank": 1}],
    "graph": {"format": 1, "nodes": [
        {"op":"placeholder","name":"logprobs","target":"logprobs","args":[],"kwargs":{}},
        {"op":"placeholder","name":"weights","target":"weights","args":[],"kwargs":{}},
        {"op":"call_function","name":"mul","target":"operator.mul",
         "args":[{"ref":"logprobs"},{"ref":"weights"}],"kwargs":{}},
        {"op":"call_method","name":"sum_1","target":"sum","args":[{"ref":"mul"}],"kwargs":{}},
        {"op":"call_function","name":"neg","target":"operator.neg","args":[{"ref":"sum_1"}],"kwargs":{}},
        {"op":"call_method","name":"mean_1","target":"mean","args":[{"ref":"logprobs"}],"kwargs":{}},
        {"op":"output","name":"output","target":"output","args":[{"tuple":[{"ref":"neg"},
         {"dict":{"custom/nll:sum":{"ref":"neg"},"custom/lp:mean":{"ref":"mean_1"}}}]}],"kwargs":{}}
    ]}})
}

#[test]
fn a_custom_loss_trains_like_the_same_built_in_loss() {
    let client = Client::new();
    let (_, flags) = client.post("client/config", &json!({"sdk_version": "0.38.0"}));
    assert_eq!(flags["custom_loss_server_side"], true, "{flags}");
    let made = client.run("create_custom_loss", &cross_entropy(&client.session, 0));
    let id = made["loss_id"].as_str().expect("an id");
    let (custom, built_in) = (client.model(0), client.model(1));
    let weights: Vec<f32> = (0..length()).map(|i| i as f32 / 8.0).collect();
    let inputs = [("weights", weights)];
    let mut last = f64::INFINITY;
    for i in 0..5 {
        let (seq, config) = (1 + 2 * i, json!({"loss_id": id}));
        let output = client.run("forward_backward", &pass(&custom, seq, "custom", config, &inputs));
        let expected = pass(&built_in, seq, "cross_entropy", Value::Null, &inputs);
        let expected = client.run("forward_backward", &expected);
        let [a, b] = [&output, &expected].map(|it| it["metrics"]["loss:sum"].as_f64().expect("a loss"));
        assert!((a - b).abs() < 1e-3 * b, "{a} {b}");
        assert_eq!(output["metrics"]["custom/nll:sum"], output["metrics"]["loss:sum"]);
        let logprobs = output["loss_fn_outputs"][0]["logprobs"]["data"].as_array().expect("logprobs");
        let mean = logprobs.iter().filter_map(Value::as_f64).sum::<f64>() / length() as f64;
        assert!(
            (output["metrics"]["custom/lp:mean"].as_f64().expect("a mean") - mean).abs() < 1e-4,
            "{output}"
        );
        assert!(a < last, "{a} {last}");
        last = a;
        let norms = [&custom, &built_in].map(|model| {
            let update = client.run("optim_step", &step(model, seq + 1));
            update["metrics"]["grad_norm"].as_f64().expect("a norm")
        });
        assert!((norms[0] - norms[1]).abs() < 1e-3 * norms[1], "{norms:?}");
    }
}

#[test]
fn a_custom_loss_is_created_once_and_belongs_to_its_session() {
    let client = Client::new();
    let first = client.submit("create_custom_loss", &cross_entropy(&client.session, 0));
    let again = client.submit("create_custom_loss", &cross_entropy(&client.session, 0));
    assert_eq!(first, again, "a repeated request, after a lost response, has the same id");
    let made = client.wait(&first);
    let id = made["loss_id"].as_str().expect("an id");
    let (status, refused) = client.post("create_custom_loss", &cross_entropy(&client.session, 1));
    assert_eq!(status, 409, "{refused}");
    assert!(refused["detail"].as_str().expect("a text").contains(&format!("use {id}")), "{refused}");
    let (_, other) = client.post("create_session", &json!({"tags": [], "type": "create_session"}));
    let other = other["session_id"].as_str().expect("an id");
    let model = json!({"session_id": other, "model_seq_id": 0, "base_model": "tinkex/nano",
                       "lora_config": {"rank": 4}, "type": "create_model"});
    let model = client.run("create_model", &model);
    let model = model["model_id"].as_str().expect("an id");
    let foreign = pass(model, 1, "custom", json!({"loss_id": id}), &[("weights", vec![1.0; length()])]);
    let error = client.fail("forward_backward", &foreign);
    assert!(error.contains("is not a custom loss of the session"), "{error}");
    // Another session may create the same loss.
    let same = client.run("create_custom_loss", &cross_entropy(other, 0));
    assert_ne!(same["loss_id"], id);
}

#[test]
fn a_custom_loss_that_cannot_be_evaluated_names_the_place_and_changes_nothing() {
    let client = Client::new();
    let mut wrong = cross_entropy(&client.session, 0);
    wrong["graph"]["nodes"][2]["target"] = json!("os.system");
    let (status, refused) = client.post("create_custom_loss", &wrong);
    let text = refused["detail"].as_str().expect("a text");
    assert!(status == 422 && text.contains("(os.system): is not a function of torch"), "{status} {text}");
    let (status, _) = client.post("create_custom_loss", &json!({"session_id": client.session}));
    assert_eq!(status, 422);
    let (status, _) = client.post("create_custom_loss", &cross_entropy("unknown", 0));
    assert_eq!(status, 404);
    let made = client.run("create_custom_loss", &cross_entropy(&client.session, 1));
    let config = json!({"loss_id": made["loss_id"]});
    let model = client.model(0);
    let n = length();
    type Inputs<'a> = &'a [(&'a str, Vec<f32>)];
    let table: [(Value, Inputs<'_>, &str); 3] = [
        (config.clone(), &[], "[\"weights\"]: is missing"),
        (config.clone(), &[("weights", vec![1.0; n - 1])], "this loss takes [18]"),
        (json!({"loss_id": "x"}), &[], "\"x\" is not a custom loss"),
    ];
    for (seq, (config, inputs, expected)) in (1..).zip(table) {
        let error = client.fail("forward_backward", &pass(&model, seq, "custom", config, inputs));
        assert!(error.contains(expected), "{error}");
    }
    // Each of the three failed passes used up its seq id, so the next one is 4. Inputs that the loss does not name,
    // such as `mask`, are ignored.
    let more = [("weights", vec![1.0; n]), ("mask", vec![1.0; n - 1])];
    client.run("forward_backward", &pass(&model, 4, "custom", config, &more));
}

#[test]
fn gspo_trains_on_the_ratio_of_the_whole_sequence() {
    let client = Client::new();
    let model = client.model(0);
    let n = length();
    let inputs = |q: f32| {
        [("logprobs", vec![q; n]), ("advantages", vec![1.0; n]), ("sequence_ratio_mask", vec![1.0; n])]
    };
    let output = client.run("forward_backward", &pass(&model, 1, "gspo", json!({}), &inputs(-6.0)));
    let logprobs = output["loss_fn_outputs"][0]["logprobs"]["data"].as_array().expect("logprobs");
    let mean = logprobs.iter().filter_map(Value::as_f64).sum::<f64>() / n as f64;
    let ratio = (mean + 6.0).exp().clamp(f64::MIN, 1.2);
    let loss = output["metrics"]["loss:sum"].as_f64().expect("a loss");
    assert!((loss + n as f64 * ratio).abs() < 1e-3 * loss.abs(), "{loss} {ratio}");
    let update = client.run("optim_step", &step(&model, 2));
    assert!(0.0 < update["metrics"]["grad_norm"].as_f64().expect("a norm") || ratio == 1.2, "{update}");
    let unmasked = [("logprobs", vec![-6.0; n]), ("advantages", vec![1.0; n])];
    // Without a mask the tokens with an advantage count, here all.
    let unmasked = client.run("forward_backward", &pass(&model, 3, "gspo", json!({}), &unmasked));
    let masked = client.run("forward_backward", &pass(&model, 4, "gspo", json!({}), &inputs(-6.0)));
    assert_eq!(unmasked, masked);
}
