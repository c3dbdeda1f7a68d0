//! Options of creating, training and saving a model: they are sent as the protocol says, and invalid ones are refused
//! before anything is sent.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tinkex::testing::{Act, FakeServer};
use tinkex::types::{
    AccessToken, AdamParams, DimuonParams, FromStateOptions, LoraConfig, LossFn, ModelOptions,
    OptimizerConfig, OptimizerParams, SamplerKind, SaveStateOptions, SaveWeightsOptions, Ttl,
};

use crate::util::{datum, path_of, seq_ids, training};

fn note() -> Option<BTreeMap<String, String>> {
    Some([("step".to_string(), "7".to_string())].into())
}

/// Returns the body of the last request to a path.
#[track_caller]
fn last(server: &FakeServer, path: &str) -> Value {
    server.requests_to(&format!("/api/v1/{path}")).pop().expect("a request").json().expect("JSON")
}

#[test]
fn create_model_sends_the_metadata_and_the_optimizer() {
    let server = FakeServer::new();
    let service = server.in_memory().build().unwrap();
    let table = [
        (OptimizerConfig::AdamW, json!({"type": "adamw"})),
        (OptimizerConfig::Dimuon { version: 1 }, json!({"type": "dimuon", "version": 1})),
        (
            OptimizerConfig::Other {
                kind: "lion".into(),
                more: json!({"warm": [1, 2]}).as_object().unwrap().clone(),
            },
            json!({"type": "lion", "warm": [1, 2]}),
        ),
    ];
    for (optimizer, expected) in table {
        let options = ModelOptions { user_metadata: note(), optimizer, ..Default::default() };
        service.create_lora_training_client_with("fake/model", LoraConfig::default(), &options).unwrap();
        let body = last(&server, "create_model");
        assert_eq!(body["optimizer_config"], expected);
        assert_eq!(body["user_metadata"], json!({"step": "7"}));
    }
    let wrong = ModelOptions { optimizer: OptimizerConfig::Dimuon { version: 0 }, ..Default::default() };
    let error = service.create_lora_training_client_with("fake/model", Default::default(), &wrong);
    assert_eq!(path_of(&error.unwrap_err()), "optimizer.version");
    assert_eq!(server.requests_to("/api/v1/create_model").len(), 3);
}

#[test]
fn every_option_of_a_model_from_a_checkpoint_is_sent() {
    let server = FakeServer::new();
    let service = server.in_memory().build().unwrap();
    let options = FromStateOptions {
        base_model: Some("fake/model".into()),
        user_metadata: note(),
        weights_access_token: Some(AccessToken::new("owner-secret")),
        optimizer: Some(OptimizerConfig::Dimuon { version: 1 }),
        ..Default::default()
    };
    service.create_training_client_from_state_with("tinker://run/weights/x", &options).unwrap();
    let body = last(&server, "load_weights");
    assert_eq!(
        body,
        json!({
            "session_id": "session-1", "model_seq_id": 0, "path": "tinker://run/weights/x", "optimizer": false,
            "base_model": "fake/model", "user_metadata": {"step": "7"}, "type": "load_weights",
            "optimizer_config": {"type": "dimuon", "version": 1}, "weights_access_token": "owner-secret",
        })
    );
    let both = FromStateOptions { restore_optimizer: true, ..options };
    let error = service.create_training_client_from_state_with("tinker://run/weights/x", &both).unwrap_err();
    assert_eq!(path_of(&error), "optimizer");
    assert!(!format!("{both:?} {error:?}").contains("owner-secret"));
}

#[test]
fn the_access_token_is_sent_when_a_model_is_loaded_in_three_steps() {
    let server = FakeServer::new();
    let service = server.in_memory().build().unwrap();
    server.next("/api/v1/load_weights", Act::status(422, r#"{"detail":"model_id is required"}"#));
    let token = Some(AccessToken::new("owner-secret"));
    let options = FromStateOptions {
        weights_access_token: token,
        user_metadata: note(),
        restore_optimizer: true,
        ..Default::default()
    };
    service.create_training_client_from_state_with("tinker://run/weights/x", &options).unwrap();
    let info = server.requests_to("/api/v1/weights_info").pop().unwrap();
    assert_eq!(info.header("x-tinker-weights-access-token"), Some("owner-secret"));
    assert_eq!(last(&server, "create_model")["user_metadata"], json!({"step": "7"}));
    let load = last(&server, "load_weights");
    assert_eq!((&load["weights_access_token"], &load["optimizer"]), (&json!("owner-secret"), &json!(true)));
    // The `Debug` output and the dump do not show the token.
    assert!(!format!("{service:?} {}", service.dump()).contains("owner-secret"));
}

#[test]
fn extra_fields_are_sent_and_replace_no_known_field() {
    let server = FakeServer::new();
    let service = server.in_memory().build().unwrap();
    let with = |name: &str| {
        let extra_fields = [(name.to_string(), json!("critic"))].into_iter().collect();
        let options = ModelOptions { extra_fields, ..Default::default() };
        service.create_lora_training_client_with("fake/model", LoraConfig::default(), &options)
    };
    with("model_role").unwrap();
    let plain = plain_model(&service, &server);
    let mut body = last(&server, "create_model");
    assert_eq!(body, plain, "extra fields are not kept for the next model");
    body = server.requests_to("/api/v1/create_model")[0].json().unwrap();
    assert_eq!(body.as_object_mut().unwrap().remove("model_role"), Some(json!("critic")));
    for name in plain.as_object().unwrap().keys().map(String::as_str).chain(["user_metadata"]) {
        assert_eq!(path_of(&with(name).map(drop).unwrap_err()), format!("extra_fields[{name:?}]"));
        assert!(name == "user_metadata" || name == "model_seq_id" || body[name] == plain[name], "{name}");
    }
    assert_eq!(server.requests_to("/api/v1/create_model").len(), 2);
}

/// Creates a model without options and returns the body of the request.
fn plain_model(service: &tinkex::ServiceClient, server: &FakeServer) -> Value {
    service.create_lora_training_client("fake/model", LoraConfig::default()).unwrap();
    last(server, "create_model")
}

#[test]
fn a_model_loaded_in_three_steps_has_the_saved_optimizer_and_shape() {
    let info =
        json!({"base_model": "b", "is_lora": false, "optimizer_config": {"type": "dimuon", "version": 1}});
    for (restore_optimizer, expected) in
        [(true, json!({"type": "dimuon", "version": 1})), (false, json!({"type": "adamw"}))]
    {
        let server = FakeServer::new();
        server.next("/api/v1/load_weights", Act::status(404, r#"{"detail":"Not Found"}"#));
        server.always("/api/v1/weights_info", Act::json(info.clone()));
        let service = server.in_memory().build().unwrap();
        let options = FromStateOptions { restore_optimizer, ..Default::default() };
        service.create_training_client_from_state_with("tinker://run/weights/x", &options).unwrap();
        let body = last(&server, "create_model");
        assert_eq!(body["optimizer_config"], expected);
        assert_eq!(body["lora_config"]["rank"], 0, "a model without an adapter");
        assert_eq!(last(&server, "load_weights")["optimizer"], restore_optimizer);
    }
}

#[test]
fn each_optimizer_gets_its_parameters_under_its_key() {
    let (server, _service, training) = training();
    training.optim_step(AdamParams::default()).wait().unwrap();
    let body = last(&server, "optim_step");
    assert_eq!((body["adam_params"]["beta2"].as_f64(), body.get("optimizer_params")), (Some(0.95), None));
    training.optim_step(DimuonParams::new(1e-3)).wait().unwrap();
    let body = last(&server, "optim_step");
    assert_eq!(
        (&body["optimizer_params"], body.get("adam_params")),
        (&json!({"type": "dimuon", "learning_rate": 0.001, "grad_clip_norm": 0.0, "beta1": 0.9}), None)
    );
    let more = json!({"rate": 0.5}).as_object().unwrap().clone();
    training.optim_step(OptimizerParams::Other { kind: "lion".into(), more }).wait().unwrap();
    assert_eq!(last(&server, "optim_step")["optimizer_params"], json!({"type": "lion", "rate": 0.5}));
    let wrong = DimuonParams { beta1: 1.0, ..DimuonParams::new(1e-3) };
    assert_eq!(path_of(&training.optim_step(wrong).wait().unwrap_err()), "optimizer_params.beta1");
    assert_eq!(server.requests_to("/api/v1/optim_step").len(), 3);
}

#[test]
fn every_option_of_a_save_is_sent() {
    let (server, _service, training) = training();
    let ttl = Ttl::After(Duration::from_secs(7200));
    let options = SaveStateOptions { ttl, overwrite: true, user_metadata: note() };
    let path = training.save_state_with("s", &options).wait().unwrap().path;
    assert_eq!(path.name(), "s");
    let body = last(&server, "save_weights");
    assert_eq!(
        (&body["ttl_seconds"], &body["overwrite"], &body["user_metadata"]),
        (&json!(7200), &json!(true), &json!({"step": "7"}))
    );
    let options = SaveWeightsOptions { ttl, user_metadata: note() };
    training.save_weights_for_sampler_with("w", &options).wait().unwrap();
    let body = last(&server, "save_weights_for_sampler");
    assert_eq!((&body["ttl_seconds"], &body["user_metadata"]), (&json!(7200), &json!({"step": "7"})));

    let saved = training.save_weights_external("e", ttl, &["age1a", "age1b"]).wait().unwrap();
    assert_eq!(
        (saved.path.to_string(), saved.size_bytes),
        ("tinker://model-1/external_weights/e".into(), Some(2048))
    );
    let body = last(&server, "save_weights_external");
    assert_eq!(
        body,
        json!({
            "model_id": "model-1", "path": "e", "seq_id": 3, "ttl_seconds": 7200,
            "age_encryption_recipients": ["age1a", "age1b"], "type": "save_weights_external",
        })
    );
    training.save_weights_external("e", Ttl::Never, &[]).wait().unwrap();
    let body = last(&server, "save_weights_external");
    assert!(body.get("ttl_seconds").is_none() && body.get("age_encryption_recipients").is_none());

    let before = server.requests().len();
    let minute = Ttl::After(Duration::from_secs(60));
    let options = SaveStateOptions { ttl: minute, ..Default::default() };
    assert_eq!(path_of(&training.save_state_with("s", &options).wait().unwrap_err()), "ttl");
    let refused =
        |name, ttl, to: &[&str]| path_of(&training.save_weights_external(name, ttl, to).wait().unwrap_err());
    assert_eq!(refused("", Ttl::Never, &[]), "name");
    assert_eq!(refused("e", minute, &[]), "ttl");
    assert_eq!(refused("e", Ttl::Never, &["x"; 11]), "age_encryption_recipients");
    assert_eq!(server.requests().len(), before, "something was sent");
}

#[test]
fn the_kind_of_a_sampler_is_sent() {
    let (server, _service, training) = training();
    training.save_weights_and_get_sampling_client_with(SamplerKind::Inflight).unwrap();
    let body = last(&server, "save_weights_for_sampler");
    assert_eq!((&body["kind"], body.get("ttl_seconds")), (&json!("inflight"), None));
    training.save_weights_and_get_sampling_client().unwrap();
    assert_eq!(last(&server, "save_weights_for_sampler")["kind"], "snapshot");
}

#[test]
fn a_train_step_submits_both_operations_one_behind_the_other() {
    let (server, _service, training) = training();
    let steps: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    (0..5)
                        .map(|_| {
                            training.train_step(vec![datum()], LossFn::CrossEntropy, AdamParams::default())
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|it| it.join().unwrap()).collect()
    });
    for step in steps {
        let (passed, updated) = step.wait().unwrap();
        assert!(0.0 < passed.metrics["loss:sum"] && updated.metrics["grad_norm"] == 1.0);
    }
    assert_eq!(seq_ids(&server), (1..=40).collect::<Vec<u64>>());
    let paths: Vec<String> = server.requests().into_iter().map(|it| it.path).collect();
    let verbs: Vec<&str> = paths
        .iter()
        .filter_map(|it| it.strip_prefix("/api/v1/"))
        .filter(|it| matches!(*it, "forward_backward" | "optim_step"))
        .collect();
    assert!(verbs.chunks(2).all(|it| it == ["forward_backward", "optim_step"]), "{verbs:?}");
}

#[test]
fn the_optimizer_step_is_not_sent_after_refused_data() {
    let (server, _service, training) = training();
    // First run a pass that the server accepts. After it the client knows that the server reads protobuf, and does not
    // repeat a refused pass (422) as JSON.
    training.forward_backward(vec![datum()], LossFn::CrossEntropy).wait().unwrap();
    server.next("/api/v1/forward_backward", Act::status(422, r#"{"detail":"bad datum"}"#));
    let step = training.train_step(vec![datum()], LossFn::CrossEntropy, AdamParams::default());
    let (passed, updated) = (step.forward_backward.wait().unwrap_err(), step.optim_step.wait().unwrap_err());
    assert!(passed.is_user_error() && updated.is_user_error());
    assert_eq!((passed.operation(), updated.operation()), (Some("forward_backward"), Some("optim_step")));
    assert!(
        updated.to_string().contains("not sent") && updated.to_string().contains("bad datum"),
        "{updated}"
    );
    assert!(server.requests_to("/api/v1/optim_step").is_empty());
    // The optimizer step is also not sent if the client refuses the data or the parameters of the step.
    let step = training.train_step(vec![], LossFn::CrossEntropy, AdamParams::default());
    assert_eq!(path_of(&step.optim_step.wait().unwrap_err()), "data");
    assert_eq!(path_of(&step.forward_backward.wait().unwrap_err()), "data");
    let adam = AdamParams { beta1: 1.0, ..Default::default() };
    let step = training.train_step(vec![datum()], LossFn::CrossEntropy, adam);
    assert_eq!(path_of(&step.wait().unwrap_err()), "adam_params.beta1");
    training.train_step(vec![datum()], LossFn::CrossEntropy, AdamParams::default()).wait().unwrap();
    assert_eq!(seq_ids(&server), [1, 2, 2, 3]);
}
