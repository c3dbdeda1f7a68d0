//! Two endpoints of the engine: `retrieve_futures`, which is one poll for many samples, and `join_sampling_session`,
//! which gives each further client of a sampler its own number.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tinkex::local::{Options, Server};
use tinkex::types::{ModelInput, SamplingParams};
use tinkex::{ServiceClient, wait_all};

use crate::util::TEST_TIMEOUT;
use crate::util::engine::{Client, sample};

fn sampler(client: &Client) -> String {
    let made = json!({"session_id": client.session, "sampling_session_seq_id": 0, "base_model": "tinkex/nano",
                      "type": "create_sampling_session"});
    let (status, made) = client.post("create_sampling_session", &made);
    assert_eq!(status, 200, "{made}");
    made["sampling_session_id"].as_str().expect("an id").into()
}

/// The body of a `retrieve_futures` request, with the fields of `more` in addition.
fn completions_request(sampler: &str, client: u64, cursor: u64, more: Value) -> Value {
    let target =
        json!({"type": "sampling_session", "sampling_session_id": sampler, "cloned_sampler_id": client});
    let mut body = json!({"target": target, "prev_cursor": cursor, "retrieved_request_ids": []});
    for (name, value) in more.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    body
}

/// The request ids of the finished samples that a response to `retrieve_futures` announces.
fn ids(response: &Value) -> Vec<&str> {
    let all = response["completions"].as_array().expect("a list");
    all.iter().filter_map(|it| it["request_id"].as_str()).collect()
}

#[test]
fn finished_samples_are_announced_only_to_the_client_that_submitted_them() {
    let client = Client::new();
    let sampler = sampler(&client);
    let params = json!({"max_tokens": 2});
    let first = client.submit("asample", &sample(&sampler, 0, params.clone()));
    let clone = client.submit("asample", &sample(&sampler, 3_000_000_000, params.clone()));
    let (status, announced) =
        client.post("retrieve_futures", &completions_request(&sampler, 0, 0, json!({})));
    assert_eq!((status, ids(&announced)), (200, vec![first.as_str()]), "{announced}");
    let size = announced["completions"][0]["response_payload_uncompressed_size"].as_u64().expect("a size");
    assert!(0 < size && announced["completions"][0]["state"] == "finished", "{announced}");
    let (_, others) = client.post("retrieve_futures", &completions_request(&sampler, 3, 0, json!({})));
    assert_eq!(ids(&others), [clone.as_str()]);
    // A completion is announced until the client acknowledges it in `retrieved_request_ids`.
    let (_, again) =
        client.post("retrieve_futures", &completions_request(&sampler, 0, 0, json!({"timeout": 0})));
    assert_eq!(ids(&again), [first.as_str()]);
    let cursor = again["cursor"].as_u64().expect("a number");
    let seen = json!({"timeout": 0, "retrieved_request_ids": [first]});
    let (_, none) = client.post("retrieve_futures", &completions_request(&sampler, 0, cursor, seen));
    assert!(ids(&none).is_empty() && none["cursor"] == cursor, "{none}");
    let cancelled = client.submit("asample", &sample(&sampler, 1, json!({"max_tokens": 1500, "stop": []})));
    let (status, _) = client.post("cancel_future", &json!({"request_id": cancelled}));
    assert_eq!(status, 200);
    let (_, failed) = client.post("retrieve_futures", &completions_request(&sampler, 0, cursor, json!({})));
    assert_eq!(failed["completions"], json!([{"state": "failed", "request_id": cancelled}]));
}

#[test]
fn a_poll_without_completions_waits() {
    let client = Client::with(Options { long_poll: Duration::from_millis(50), ..Options::default() });
    let sampler = sampler(&client);
    let started = Instant::now();
    let (status, none) = client.post("retrieve_futures", &completions_request(&sampler, 0, 0, json!({})));
    assert_eq!((status, ids(&none), &none["cursor"]), (200, vec![], &json!(0)));
    assert!(Duration::from_millis(50) <= started.elapsed(), "the poll returned too early");
    let (status, unknown) = client.post("retrieve_futures", &completions_request("unknown", 0, 0, json!({})));
    assert_eq!(status, 404, "{unknown}");
    let (status, _) =
        client.post("retrieve_futures", &completions_request(&sampler, 0, 0, json!({"timeout": -1.0})));
    assert_eq!(status, 422);
}

#[test]
fn each_client_that_joins_a_sampler_gets_another_number() {
    let client = Client::new();
    let join = json!({"sampling_session_id": sampler(&client), "type": "join_sampling_session"});
    let numbers = [0, 1, 2].map(|_| client.post("join_sampling_session", &join).1["client_counter"].as_u64());
    assert_eq!(numbers, [Some(1), Some(2), Some(3)]);
    let unknown = json!({"sampling_session_id": "unknown", "type": "join_sampling_session"});
    assert_eq!(client.post("join_sampling_session", &unknown).0, 404);
}

#[test]
fn clients_poll_together_and_share_samplers_if_the_engine_enables_it() {
    let options = Options {
        sample_use_retrieve_futures: true,
        sample_join_sampling_session: true,
        threads: 2,
        ..Options::default()
    };
    let server = Server::start(options).expect("a server");
    let connect =
        || ServiceClient::builder().without_environment().base_url(server.url()).api_key(server.api_key());
    let service = connect().build().expect("a client");
    let sampler = service.create_sampling_client("tinkex/nano").expect("a sampler");
    let params = SamplingParams { max_tokens: Some(2), seed: Some(1), ..Default::default() };
    let prompt = ModelInput::from_ints([72, 105]);
    let answers = wait_all((0..300).map(|_| sampler.sample(&prompt, 1, &params))).expect("answers");
    assert!(answers.iter().all(|it| it.sequences[0].tokens == answers[0].sequences[0].tokens));
    let clone = connect().from_sampler_handle(sampler.get_sampler_handle()).expect("a clone");
    let mut pending = clone.sample(&prompt, 1, &params);
    let answer = pending.wait_timeout(TEST_TIMEOUT).expect("no error").expect("an answer");
    assert_eq!(answer.sequences[0].tokens, answers[0].sequences[0].tokens);
    let client = Client::alongside(server);
    let join = json!({"sampling_session_id": sampler.sampling_session_id(), "type": "join_sampling_session"});
    let (_, next) = client.post("join_sampling_session", &join);
    assert_eq!(next["client_counter"], 2, "the clone has joined");
}
