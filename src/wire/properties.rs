//! Property tests of the codecs of passes and samples, with random values: reading what was written returns the same
//! value, and no damaged input makes a decoder panic.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::{sample, train};
use crate::types::*;

fn floats(n: impl Into<proptest::collection::SizeRange>) -> impl Strategy<Value = Vec<f32>> {
    vec(-1e6f32..1e6, n)
}

/// Dense tensors of one or two dimensions, and sparse ones.
fn tensor() -> impl Strategy<Value = TensorData> {
    let integers = |n: usize| vec(any::<i64>(), n).prop_map(Values::I64);
    let values = move |n: usize| prop_oneof![floats(n).prop_map(Values::F32), integers(n)];
    let dense = (0usize..6, 1usize..4).prop_flat_map(move |(rows, cols)| {
        let shape = if cols == 1 { vec![rows] } else { vec![rows, cols] };
        values(rows * cols).prop_map(move |values| TensorData {
            values,
            shape: Some(shape.clone()),
            sparse: None,
        })
    });
    let sparse = vec(vec(any::<bool>(), 4), 1..5).prop_flat_map(move |mask| {
        let rows = mask.len();
        let mut crow_indices = vec![0];
        let mut col_indices = Vec::new();
        for row in mask {
            col_indices.extend((0i64..).zip(row).filter(|it| it.1).map(|it| it.0));
            crow_indices.push(col_indices.len() as i64);
        }
        values(col_indices.len()).prop_map(move |values| TensorData {
            values,
            shape: Some(vec![rows, 4]),
            sparse: Some(Sparse { crow_indices: crow_indices.clone(), col_indices: col_indices.clone() }),
        })
    });
    prop_oneof![3 => dense, 1 => sparse]
}

fn chunk() -> impl Strategy<Value = Chunk> {
    let image = (vec(any::<u8>(), 0..20), any::<bool>(), proptest::option::of(0u32..1000));
    prop_oneof![
        4 => vec(0..i32::MAX, 0..20).prop_map(|tokens| Chunk::EncodedText { tokens }),
        1 => image.prop_map(|(data, png, expected_tokens)| {
            let format = if png { ImageFormat::Png } else { ImageFormat::Jpeg };
            Chunk::Image { data, format, expected_tokens }
        }),
        1 => vec(any::<u8>(), 0..20).prop_map(|dmel| Chunk::Dmel { dmel }),
    ]
}

pub(super) fn loss() -> impl Strategy<Value = Loss> {
    let name = prop_oneof![
        Just(LossFn::CrossEntropy),
        Just(LossFn::Ppo),
        Just(LossFn::Gspo),
        Just(LossFn::Other("dppo".into())),
    ];
    let value = prop_oneof![(-1e9..1e9).prop_map(LossValue::Number), ".{0,8}".prop_map(LossValue::Text)];
    (name, btree_map("[a-z_]{1,8}", value, 0..4)).prop_map(|(loss_fn, config)| Loss { loss_fn, config })
}

pub(super) fn datum() -> impl Strategy<Value = Datum> {
    (vec(chunk(), 0..4), btree_map("[a-z_]{1,8}", tensor(), 0..4)).prop_map(|(chunks, loss_fn_inputs)| {
        Datum { model_input: ModelInput { chunks }, loss_fn_inputs, ..Datum::default() }
    })
}

pub(super) fn prompt() -> impl Strategy<Value = ModelInput> {
    let pointer = (".{0,9}", proptest::option::of(0u32..1000)).prop_map(|(location, expected_tokens)| {
        Chunk::ImageAssetPointer { location, format: ImageFormat::Png, expected_tokens }
    });
    vec(prop_oneof![5 => chunk(), 1 => pointer], 0..4).prop_map(|chunks| ModelInput { chunks })
}

fn output() -> impl Strategy<Value = ForwardBackwardOutput> {
    let dense = tensor().prop_filter("outputs are dense", |it| it.sparse.is_none());
    let fields = btree_map("[a-c]", dense, 0..3);
    let metrics = btree_map("[a-z]{1,4}:(sum|mean)", -1e9..1e9, 0..4);
    (vec(fields, 1..6), metrics).prop_map(|(loss_fn_outputs, metrics): (_, BTreeMap<_, _>)| {
        ForwardBackwardOutput {
            loss_fn_output_type: "LossReturn".into(),
            loss_fn_outputs,
            metrics,
            ..Default::default()
        }
    })
}

fn topk(length: usize) -> impl Strategy<Value = Option<Vec<Option<Vec<TokenLogprob>>>>> {
    let cell = (0..i32::MAX, -50f32..0.0).prop_map(|(token, logprob)| TokenLogprob { token, logprob });
    // At least one row, and at least one cell in each row: an empty list would be read back as `None`.
    let rows = vec(proptest::option::of(vec(cell, 1..4)), length.max(1));
    proptest::option::of(rows)
}

fn sequence() -> impl Strategy<Value = SampledSequence> {
    (1usize..8).prop_flat_map(|n| {
        let stop = prop_oneof![
            Just(StopReason::Stop),
            Just(StopReason::Length),
            Just(StopReason::Other("7".into()))
        ];
        (stop, vec(any::<i32>(), n), proptest::option::of(floats(n)), topk(n)).prop_map(
            |(stop_reason, tokens, logprobs, topk_logprobs)| SampledSequence {
                stop_reason,
                tokens,
                logprobs,
                topk_logprobs,
                sequence_id: None,
            },
        )
    })
}

fn sample_response() -> impl Strategy<Value = SampleResponse> {
    let prompt = proptest::option::of(vec(proptest::option::of(-50f32..0.0), 1..8));
    (vec(sequence(), 0..4), prompt, topk(3), 0u32..1000).prop_map(
        |(sequences, prompt_logprobs, topk_prompt_logprobs, prompt_cache_hit_tokens)| SampleResponse {
            sequences,
            prompt_logprobs,
            topk_prompt_logprobs,
            prompt_cache_hit_tokens,
            ..Default::default()
        },
    )
}

/// Appends three unknown fields to a protobuf message: a varint, a string and a fixed64.
fn with_unknown_fields(mut message: Vec<u8>) -> Vec<u8> {
    // Two bytes of key each: fields 999, 1000 and 1001, of the wire types 0, 2 and 1.
    message.extend([0xb8, 0x3e, 7]);
    message.extend([0xc2, 0x3e, 2, b'h', b'i']);
    message.extend([0xc9, 0x3e, 1, 2, 3, 4, 5, 6, 7, 8]);
    message
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_request_is_read_as_it_was_written(
        data in vec(datum(), 0..4), loss in loss(), forward_only: bool, seq_id in 1u32..=i32::MAX as u32
    ) {
        let bytes = train::encode_forward_backward("model", seq_id, &data, &loss, forward_only, false).expect("bytes");
        let parallel = train::encode_forward_backward("model", seq_id, &data, &loss, forward_only, true).expect("bytes");
        prop_assert_eq!(&parallel, &bytes);
        let call = train::decode_forward_backward_request(&with_unknown_fields(bytes)).expect("a request");
        let model_id = "model".to_string();
        prop_assert_eq!(call, train::ForwardBackwardCall { model_id, seq_id, data, loss, forward_only });
    }

    #[test]
    fn an_output_is_read_as_it_was_written(output in output()) {
        let bytes = train::encode_forward_backward_output(&output);
        prop_assert_eq!(train::decode_forward_backward_output(with_unknown_fields(bytes)).expect("an output"), output.clone());
        let json = train::forward_backward_output_to_json(&output);
        prop_assert_eq!(train::forward_backward_output_from_json(&json).expect("an output"), output);
    }

    #[test]
    fn a_sample_is_read_as_it_was_written(response in sample_response()) {
        let bytes = sample::encode_sample_response(&response);
        prop_assert_eq!(sample::decode_sample_response(&with_unknown_fields(bytes), &[]).expect("a response"), response.clone());
        let json = sample::sample_response_to_json(&response);
        prop_assert_eq!(sample::sample_response_from_json(&json, &[]).expect("a response"), response);
    }

    #[test]
    fn no_reader_panics_on_a_damaged_message(
        data in vec(datum(), 1..3), output in output(), response in sample_response(), at: prop::sample::Index, to: u8, cut: bool
    ) {
        let damage = |mut bytes: Vec<u8>| {
            if !bytes.is_empty() {
                let i = at.index(bytes.len());
                bytes[i] = to;
                if cut {
                    bytes.truncate(i);
                }
            }
            bytes
        };
        let request = train::encode_forward_backward("m", 1, &data, &LossFn::Ppo.into(), false, false).expect("bytes");
        let _ = train::decode_forward_backward_request(&damage(request));
        let _ = train::decode_forward_backward_output(damage(train::encode_forward_backward_output(&output)));
        let _ = sample::decode_sample_response(&damage(sample::encode_sample_response(&response)), &[]);
    }
}
