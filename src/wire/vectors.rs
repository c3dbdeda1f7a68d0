//! Test vectors of PROTOCOL §13: V1 to V5 are protobuf messages in hexadecimal. The tests decode them and encode them
//! again (V5 is only decoded). They compare decoded messages instead of bytes, because protobuf does not define the
//! order of map entries.

use bytes::Bytes;
use prost::Message;

use super::proto;
use super::sample::*;
use super::train::*;
use crate::types::*;

const V1: &str = concat!(
    "0a016d10011a440a100a0e0a0c01000000020000000300000012300a0d7461726765745f746f6b656e73121f0a",
    "180200000000000000030000000000000004000000000000001802220103220d63726f73735f656e74726f7079",
);
const V2: &str = concat!(
    "0a016d10021a4b0a080a060a0407000000123f0a0d7461726765745f746f6b656e73122e12260a080500000000",
    "0000001210000000000000000001000000000000001a080200000000000000180222020103220370706f2a1d0a",
    "12636c69705f6c6f775f7468726573686f6c6411cdccccccccccec3f3a1f0a12636c69705f6c6f775f74687265",
    "73686f6c64120909cdccccccccccec3f",
);
const V3: &str = concat!(
    "0a16080112080b0000000c0000001a08000080bf000000c012080000c07f000000bf1a280a1000000000000000",
    "0009000000000000001210804fc3c7804fc3c7000080be804fc3c7180220022001",
);
const V4: &str = concat!(
    "0a176d6f642e7375623a546f7263684c6f737352657475726e123a12360a086c6f6770726f6273122a0a0c0000",
    "80bf000000c0000040c01218000000000000000008000000000000000c00000000000000180118021a130a086c",
    "6f73733a73756d110000000000000c40",
);
const V5: &str = "0a0158122612220a0161121d0a04803f00c012100000000000000000040000000000000018042201021801";

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |it: u8| (it as char).to_digit(16).expect("a hex digit") as u8;
    hex.as_bytes().chunks(2).map(|it| 16 * digit(it[0]) + digit(it[1])).collect()
}

fn assert_same_message<M: Message + Default + PartialEq + std::fmt::Debug>(ours: &[u8], theirs: &[u8]) {
    let read = |it: &[u8]| M::decode(it).expect("a message");
    assert_eq!(read(ours), read(theirs));
}

#[test]
fn v1_a_cross_entropy_pass_is_read_and_written() {
    for (hex, forward_only) in [(V1.to_string(), false), (format!("{V1}3001"), true)] {
        let bytes = bytes(&hex);
        let call = decode_forward_backward_request(&bytes).expect("a request");
        let datum = Datum::new(ModelInput::from_ints([1, 2, 3])).with("target_tokens", vec![2i64, 3, 4]);
        assert_eq!(call.data, [datum]);
        assert_eq!(call.loss, Loss::from(LossFn::CrossEntropy));
        assert_eq!((call.model_id.as_str(), call.seq_id, call.forward_only), ("m", 1, forward_only));
        let ours =
            encode_forward_backward("m", 1, &call.data, &call.loss, forward_only, false).expect("bytes");
        assert_same_message::<proto::ForwardBackwardRequest>(&ours, &bytes);
    }
}

#[test]
fn v2_a_pass_with_a_sparse_tensor_and_an_option_is_read_and_written() {
    let bytes = bytes(V2);
    let call = decode_forward_backward_request(&bytes).expect("a request");
    assert_eq!(call.loss, LossFn::Ppo.with("clip_low_threshold", 0.9));
    let targets = &call.data[0].loss_fn_inputs["target_tokens"];
    assert_eq!((targets.shape(), targets.as_i64()), (vec![1, 3], Some(&[5i64][..])));
    let sparse = targets.sparse.as_ref().expect("sparse");
    assert_eq!((&sparse.crow_indices[..], &sparse.col_indices[..]), (&[0, 1][..], &[2][..]));
    let ours = encode_forward_backward("m", 2, &call.data, &call.loss, false, false).expect("bytes");
    assert_same_message::<proto::ForwardBackwardRequest>(&ours, &bytes);
}

#[test]
fn v3_a_sample_is_read_and_written() {
    let response = decode_sample_response(&bytes(V3), &["a".into(), "b".into()]).expect("a response");
    let expected = SampleResponse {
        sequences: vec![SampledSequence {
            stop_reason: StopReason::Length,
            tokens: vec![11, 12],
            logprobs: Some(vec![-1.0, -2.0]),
            topk_logprobs: None,
            sequence_id: Some("a".into()),
        }],
        prompt_logprobs: Some(vec![None, Some(-0.5)]),
        topk_prompt_logprobs: Some(vec![None, Some(vec![TokenLogprob { token: 9, logprob: -0.25 }])]),
        prompt_cache_hit_tokens: 1,
        ..Default::default()
    };
    assert_eq!(response, expected);
    // The top-k table of V3 has 2 columns, and the second one is empty. Our encoder writes only the first, so its bytes
    // differ from V3: compare the decoded messages.
    let again =
        decode_sample_response(&encode_sample_response(&response), &["a".into()]).expect("a response");
    assert_eq!(again, expected);
}

#[test]
fn v3b_an_empty_sequence_has_the_stop_reason_stop() {
    let response = decode_sample_response(&bytes("0a00"), &[]).expect("a response");
    assert_eq!(response.sequences, [SampledSequence::default()]);
    assert_eq!(encode_sample_response(&response), bytes("0a00"));
}

#[test]
fn v4_the_output_of_a_pass_is_read_and_written() {
    let output = decode_forward_backward_output(bytes(V4)).expect("an output");
    assert_eq!(output.loss_fn_output_type, "TorchLossReturn");
    assert_eq!(output.logprobs(0), Some(&[-1.0, -2.0][..]));
    assert_eq!(output.logprobs(1), Some(&[-3.0][..]));
    assert_eq!(output.loss_fn_outputs[0]["logprobs"].shape(), [2]);
    assert_eq!(output.metrics["loss:sum"], 3.5);
    let again = ForwardBackwardOutput { loss_fn_output_type: "mod.sub:TorchLossReturn".into(), ..output };
    assert_same_message::<proto::ForwardBackwardOutput>(&encode_forward_backward_output(&again), &bytes(V4));
}

#[test]
fn v5_bf16_is_widened_and_trailing_dimensions_are_kept() {
    let output = decode_forward_backward_output(bytes(V5)).expect("an output");
    let a = &output.loss_fn_outputs[0]["a"];
    assert_eq!((a.shape(), a.as_f32()), (vec![1, 2], Some(&[1.0, -2.0][..])));
}

#[test]
fn an_output_without_records_has_the_default_type() {
    let output = decode_forward_backward_output(Bytes::new()).expect("an output");
    assert_eq!((output.loss_fn_output_type.as_str(), output.loss_fn_outputs.len()), ("ArrayRecord", 0));
}

fn record(num_datums: i64, data: Vec<u8>, offsets: &[i64], trailing: &[i64]) -> Vec<u8> {
    let offsets = offsets.iter().flat_map(|it| it.to_le_bytes()).collect::<Vec<_>>();
    let field = proto::BatchedTensor {
        data: data.into(),
        offsets: offsets.into(),
        dtype: proto::DType::Float32.into(),
        trailing_shape: trailing.to_vec(),
    };
    let fields = [("a".to_string(), field)].into();
    let record = proto::ArrayRecord { type_tag: String::new(), fields, num_datums };
    proto::ForwardBackwardOutput { loss_fn_outputs: vec![record], ..Default::default() }.encode_to_vec()
}

#[test]
fn wrong_lengths_are_refused_before_memory_is_allocated_for_them() {
    let without_fields = |n| {
        let record = proto::ArrayRecord { num_datums: n, ..Default::default() };
        proto::ForwardBackwardOutput { loss_fn_outputs: vec![record], ..Default::default() }.encode_to_vec()
    };
    assert_eq!(
        decode_forward_backward_output(without_fields(3)).expect("stripped outputs").loss_fn_outputs.len(),
        3
    );
    for (what, body) in [
        ("negative", without_fields(-1)),
        ("more than a count can be", without_fields(i64::MAX)),
        ("more than offsets", record(i64::MAX, vec![0; 8], &[0, 8], &[])),
        ("offset beyond the data", record(1, vec![0; 8], &[0, 12], &[])),
        ("negative offset", record(1, vec![0; 8], &[-4, 8], &[])),
        ("falling offsets", record(2, vec![0; 8], &[0, 8, 4], &[])),
        ("half an element", record(1, vec![0; 8], &[0, 6], &[])),
        ("half a row", record(1, vec![0; 12], &[0, 12], &[2])),
        ("overflowing dimensions", record(1, vec![0; 8], &[0, 8], &[1 << 62, 1 << 62])),
        ("negative dimension", record(1, vec![0; 8], &[0, 8], &[-1])),
        ("elements in rows of size 0", record(1, vec![0; 8], &[0, 8], &[0])),
    ] {
        assert!(decode_forward_backward_output(body).is_err(), "{what}");
    }
    let empty = decode_forward_backward_output(record(1, vec![], &[0, 0], &[0])).expect("an empty tensor");
    assert_eq!(empty.loss_fn_outputs[0]["a"].shape(), [0, 0]);
    let counted = decode_forward_backward_output(record(0, vec![0; 8], &[0, 4, 8], &[])).expect("two data");
    assert_eq!(
        counted.loss_fn_outputs.len(),
        2,
        "the offsets give the number of data if the record does not"
    );
}

#[test]
fn a_request_without_a_sequence_number_is_refused() {
    let request = proto::ForwardBackwardRequest { model_id: "m".into(), ..Default::default() };
    assert!(decode_forward_backward_request(&request.encode_to_vec()).is_err());
    assert!(encode_forward_backward("m", 0, &[], &LossFn::Ppo.into(), false, false).is_err());
}

#[test]
fn an_image_pointer_in_training_data_is_refused() {
    let pointer =
        Chunk::ImageAssetPointer { location: "x".into(), format: ImageFormat::Png, expected_tokens: None };
    let datum = Datum::new(ModelInput::default().with_chunk(pointer));
    let error =
        encode_forward_backward("m", 1, &[datum], &LossFn::Ppo.into(), false, false).expect_err("a refusal");
    assert_eq!(error.violation().expect("a path").path, "data[0].model_input.chunks[0]");
}

#[test]
fn the_legacy_json_request_is_read() {
    let body = br#"{"forward_backward_input":{"data":[{"model_input":{"chunks":[{"type":"encoded_text","tokens":[1,2,3]}]},
        "loss_fn_inputs":{"target_tokens":{"data":[2,3.0,4],"dtype":"int64","shape":[3]},
                          "weights":{"data":[0.0,1,1.0],"dtype":"float32","shape":[3]}}}],
        "loss_fn":"ppo","loss_fn_config":{"clip_low_threshold":1}},"model_id":"m","seq_id":1}"#;
    let call = decode_forward_backward_json(body, "forward_backward_input").expect("a request");
    let datum = Datum::new(ModelInput::from_ints([1, 2, 3]))
        .with("target_tokens", vec![2i64, 3, 4])
        .with("weights", vec![0.0f32, 1.0, 1.0]);
    assert_eq!(call.data, [datum]);
    assert_eq!(call.loss, LossFn::Ppo.with("clip_low_threshold", 1.0));
    assert_eq!((call.seq_id, call.forward_only), (1, false));
    let error = decode_forward_backward_json(body, "forward_input").expect_err("the wrong key");
    assert!(error.to_string().contains("forward_input is missing"));
}

#[test]
fn an_output_in_json_may_be_a_tensor_or_a_number() {
    let value = serde_json::json!({
        "loss_fn_output_type": "a:scalar", "metrics": {"loss:sum": 1, "text": "x", "none": null},
        "loss_fn_outputs": [{"logprobs": {"data": [-1, -0.5, null], "shape": [3]}, "gone": null}, {"loss": 2.5}, {}]
    });
    let output = forward_backward_output_from_json(&value).expect("an output");
    assert_eq!((output.loss_fn_output_type.as_str(), output.metrics.len()), ("scalar", 1));
    let logprobs = output.logprobs(0).expect("floats");
    assert!(logprobs[..2] == [-1.0, -0.5] && logprobs[2].is_nan());
    assert_eq!(output.loss_fn_outputs[1]["loss"].as_f32(), Some(&[2.5][..]));
    assert!(forward_backward_output_from_json(&serde_json::json!([])).is_err());
    let again =
        forward_backward_output_from_json(&forward_backward_output_to_json(&output)).expect("an output");
    assert_eq!(again.metrics, output.metrics);
}

#[test]
fn a_sample_in_json_may_lack_fields_and_write_integers_as_floats() {
    let value = serde_json::json!({
        "sequences": [{"stop_reason": "stop", "tokens": [1, 2.0], "logprobs": [-1, -0.5]}, {"tokens": []}],
        "prompt_logprobs": [null, -0.1], "topk_prompt_logprobs": [null, [[11, -0.1]]]
    });
    let response = sample_response_from_json(&value, &["x".into()]).expect("a response");
    assert_eq!(response.sequences[0].tokens, [1, 2]);
    assert_eq!(response.sequences[0].sequence_id.as_deref(), Some("x"));
    assert_eq!(response.sequences[1].stop_reason, StopReason::Other("unknown".into()));
    assert_eq!(response.prompt_logprobs, Some(vec![None, Some(-0.1)]));
    let again = sample_response_from_json(&sample_response_to_json(&response), &[]).expect("again");
    assert_eq!(again, response);
    for wrong in [
        serde_json::json!({}),
        serde_json::json!({"sequences": [{}]}),
        serde_json::json!({"sequences": [{"tokens": [1.5]}]}),
        serde_json::json!({"sequences": [{"tokens": [1], "logprobs": [-1, -2]}]}),
        serde_json::json!({"sequences": [], "topk_prompt_logprobs": [[[1]]]}),
    ] {
        assert!(sample_response_from_json(&wrong, &[]).is_err(), "{wrong}");
    }
}
