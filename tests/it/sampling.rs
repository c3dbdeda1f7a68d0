//! Options of samples: how they are sent and checked, and which results they give.

use serde_json::{Value, json};
use tinkex::testing::{Act, FakeServer};
use tinkex::types::{ModelInput, SampleOptions, SamplingParams, Stop, TensorData, Values};
use tinkex::{ErrorKind, SamplingClient, ServiceClient};

const SAMPLE: &str = "/api/v1/asample";

fn in_memory() -> (FakeServer, ServiceClient, SamplingClient) {
    let server = FakeServer::new();
    let service = server.in_memory().build().unwrap();
    let sampler = service.create_sampling_client("fake/model").unwrap();
    (server, service, sampler)
}

fn prompt() -> ModelInput {
    ModelInput::from_ints([1, 2, 3])
}

fn one_token() -> SamplingParams {
    SamplingParams { max_tokens: Some(1), ..Default::default() }
}

fn sent(server: &FakeServer) -> Value {
    server.requests_to(SAMPLE).last().unwrap().json().unwrap()
}

#[test]
fn every_option_of_a_sample_is_sent_and_answered() {
    let (server, _service, sampler) = in_memory();
    let options = SampleOptions {
        include_prompt_logprobs: true,
        topk_prompt_logprobs: 3,
        topk_sample_logprobs: 2,
        target_prompt_logprobs: Some(TensorData::from(vec![-1i64, 8]).with_shape([2, 1]).unwrap()),
        prompt_alt_tokens_k: 4,
        prompt_logprobs_last_n: Some(1),
    };
    let sampler = sampler.record_stability_info(true);
    let answer = sampler.sample_with(&prompt(), 2, &one_token(), &options).wait().unwrap();
    assert_eq!(
        sent(&server),
        json!({
            "num_samples": 2, "prompt": {"chunks": [{"type": "encoded_text", "tokens": [1, 2, 3]}]},
            "sampling_params": {"max_tokens": 1, "temperature": 1.0, "top_k": -1, "top_p": 1.0},
            "sampling_session_id": "sampler-1", "seq_id": 0, "prompt_logprobs": true,
            "topk_prompt_logprobs": 3, "topk_sample_logprobs": 2,
            "target_prompt_logprobs": {"data": [-1, 8], "dtype": "int64", "shape": [2, 1]},
            "prompt_alt_tokens_k": 4, "prompt_logprobs_last_n": 1, "record_stability_info": true,
            "type": "sample",
        })
    );
    assert_eq!(answer.prompt_logprobs, Some(vec![None, None, Some(-1.0)]));
    let top = answer.topk_prompt_logprobs.unwrap();
    assert!(top[1].is_none() && top[2].as_ref().unwrap().len() == 3);
    for (i, sequence) in answer.sequences.iter().enumerate() {
        assert_eq!(sequence.sequence_id.as_deref(), Some(format!("request-1:{i}").as_str()));
        assert_eq!(sequence.topk_logprobs.as_ref().unwrap()[0].as_ref().unwrap()[1].token, 8);
    }
    let target = answer.target_prompt_logprobs.unwrap();
    assert!(target.as_f32().unwrap()[0].is_nan());
    assert_eq!((target.as_f32().unwrap()[1], target.shape()), (-2.0, vec![2, 1]));
    let alternatives = answer.prompt_alt_tokens.unwrap();
    assert_eq!((alternatives.tokens.shape(), alternatives.logprobs.shape()), (vec![2, 4], vec![2, 4]));
    assert_eq!(alternatives.tokens.as_i64().unwrap()[7], 7);
}

#[test]
fn sparse_target_tokens_get_sparse_log_probabilities() {
    let (server, _service, sampler) = in_memory();
    let target = TensorData::from_csr([2, 5], vec![0, 0, 1], vec![2], Values::I64(vec![9]));
    let sparse = target.sparse.clone();
    let options = SampleOptions { target_prompt_logprobs: Some(target), ..Default::default() };
    let answer = sampler.sample_with(&prompt(), 1, &one_token(), &options).wait().unwrap();
    assert_eq!(
        sent(&server)["target_prompt_logprobs"],
        json!({
            "data": [9], "dtype": "int64", "shape": [2, 5], "sparse_crow_indices": [0, 0, 1],
            "sparse_col_indices": [2],
        })
    );
    let scores = answer.target_prompt_logprobs.unwrap();
    assert_eq!((scores.as_f32().unwrap(), &scores.sparse), (&[-2.0][..], &sparse));
}

#[test]
fn a_single_stop_text_is_sent_as_a_list() {
    let (server, _service, sampler) = in_memory();
    for (stop, expected) in [
        (Some(Stop::from("x")), json!(["x"])),
        (Some(Stop::from(vec!["a".to_string(), "b".into()])), json!(["a", "b"])),
        (Some(Stop::from(vec![5, 6])), json!([5, 6])),
        (Some(Stop::Strings(vec![])), json!([])),
        (None, Value::Null),
    ] {
        sampler.sample(&prompt(), 1, &SamplingParams { stop, ..one_token() }).wait().unwrap();
        assert_eq!(sent(&server)["sampling_params"]["stop"], expected);
    }
}

#[test]
fn options_that_do_not_fit_are_refused_before_anything_is_sent() {
    let (server, _service, sampler) = in_memory();
    let target = TensorData::from(vec![4i64]).with_shape([1, 1]).unwrap();
    let options = SampleOptions { target_prompt_logprobs: Some(target), ..Default::default() };
    let error = sampler.sample_with(&prompt(), 1, &one_token(), &options).wait().unwrap_err();
    assert_eq!(crate::util::path_of(&error), "target_prompt_logprobs");
    for n in [0, 3] {
        let error = sampler.compute_logprobs_last(&prompt(), n).wait().unwrap_err();
        assert_eq!(crate::util::path_of(&error), "prompt_logprobs_last_n");
    }
    assert!(server.requests_to(SAMPLE).is_empty());
}

#[test]
fn only_the_last_log_probabilities_are_computed_on_request() {
    let (server, _service, sampler) = in_memory();
    let logprobs = sampler.compute_logprobs_last(&prompt(), 1).wait().unwrap();
    assert_eq!(logprobs, [None, None, Some(-1.0)]);
    let body = sent(&server);
    assert_eq!((&body["prompt_logprobs_last_n"], &body["prompt_logprobs"]), (&json!(1), &json!(true)));
    assert_eq!(sampler.compute_logprobs(&prompt()).wait().unwrap(), [None, Some(-1.0), Some(-1.0)]);
    assert_eq!(sent(&server)["prompt_logprobs_last_n"], Value::Null);
}

#[test]
fn an_option_that_the_server_ignores_is_incompatible() {
    let (server, _service, sampler) = in_memory();
    let old = json!({
        "sequences": [{"stop_reason": "stop", "tokens": [1], "logprobs": [-0.5]}],
        "prompt_logprobs": [null, -0.5, -0.5],
    });
    server.always("/api/v1/retrieve_future", Act::json(old));
    let error = sampler.compute_logprobs_last(&prompt(), 1).wait().unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Incompatible, "{error}");
    let options = SampleOptions { prompt_alt_tokens_k: 1, ..Default::default() };
    let error = sampler.sample_with(&prompt(), 1, &one_token(), &options).wait().unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Incompatible, "{error}");
    let target = TensorData::from(vec![1i64, 1]).with_shape([2, 1]).unwrap();
    for options in [
        SampleOptions { topk_sample_logprobs: 1, ..Default::default() },
        SampleOptions { topk_prompt_logprobs: 1, ..Default::default() },
        SampleOptions { target_prompt_logprobs: Some(target), ..Default::default() },
    ] {
        let error = sampler.sample_with(&prompt(), 1, &one_token(), &options).wait().unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Incompatible, "{options:?}: {error}");
    }
}

#[test]
fn a_lost_sample_is_submitted_again_unless_the_server_forbids_retries() {
    for (no_retries, sent) in [(false, 2), (true, 1)] {
        let server = FakeServer::new();
        server.always("/api/v1/client/config", Act::json(json!({"sample_no_retries": no_retries})));
        let service = server.in_memory().build().unwrap();
        let sampler = service.create_sampling_client("fake/model").unwrap();
        let lost = || server.next("/api/v1/retrieve_future", Act::status(410, r#"{"detail":"gone"}"#));
        lost();
        let sample = sampler.sample(&prompt(), 1, &one_token()).wait();
        assert_eq!(sample.is_err(), no_retries, "{sample:?}");
        assert_eq!(server.requests_to(SAMPLE).len(), sent);
        // `compute_logprobs` submits again even if the server forbids retries, as the official SDK does.
        lost();
        sampler.compute_logprobs(&prompt()).wait().unwrap();
        assert_eq!(server.requests_to(SAMPLE).len(), sent + 2);
    }
}

#[cfg(feature = "local")]
#[test]
fn the_engine_answers_every_option() {
    let server = tinkex::local::Server::start(Default::default()).unwrap();
    let service = ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build().unwrap();
    let sampler = service.create_sampling_client("tinkex/nano").unwrap();
    // Two target tokens for each of the positions 2 and 3 of the prompt. Column 0: no token (−1), then the token 9.
    // Column 1: the prompt's own tokens, 2 and 3.
    let target = TensorData::from(vec![-1i64, 2, 9, 3]).with_shape([2, 2]).unwrap();
    let mut options = SampleOptions {
        include_prompt_logprobs: true,
        topk_prompt_logprobs: 2,
        topk_sample_logprobs: 2,
        target_prompt_logprobs: Some(target),
        prompt_alt_tokens_k: 3,
        prompt_logprobs_last_n: None,
    };
    let answer = sampler.sample_with(&prompt(), 2, &one_token(), &options).wait().unwrap();
    let own = answer.prompt_logprobs.unwrap();
    let scores = answer.target_prompt_logprobs.unwrap();
    let scores = scores.as_f32().unwrap();
    assert!(scores[0].is_nan() && scores[2] < 0.0);
    assert_eq!((Some(scores[1]), Some(scores[3])), (own[1], own[2]));
    let alternatives = answer.prompt_alt_tokens.unwrap();
    assert_eq!(alternatives.tokens.shape(), [2, 3]);
    assert!(alternatives.logprobs.as_f32().unwrap().iter().all(|it| *it <= 0.0));
    assert!(
        answer.sequences.iter().all(|it| it.topk_logprobs.as_ref().unwrap()[0].as_ref().unwrap().len() == 2)
    );
    // The same targets as a sparse tensor: it has no entry where there is no token.
    let target = TensorData::from_csr([2, 2], vec![0, 1, 3], vec![1, 0, 1], Values::I64(vec![2, 9, 3]));
    options.target_prompt_logprobs = Some(target);
    let answer = sampler.sample_with(&prompt(), 1, &one_token(), &options).wait().unwrap();
    assert_eq!(answer.target_prompt_logprobs.unwrap().as_f32().unwrap(), &scores[1..]);
    assert!(sampler.compute_logprobs_last(&prompt(), 1).wait().unwrap()[1].is_none());
}
