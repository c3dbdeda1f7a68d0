//! Differences between servers of this API (PROTOCOL §11). In each test, a fake server behaves as some servers do, and
//! the client must cope with it. The tests named `checklist_…` are about the tolerated differences (PROTOCOL §11.1).

use serde_json::{Value, json};
use tinkex::testing::{Act, FakeServer, Seen};
use tinkex::types::*;
use tinkex::{CloseStatus, ErrorKind, ServiceClient, TrainingClient};

use crate::util::{datum, seq_ids, training};

const RETRIEVE: &str = "/api/v1/retrieve_future";

/// Creates a fake server and a client with a model. The server answers the next poll for a result with `result`.
fn answered(result: Value) -> (FakeServer, ServiceClient, TrainingClient) {
    let (server, service, training) = training();
    server.next(RETRIEVE, Act::json(result));
    (server, service, training)
}

fn body(server: &FakeServer, path: &str) -> Value {
    server.requests_to(path)[0].json().unwrap()
}

fn params() -> SamplingParams {
    SamplingParams { max_tokens: Some(4), ..Default::default() }
}

fn sampled(result: Value) -> tinkex::Result<SampleResponse> {
    let (_server, service, _training) = answered(result);
    let sampler = service.create_sampling_client("fake/model")?;
    sampler.sample(&ModelInput::from_ints([1, 2]), 1, &params()).wait()
}

#[test]
fn auth_any_key_works_if_the_caller_says_so() {
    let server = FakeServer::new();
    let service = server.in_memory().api_key("anything").allow_any_key(true).build().unwrap();
    service.get_server_capabilities().unwrap();
    let seen = &server.requests_to("/api/v1/get_server_capabilities")[0];
    assert_eq!(seen.header("x-api-key"), Some("anything"));
    assert!(server.in_memory().api_key("anything").build().is_err());
}

#[test]
fn client_config_may_hold_one_flag_and_dynamic_config_be_missing() {
    let server = FakeServer::new();
    server.always("/api/v1/client/config", Act::json(json!({"pjwt_auth_enabled": false})));
    server.always("/api/v1/client/dynamic_config", Act::status(404, r#"{"detail":"Not Found"}"#));
    let service = server.in_memory().build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    training.forward_backward(vec![datum(); 3], LossFn::CrossEntropy).wait().unwrap();
    let seen = server.requests_to("/api/v1/forward_backward");
    assert_eq!((seen.len(), seen[0].header("content-encoding")), (1, None));
}

#[test]
fn client_config_may_be_missing() {
    let server = FakeServer::new();
    server.always("/api/v1/client/config", Act::status(404, r#"{"detail":"Not Found"}"#));
    let service = server.in_memory().build().unwrap();
    service.create_lora_training_client("fake/model", Default::default()).unwrap();
}

#[test]
fn finish_may_be_missing() {
    for status in [404, 405] {
        let (server, service, _training) = training();
        server.script(move |it| it.path.ends_with("/finish").then(|| Act::status(status, "{}")));
        service.close(CloseStatus::Success).unwrap();
    }
}

#[test]
fn unknown_fields_are_ignored_and_official_bodies_sent_unchanged() {
    let (server, _service, training) = answered(json!({"metrics": {"a": 1.0}, "unknown": {"field": [1]}}));
    assert_eq!(training.optim_step(AdamParams::default()).wait().unwrap().metrics["a"], 1.0);
    assert_eq!(body(&server, "/api/v1/optim_step")["type"], "optim_step");
    assert_eq!(body(&server, "/api/v1/create_model")["optimizer_config"], json!({"type": "adamw"}));
}

#[test]
fn ids_are_opaque() {
    let server = FakeServer::new();
    server.always("/api/v1/create_session", Act::json(json!({"session_id": "session_0a1b2c3d"})));
    server.always("/api/v1/create_model", Act::json(json!({"request_id": 17, "model_id": "early"})));
    server.next(RETRIEVE, Act::json(json!({"model_id": "model_4e5f6a7b", "status": "created"})));
    let service = server.in_memory().build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    assert_eq!(training.model_id(), "model_4e5f6a7b");
    assert_eq!(body(&server, RETRIEVE)["request_id"], "17", "a decimal id is sent as a string");
    assert_eq!(body(&server, "/api/v1/create_model")["session_id"], "session_0a1b2c3d");
}

#[test]
fn create_model_gets_a_lora_config_and_may_answer_with_more() {
    let server = FakeServer::new();
    let more =
        json!({"request_id": "1", "model_id": "m", "base_model": "b", "lora_config": {}, "status": "x"});
    server.always("/api/v1/create_model", Act::json(more));
    server.next(RETRIEVE, Act::json(json!({"model_id": "m", "base_model": "b", "status": "created"})));
    let service = server.in_memory().build().unwrap();
    let lora = LoraConfig { rank: 4, seed: Some(7), ..Default::default() };
    service.create_lora_training_client("fake/model", lora).unwrap();
    let sent = body(&server, "/api/v1/create_model");
    assert_eq!((&sent["lora_config"]["rank"], &sent["lora_config"]["seed"]), (&json!(4), &json!(7)));
}

#[test]
fn create_model_of_rank_0_is_left_to_the_server() {
    let server = FakeServer::new();
    let service = server.in_memory().build().unwrap();
    let whole = LoraConfig { rank: 0, ..Default::default() };
    service.create_lora_training_client("fake/model", whole).unwrap();
    assert_eq!(body(&server, "/api/v1/create_model")["lora_config"]["rank"], 0);
    server.always("/api/v1/create_model", Act::status(400, r#"{"detail":"rank must be at least 1"}"#));
    let error = service.create_lora_training_client("fake/model", whole).map(drop).unwrap_err();
    assert!(error.http_status() == Some(400) && error.to_string().contains("rank"), "{error}");
}

#[test]
fn create_via_load_falls_back_where_it_is_not_supported() {
    for (status, detail) in
        [(404, "Not Found"), (405, "Method Not Allowed"), (422, "model_id: field required")]
    {
        let server = FakeServer::new();
        let refusal = json!({"detail": detail}).to_string();
        server.next("/api/v1/load_weights", Act::status(status, refusal));
        let service = server.in_memory().build().unwrap();
        let training = service.create_training_client_from_state("tinker://run/weights/a").unwrap();
        let loads = server.requests_to("/api/v1/load_weights");
        assert_eq!(loads[1].json().unwrap()["seq_id"], 1);
        assert_eq!(loads[1].json().unwrap()["model_id"], training.model_id());
        assert_eq!(server.requests_to("/api/v1/weights_info").len(), 1);
        training.optim_step(AdamParams::default()).wait().unwrap();
        assert_eq!(seq_ids(&server).last(), Some(&2), "the request after the load has the next sequence id");
    }
}

#[test]
fn create_via_load_of_a_missing_checkpoint_fails_without_a_fallback() {
    let server = FakeServer::new();
    server.next("/api/v1/load_weights", Act::status(404, r#"{"detail":"Model not found"}"#));
    let service = server.in_memory().build().unwrap();
    let error = service.create_training_client_from_state("tinker://nope/weights/none").unwrap_err();
    assert_eq!((error.kind(), error.http_status()), (&tinkex::ErrorKind::NotFound, Some(404)));
    assert!(server.requests_to("/api/v1/weights_info").is_empty());
}

#[test]
fn load_weights_of_a_pending_checkpoint_is_repeated() {
    let (server, _service, training) = training();
    server.next("/api/v1/load_weights", Act::status(425, r#"{"detail":"checkpoint is pending"}"#));
    training.load_state("tinker://run/weights/a").wait().unwrap();
    assert_eq!(server.requests_to("/api/v1/load_weights").len(), 2);
}

#[test]
fn get_info_may_have_few_fields_inside_model_data() {
    let server = FakeServer::new();
    let data = json!({"base_model": "org/base", "lora_config": {"rank": 8.0}, "model_name": null});
    server.always("/api/v1/get_info", Act::json(json!({"model_id": "m", "status": "x", "model_data": data})));
    let service = server.in_memory().build().unwrap();
    let training = service.create_lora_training_client("org/base", Default::default()).unwrap();
    let info = training.get_info();
    assert_eq!((info.base_model.as_deref(), info.lora_rank), (Some("org/base"), Some(8)));
    assert_eq!(info.tokenizer_id, None);
}

#[test]
fn requests_arrive_in_the_order_of_their_sequence_ids() {
    let (server, _service, training) = training();
    let step = |_| {
        let pass = training.forward_backward(vec![datum()], LossFn::CrossEntropy);
        (pass, training.optim_step(AdamParams::default()))
    };
    for (pass, update) in (0..5).map(step).collect::<Vec<_>>() {
        pass.wait().unwrap();
        update.wait().unwrap();
    }
    assert_eq!(seq_ids(&server), (1..=10).collect::<Vec<_>>());
}

#[test]
fn save_weights_under_an_existing_name_fails_within_seconds() {
    let (server, _service, training) = training();
    server.always("/api/v1/save_weights", Act::status(409, r#"{"detail":"checkpoint a already exists"}"#));
    let error = training.save_state("a", Ttl::Never).wait().unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::Conflict) && error.to_string().contains("already exists"),
        "{error}"
    );
    // The client must give up early. The official SDK would repeat the request at least eleven times, for five minutes.
    assert!(server.requests_to("/api/v1/save_weights").len() < 6);
}

#[test]
fn save_weights_whose_answer_was_lost_is_found_by_its_name() {
    let (server, _service, training) = training();
    let taken = || Act::status(409, r#"{"detail":"Checkpoint a already exists"}"#);
    for path in ["/api/v1/save_weights", "/api/v1/save_weights_for_sampler"] {
        server.next(path, Act::Reset);
        server.always(path, taken());
    }
    let saved = training.save_state("a", Ttl::Never).wait().unwrap();
    assert_eq!(saved.path.as_str(), format!("tinker://{}/weights/a", training.model_id()));
    let saved = training.save_weights_for_sampler("a", Ttl::Never).wait().unwrap();
    assert_eq!(saved.path.as_str(), format!("tinker://{}/a", training.model_id()));
    // This client has saved under the name before. So the conflict is about that earlier checkpoint, and the new save
    // has failed.
    for lost in [true, false] {
        if lost {
            server.next("/api/v1/save_weights", Act::Reset);
        }
        let error = training.save_state("a", Ttl::Never).wait().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Conflict), "{error:?}");
    }
    training.optim_step(AdamParams::default()).wait().unwrap();
    let first = |path: &str| server.requests_to(path)[0].json().unwrap()["seq_id"].clone();
    assert_eq!(first("/api/v1/save_weights_for_sampler"), 2);
    assert_eq!(first("/api/v1/optim_step"), 3, "refused requests give their sequence ids back");
}

#[test]
fn save_weights_refused_for_another_reason_after_a_lost_answer_poisons_the_client() {
    let (server, _service, training) = training();
    server.next("/api/v1/save_weights", Act::Reset);
    server.always(
        "/api/v1/save_weights",
        Act::status(409, r#"{"detail":"seq_id 1 was used for something else"}"#),
    );
    training.save_state("a", Ttl::Never).wait().unwrap_err();
    let error = training.optim_step(AdamParams::default()).wait().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Poisoned), "{error:?}");
}

#[test]
fn save_weights_for_sampler_may_answer_with_a_path_of_two_parts() {
    let result = json!({"path": "tinker://model_1/final", "sampling_session_id": null});
    let (server, service, training) = answered(result);
    let saved = training.save_weights_for_sampler("final", Ttl::Never).wait().unwrap();
    assert_eq!(saved.path.name(), "final");
    service.create_sampling_client(&saved.path).unwrap();
    assert_eq!(body(&server, "/api/v1/create_sampling_session")["model_path"], "tinker://model_1/final");
    server.next(RETRIEVE, Act::json(json!({"path": null, "sampling_session_id": "sampling_1"})));
    let sampler = training.save_weights_and_get_sampling_client().unwrap();
    assert_eq!(sampler.sampling_session_id(), "sampling_1");
}

#[test]
fn forward_backward_sends_matrices_with_their_zeros_if_asked_to() {
    // A matrix with one non-zero weight in 400 is sent sparse unless `dense_tensors` is set.
    let mut weights = vec![0.0f32; 400];
    weights[7] = 1.0;
    let matrix = |tensor: TensorData| tensor.with_shape([4, 100]).unwrap();
    let mut datum = datum().with("weights", matrix(weights.into()));
    datum.loss_fn_inputs.insert("target_tokens".into(), matrix(vec![5i64; 400].into()));
    let dense =
        tinkex::testing::codecs::encode_pass("model-1", 1, &[datum.clone()], &LossFn::CrossEntropy.into());
    for is_dense in [true, false] {
        let server = FakeServer::new();
        let service = server.in_memory().dense_tensors(is_dense).build().unwrap();
        let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
        training.forward_backward(vec![datum.clone()], LossFn::CrossEntropy).wait().unwrap();
        let sent = server.requests_to("/api/v1/forward_backward")[0].body.to_vec();
        assert_eq!(sent == *dense.as_ref().unwrap(), is_dense);
        assert_eq!(sent.len() < 4 * 400 + 8 * 400, !is_dense, "{} bytes", sent.len());
    }
    // With `dense_tensors`, sparse tensors of the caller are also sent dense.
    let sparse = TensorData::from_csr([4, 100], vec![0, 1, 1, 1, 1], vec![7], Values::F32(vec![1.0]));
    let server = FakeServer::new();
    let service = server.in_memory().dense_tensors(true).build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    let data = vec![datum.with("weights", sparse)];
    training.forward_backward(data, LossFn::CrossEntropy).wait().unwrap();
    assert_eq!(server.requests_to("/api/v1/forward_backward")[0].body.to_vec(), dense.unwrap());
}

#[test]
fn forward_backward_sends_both_maps_of_options() {
    let (server, _service, training) = training();
    let mut datum = datum().with("logprobs", vec![-0.5f32; 4]).with("advantages", vec![1f32; 4]);
    datum.loss_fn_inputs.remove("weights");
    training.forward_backward(vec![datum], LossFn::Ppo.with("clip_low_threshold", 0.8)).wait().unwrap();
    let sent = server.requests_to("/api/v1/forward_backward")[0].body.to_vec();
    let n = sent.windows(18).filter(|window| *window == b"clip_low_threshold").count();
    assert_eq!(n, 2, "an option goes into the old map and into the new one");
}

#[test]
fn values_that_some_server_may_take_are_left_to_the_server() {
    let (server, service, training) = training();
    let adam = AdamParams { eps: 0.0, grad_clip_norm: -1.0, ..Default::default() };
    training.optim_step(adam).wait().unwrap();
    let sent = &body(&server, "/api/v1/optim_step")["adam_params"];
    assert_eq!((&sent["eps"], &sent["grad_clip_norm"]), (&json!(0.0), &json!(-1.0)));
    let sampler = service.create_sampling_client("fake/model").unwrap();
    let params = SamplingParams { max_tokens: Some(0), top_k: 0, top_p: 0.0, ..Default::default() };
    sampler.sample(&ModelInput::from_ints([1]), 1, &params).wait().unwrap();
    let sent = &body(&server, "/api/v1/asample")["sampling_params"];
    assert_eq!((&sent["max_tokens"], &sent["top_k"], &sent["top_p"]), (&json!(0), &json!(0), &json!(0.0)));
    // −∞ is the log-probability of an impossible token, ∞ a threshold without effect. `missing` is an input that the
    // client does not know, so that NaN is allowed.
    let mut policy = datum().with("logprobs", vec![f32::NEG_INFINITY; 4]).with("advantages", vec![1f32; 4]);
    policy.loss_fn_inputs.remove("weights");
    let policy =
        policy.with("clip_high_threshold", vec![f32::INFINITY; 4]).with("missing", vec![f32::NAN; 4]);
    training.forward_backward(vec![policy], LossFn::Ppo).wait().unwrap();
}

#[test]
fn losses_may_have_any_name_and_any_inputs() {
    let (server, _service, training) = training();
    let data = vec![datum().with("values", vec![0f32; 4]).with("returns", vec![1f32; 4])];
    let loss = LossFn::Other("ppo_critic".into()).with("value_clip", 0.2);
    training.forward_backward(data, loss).wait().unwrap();
    let sent = server.requests_to("/api/v1/forward_backward")[0].body.to_vec();
    for name in ["ppo_critic", "values", "returns"] {
        assert!(sent.windows(name.len()).any(|window| window == name.as_bytes()), "{name} was not sent");
    }
}

#[test]
fn outputs_may_lack_metrics_have_other_fields_and_unknown_reductions() {
    let outputs = json!([{"logprobs": {"data": [-1, -2.5, -1, -1], "dtype": "float32", "shape": [4]},
        "elementwise_loss": [1, 2]}]);
    for metrics in
        [json!({}), json!(null), json!({"policy_lr:last": 1, "skyrl.ai/entropy": 0.5, "a:b:odd": 2})]
    {
        let result = json!({"loss_fn_output_type": "scalar", "loss_fn_outputs": outputs, "metrics": metrics});
        let (_server, _service, training) = answered(result);
        let output = training.forward_backward(vec![datum()], LossFn::CrossEntropy).wait().unwrap();
        assert_eq!(output.logprobs(0), Some(&[-1.0, -2.5, -1.0, -1.0][..]));
        assert_eq!(output.loss_fn_outputs[0]["elementwise_loss"].as_f32(), Some(&[1.0, 2.0][..]));
        assert_eq!(output.metrics.len(), metrics.as_object().map_or(0, |it| it.len()));
    }
}

#[test]
fn the_loss_of_a_pass_without_a_sum_is_computed_from_its_log_probabilities() {
    let outputs = json!([{"logprobs": {"data": [-1, -2, -4, -8], "dtype": "float32", "shape": [4]}}]);
    let result = |metrics: Value| json!({"loss_fn_outputs": outputs, "metrics": metrics});
    let (server, _service, training) = answered(result(json!({})));
    let pass = |weights: [f32; 4]| {
        let data = vec![datum().with("weights", weights.to_vec())];
        training.forward_backward(data, LossFn::CrossEntropy).wait().unwrap()
    };
    let output = pass([0.0, 1.0, 0.0, 0.5]);
    assert!(output.metrics.is_empty());
    assert_eq!((output.loss(), output.loss_per_token()), (Some(6.0), Some(4.0)));
    // If the server reports a sum, the client uses it. From then on the client does not keep the weights of its passes,
    // so it cannot compute a sum if a later result has none.
    server.next(RETRIEVE, Act::json(result(json!({"loss:sum": 3}))));
    let output = pass([0.0, 1.0, 0.0, 0.5]);
    assert_eq!((output.loss(), output.loss_per_token()), (Some(3.0), Some(2.0)));
    server.next(RETRIEVE, Act::json(json!({"loss_fn_outputs": [{}], "metrics": {"x:sum": 1}})));
    assert_eq!(pass([1.0; 4]).loss(), None);
}

#[test]
fn prompt_logprobs_may_leave_the_first_token_out() {
    let sequence = json!({"tokens": [7], "logprobs": [-0.5], "stop_reason": "length"});
    for scored in [json!([-1.5]), json!([null, -1.5])] {
        let result = json!({"sequences": [sequence], "prompt_logprobs": scored, "type": "sample"});
        let (_server, service, _training) = answered(result);
        let sampler = service.create_sampling_client("fake/model").unwrap();
        let logprobs = sampler.compute_logprobs(&ModelInput::from_ints([1, 2])).wait().unwrap();
        assert_eq!(logprobs, [None, Some(-1.5)]);
    }
    let (_server, service, _training) = answered(json!({"sequences": [sequence], "prompt_logprobs": []}));
    let sampler = service.create_sampling_client("fake/model").unwrap();
    assert_eq!(sampler.compute_logprobs(&ModelInput::from_ints([1])).wait().unwrap(), [None]);
}

#[test]
fn optim_step_may_report_metrics_without_a_reduction_or_none() {
    for (metrics, n) in
        [(json!({"skyrl.ai/grad_norm": 1, "skyrl.ai/learning_rate": 0.1}), 2), (json!(null), 0)]
    {
        let (server, _service, training) = answered(json!({"metrics": metrics}));
        assert_eq!(training.optim_step(AdamParams::default()).wait().unwrap().metrics.len(), n);
        assert!(body(&server, "/api/v1/optim_step")["adam_params"]["learning_rate"].is_number());
    }
}

#[test]
fn create_sampling_session_names_either_a_model_or_a_path() {
    let (server, service, _training) = training();
    service.create_sampling_client("fake/model").unwrap();
    let path: SamplerPath = "tinker://run/sampler_weights/a".parse().unwrap();
    service.create_sampling_client(&path).unwrap();
    for seen in server.requests_to("/api/v1/create_sampling_session") {
        let body = seen.json().unwrap();
        assert!(body.get("base_model").is_some() != body.get("model_path").is_some(), "{body}");
    }
}

#[test]
fn create_sampling_session_may_be_of_a_training_state_if_the_server_allows_it() {
    let (server, service, training) = training();
    service.create_sampling_client("tinker://run/weights/a").unwrap();
    assert_eq!(body(&server, "/api/v1/create_sampling_session")["model_path"], "tinker://run/weights/a");
    let refusal = r#"{"detail":"not a sampler checkpoint"}"#;
    server.always("/api/v1/create_sampling_session", Act::status(400, refusal));
    let error = training.create_sampling_client("tinker://run/weights/a").map(drop).unwrap_err();
    assert!(error.to_string().contains("not a sampler checkpoint"), "{error}");
}

#[test]
fn asample_wraps_a_bare_stop_and_needs_no_sequence_ids() {
    let (server, service, _training) = training();
    server.always_altered("/api/v1/asample", |mut answer| {
        let promised: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        answer.body = json!({"request_id": promised["request_id"]}).to_string().into();
        tinkex::testing::Act::Answer(answer)
    });
    let sampler = service.create_sampling_client("fake/model").unwrap();
    let params = SamplingParams { stop: Some("\n".into()), ..params() };
    let answer = sampler.sample(&ModelInput::from_ints([1]), 2, &params).wait().unwrap();
    assert!(answer.sequences.iter().all(|it| it.sequence_id.is_none()));
    assert_eq!(body(&server, "/api/v1/asample")["sampling_params"]["stop"], json!(["\n"]));
}

#[test]
fn retrieve_future_may_answer_408_with_any_body_and_400_for_a_failure() {
    let (server, _service, training) = training();
    for body in [r#"{"detail":"timed out"}"#, "", "not yet"] {
        server.next(RETRIEVE, Act::status(408, body));
    }
    training.optim_step(AdamParams::default()).wait().unwrap();
    server.always(RETRIEVE, Act::status(400, r#"{"detail":"CUDA out of memory"}"#));
    let error = training.optim_step(AdamParams::default()).wait().unwrap_err();
    assert!(error.to_string().contains("CUDA out of memory"), "{error}");
}

#[test]
fn deletes_name_both_parts_and_a_pending_checkpoint_is_repeated() {
    let server = FakeServer::new();
    let rest = server.in_memory().build().unwrap().create_rest_client();
    let pending = std::sync::atomic::AtomicBool::new(true);
    server.script(move |seen: &Seen| {
        let first = seen.method == "DELETE" && pending.swap(false, std::sync::atomic::Ordering::Relaxed);
        (seen.method == "DELETE").then(|| Act::status(if first { 425 } else { 204 }, ""))
    });
    assert!(rest.delete_checkpoint("run", "a").is_err(), "a bare name is refused before anything is sent");
    rest.delete_checkpoint("run", "weights/a").unwrap();
    let seen = server.requests();
    let deletes: Vec<_> = seen.iter().filter(|it| it.method == "DELETE").map(|it| it.path.as_str()).collect();
    assert_eq!(deletes, ["/api/v1/training_runs/run/checkpoints/weights/a"; 2]);
}

#[test]
fn listing_may_give_bare_names_and_leave_out_nearly_everything() {
    let server = FakeServer::new();
    let rest = server.in_memory().build().unwrap().create_rest_client();
    let list = json!({"checkpoints": [{"checkpoint_id": "a", "checkpoint_type": "training", "time": "2026-01-01T00:00:00", "tinker_path": "tinker://run/weights/a"}]});
    server.always("/api/v1/training_runs/run/checkpoints", Act::json(list));
    assert_eq!(rest.list_checkpoints("run").unwrap()[0].path().unwrap().name(), "a");
    let run = json!({"training_run_id": "run", "base_model": "b", "model_owner": "o", "is_lora": true, "last_checkpoint": null, "last_request_time": null});
    server.always("/api/v1/training_runs/run?access_scope=owned", Act::json(run));
    assert_eq!(rest.get_training_run("run").unwrap().last_checkpoint, None);
    let models = json!({"supported_models": [{"model_name": "b"}]});
    server.always("/api/v1/get_server_capabilities", Act::json(models));
    assert_eq!(rest.get_server_capabilities().unwrap().supported_models[0].trainable, None);
}

#[test]
fn archive_is_also_requested_under_the_bare_name() {
    let server = FakeServer::new();
    let rest = server.in_memory().build().unwrap().create_rest_client();
    server.script(|seen| {
        let bare = seen.path.ends_with("/checkpoints/a/archive");
        let found = Act::status(302, "").with_header("location", "http://127.0.0.1/download");
        bare.then(|| found.with_header("expires", "Fri, 20 Nov 2026 13:06:53 GMT"))
    });
    let path: SamplerPath = "tinker://run/a".parse().unwrap();
    assert!(rest.get_checkpoint_archive_url(&path).unwrap().expires.is_some());
}

#[test]
fn checklist_1_2_3_nothing_but_an_id_is_needed_and_numbers_may_be_floats() {
    let server = FakeServer::new();
    server.always(
        "/api/v1/client/config",
        Act::json(json!({"fwdbwd_max_chunk_len": 2.0, "fwdbwd_max_chunk_bytes_count": null})),
    );
    server.always("/api/v1/create_session", Act::json(json!({"session_id": "s", "info_message": null})));
    server.always("/api/v1/get_info", Act::json(json!({})));
    let service = server.in_memory().build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    training.forward_backward(vec![datum(); 3], LossFn::CrossEntropy).wait().unwrap();
    assert_eq!(server.requests_to("/api/v1/forward_backward").len(), 2, "two data in each request");
}

#[test]
fn checklist_4_6_json_is_accepted_in_place_of_protobuf() {
    let answer =
        sampled(json!({"sequences": [{"tokens": [1.0, 2], "logprobs": [-1, -0.5], "stop_reason": "stop"}],
        "prompt_logprobs": [null, -0.1], "topk_prompt_logprobs": [null, [[11, -0.1]]]}))
        .unwrap();
    assert_eq!(answer.sequences[0].tokens, [1, 2]);
    assert_eq!(answer.prompt_logprobs, Some(vec![None, Some(-0.1)]));
}

#[test]
fn checklist_5_7_metric_names_without_a_reduction_and_paths_of_two_parts_pass() {
    let result = json!({"loss_fn_outputs": [{}], "metrics": {"grad_norm": 1.0}});
    let (_server, _service, training) = answered(result);
    let output = training.forward_backward(vec![datum()], LossFn::CrossEntropy).wait().unwrap();
    assert_eq!(output.metrics["grad_norm"], 1.0);
    assert!("tinker://run/name".parse::<SamplerPath>().is_ok());
}

#[test]
fn checklist_8_a_missing_endpoint_is_incompatible() {
    for status in [404, 405] {
        let server = FakeServer::new();
        let rest = server.in_memory().build().unwrap().create_rest_client();
        server.script(move |it| it.path.starts_with("/api/v1/sessions?").then(|| Act::status(status, "{}")));
        let error = rest.list_sessions().first_page().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Incompatible), "{error:?}");
    }
}

#[test]
fn checklist_8_weights_are_sampled_without_the_samplers_endpoint() {
    const WEIGHTS: &str = "tinker://run/sampler_weights/a";
    const LOOK_UP: &str = "/api/v1/samplers/sampler-1";
    for (status, body) in [(404, r#"{"detail":"Not Found"}"#), (404, ""), (405, "{}")] {
        let server = FakeServer::new();
        server.script(move |it| it.path.starts_with("/api/v1/samplers/").then(|| Act::status(status, body)));
        let service = server.in_memory().build().unwrap();
        let sampler = service.create_sampling_client(WEIGHTS).unwrap();
        assert_eq!((sampler.get_base_model(), server.requests_to(LOOK_UP).len()), (None, 1), "{status}");
        sampler.sample(&ModelInput::from_ints([1]), 1, &params()).wait().unwrap();
    }
    // If the 404 has another detail than the usual "Not Found", it comes from the endpoint: the endpoint exists, and
    // the checkpoint with this path does not. The call fails, as it does in the recording of the official SDK.
    for body in [r#"{"detail":"Model not found"}"#, r#"{"detail":"no such checkpoint"}"#] {
        let server = FakeServer::new();
        server.always(LOOK_UP, Act::status(404, body));
        let service = server.in_memory().build().unwrap();
        let error = service.create_sampling_client(WEIGHTS).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::NotFound, "{error}");
    }
    // If the endpoint has answered for another sampler before, it exists. So its 404 means that the checkpoint does
    // not.
    let server = FakeServer::new();
    let service = server.in_memory().build().unwrap();
    let sampler = service.create_sampling_client(WEIGHTS).unwrap();
    assert_eq!(sampler.get_base_model(), Some("fake/model"));
    server.always("/api/v1/samplers/sampler-2", Act::status(404, r#"{"detail":"Not Found"}"#));
    let error = service.create_sampling_client(WEIGHTS).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::NotFound, "{error}");
}

#[test]
fn checklist_8_a_missing_model_is_not_taken_for_a_missing_endpoint() {
    for path in ["/api/v1/create_sampling_session", "/api/v1/create_model"] {
        let create = |service: &ServiceClient| {
            if path.ends_with("model") {
                service.create_lora_training_client("fake/model", Default::default()).map(drop)
            } else {
                service.create_sampling_client("fake/model").map(drop)
            }
        };
        let server = FakeServer::new();
        let service = server.in_memory().build().unwrap();
        server.next(path, Act::status(404, r#"{"detail":"Model not found"}"#));
        let error = create(&service).unwrap_err();
        assert!(
            error.kind() == &ErrorKind::NotFound && error.to_string().contains("Model not found"),
            "{error}"
        );
        // A bare "Not Found" may be about the endpoint or the model: the client still sends the next request.
        server.next(path, Act::status(404, r#"{"detail":"Not Found"}"#));
        let error = create(&service).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Incompatible, "{error}");
        create(&service).unwrap();
        server.next(path, Act::status(404, r#"{"detail":"Not Found"}"#));
        assert_eq!(create(&service).unwrap_err().kind(), &ErrorKind::NotFound, "{path} answered before");
    }
    let server = FakeServer::new();
    server.always("/api/v1/create_model", Act::status(405, r#"{"detail":"Method Not Allowed"}"#));
    let service = server.in_memory().build().unwrap();
    for _ in 0..2 {
        let error = service.create_lora_training_client("fake/model", Default::default()).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Incompatible, "{error}");
    }
    assert_eq!(server.requests_to("/api/v1/create_model").len(), 1, "a missing endpoint is requested once");
}

#[test]
fn checklist_9_a_poll_that_breaks_off_is_repeated() {
    let (server, _service, training) = training();
    server.next(RETRIEVE, Act::Reset);
    server.next(RETRIEVE, Act::status(408, ""));
    training.optim_step(AdamParams::default()).wait().unwrap();
}

#[test]
fn checklist_10_an_error_may_be_json_of_any_shape_text_or_nothing() {
    for (text, shown) in [
        (r#"{"detail":"too long"}"#, "too long"),
        (r#"{"detail":[{"loc":["body","x"],"msg":"too long","type":"t"}]}"#, "too long"),
        (r#"{"message":"too long"}"#, "too long"),
        (r#"{"error":"too long"}"#, "too long"),
        ("it is too long", "too long"),
        ("", "422"),
    ] {
        let (server, _service, training) = training();
        server.always("/api/v1/optim_step", Act::status(422, text));
        let error = training.optim_step(AdamParams::default()).wait().unwrap_err();
        assert_eq!(error.http_status(), Some(422), "{text}");
        assert!(error.to_string().contains(shown), "{text}: {error}");
    }
}

#[test]
fn checklist_11_unknown_stop_reasons_queue_states_and_categories_are_accepted() {
    let answer = sampled(json!({"sequences": [{"tokens": [1], "stop_reason": "bored"}]})).unwrap();
    assert_eq!(answer.sequences[0].stop_reason, StopReason::Other("bored".into()));
    let (server, _service, training) = training();
    server.next(RETRIEVE, Act::json(json!({"type": "try_again", "queue_state": "on_holiday"})));
    server.next(RETRIEVE, Act::json(json!({"error": "no", "category": "cosmic"})));
    let error = training.optim_step(AdamParams::default()).wait().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::RequestFailed { .. }), "{error:?}");
}

#[test]
fn checklist_12_a_content_type_may_have_parameters() {
    let (server, _service, training) = training();
    server.next_altered(RETRIEVE, |mut answer| {
        let content_type = answer.headers.iter_mut().find(|header| header.0 == "content-type").unwrap();
        assert_eq!(content_type.1, "application/x-protobuf");
        content_type.1 = "application/x-protobuf; charset=binary".into();
        Act::Answer(answer)
    });
    let output = training.forward_backward(vec![datum()], LossFn::CrossEntropy).wait().unwrap();
    assert!(output.logprobs(0).is_some());
}
