//! The engine with extreme numbers (very large, very small, not finite), with requests that would take too much memory,
//! and with requests that it refuses.

use serde_json::{Value, json};
use tinkex::local::{Options, Server};
use tinkex::types::{
    AdamParams, Datum, Loss, LossFn, LossGraph, ModelInput, SamplingParams, Stop, TensorData, Ttl, Values,
};
use tinkex::{ErrorKind, SamplingClient, ServiceClient, TrainingClient};

use crate::util::engine::{Client, pass, sample, step};

/// An engine, and two clients of it.
struct Setup {
    service: ServiceClient,
    training: TrainingClient,
    _server: Server,
}

impl Setup {
    fn new() -> Self {
        let server = Server::start(Options { threads: 2, ..Options::default() }).unwrap();
        let service = ServiceClient::builder().without_environment();
        let service = service.base_url(server.url()).api_key(server.api_key()).build().unwrap();
        let lora = tinkex::types::LoraConfig { rank: 8, seed: Some(1), ..Default::default() };
        let training = service.create_lora_training_client("tinkex/nano", lora).unwrap();
        Setup { service, training, _server: server }
    }

    fn sampler(&self) -> SamplingClient {
        self.service.create_sampling_client("tinkex/nano").unwrap()
    }

    /// Runs a pass and returns its loss.
    #[track_caller]
    fn loss(&self, data: &[Datum], loss: impl Into<Loss>) -> f64 {
        self.training.forward_backward(data.to_vec(), loss).wait().unwrap().metrics["loss:sum"]
    }

    /// Runs a pass that must fail and returns the text of its error.
    #[track_caller]
    fn refused(&self, data: &[Datum], loss: impl Into<Loss>) -> String {
        self.training.forward_backward(data.to_vec(), loss).wait().unwrap_err().to_string()
    }
}

/// A datum of four tokens for losses of reinforcement learning. `logprobs` are the log-probabilities with which a
/// sampler drew the tokens.
fn policy(logprobs: [f32; 4], advantages: [f32; 4]) -> Datum {
    Datum::new(ModelInput::from_ints([97, 98, 99, 100]))
        .with("target_tokens", vec![98i64, 99, 100, 101])
        .with("logprobs", logprobs.to_vec())
        .with("advantages", advantages.to_vec())
}

fn text() -> Datum {
    Datum::cross_entropy(&[97], &[98, 99, 100])
}

#[test]
fn a_token_with_zero_advantage_adds_nothing_to_the_loss_however_low_its_sampling_logprob() {
    let setup = Setup::new();
    for loss_fn in [LossFn::ImportanceSampling, LossFn::Ppo, LossFn::Cispo] {
        let loss = |q: f32| {
            let datum = policy([q, -3.0, -3.0, -3.0], [0.0, 1.0, 1.0, 1.0]);
            setup.loss(&[datum], loss_fn.clone())
        };
        let expected = loss(-3.0);
        assert!(expected.is_finite() && expected != 0.0, "{loss_fn} {expected}");
        for q in [-700.0, -800.0, -3e38] {
            assert_eq!(loss(q), expected, "{loss_fn} {q}");
        }
    }
    // The loss `gspo` multiplies the advantages by one ratio of probabilities for the whole sequence. The ratio is
    // infinite here, but the advantages are zero, so the loss is zero.
    let gspo = policy([-3e38, -3.0, -3.0, -3.0], [0.0; 4]).with("sequence_ratio_mask", vec![1.0f32; 4]);
    assert_eq!(setup.loss(&[gspo], LossFn::Gspo), 0.0);
    let step = setup.training.optim_step(AdamParams::default()).wait().unwrap();
    assert!(0.0 < step.metrics["grad_norm"], "{step:?}");
}

#[test]
fn a_non_finite_loss_fails_its_pass_and_leaves_the_model_unchanged() {
    let setup = Setup::new();
    let huge = LossGraph::trace("huge", &[("logprobs", 1), ("w", 1)], |graph| {
        (-(graph.logprobs() * graph.input("w"))).exp().sum()
    });
    let huge = setup.service.create_custom_loss(huge.unwrap()).wait().unwrap();
    let w = |w: f32| text().with("w", vec![w; 3]);
    let fine = policy([-3.0; 4], [1.0, 0.5, 1.0, 1.0]);
    let masked = |it: Datum| it.with("sequence_ratio_mask", vec![1.0f32; 4]);
    let weighted = |w: f32| text().with("weights", vec![w; 3]);
    let cases: Vec<(Loss, Datum, Datum)> = vec![
        (LossFn::ImportanceSampling.into(), fine.clone(), policy([-100.0; 4], [1.0; 4])),
        (LossFn::ImportanceSampling.into(), fine.clone(), policy([-800.0; 4], [0.0, 1.0, 1.0, 1.0])),
        (LossFn::Ppo.into(), fine.clone(), policy([-100.0; 4], [-1.0; 4])),
        (LossFn::Cispo.with("clip_high_threshold", 1e300), fine.clone(), policy([-200.0; 4], [1.0; 4])),
        (LossFn::Dro.with("beta", 10.0), fine.clone(), policy([-3e38; 4], [1.0; 4])),
        (LossFn::Gspo.into(), masked(fine.clone()), masked(policy([-800.0; 4], [-1.0; 4]))),
        (LossFn::CrossEntropy.into(), weighted(0.5), weighted(3e38)),
        ((&huge).into(), w(0.01), w(1000.0)),
        ((&huge).into(), w(0.01), w(20.0)),
    ];
    let clip = AdamParams { grad_clip_norm: 1.0, ..Default::default() };
    let (mut untouched, mut last) = (setup.loss(&[text()], LossFn::CrossEntropy), 0.0);
    for (loss, good, bad) in cases {
        setup.training.optim_step(AdamParams { learning_rate: 0.0, ..Default::default() }).wait().unwrap();
        let error = setup.refused(&[good.clone(), bad.clone()], loss.clone());
        assert!(error.contains("data[1]: "), "{error}");
        assert!(error.contains("inf") || error.contains("not finite"), "{error}");
        // The failed pass has added nothing to the gradients, so the next step finds none.
        let step = setup.training.optim_step(clip).wait().unwrap();
        assert_eq!(step.metrics["grad_norm"], 0.0, "{error}");
        assert!(setup.loss(&[good], loss).is_finite());
        let step = setup.training.optim_step(clip).wait().unwrap();
        assert!(step.metrics["grad_norm"].is_finite() && last < step.metrics["tinkex/step"], "{step:?}");
        last = step.metrics["tinkex/step"];
        let now = setup.loss(&[text()], LossFn::CrossEntropy);
        assert!(now.is_finite() && now != untouched, "{now} {untouched}");
        untouched = now;
    }
    setup.training.save_state("fine", Ttl::Never).wait().unwrap();
    let sampler = setup.training.save_weights_and_get_sampling_client().unwrap();
    let params = SamplingParams { max_tokens: Some(3), ..Default::default() };
    sampler.sample(&ModelInput::from_ints([97]), 1, &params).wait().unwrap();
}

#[test]
fn a_step_that_would_make_weights_non_finite_is_refused_and_not_counted() {
    let setup = Setup::new();
    let before = setup.loss(&[text()], LossFn::CrossEntropy);
    let huge = |change: fn(&mut AdamParams)| {
        let mut adam = AdamParams::default();
        change(&mut adam);
        setup.training.optim_step(adam).wait().unwrap_err().to_string()
    };
    for (name, error) in [
        ("learning_rate", huge(|it| it.learning_rate = 1e39)),
        ("weight_decay", huge(|it| it.weight_decay = 1e300)),
        ("eps", huge(|it| it.eps = 1e39)),
        ("grad_clip_norm", huge(|it| it.grad_clip_norm = 1e39)),
    ] {
        assert!(error.contains(&format!("adam_params.{name}: must be at most 3.4")), "{error}");
    }
    let error = huge(|it| (it.learning_rate, it.weight_decay) = (3e38, 3e38));
    assert!(error.contains("not finite numbers (the norm of the gradients is"), "{error}");
    assert_eq!(setup.loss(&[text()], LossFn::CrossEntropy), before);
    let step = setup.training.optim_step(AdamParams::default()).wait().unwrap();
    assert_eq!(step.metrics["tinkex/step"], 1.0);
    assert!(setup.loss(&[text()], LossFn::CrossEntropy) < before);
}

#[test]
fn settings_too_small_for_f32_keep_their_meaning() {
    let losses = |change: fn(&mut AdamParams)| {
        let setup = Setup::new();
        let mut adam = AdamParams { learning_rate: 0.01, ..Default::default() };
        change(&mut adam);
        let one = |_| {
            let loss = setup.loss(&[text()], LossFn::CrossEntropy);
            setup.training.optim_step(adam).wait().unwrap();
            loss
        };
        (0..3).map(one).collect::<Vec<f64>>()
    };
    let usual = losses(|_| {});
    assert!(usual[2] < usual[1] && usual[1] < usual[0], "{usual:?}");
    for tiny in [losses(|it| it.eps = 1e-46), losses(|it| it.eps = 1e-300)] {
        assert!(tiny.iter().zip(&usual).all(|(a, b)| (a - b).abs() < 1e-3), "{tiny:?} {usual:?}");
    }
    let still = losses(|it| it.learning_rate = 1e-46);
    assert_eq!(still, [usual[0]; 3]);
    // Gradients clipped to this norm would underflow in f32, so the engine refuses the step.
    let clip = AdamParams { grad_clip_norm: 1e-46, ..Default::default() };
    let error = Setup::new().training.optim_step(clip).wait().unwrap_err().to_string();
    assert!(error.contains("adam_params.grad_clip_norm"), "{error}");

    let setup = Setup::new();
    let sampler = setup.sampler();
    let tokens = |temperature: f32, top_p: f32| {
        let params = SamplingParams {
            max_tokens: Some(8),
            seed: Some(3),
            temperature,
            top_p,
            stop: Some(Stop::Tokens(vec![])),
            ..Default::default()
        };
        let response = sampler.sample(&ModelInput::from_ints([97, 98]), 1, &params).wait().unwrap();
        response.sequences[0].tokens.clone()
    };
    let greedy = tokens(0.0, 1.0);
    for (temperature, top_p) in
        [(1e-45, 1.0), (1e-40, 1.0), (1e-38, 0.5), (1e-6, 1.0), (1.0, 1e-45), (1.0, 0.0)]
    {
        assert_eq!(tokens(temperature, top_p), greedy, "{temperature} {top_p}");
    }
    assert_eq!(tokens(f32::MAX, 1.0).len(), 8);
}

#[test]
fn sampling_params_out_of_range_are_refused_by_name() {
    let client = Client::new();
    let body =
        json!({"session_id": client.session, "sampling_session_seq_id": 0, "base_model": "tinkex/nano"});
    let (_, made) = client.post("create_sampling_session", &body);
    let sampler = made["sampling_session_id"].as_str().unwrap();
    for (seq, (params, named)) in (0..).zip([
        (json!({"max_tokens": 1, "temperature": 1e39}), "temperature"),
        (json!({"max_tokens": 1, "temperature": -1e-30}), "temperature"),
        (json!({"max_tokens": 1, "top_p": 1e39}), "top_p"),
        (json!({"max_tokens": 1, "top_p": 1.1}), "top_p"),
        (json!({"max_tokens": 0}), "max_tokens"),
    ]) {
        let (status, refused) = client.post("asample", &sample(sampler, seq, params));
        let text = refused["detail"].to_string();
        assert!(status == 400 && text.contains(named), "{status} {refused}");
    }
    let mut large = sample(sampler, 9, json!({"max_tokens": 3000}));
    large["num_samples"] = json!(1000);
    let (status, refused) = client.post("asample", &large);
    assert!(
        status == 400 && refused["detail"].as_str().unwrap().contains("num_samples 1000 times 3000 tokens")
    );
}

/// A sparse tensor of one row with one value.
fn sparse_row(cols: usize, values: Values) -> TensorData {
    TensorData::from_csr([1, cols], vec![0, 1], vec![0], values)
}

#[test]
fn a_tensor_of_few_bytes_cannot_exceed_the_memory_limit_of_a_pass() {
    let client = Client::new();
    let model = client.model(0);
    let graph = json!([
        {"op": "placeholder", "name": "logprobs", "target": "logprobs"},
        {"op": "placeholder", "name": "w", "target": "w"},
        {"op": "call_method", "name": "sum_1", "target": "sum", "args": [{"ref": "w"}]},
        {"op": "call_method", "name": "sum_2", "target": "sum", "args": [{"ref": "logprobs"}]},
        {"op": "call_function", "name": "mul", "target": "operator.mul",
         "args": [{"ref": "sum_1"}, {"ref": "sum_2"}]},
        {"op": "output", "name": "output", "target": "output", "args": [{"tuple": [{"ref": "mul"}, {"dict": {}}]}]}]);
    let made = client.run(
        "create_custom_loss",
        &json!({"session_id": client.session, "custom_loss_seq_id": 0, "name": "w", "type": "create_custom_loss",
                "inputs": [{"name": "logprobs", "rank": 1}, {"name": "w", "rank": 2}],
                "graph": {"format": 1, "nodes": graph}}),
    );
    let sparse = |cols: u64, dtype: &str| {
        json!({"data": [1], "dtype": dtype, "shape": [1, cols], "sparse_crow_indices": [0, 1],
               "sparse_col_indices": [0]})
    };
    let one = json!({"data": [1], "dtype": "int64", "shape": [1]});
    let mut seq = 0;
    for cols in [1u64 << 30, 1 << 42, 1 << 62] {
        for (loss, inputs, named) in [
            ("cross_entropy", json!({"target_tokens": sparse(cols, "int64")}), "target_tokens"),
            ("ppo", json!({"target_tokens": sparse(cols, "int64")}), "target_tokens"),
            ("cross_entropy", json!({"target_tokens": one, "weights": sparse(cols, "float32")}), "weights"),
            ("custom", json!({"target_tokens": one, "w": sparse(cols, "float32")}), "w"),
        ] {
            let config = if loss == "custom" { json!({"loss_id": made["loss_id"]}) } else { Value::Null };
            for (verb, key) in [("forward_backward", "forward_backward_input"), ("forward", "forward_input")]
            {
                seq += 1;
                let body = json!({"model_id": model, "seq_id": seq, key: {
                    "data": [{"model_input": {"chunks": [{"type": "encoded_text", "tokens": [1]}]},
                              "loss_fn_inputs": inputs}],
                    "loss_fn": loss, "loss_fn_config": config}});
                let error = client.fail(verb, &body);
                assert!(
                    error.contains(&format!("data[0].loss_fn_inputs[{named:?}]: with a tensor of")),
                    "{error}"
                );
            }
        }
    }
    // A custom loss that expands the n log-probabilities into an array of n × n values.
    let (n, rows) = (2048, json!({"tuple": [{"slice": [null, null, null]}, null]}));
    let nodes = json!([
        {"op": "placeholder", "name": "logprobs", "target": "logprobs"},
        {"op": "call_function", "name": "rows", "target": "operator.getitem", "args": [{"ref": "logprobs"}, rows]},
        {"op": "call_function", "name": "a", "target": "operator.mul", "args": [{"ref": "rows"}, {"ref": "logprobs"}]},
        {"op": "call_function", "name": "b", "target": "operator.add", "args": [{"ref": "a"}, {"ref": "logprobs"}]},
        {"op": "call_method", "name": "sum_1", "target": "sum", "args": [{"ref": "b"}]},
        {"op": "output", "name": "output", "target": "output", "args": [{"tuple": [{"ref": "sum_1"}, {"dict": {}}]}]}]);
    let made = client.run(
        "create_custom_loss",
        &json!({"session_id": client.session, "custom_loss_seq_id": 1, "name": "pairs", "type": "create_custom_loss",
                "inputs": [{"name": "logprobs", "rank": 1}], "graph": {"format": 1, "nodes": nodes}}),
    );
    let wide = |seq: u64, n: usize| {
        json!({"model_id": model, "seq_id": seq, "forward_backward_input": {
            "data": [{"model_input": {"chunks": [{"type": "encoded_text", "tokens": vec![97; n]}]},
                      "loss_fn_inputs": {"target_tokens": {"data": vec![97; n], "dtype": "int64", "shape": [n]}}}],
            "loss_fn": "custom", "loss_fn_config": {"loss_id": made["loss_id"]}}})
    };
    let error = client.fail("forward_backward", &wide(seq + 1, n));
    assert!(error.contains("data[0]: ") && error.contains("needs too much memory"), "{error}");
    client.run("forward_backward", &wide(seq + 2, 64));
    client.run("forward_backward", &pass(&model, seq + 3, "forward_backward_input"));
}

#[test]
fn a_huge_sparse_tensor_is_an_error_in_the_rust_client_too() {
    let setup = Setup::new();
    let datum = |cols| {
        Datum::new(ModelInput::from_ints([97])).with("target_tokens", sparse_row(cols, Values::I64(vec![98])))
    };
    let error =
        setup.training.forward_backward(vec![datum(1 << 42)], LossFn::CrossEntropy).wait().unwrap_err();
    assert!(error.is_user_error() && error.to_string().contains("target_tokens"), "{error}");
    let weights = sparse_row(1 << 42, Values::F32(vec![1.0]));
    let error = setup.refused(&[datum(1 << 42).with("weights", weights)], LossFn::CrossEntropy);
    assert!(error.contains("loss_fn_inputs"), "{error}");
    // A sparse tensor that fits into memory works like a dense one. The second result has 100 000 log-probabilities and
    // arrives, although it is much larger than its request.
    assert!(setup.loss(&[datum(2)], LossFn::CrossEntropy).is_finite());
    let weights = sparse_row(100_000, Values::F32(vec![1.0]));
    let pass = vec![datum(100_000).with("weights", weights)];
    let output = setup.training.forward_backward(pass, LossFn::CrossEntropy).wait().unwrap();
    assert_eq!(output.logprobs(0).unwrap().len(), 100_000);
}

#[test]
fn a_long_prompt_is_scored() {
    let setup = Setup::new();
    let sampler = setup.sampler();
    let prompt = ModelInput::from_ints((0..2048).map(|i| 97 + i % 26).collect::<Vec<i32>>());
    let logprobs = sampler.compute_logprobs(&prompt).wait().unwrap();
    assert!(logprobs.len() == 2048 && logprobs[0].is_none() && logprobs[1..].iter().all(Option::is_some));
    let sum: f64 = logprobs.iter().flatten().map(|it| f64::from(*it)).sum();
    assert!((sum + 11_389.108).abs() < 0.01, "{sum}");
    assert_eq!(sampler.compute_logprobs_last(&prompt, 5).wait().unwrap()[2043..], logprobs[2043..]);
}

#[test]
fn a_refused_request_with_a_seq_id_uses_it_up_and_fails_in_its_result() {
    let client = Client::new();
    let model = client.model(0);
    client.losses(&model, 1, 1);
    let saved = client.run("save_weights", &json!({"model_id": model, "path": "a", "seq_id": 3}));
    let path = saved["path"].as_str().unwrap();
    let load = |more: Value| {
        let mut body = json!({"model_id": model, "path": path, "optimizer": false});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let broken = |key: &str| json!({"model_id": model, key: {"data": 7, "loss_fn": "ppo"}});
    let tensor = json!({"data": [1], "dtype": "int64", "shape": [1, 2]});
    let ragged = json!({"model_id": model, "forward_backward_input": {"loss_fn": "cross_entropy", "data": [
        {"model_input": {"chunks": [{"type": "encoded_text", "tokens": [1]}]},
         "loss_fn_inputs": {"target_tokens": tensor}}]}});
    let table = [
        ("load_weights", load(json!({})), "must be the first request of a model, is its request"),
        ("load_weights", load(json!({"path": "tinker://nope/weights/none"})), "must be the first"),
        ("load_weights", load(json!({"session_id": client.session, "model_seq_id": 3})), "must be the first"),
        ("load_weights", load(json!({"optimizer": "yes"})), "cannot be read"),
        ("optim_step", json!({"model_id": model, "adam_params": {"eps": "small"}}), "cannot be read"),
        ("optim_step", json!({"model_id": model, "adam_params": {"eps": 0.0}}), "adam_params.eps"),
        ("optim_step", json!({"model_id": model, "optimizer_params": {"type": "sgd"}}), "only adam_params"),
        ("save_weights", json!({"model_id": model, "path": "a"}), "already exists"),
        ("save_weights", json!({"model_id": model, "path": 7}), "cannot be read"),
        ("save_weights", json!({"model_id": model, "path": "b", "ttl_seconds": 0}), "ttl_seconds"),
        ("save_weights_for_sampler", json!({"model_id": model, "path": {}}), "cannot be read"),
        ("save_weights_for_sampler", json!({"model_id": model, "kind": "other"}), "cannot be read"),
        (
            "save_weights_for_sampler",
            json!({"model_id": model, "path": "a/b"}),
            "not a valid checkpoint name",
        ),
        ("save_weights_external", json!({"model_id": model}), "cannot be read"),
        ("save_weights_external", json!({"model_id": model, "path": ".."}), "not a valid checkpoint name"),
        ("forward_backward", broken("forward_backward_input"), "cannot be read"),
        ("forward_backward", broken("other"), "cannot be read"),
        ("forward_backward", ragged, "cannot be read"),
        ("forward", broken("forward_input"), "cannot be read"),
        ("forward", broken("forward_backward_input"), "cannot be read"),
    ];
    let mut seq = 3;
    for (verb, mut body, expected) in table {
        seq += 1;
        body["seq_id"] = json!(seq);
        let error = client.fail(verb, &body);
        assert!(error.contains(expected), "{verb} {body}: {error}");
        assert_eq!(client.fail(verb, &body), error, "a repeated request has the same error");
    }
    // The same in protobuf: the body has the model id, the seq id and a truncated datum.
    let mut bytes = vec![0x0a, model.len() as u8];
    bytes.extend_from_slice(model.as_bytes());
    bytes.extend_from_slice(&[0x10, seq + 1, 0x1a, 99, 1]);
    let request =
        client.agent.post(client.url("forward_backward")).header("X-API-Key", client.server.api_key());
    let mut response = request.header("Content-Type", "application/x-protobuf").send(&bytes[..]).unwrap();
    let future: Value = serde_json::from_str(&response.body_mut().read_to_string().unwrap()).unwrap();
    let failed = client.wait(future["request_id"].as_str().unwrap());
    assert!(failed["error"].as_str().unwrap().contains("cannot be read"), "{failed}");
    // All these seq ids are used up: the request with the next one runs.
    client.run("optim_step", &step(&model, u64::from(seq) + 2));
    // Without a seq id, or with an unknown model, the response to the request itself is the refusal.
    let nameless = json!({"model_id": model, "adam_params": {"eps": "small"}});
    assert_eq!(client.post("optim_step", &nameless).0, 422);
    let unknown = json!({"model_id": "unknown", "seq_id": 1, "adam_params": {"eps": "small"}});
    assert_eq!(client.post("optim_step", &unknown).0, 404);
}

#[test]
fn loading_a_state_into_a_used_model_fails_and_the_next_call_succeeds() {
    let setup = Setup::new();
    setup.loss(&[text()], LossFn::CrossEntropy);
    let path = setup.training.save_state("a", Ttl::Never).wait().unwrap().path;
    let error = setup.training.load_state(&path).wait().unwrap_err();
    assert!(error.to_string().contains("must be the first request of a model"), "{error}");
    setup.loss(&[text()], LossFn::CrossEntropy);
}

#[test]
fn the_engines_own_step_metrics_are_prefixed_with_tinkex() {
    let client = Client::new();
    let model = client.model(0);
    client.run("forward_backward", &pass(&model, 1, "forward_backward_input"));
    let stepped = client.run("optim_step", &step(&model, 2));
    let metrics = stepped["metrics"].as_object().unwrap();
    let names: Vec<&str> = metrics.keys().map(String::as_str).collect();
    assert_eq!(names, ["grad_norm", "tinkex/learning_rate", "tinkex/step"]);
}

#[test]
fn the_same_custom_loss_twice_in_a_session_is_a_conflict() {
    let client = Client::new();
    let graph = |number: u64, name: &str| {
        json!({"session_id": client.session, "custom_loss_seq_id": number, "name": name, "type": "create_custom_loss",
               "inputs": [{"name": "logprobs", "rank": 1}],
               "graph": {"format": 1, "nodes": [
                   {"op": "placeholder", "name": "logprobs", "target": "logprobs"},
                   {"op": "call_method", "name": "sum_1", "target": "sum", "args": [{"ref": "logprobs"}]},
                   {"op": "output", "name": "output", "target": "output",
                    "args": [{"tuple": [{"ref": "sum_1"}, {"dict": {}}]}]}]}})
    };
    let made = client.run("create_custom_loss", &graph(0, "a"));
    let (status, refused) = client.post("create_custom_loss", &graph(1, "b"));
    let text = refused["detail"].to_string();
    assert!(
        status == 409 && text.contains("already exists") && text.contains(made["loss_id"].as_str().unwrap())
    );
    assert_eq!(
        client.post("create_custom_loss", &graph(0, "b")).0,
        409,
        "another loss with the same custom_loss_seq_id"
    );

    let setup = Setup::new();
    setup.training.save_state("a", Ttl::Never).wait().unwrap();
    let error = setup.training.save_state("a", Ttl::Never).wait().unwrap_err();
    assert!(error.to_string().contains("already exists"), "{error}");
    assert!(matches!(error.kind(), ErrorKind::Conflict | ErrorKind::RequestFailed { .. }), "{error:?}");
}

#[test]
fn a_custom_loss_reads_its_named_inputs_and_ignores_the_others() {
    let setup = Setup::new();
    let graph = LossGraph::trace("squares", &[("logprobs", 1)], |it| it.logprobs().square().sum()).unwrap();
    let loss = setup.service.create_custom_loss(graph).wait().unwrap();
    // The datum has the input `weights`, which the loss does not name.
    let output = setup.training.forward_backward(vec![text()], &loss).wait().unwrap();
    let squares: f64 = output.logprobs(0).unwrap().iter().map(|it| f64::from(*it).powi(2)).sum();
    assert!((output.metrics["loss:sum"] - squares).abs() < 1e-3 * squares);
}
