//! The embedded engine over plain HTTP, as clients other than this crate use it.
#![cfg(feature = "local")]
#![allow(clippy::expect_used)]

use crate::util::engine::{Client, TEXT, pass, sample, step};
use crate::util::{alone, eventually};
use std::time::Duration;

use serde_json::{Value, json};
use tinkex::local::Options;
use tinkex::tokenizer::ByteTokenizer;

#[test]
fn training_over_http_lowers_the_loss_and_the_sampler_reproduces_the_text() {
    let client = Client::new();
    let model = client.model(0);
    assert_eq!(model, format!("{}:train:0", client.session));
    let losses = client.losses(&model, 1, 30);
    assert!(losses[29] < 0.1 * losses[0], "{losses:?}");
    let saved = client.run(
        "save_weights_for_sampler",
        &json!({"model_id": model, "sampling_session_seq_id": 0, "kind": "snapshot", "seq_id": 61}),
    );
    let sampler = saved["sampling_session_id"].as_str().expect("a sampler");
    assert_eq!(sampler, format!("{}:sample:0", client.session));
    let answer = client.sample(sampler, 0, json!({"max_tokens": 15, "temperature": 0.0}));
    let ids: Vec<i32> = serde_json::from_value(answer["sequences"][0]["tokens"].clone()).expect("tokens");
    assert_eq!(ByteTokenizer.decode(&ids), "quick brown fox");
    let stopped = client.sample(sampler, 1, json!({"max_tokens": 15, "temperature": 0.0, "stop": ["own"]}));
    let ids: Vec<i32> = serde_json::from_value(stopped["sequences"][0]["tokens"].clone()).expect("tokens");
    assert_eq!(
        (ByteTokenizer.decode(&ids).as_str(), &stopped["sequences"][0]["stop_reason"]),
        ("quick brown", &json!("stop"))
    );
}

#[test]
fn a_checkpoint_is_loaded_with_or_without_its_optimizer_state() {
    let client = Client::new();
    let model = client.model(0);
    client.losses(&model, 1, 3);
    let saved = client
        .run("save_weights", &json!({"model_id": model, "path": "step-3", "seq_id": 7, "overwrite": false}));
    let path = saved["path"].as_str().expect("a path");
    assert_eq!(path, format!("tinker://{model}/weights/step-3"));
    let expected = client.losses(&model, 8, 3);

    let load = |number: u64, optimizer: bool| {
        let body = json!({"session_id": client.session, "model_seq_id": number, "path": path, "optimizer": optimizer});
        client.run("load_weights", &body)["model_id"].as_str().expect("a model id").to_string()
    };
    let with = load(1, true);
    assert_eq!(
        client.losses(&with, 1, 3),
        expected,
        "with the optimizer state, the losses differ from those of uninterrupted training"
    );
    let without = client.losses(&load(2, false), 1, 3);
    assert_eq!(without[0], expected[0], "the weights differ");
    assert_ne!(without[2], expected[2], "the optimizer state was loaded too");

    let legacy = client.model(3);
    client.run("load_weights", &json!({"model_id": legacy, "seq_id": 1, "path": path, "optimizer": true}));
    assert_eq!(client.losses(&legacy, 2, 3), expected);
    let late = client
        .fail("load_weights", &json!({"model_id": legacy, "seq_id": 8, "path": path, "optimizer": true}));
    assert!(late.contains("must be the first request of a model"), "{late}");

    let error = client.fail(
        "save_weights",
        &json!({"model_id": model, "path": "step-3", "seq_id": 14, "overwrite": false}),
    );
    assert!(error.contains("already exists"), "{error}");
    client
        .run("save_weights", &json!({"model_id": model, "path": "step-3", "seq_id": 15, "overwrite": true}));
    let (_, info) = client.post("weights_info", &json!({"tinker_path": path}));
    assert_eq!((&info["base_model"], &info["lora_rank"]), (&json!("tinkex/nano"), &json!(8)));
    let (status, missing) = client.post(
        "load_weights",
        &json!({"session_id": client.session, "model_seq_id": 9, "path": "tinker://nope/weights/none", "optimizer": false}),
    );
    assert_eq!((status, missing["detail"].as_str().expect("a text").contains("does not exist")), (404, true));
}

#[test]
fn checkpoints_outlive_the_server_that_wrote_them() {
    let folder = std::env::temp_dir().join(format!("tinkex-it-{}", std::process::id()));
    let options = Options { data_dir: Some(folder.clone()), ..Options::default() };
    let client = Client::with(options.clone());
    let model = client.model(0);
    client.losses(&model, 1, 10);
    let saved = client.run(
        "save_weights_for_sampler",
        &json!({"model_id": model, "path": "s1", "kind": "snapshot", "seq_id": 21}),
    );
    let path = saved["path"].as_str().expect("a path").to_string();
    let greedy = json!({"max_tokens": 8, "temperature": 0.0});
    let sampler = |client: &Client| {
        let body = json!({"session_id": client.session, "sampling_session_seq_id": 5, "model_path": path});
        let (status, made) = client.post("create_sampling_session", &body);
        assert_eq!(status, 200, "{made}");
        let id = made["sampling_session_id"].as_str().expect("an id").to_string();
        assert_eq!(
            client.post("create_sampling_session", &body).1,
            made,
            "a repeated request got another sampler"
        );
        let (_, info) = client.get(&format!("samplers/{id}"));
        assert_eq!((&info["model_path"], &info["base_model"]), (&json!(path), &json!("tinkex/nano")));
        id
    };
    let first = client.sample(&sampler(&client), 0, greedy.clone());
    drop(client);
    let client = Client::with(options);
    let again = client.sample(&sampler(&client), 0, greedy);
    assert_eq!(first["sequences"][0]["tokens"], again["sequences"][0]["tokens"]);
    let (_, run) = client.get(&format!("training_runs/{model}"));
    assert_eq!(run["lora_rank"], 8);
    drop(client);
    std::fs::remove_dir_all(folder).expect("cleaning up");
}

#[test]
fn requests_run_in_the_order_of_their_seq_ids_and_a_repeated_one_runs_once() {
    let client = Client::with(Options { long_poll: Duration::from_millis(100), ..Options::default() });
    let model = client.model(0);
    let second = client.submit("optim_step", &step(&model, 2));
    assert_eq!(client.submit("optim_step", &step(&model, 2)), second);
    let (_, pending) = client.post("retrieve_future", &json!({"request_id": second}));
    assert_eq!(pending["type"], "try_again");
    let reason = pending["queue_state_reason"].as_str().expect("a reason");
    assert!(reason.contains("waits for request 1, which has not arrived"), "{reason}");
    let first = client.submit("forward_backward", &pass(&model, 1, "forward_backward_input"));
    let stepped = client.wait(&second);
    assert!(
        0.0 < stepped["metrics"]["grad_norm"].as_f64().expect("a norm"),
        "the step ran before the pass: {stepped}"
    );
    assert_eq!(stepped["metrics"]["tinkex/step"], 1);
    assert!(client.wait(&first)["loss_fn_outputs"][0]["logprobs"]["shape"] == json!([TEXT.len() - 1]));
    assert_eq!(
        client.submit("optim_step", &step(&model, 2)),
        second,
        "a repetition after the end got another id"
    );
    assert_eq!(client.wait(&second), stepped, "the second fetch gave another result");
    let mut other = step(&model, 2);
    other["adam_params"]["learning_rate"] = json!(1.0);
    let (status, conflict) = client.post("optim_step", &other);
    assert_eq!(status, 409, "{conflict}");
    let (status, _) = client.post(
        "create_model",
        &json!({"session_id": client.session, "model_seq_id": 0, "base_model": "tinkex/nano", "lora_config": {"rank": 4}}),
    );
    assert_eq!(status, 409, "a taken model_seq_id was accepted for another model");
}

#[test]
fn a_failing_request_uses_up_its_seq_id() {
    let client = Client::new();
    let model = client.model(0);
    let mut unknown = pass(&model, 1, "forward_backward_input");
    unknown["forward_backward_input"]["loss_fn"] = json!("nonsense");
    let error = client.fail("forward_backward", &unknown);
    assert!(error.contains("\"nonsense\" is not offered here"), "{error}");
    let error = client.fail("save_weights", &json!({"model_id": model, "path": "a/b", "seq_id": 2}));
    assert!(error.contains("is not a valid checkpoint name"), "{error}");
    let mut bad = step(&model, 3);
    bad["adam_params"]["beta1"] = json!(2.0);
    assert!(client.fail("optim_step", &bad).contains("adam_params.beta1"));
    let output = client.run("forward", &pass(&model, 4, "forward_input"));
    assert!(output["metrics"]["loss:sum"].as_f64().expect("a loss") > 0.0);
}

#[test]
fn refusals_say_what_is_wrong() {
    let client = Client::new();
    let heartbeat = json!({"session_id": client.session});
    assert_eq!(client.post_with_key("session_heartbeat", &heartbeat, "tml-wrong").0, 401);
    assert_eq!(client.post("session_heartbeat", &heartbeat).0, 200);
    let (status, refused) = client.post("forward_backward", &pass("unknown", 1, "forward_backward_input"));
    assert_eq!(
        (status, refused["detail"].as_str()),
        (404, Some("model unknown does not exist, or its session has ended"))
    );
    let body = json!({"session_id": client.session, "model_seq_id": 0, "base_model": "gpt", "lora_config": {"rank": 4}});
    let (status, refused) = client.post("create_model", &body);
    assert!(
        status == 400 && refused["detail"].as_str().expect("a text").contains("tinkex/nano"),
        "{refused}"
    );
    assert_eq!(client.post("get_info", &json!({})).0, 422);
    assert_eq!(client.post("nothing", &json!({})).0, 404);
    assert_eq!(client.get("get_info").0, 405);
    assert_eq!(client.post("retrieve_future", &json!({"request_id": "7"})).0, 404);
    assert_eq!(client.get("get_server_capabilities").1["supported_models"][0]["model_name"], "tinkex/nano");
    let health = client.agent.get(client.url("healthz")).call().expect("an answer");
    assert_eq!(health.status().as_u16(), 200, "the health check failed without a key");

    let body =
        json!({"session_id": client.session, "sampling_session_seq_id": 0, "base_model": "tinkex/nano"});
    let (_, made) = client.post("create_sampling_session", &body);
    let sampler = made["sampling_session_id"].as_str().expect("a sampler");
    let (status, refused) = client.post("asample", &sample(sampler, 0, json!({"max_tokens": 32765})));
    assert_eq!(status, 400);
    assert_eq!(
        refused["detail"],
        "a prompt of 4 tokens and max_tokens 32765 exceed the context window of 32768"
    );
    assert_eq!(client.post("asample", &sample("unknown", 0, json!({"max_tokens": 1}))).0, 404);

    let (status, _) = client.post(
        &format!("sessions/{}/finish", client.session),
        &json!({"reason": {"type": "success"}, "detail": null}),
    );
    assert_eq!(status, 200);
    assert_eq!(client.post("session_heartbeat", &heartbeat).0, 410);
}

#[test]
fn samples_are_repeatable_report_prompt_logprobs_and_can_be_cancelled() {
    let client = Client::with(Options { long_poll: Duration::from_millis(50), ..Options::default() });
    let body =
        json!({"session_id": client.session, "sampling_session_seq_id": 0, "base_model": "tinkex/nano"});
    let sampler = client.post("create_sampling_session", &body).1["sampling_session_id"]
        .as_str()
        .expect("an id")
        .to_string();
    let mut request = sample(&sampler, 0, json!({"max_tokens": 5, "seed": 7}));
    request["num_samples"] = json!(2);
    request["prompt_logprobs"] = json!(true);
    request["topk_prompt_logprobs"] = json!(3);
    let (_, future) = client.post("asample", &request);
    assert_eq!(future["sample_sequence_ids"].as_array().expect("ids").len(), 2);
    let first = client.wait(future["request_id"].as_str().expect("an id"));
    assert_eq!(first["sequences"].as_array().expect("sequences").len(), 2);
    assert!(first["prompt_logprobs"][0].is_null() && first["prompt_logprobs"][1].is_f64());
    assert_eq!(first["topk_prompt_logprobs"][1].as_array().expect("a row").len(), 3);
    assert_eq!(client.post("asample", &request).1, future, "a repeated request was sampled again");
    request["seq_id"] = json!(1);
    let second = client.run("asample", &request);
    assert_eq!(
        first["sequences"][0]["tokens"], second["sequences"][0]["tokens"],
        "the same seed gave other tokens"
    );

    let mut unscored = sample(&sampler, 2, json!({"max_tokens": 1, "seed": 7}));
    let tokens = (1..200).collect::<Vec<u32>>();
    unscored["prompt"] = json!({"chunks": [{"type": "encoded_text", "tokens": tokens}]});
    for (seq_id, cached) in [(2, 0), (3, tokens.len() - 1)] {
        unscored["seq_id"] = json!(seq_id);
        assert_eq!(client.run("asample", &unscored)["prompt_cache_hit_tokens"], cached);
    }

    let mut long = sample(&sampler, 4, json!({"max_tokens": 2000, "stop": []}));
    long["num_samples"] = json!(64);
    let id = client.submit("asample", &long);
    assert_eq!(client.post("cancel_future", &json!({"request_id": id})).0, 200);
    assert_eq!(client.wait(&id)["error"], "cancelled by the client");
}

#[test]
fn a_snapshot_keeps_its_weights_and_inflight_samplers_follow_the_latest_save() {
    let client = Client::new();
    let model = client.model(0);
    let save = |seq: u64, number: u64, kind: &str| {
        let body = json!({"model_id": model, "sampling_session_seq_id": number, "kind": kind, "seq_id": seq});
        let id = client.submit("save_weights_for_sampler", &body);
        let saved = client.wait(&id)["sampling_session_id"].as_str().expect("a sampler").to_string();
        (id, saved)
    };
    let ((first, snapshot), (_, old)) = (save(1, 0, "snapshot"), save(2, 1, "inflight"));
    assert_eq!(
        save(1, 9, "snapshot"),
        (first, snapshot.clone()),
        "a repeated seq_id with another sampling_session_seq_id ran again"
    );
    let tokens = |sampler: &str, seq: u64| {
        client.sample(sampler, seq, json!({"max_tokens": 10, "temperature": 0.0}))["sequences"][0]["tokens"]
            .clone()
    };
    let untrained = tokens(&snapshot, 0);
    assert_eq!(tokens(&old, 0), untrained);
    client.losses(&model, 3, 15);
    let (_, new) = save(33, 2, "inflight");
    assert_ne!(tokens(&new, 0), untrained);
    assert_eq!(tokens(&old, 1), tokens(&new, 1));
    assert_eq!(tokens(&snapshot, 1), untrained);
    let body =
        json!({"session_id": client.session, "sampling_session_seq_id": 2, "base_model": "tinkex/nano"});
    assert_eq!(client.post("create_sampling_session", &body).0, 409, "a taken number was accepted");
}

#[test]
fn an_unloaded_model_is_gone_and_its_waiting_requests_fail() {
    let client = Client::new();
    let model = client.model(0);
    let early = client.submit("optim_step", &step(&model, 2));
    client.run("unload_model", &json!({"model_id": model}));
    let error = client.wait(&early)["error"].as_str().expect("a text").to_string();
    assert!(error.contains("was unloaded (as asked) before an earlier request arrived"), "{error}");
    assert_eq!(client.post("optim_step", &step(&model, 1)).0, 404);
}

#[test]
fn protobuf_and_compressed_bodies_are_served() {
    let client = Client::new();
    let model = client.model(0);
    // The message V1 of PROTOCOL §13, with the id of this model: one datum, tokens [1, 2, 3], targets [2, 3, 4], cross
    // entropy.
    let mut body = vec![0x0a, model.len() as u8];
    body.extend_from_slice(model.as_bytes());
    body.extend_from_slice(&[
        0x10, 1, 0x1a, 68, 0x0a, 16, 0x0a, 14, 0x0a, 12, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0,
    ]);
    body.extend_from_slice(&[0x12, 48, 0x0a, 13]);
    body.extend_from_slice(b"target_tokens");
    body.extend_from_slice(&[
        0x12, 31, 0x0a, 24, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0,
    ]);
    body.extend_from_slice(&[0x18, 2, 0x22, 1, 3, 0x22, 13]);
    body.extend_from_slice(b"cross_entropy");
    let send = |body: &[u8], encoding: &str| {
        let request =
            client.agent.post(client.url("forward_backward")).header("X-API-Key", client.server.api_key());
        let request = request.header("Content-Type", "application/x-protobuf");
        let request =
            if encoding.is_empty() { request } else { request.header("Content-Encoding", encoding) };
        let mut response = request.send(body).expect("an answer");
        let text = response.body_mut().read_to_string().expect("a text");
        (response.status().as_u16(), serde_json::from_str::<Value>(&text).expect("JSON"))
    };
    let (status, plain) = send(&body, "");
    assert_eq!(status, 200, "{plain}");
    // A zstd frame with one uncompressed block: magic number, frame header with the size, block.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x20, body.len() as u8];
    frame.extend_from_slice(&(((body.len() as u32) << 3) | 1).to_le_bytes()[..3]);
    frame.extend_from_slice(&body);
    assert_eq!(send(&frame, "zstd"), (200, plain.clone()), "compression changed the request");
    assert_eq!(send(b"malformed", "zstd").0, 400);
    assert_eq!(send(b"malformed", "").0, 422);

    let id = plain["request_id"].as_str().expect("an id");
    let expected = client.wait(id);
    let request =
        client.agent.post(client.url("retrieve_future")).header("X-API-Key", client.server.api_key());
    let mut response = request
        .header("Accept", "application/x-protobuf")
        .send(json!({"request_id": id}).to_string())
        .expect("an answer");
    assert_eq!(response.headers()["content-type"], "application/x-protobuf");
    let bytes = response.body_mut().read_to_vec().expect("bytes");
    let first = expected["loss_fn_outputs"][0]["logprobs"]["data"][0].as_f64().expect("a number") as f32;
    assert!(bytes.windows(4).any(|it| it == first.to_le_bytes()));
}

#[test]
fn large_results_are_announced_before_they_are_sent() {
    let client = Client::with(Options { announce_above: 100, ..Options::default() });
    let model = client.model(0);
    let id = client.submit("forward_backward", &pass(&model, 1, "forward_backward_input"));
    client.wait(&id);
    let retrieve = |allow: bool| {
        client.post("retrieve_future", &json!({"request_id": id, "allow_metadata_only": allow})).1
    };
    assert_eq!(retrieve(true)["status"], "complete_metadata");
    assert!(100 < retrieve(true)["response_payload_size"].as_u64().expect("a size"));
    assert!(retrieve(false)["metrics"].is_object());
}

#[test]
fn a_silent_session_is_ended_with_its_models() {
    let client = Client::with(Options { session_timeout: Duration::from_millis(400), ..Options::default() });
    let model = client.submit(
        "create_model",
        &json!({"session_id": client.session, "model_seq_id": 0, "base_model": "tinkex/nano", "lora_config": {"rank": 4}}),
    );
    client.wait(&model);
    crate::util::eventually("the session is ended", || {
        let found = client.post("sessions/search", &json!({})).1;
        found["sessions"][0]["status"]["detail"] == "the client was silent for too long"
    });
    let model_id = format!("{}:train:0", client.session);
    assert_eq!(client.post("get_info", &json!({"model_id": model_id})).0, 404);
    assert_eq!(client.post("session_heartbeat", &json!({"session_id": client.session})).0, 410);
}

/// Number of threads of this process.
#[cfg(target_os = "linux")]
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").expect("the threads of this process").count()
}

#[cfg(target_os = "linux")]
#[test]
fn a_stopped_server_leaves_no_thread_and_no_folder() {
    alone("engine_http::a_stopped_server_leaves_no_thread_and_no_folder", || {
        let before = threads();
        let client = Client::new();
        let model = client.model(0);
        client.losses(&model, 1, 1);
        assert!(before + 4 <= threads(), "fewer threads than server, engine and two compute threads");
        let folder = client.server.data_dir().to_path_buf();
        assert!(folder.exists());
        let url = client.url("healthz");
        let Client { server, agent, .. } = client;
        server.stop();
        assert!(!folder.exists());
        assert!(agent.get(url).call().is_err(), "the port is still open");
        drop(agent);
        // The kernel still lists a thread for some milliseconds after it was joined.
        eventually("no thread stays", || threads() == before);
    });
}

#[test]
fn a_number_of_a_list_that_cannot_be_read_is_refused_by_its_name() {
    let client = Client::new();
    for list in ["training_runs", "checkpoints", "sessions"] {
        for (query, name) in [
            ("limit=abc", "limit"),
            ("limit=", "limit"),
            ("limit=-1", "limit"),
            ("offset=1e9&limit=3", "offset"),
            ("limit=3&offset=18446744073709551616", "offset"),
        ] {
            let (status, refused) = client.get(&format!("{list}?{query}"));
            let detail = refused["detail"].as_str().unwrap();
            assert!(
                status == 422 && detail.starts_with(&format!("{name}: ")),
                "{list}?{query}: {status} {detail}"
            );
        }
        let (status, page) = client.get(&format!("{list}?offset=18446744073709551615&limit=1000000"));
        assert_eq!((status, page["cursor"]["limit"].as_u64()), (200, Some(1000)), "{page}");
    }
}

#[test]
fn a_field_of_a_wrong_type_is_named_by_its_path() {
    let client = Client::new();
    let (status, refused) = client.post("create_session", &json!({"tags": ["a", 1], "sdk_version": "1"}));
    assert!(status == 422 && refused.to_string().contains("tags[1]: invalid type"), "{refused}");
    let model = client.model(1);
    let step = json!({"model_id": model, "seq_id": 1, "adam_params": {"beta1": 0.5, "eps": "small"}});
    let error = client.fail("optim_step", &step);
    assert!(error.contains("adam_params.eps: invalid type"), "{error}");
}
