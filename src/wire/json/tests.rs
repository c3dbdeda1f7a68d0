use serde_json::json;

use super::*;
use crate::types::{Chunk, ImageFormat};
use crate::types::{ModelInfo, ModelInput, OptimStepOutput, QueueState, SampleOptions, SamplingParams, Stop};

fn parse<T: DeserializeOwned>(value: Value) -> T {
    response(value.to_string().as_bytes()).expect("a readable answer")
}

#[test]
fn flags_that_are_missing_null_or_floats_are_read() {
    let flags: ClientConfig = parse(json!({
        "pjwt_auth_enabled": null, "fwdbwd_max_chunk_len": 512.0, "sample_no_retries": true, "unknown_flag": [1]
    }));
    let more = [("unknown_flag".to_string(), json!([1]))].into_iter().collect();
    let expected =
        ClientConfig { fwdbwd_max_chunk_len: 512, sample_no_retries: true, more, ..ClientConfig::default() };
    assert_eq!(flags, expected);
    assert_eq!(parse::<DynamicConfig>(json!({})), DynamicConfig::default());
}

#[test]
fn an_id_may_be_a_number() {
    let future: UntypedFuture =
        parse(json!({"request_id": 7, "sample_sequence_ids": null, "status": "pending"}));
    assert_eq!((future.request_id.as_str(), future.sample_sequence_ids), ("7", None));
}

#[test]
fn rank_and_name_are_read_from_the_fields_of_a_self_hosted_server() {
    let info: GetInfoResponse = parse(json!({
        "model_id": "model_1", "status": "created",
        "model_data": {"base_model": "b", "lora_config": {"rank": 8.0, "seed": null}, "model_name": "m"}
    }));
    let info = ModelInfo::from(info);
    assert_eq!((info.lora_rank, info.is_lora, info.base_model.as_deref()), (Some(8), Some(true), Some("m")));
    assert_eq!(info.tokenizer_id, None);
}

#[test]
fn a_tokenizer_id_ends_at_its_first_colon_unless_it_is_an_absolute_path() {
    for (sent, expected) in [
        ("org/name:v2:x", Some("org/name")),
        ("/data/run:1/tokenizer", Some("/data/run:1/tokenizer")),
        (r"C:\data\tokenizer", Some(r"C:\data\tokenizer")),
        (":v2", None),
    ] {
        let info: GetInfoResponse = parse(json!({"model_id": "m", "model_data": {"tokenizer_id": sent}}));
        assert_eq!(ModelInfo::from(info).tokenizer_id.as_deref(), expected, "{sent}");
    }
}

#[test]
fn metrics_that_are_not_numbers_are_skipped() {
    let response: OptimStepResponse = parse(json!({"metrics": {"a": 1, "b": 2.5, "c": "text"}, "more": 1}));
    let output = OptimStepOutput::from(response);
    assert_eq!(output.metrics.into_iter().collect::<Vec<_>>(), [("a".into(), 1.0), ("b".into(), 2.5)]);
    assert!(OptimStepOutput::from(parse::<OptimStepResponse>(json!({"metrics": null}))).metrics.is_empty());
}

#[test]
fn debug_output_hides_a_token() {
    let mut load = LoadWeightsRequest::create("s", 1, "tinker://r/weights/x", true);
    load.weights_access_token = Some(Secret::new("very-secret"));
    assert!(!format!("{load:?}").contains("very-secret"));
    assert!(String::from_utf8(encode(&load).expect("a body")).expect("text").contains("very-secret"));
}

#[test]
fn an_absent_detail_of_a_finished_session_is_written_as_null() {
    let finish = FinishSessionRequest { reason: FinishReason::Success, detail: None };
    let body = encode(&finish).expect("a body");
    assert_eq!(body, br#"{"reason":{"type":"success"},"detail":null}"#);
}

#[test]
fn the_answers_of_retrieve_future_are_classified_in_the_documented_order() {
    let table = [
        (
            json!({"type": "try_again", "request_id": 3, "queue_state": "paused_capacity", "error": "no"}),
            FutureReply::Pending { queue_state: Some(QueueState::PausedCapacity), reason: None },
        ),
        (
            json!({"status": "complete_metadata", "response_payload_size": 48213377.0}),
            FutureReply::Metadata { payload_size: 48213377 },
        ),
        (
            json!({"error": "too long", "category": "user"}),
            FutureReply::Failed { message: "too long".into(), category: "user".into() },
        ),
        (
            json!({"error": {"a": 1}}),
            FutureReply::Failed { message: r#"{"a":1}"#.into(), category: String::new() },
        ),
        (json!({"path": "p", "error": null}), FutureReply::Done(json!({"path": "p"}))),
    ];
    for (body, expected) in table {
        assert_eq!(FutureReply::read(body.to_string().as_bytes()).expect("JSON"), expected, "{body}");
    }
}

#[test]
fn a_single_stop_string_is_written_as_a_list_and_read_in_both_forms() {
    let params = SamplingParams { stop: Some(Stop::from("x")), ..Default::default() };
    let body = |params| {
        let request =
            SampleRequest::new("s", 0, &ModelInput::from_ints([1]), 1, params, &SampleOptions::default());
        let bytes = encode(&request.expect("a request")).expect("a body");
        serde_json::from_slice::<Value>(&bytes).expect("JSON")
    };
    assert_eq!(body(&params)["sampling_params"]["stop"], json!(["x"]));
    assert_eq!(body(&SamplingParams::default())["sampling_params"].get("stop"), None);
    let read = |stop: Value| {
        let json: SamplingParamsJson = request(json!({"stop": stop}).to_string().as_bytes()).expect("JSON");
        json.read().expect("good parameters").stop
    };
    assert_eq!(read(json!("x")), Some(Stop::from("x")));
    assert_eq!(read(json!(["x", "y"])), Some(Stop::Strings(vec!["x".into(), "y".into()])));
    assert_eq!(read(json!([5])), Some(Stop::Tokens(vec![5])));
    assert_eq!(read(Value::Null), None);
}

#[test]
fn invalid_sampling_parameters_are_refused_by_name() {
    for (field, value) in
        [("max_tokens", json!(0)), ("max_tokens", json!(-1)), ("top_p", json!(2)), ("top_k", json!(-2))]
    {
        let json: SamplingParamsJson = request(json!({field: value}).to_string().as_bytes()).expect("JSON");
        let error = json.read().expect_err("a refusal");
        assert_eq!(error.violation().expect("a path").path, format!("sampling_params.{field}"));
    }
    let json: SamplingParamsJson = request(br#"{"seed":-1}"#).expect("JSON");
    assert_eq!(json.read().expect("good parameters").seed, Some(i64::MAX as u64 - 1));
}

#[test]
fn every_chunk_type_is_read_as_it_was_written() {
    let input = ModelInput::from_ints([1, 2])
        .with_chunk(Chunk::Image {
            data: vec![0, 255, 7],
            format: ImageFormat::Png,
            expected_tokens: Some(4),
        })
        .with_chunk(Chunk::ImageAssetPointer {
            location: "gs://x".into(),
            format: ImageFormat::Jpeg,
            expected_tokens: None,
        })
        .with_chunk(Chunk::Dmel { dmel: vec![1, 2, 3] });
    let text = encode(&ModelInputJson::from(&input)).expect("a body");
    assert!(
        text.starts_with(
            br#"{"chunks":[{"type":"encoded_text","tokens":[1,2]},{"type":"image","data":"AP8H""#
        )
    );
    assert_eq!(request::<ModelInputJson>(&text).expect("JSON").read().expect("an input"), input);
    let broken = ModelInputJson { chunks: vec![ChunkJson::Dmel { dmel: "!".into() }] };
    assert!(broken.read().is_err());
}
