//! Training and sampling share the engine: neither waits until the other has ended.

use std::time::Duration;

use serde_json::{Value, json};
use tinkex::local::Options;

use crate::util::engine::{Answer, Client, pass, sample, step};

/// An engine with `threads` compute threads, which answers polls for pending results soon.
fn client(threads: usize) -> Client {
    let long_poll = Duration::from_millis(20);
    Client::with_threads(threads, Options { long_poll, ..Options::default() })
}

/// Creates a sampler of the base model. `number` counts the samplers of the session.
fn base_sampler(client: &Client, session: &str, number: u64) -> String {
    let body = json!({"session_id": session, "sampling_session_seq_id": number, "base_model": "tinkex/nano"});
    client.post("create_sampling_session", &body).1["sampling_session_id"].as_str().unwrap().into()
}

fn open_session(client: &Client) -> String {
    let (status, made) = client.post("create_session", &json!({"tags": [], "type": "create_session"}));
    assert_eq!(status, 200, "{made}");
    made["session_id"].as_str().unwrap().into()
}

fn model(client: &Client, session: &str) -> String {
    let lora = json!({"rank": 8, "seed": 1});
    let body =
        json!({"session_id": session, "model_seq_id": 0, "base_model": "tinkex/nano", "lora_config": lora});
    client.run("create_model", &body)["model_id"].as_str().unwrap().into()
}

/// A pass over `examples` examples.
fn large_pass(model: &str, seq: u64, examples: usize) -> Value {
    let mut body = pass(model, seq, "forward_backward_input");
    let data = &mut body["forward_backward_input"]["data"];
    *data = vec![data[0].clone(); examples].into();
    body
}

fn is_pending(client: &Client, request_id: &str) -> bool {
    let (_, response) = client.post("retrieve_future", &json!({"request_id": request_id}));
    response["type"] == "try_again"
}

fn cancel(client: &Client, request_id: &str) -> Answer {
    client.post("cancel_future", &json!({"request_id": request_id}))
}

/// Submits `n` samples that take far longer than anything else in these tests, and waits until they run. Uses `n + 1`
/// sequence numbers.
fn start_long_samples(client: &Client, sampler: &str, first_seq: u64, n: u64) -> Vec<String> {
    let long =
        |seq| client.submit("asample", &sample(sampler, seq, json!({"max_tokens": 32_000, "stop": []})));
    let ids: Vec<String> = (first_seq..first_seq + n).map(long).collect();
    // The samples of a session start in their order. So the long ones run when a later one is done.
    client.sample(sampler, first_seq + n, json!({"max_tokens": 2}));
    ids
}

#[test]
fn training_goes_on_while_long_samples_of_the_same_and_of_another_session_run() {
    for threads in [1, 2] {
        let client = client(threads);
        let other = open_session(&client);
        let models = [client.model(0), model(&client, &other)];
        let sampler = base_sampler(&client, &client.session, 1);
        let long = start_long_samples(&client, &sampler, 0, 3);
        for model in &models {
            client.losses(model, 1, 5);
        }
        for id in &long {
            assert!(is_pending(&client, id), "{threads} threads: a long sample is already done");
            assert_eq!(cancel(&client, id).0, 200);
        }
        // The next samples are not held up by those that were cancelled.
        client.sample(&sampler, 10, json!({"max_tokens": 3}));
    }
}

#[test]
fn a_long_prompt_that_is_read_holds_up_neither_training_nor_other_samples() {
    for threads in [1, 2] {
        let client = client(threads);
        let (model, sampler) = (client.model(0), base_sampler(&client, &client.session, 1));
        let mut long = sample(&sampler, 0, json!({"max_tokens": 1}));
        let tokens: Vec<u32> = (0..32_000).map(|i| i * 7 % 251).collect();
        long["prompt"]["chunks"] = json!([{"type": "encoded_text", "tokens": tokens}]);
        let long = client.submit("asample", &long);
        for seq in 0..3 {
            client.sample(&sampler, 1 + seq, json!({"max_tokens": 3}));
            client.losses(&model, 1 + 2 * seq, 1);
        }
        assert!(is_pending(&client, &long), "{threads} threads: the long prompt is already read");
        assert_eq!(cancel(&client, &long).0, 200);
    }
}

#[test]
fn training_overtakes_samples_of_its_session_that_have_not_started() {
    let client = client(2);
    let model = client.model(0);
    let sampler = base_sampler(&client, &client.session, 1);
    let long =
        |seq| client.submit("asample", &sample(&sampler, seq, json!({"max_tokens": 32_000, "stop": []})));
    let samples: Vec<String> = (0..200).map(long).collect();
    client.losses(&model, 1, 3);
    assert!(samples.iter().all(|id| is_pending(&client, id)));
    // New weights are sampled from only after they were saved, although samplers do not wait for training otherwise.
    let large: Vec<String> =
        (0..10).map(|i| client.submit("forward_backward", &large_pass(&model, 7 + i, 64))).collect();
    let save = json!({"model_id": model, "seq_id": 17, "sampling_session_seq_id": 2, "kind": "snapshot"});
    let save = client.submit("save_weights_for_sampler", &save);
    let of_snapshot = client
        .submit("asample", &sample(&format!("{}:sample:2", client.session), 0, json!({"max_tokens": 3})));
    samples.iter().for_each(|id| assert_eq!(cancel(&client, id).0, 200));
    let sampled = client.wait(&of_snapshot);
    assert!(sampled["sequences"][0]["tokens"].is_array(), "{sampled}");
    assert!(large.iter().chain([&save]).all(|id| !is_pending(&client, id)));
}

#[test]
fn samples_end_while_passes_of_the_same_and_of_another_session_wait() {
    for threads in [1, 2] {
        let client = client(threads);
        let other = open_session(&client);
        let models = [client.model(0), model(&client, &other)];
        let sampler = base_sampler(&client, &client.session, 1);
        let submit = |model: &String| -> Vec<String> {
            (1..=200).map(|i| client.submit("forward_backward", &large_pass(model, i, 64))).collect()
        };
        let passes: Vec<Vec<String>> = models.iter().map(submit).collect();
        for seq in 0..3 {
            client.sample(&sampler, seq, json!({"max_tokens": 20, "stop": []}));
        }
        for of_model in &passes {
            assert!(is_pending(&client, &of_model[199]), "{threads} threads: the passes are already done");
        }
    }
}

#[test]
fn a_sample_has_the_same_result_whether_or_not_it_pauses_for_training() {
    let client = client(2);
    let model = client.model(0);
    let sampler = base_sampler(&client, &client.session, 1);
    let params = json!({"max_tokens": 600, "stop": [], "seed": 3});
    let alone = client.sample(&sampler, 0, params.clone());
    let before = client.losses(&model, 1, 3);
    let paused = client.submit("asample", &sample(&sampler, 1, params));
    let mut seq = 7;
    while is_pending(&client, &paused) {
        client.losses(&model, seq, 1);
        seq += 2;
    }
    assert_eq!(client.wait(&paused)["sequences"], alone["sequences"]);
    // Training is the same, too.
    let other = open_session(&client);
    let again = self::model(&client, &other);
    let long = start_long_samples(&client, &sampler, 2, 2);
    assert_eq!(client.losses(&again, 1, 3), before);
    long.iter().for_each(|id| assert_eq!(cancel(&client, id).0, 200));
}

#[test]
fn samples_that_are_cancelled_while_a_pass_runs_make_room_for_others() {
    for threads in [1, 2] {
        let client = client(threads);
        let model = client.model(0);
        let sampler = base_sampler(&client, &client.session, 1);
        // As many as run at the same time.
        let long: Vec<String> = start_long_samples(&client, &sampler, 0, 31);
        let large = client.submit("forward_backward", &large_pass(&model, 1, 512));
        for id in &long {
            assert_eq!(cancel(&client, id).0, 200);
            assert_eq!(client.wait(id)["error"], "cancelled by the client");
        }
        let next: Vec<String> = (100..140)
            .map(|seq| client.submit("asample", &sample(&sampler, seq, json!({"max_tokens": 2}))))
            .collect();
        assert!(client.wait(&large)["metrics"]["loss:sum"].is_number());
        for id in &next {
            assert!(client.wait(id)["sequences"].is_array());
        }
    }
}

#[test]
fn an_ended_session_leaves_no_paused_sample() {
    let client = client(1);
    let busy = open_session(&client);
    let sampler = base_sampler(&client, &busy, 0);
    let long = start_long_samples(&client, &sampler, 0, 3);
    let model = client.model(0);
    let large = client.submit("forward_backward", &large_pass(&model, 1, 256));
    let finish = json!({"reason": {"type": "success"}, "detail": null});
    assert_eq!(client.post(&format!("sessions/{busy}/finish"), &finish).0, 200);
    for id in &long {
        let error = client.wait(id)["error"].as_str().unwrap().to_string();
        assert!(error.contains("its session was finished"), "{error}");
    }
    client.wait(&large);
    client.run("optim_step", &step(&model, 2));
}

#[test]
fn a_server_stops_while_samples_are_paused() {
    for threads in [1, 2] {
        let client = client(threads);
        let model = client.model(0);
        let sampler = base_sampler(&client, &client.session, 1);
        start_long_samples(&client, &sampler, 0, 10);
        client.submit("forward_backward", &large_pass(&model, 1, 64));
        let (folder, started) = (client.server.data_dir().to_path_buf(), std::time::Instant::now());
        let Client { server, .. } = client;
        server.stop();
        // `stop` gives threads that do not end 30 seconds.
        assert!(started.elapsed() < Duration::from_secs(29), "threads did not end");
        assert!(!folder.exists());
    }
}
