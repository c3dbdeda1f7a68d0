//! Successful answers with unexpected bodies: a body that is not a result is an error, and a malformed field that the
//! client does not need is skipped.

use serde_json::{Value, json};
use tinkex::testing::{Act, FakeServer};
use tinkex::types::*;
use tinkex::{Category, Error, ErrorKind, ServiceClient};

use crate::util::{datum, seq_ids, training};

const RETRIEVE: &str = "/api/v1/retrieve_future";
const OPTIM_STEP: &str = "/api/v1/optim_step";
const FORWARD_BACKWARD: &str = "/api/v1/forward_backward";

/// Results of an optimizer step and of a pass. The server answers their submissions with `answer` instead of a promise
/// (a request id with which the client polls for the result).
fn answered_at_once(answer: Value) -> [Result<(), Error>; 2] {
    let (server, _service, training) = training();
    server.next(OPTIM_STEP, Act::json(answer.clone()));
    let step = training.optim_step(AdamParams::default()).wait().map(drop);
    let (other, _service, training) = self::training();
    other.next(FORWARD_BACKWARD, Act::json(answer));
    let pass = training.forward_backward(vec![datum()], LossFn::CrossEntropy).wait().map(drop);
    [step, pass]
}

#[test]
fn a_failure_without_a_promise_fails_the_request_and_keeps_the_order() {
    let failure = json!({"error": "the device is gone", "category": "server"});
    for result in answered_at_once(failure.clone()) {
        let error = result.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::RequestFailed { category: Category::Server }, "{error}");
        assert!(error.to_string().contains("the device is gone"), "{error}");
    }
    let (server, _service, training) = training();
    server.next(OPTIM_STEP, Act::json(failure));
    training.optim_step(AdamParams::default()).wait().unwrap_err();
    training.optim_step(AdamParams::default()).wait().unwrap();
    assert_eq!(seq_ids(&server), [1, 2], "the failed request used its sequence id");
}

#[test]
fn an_answer_that_is_neither_a_promise_nor_a_result_is_a_decode_error() {
    let answers = [
        json!({}),
        json!({"type": "try_again", "queue_state": "active"}),
        json!({"status": "complete_metadata", "response_payload_size": 3}),
        json!({"detail": "hello"}),
        json!({"model_id": "m"}),
        json!({"type": "error", "message": "no"}),
        json!([]),
        json!("ok"),
    ];
    for answer in answers {
        for result in answered_at_once(answer.clone()) {
            let error = result.expect_err(&answer.to_string());
            assert!(matches!(error.kind(), ErrorKind::Decode), "{answer}: {error:?}");
        }
    }
}

#[test]
fn a_result_without_a_promise_is_accepted() {
    let (server, _service, training) = training();
    for (answer, n) in [(json!({"metrics": {"a": 1}}), 1), (json!({"type": "optim_step"}), 0)] {
        server.next(OPTIM_STEP, Act::json(answer));
        assert_eq!(training.optim_step(AdamParams::default()).wait().unwrap().metrics.len(), n);
    }
}

#[test]
fn a_create_model_that_fails_at_once_is_an_error() {
    let server = FakeServer::new();
    server.next("/api/v1/create_model", Act::json(json!({"error": "no room", "category": "user"})));
    server.next("/api/v1/create_model", Act::json(json!({"type": "try_again"})));
    let service = server.in_memory().build().unwrap();
    let make =
        || service.create_lora_training_client("fake/model", Default::default()).map(drop).unwrap_err();
    assert_eq!(*make().kind(), ErrorKind::RequestFailed { category: Category::User });
    assert!(matches!(make().kind(), ErrorKind::Decode));
}

#[test]
fn an_empty_object_is_a_result_of_a_step_but_not_of_a_pass() {
    let (server, _service, training) = training();
    server.next(RETRIEVE, Act::json(json!({})));
    let error = training.forward_backward(vec![datum()], LossFn::CrossEntropy).wait().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Decode), "{error:?}");
    // Older servers answer a finished step with an empty object.
    server.next(RETRIEVE, Act::json(json!({})));
    assert!(training.optim_step(AdamParams::default()).wait().unwrap().metrics.is_empty());
}

/// Creates a service that sends each datum of a pass in a separate request.
fn one_datum_per_request() -> (FakeServer, ServiceClient) {
    let server = FakeServer::new();
    let flags = json!({"fwdbwd_max_chunk_len": 1, "parallel_fwdbwd_chunks": false});
    server.always("/api/v1/client/config", Act::json(flags));
    let service = server.in_memory().build().unwrap();
    (server, service)
}

#[test]
fn outputs_are_never_assigned_to_other_data() {
    let output = |n: usize| json!({"loss_fn_outputs": vec![json!({"logprobs": [-1, -1, -1, -1]}); n], "metrics": {"a:sum": 1}});
    for (parts, fine) in [([1, 1], true), ([0, 0], false), ([0, 1], false), ([1, 0], false), ([2, 0], false)]
    {
        let (server, service) = one_datum_per_request();
        let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
        for n in parts {
            server.next(FORWARD_BACKWARD, Act::json(output(n)));
        }
        let result = training.forward_backward(vec![datum(); 2], LossFn::CrossEntropy).wait();
        match result {
            Ok(output) => assert!(fine && output.loss_fn_outputs.len() == parts[0] + parts[1], "{parts:?}"),
            Err(error) => {
                assert!(!fine && matches!(error.kind(), ErrorKind::Decode), "{parts:?}: {error:?}");
                assert!(error.to_string().contains("of part"), "{error}");
            }
        }
    }
    let (server, _service, training) = training();
    server.next(RETRIEVE, Act::json(output(1)));
    let error = training.forward_backward(vec![datum(); 2], LossFn::CrossEntropy).wait().unwrap_err();
    assert!(error.to_string().contains("1 outputs for the 2 data"), "{error}");
}

#[test]
fn an_existing_name_is_a_conflict_at_submission_and_in_the_result() {
    let taken = || json!({"error": "checkpoint a already exists", "category": "user"});
    // A server may report the existing name in three ways: as a failure in the answer to the submission, as a failure
    // in the result, or with the status 400 of a poll. The server SkyRL does the last.
    for (at_once, act) in [
        (true, Act::json(taken())),
        (false, Act::json(taken())),
        (false, Act::status(400, r#"{"detail":"checkpoint a already exists"}"#)),
    ] {
        let (server, _service, training) = training();
        for path in
            ["/api/v1/save_weights", "/api/v1/save_weights_for_sampler", "/api/v1/save_weights_external"]
        {
            server.always(if at_once { path } else { RETRIEVE }, act.clone());
        }
        let state = training.save_state("a", Ttl::Never).wait().unwrap_err();
        let sampler = training.save_weights_for_sampler("a", Ttl::Never).wait().unwrap_err();
        let external = training.save_weights_external("a", Ttl::Never, &[]).wait().unwrap_err();
        for error in [state, sampler, external] {
            assert_eq!(*error.kind(), ErrorKind::Conflict, "{error:?}");
            assert!(error.to_string().contains("already exists") && error.is_user_error(), "{error}");
        }
        // The client stays usable.
        server.behave(RETRIEVE);
        server.behave("/api/v1/save_weights");
        training.save_state("b", Ttl::Never).wait().unwrap();
    }
}

/// Changes every answer to a path.
fn alter(server: &FakeServer, path: &str, change: impl Fn(&mut Value) + Send + Sync + 'static) {
    server.always_altered(path, move |mut answer| {
        let mut value = serde_json::from_slice(&answer.body).unwrap();
        change(&mut value);
        answer.body = value.to_string().into();
        Act::Answer(answer)
    });
}

#[test]
fn malformed_fields_of_get_info_do_not_fail_the_model() {
    for malformed in [
        json!({"optimizer_config": {}}),
        json!({"optimizer_config": "adamw", "is_lora": "yes", "lora_rank": -1, "model_name": 3}),
        json!({"optimizer_config": {"type": 1}, "model_id": {"id": 1}}),
        json!({"model_data": {"arch": 1, "tokenizer_id": [], "lora_config": "none", "model_name": {}}}),
        json!({"model_data": "none"}),
    ] {
        let server = FakeServer::new();
        server.always("/api/v1/get_info", Act::json(malformed.clone()));
        let service = server.in_memory().build().unwrap();
        let training = service.create_lora_training_client("fake/model", Default::default());
        let training = training.unwrap_or_else(|it| panic!("{malformed}: {it}"));
        assert_eq!((training.model_id(), training.get_info().lora_rank), ("model-1", None));
    }
}

#[test]
fn malformed_fields_of_weights_info_are_skipped() {
    let server = FakeServer::new();
    let malformed =
        json!({"base_model": "b", "optimizer_config": {}, "is_lora": 1, "lora_rank": "8", "train_mlp": "no"});
    server.always("/api/v1/weights_info", Act::json(malformed));
    let rest = server.in_memory().build().unwrap().create_rest_client();
    let info = rest.get_weights_info_by_tinker_path("tinker://r/weights/a").unwrap();
    assert_eq!((info.base_model.as_deref(), info.lora_rank, info.is_lora), (Some("b"), None, None));
    assert_eq!(info.optimizer, "adamw");
}

#[test]
fn ids_beside_a_promise_may_have_any_type_and_the_order_holds() {
    for malformed in [json!(7), json!({"a": 1}), json!([])] {
        let (server, service, training) = training();
        for path in [OPTIM_STEP, FORWARD_BACKWARD, "/api/v1/asample"] {
            let malformed = malformed.clone();
            alter(&server, path, move |promise| {
                promise["model_id"] = malformed.clone();
                promise["sample_sequence_ids"] = malformed.clone();
            });
        }
        training.forward_backward(vec![datum()], LossFn::CrossEntropy).wait().unwrap();
        training.optim_step(AdamParams::default()).wait().unwrap();
        training.optim_step(AdamParams::default()).wait().unwrap();
        assert_eq!(seq_ids(&server), [1, 2, 3]);
        let sampler = service.create_sampling_client("fake/model").unwrap();
        let answer =
            sampler.sample(&ModelInput::from_ints([1]), 1, &SamplingParams::default()).wait().unwrap();
        assert_eq!(answer.sequences[0].sequence_id, None);
    }
    let (server, service, _training) = training();
    alter(&server, "/api/v1/asample", |promise| promise["sample_sequence_ids"] = json!([17]));
    let sampler = service.create_sampling_client("fake/model").unwrap();
    let answer = sampler.sample(&ModelInput::from_ints([1]), 1, &SamplingParams::default()).wait().unwrap();
    assert_eq!(answer.sequences[0].sequence_id.as_deref(), Some("17"));
}

#[test]
fn a_malformed_completion_does_not_affect_the_others() {
    let server = FakeServer::new();
    server.polls_together();
    alter(&server, "/api/v1/retrieve_futures", |body| {
        let good = body["completions"].as_array().cloned().unwrap_or_default();
        let malformed =
            [json!(null), json!({"state": "finished"}), json!({"request_id": {}}), json!("request-1")];
        body["completions"] = malformed.into_iter().chain(good).collect();
        for completion in body["completions"].as_array_mut().unwrap().iter_mut().skip(4) {
            completion["response_payload_uncompressed_size"] = json!(-1);
        }
    });
    let service = server.in_memory().build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    let sample = || sampler.sample(&ModelInput::from_ints([1]), 1, &SamplingParams::default());
    let all = [sample(), sample(), sample()];
    for sample in all {
        assert_eq!(sample.wait().unwrap().sequences.len(), 1);
    }
}

#[test]
fn a_clone_without_a_number_from_the_server_draws_one_at_random() {
    for malformed in [json!({}), json!({"client_counter": "seven"}), json!({"client_counter": -1})] {
        let server = FakeServer::new();
        server.always("/api/v1/client/config", Act::json(json!({"sample_join_sampling_session": true})));
        server.always("/api/v1/join_sampling_session", Act::json(malformed));
        let service = server.in_memory().build().unwrap();
        let handle = service.create_sampling_client("fake/model").unwrap().get_sampler_handle();
        let clone = server.in_memory().from_sampler_handle(&handle).unwrap();
        clone.sample(&ModelInput::from_ints([1]), 1, &SamplingParams::default()).wait().unwrap();
        let sent = server.requests_to("/api/v1/asample")[0].json().unwrap();
        assert!(1_000_000_000 <= sent["seq_id"].as_u64().unwrap(), "{sent}");
    }
}

#[test]
fn a_malformed_field_does_not_fail_its_list() {
    let server = FakeServer::new();
    let rest = server.in_memory().build().unwrap().create_rest_client();
    let malformed = json!({"checkpoint_id": "weights/b", "tinker_path": "tinker://run/weights/b", "public": "no",
        "size_bytes": "big", "user_metadata": "none",
        "time": 5, "checkpoint_type": {}, "expires_at": []});
    let fine = json!({"checkpoint_id": "weights/a", "tinker_path": "tinker://run/weights/a"});
    let list = json!({"checkpoints": [malformed, fine], "cursor": "none"});
    server.always("/api/v1/training_runs/run/checkpoints", Act::json(list));
    let list = rest.list_checkpoints("run").unwrap();
    assert_eq!(list.iter().map(|it| it.path().unwrap().name().to_string()).collect::<Vec<_>>(), ["b", "a"]);
    let run = json!({"training_run_id": "run", "base_model": 1, "is_lora": "no", "lora_rank": -1,
        "corrupted": 0, "last_checkpoint": "none", "last_request_time": {}});
    server.always("/api/v1/training_runs/run?access_scope=owned", Act::json(run));
    assert_eq!(rest.get_training_run("run").unwrap().training_run_id, "run");
    let session = json!({"training_run_ids": [17, "b", {}], "sampler_ids": "none", "user_metadata": [], "display_name": 1});
    server.always("/api/v1/sessions/s?access_scope=owned", Act::json(session));
    assert_eq!(rest.get_session("s").unwrap().training_run_ids, ["17", "b"]);
    let models = json!({"supported_models": [{"model_name": "b", "max_context_length": "long"}, "c"]});
    server.always("/api/v1/get_server_capabilities", Act::json(models));
    let models = rest.get_server_capabilities().unwrap().supported_models;
    assert_eq!((models.len(), models[0].model_name.as_deref()), (1, Some("b")));
}

#[test]
fn the_id_of_a_model_comes_from_the_result_or_else_from_the_promise() {
    const MAKE: &str = "/api/v1/create_model";
    const LOAD: &str = "/api/v1/load_weights";
    for (promised, result, id) in [
        (json!({"request_id": "1", "model_id": "early"}), json!({"model_id": "late"}), "late"),
        (json!({"request_id": "1", "model_id": "early"}), json!({"status": "created"}), "early"),
        (json!({"request_id": "1", "model_id": 17}), json!({"model_id": null}), "17"),
    ] {
        let server = FakeServer::new();
        for path in [MAKE, LOAD] {
            server.next(path, Act::json(promised.clone()));
            server.next(RETRIEVE, Act::json(result.clone()));
        }
        let service = server.in_memory().build().unwrap();
        let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
        assert_eq!(training.model_id(), id, "{promised} {result}");
        let training = service.create_training_client_from_state("tinker://run/weights/a").unwrap();
        assert_eq!(training.model_id(), id, "{promised} {result}");
    }
    // If the answers have no id, a created model is an error. For a loaded model, the client makes the id from the id
    // of the session and the number of the model.
    let server = FakeServer::new();
    for path in [MAKE, LOAD] {
        server.next(path, Act::json(json!({"request_id": "1"})));
        server.next(RETRIEVE, Act::json(json!({"status": "created"})));
    }
    let service = server.in_memory().build().unwrap();
    let error = service.create_lora_training_client("fake/model", Default::default()).map(drop).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Decode), "{error:?}");
    let training = service.create_training_client_from_state("tinker://run/weights/a").unwrap();
    assert_eq!(training.model_id(), "session-1:train:1");
}

#[test]
fn a_malformed_path_from_the_server_is_not_a_user_error() {
    let server = FakeServer::new();
    server.always("/api/v1/copy_weights", Act::json(json!({"tinker_path": "s3://bucket/x"})));
    let rest = server.in_memory().project_id("p").build().unwrap().create_rest_client();
    let error = rest.copy_weights("tinker://run/weights/a", &Default::default()).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Decode) && !error.is_user_error(), "{error:?}");
    assert!(error.to_string().contains("copy_weights"), "{error}");
}

#[test]
fn a_malformed_flag_has_its_default_and_the_others_hold() {
    let server = FakeServer::new();
    let malformed = json!({"fwdbwd_max_chunk_len": -1, "parallel_fwdbwd_chunks": "no", "sample_max_concurrent_requests": 0.5,
        "billing_exception_max_pause_duration_sec": [], "credential_default_source": 7, "proto_compress_fwdbwd": 1,
        "sample_dispatch_bytes_semaphore_size": -1, "fwdbwd_max_chunk_bytes_count": 1});
    server.always("/api/v1/client/config", Act::json(malformed));
    let dynamic = json!({"refresh_interval_sec": "often", "sample_cancel_enabled": "yes", "sample_cancel_max_batch_size": -1});
    server.always("/api/v1/client/dynamic_config", Act::json(dynamic));
    let service = server.in_memory().build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    training.forward_backward(vec![datum(); 3], LossFn::CrossEntropy).wait().unwrap();
    let mut ids = seq_ids(&server);
    assert_eq!(ids.pop(), Some(1), "the first part is sent last");
    // The other parts are sent in parallel, so that their order is open.
    ids.sort_unstable();
    assert_eq!(ids, [2, 3], "one datum in each request");
    let sampler = service.create_sampling_client("fake/model").unwrap();
    sampler.sample(&ModelInput::from_ints([1]), 1, &SamplingParams::default()).wait().unwrap();
}
