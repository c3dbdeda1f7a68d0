//! Writes the request of a forward or backward pass in legacy JSON (PROTOCOL §3.3 #12, #13), for servers that cannot
//! read protobuf.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::error::Result;
use crate::types::{Datum, Loss, LossValue, TensorData};

use super::json::{ModelInputJson, encode};
use super::tensor::TensorJson;

#[derive(Serialize)]
struct Call<'a> {
    model_id: &'a str,
    seq_id: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    forward_backward_input: Option<&'a Input<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    forward_input: Option<&'a Input<'a>>,
}

#[derive(Serialize)]
struct Input<'a> {
    data: Vec<DatumJson>,
    loss_fn: &'a str,
    loss_fn_config: Option<BTreeMap<&'a str, Value>>,
}

#[derive(Serialize)]
struct DatumJson {
    model_input: ModelInputJson,
    loss_fn_inputs: BTreeMap<String, TensorJson>,
}

/// Encodes the request. Sparse tensors are written dense, because servers that read passes as JSON do not support
/// sparse tensors. Provenance is left out, because the JSON form has no field for it.
///
/// # Errors
/// A number that JSON cannot represent, or a sparse tensor that is too large to be written dense.
pub(crate) fn encode_pass(
    model_id: &str,
    seq_id: u32,
    data: &[Datum],
    loss: &Loss,
    forward_only: bool,
) -> Result<Vec<u8>> {
    let config: BTreeMap<&str, Value> = loss
        .config
        .iter()
        .map(|(name, value)| match value {
            LossValue::Number(number) => (name.as_str(), Value::from(*number)),
            LossValue::Text(text) => (name.as_str(), text.as_str().into()),
        })
        .collect();
    let input = Input {
        data: data.iter().enumerate().map(|(i, datum)| datum_json(datum, i)).collect::<Result<_>>()?,
        loss_fn: loss.loss_fn.as_str(),
        loss_fn_config: (!config.is_empty()).then_some(config),
    };
    let (forward, backward) = if forward_only { (Some(&input), None) } else { (None, Some(&input)) };
    encode(&Call { model_id, seq_id, forward_backward_input: backward, forward_input: forward })
}

fn datum_json(datum: &Datum, i: usize) -> Result<DatumJson> {
    let tensor_json = |(name, tensor): (&String, &TensorData)| {
        let path = format!("data[{i}].loss_fn_inputs[{name:?}]");
        tensor.check_values(
            &path,
            "a finite number; this server accepts only JSON, which has no others",
            f32::is_finite,
        )?;
        if tensor.sparse.is_none() {
            return Ok((name.clone(), TensorJson::from(tensor)));
        }
        tensor.check_room(&path)?;
        let mut dense = tensor.clone();
        dense.make_dense();
        Ok((name.clone(), TensorJson::from(&dense)))
    };
    Ok(DatumJson {
        model_input: (&datum.model_input).into(),
        loss_fn_inputs: datum.loss_fn_inputs.iter().map(tensor_json).collect::<Result<_>>()?,
    })
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;
    use crate::types::LossFn;
    use crate::wire::train::{
        decode_forward_backward_json, decode_forward_backward_request, encode_forward_backward,
    };

    fn matrix() -> TensorData {
        let mut weights = vec![0.0f32; 40];
        weights[7] = 0.5;
        TensorData::from(weights).with_shape([4, 10]).expect("a shape")
    }

    #[test]
    fn the_json_form_and_the_protobuf_form_are_read_as_the_same_request() {
        let losses = [
            LossFn::CrossEntropy.into(),
            LossFn::Ppo.with("clip_low_threshold", 0.9).with("kind", "x"),
            LossFn::Other("dppo".into()).into(),
        ];
        let data = [Datum::cross_entropy(&[1, 2], &[3]).with("advantages", vec![-0.1f32, 1e-30])];
        for loss in losses {
            for forward_only in [false, true] {
                let json = encode_pass("m", 7, &data, &loss, forward_only).expect("JSON");
                let key = if forward_only { "forward_input" } else { "forward_backward_input" };
                let read = decode_forward_backward_json(&json, key).expect("a pass");
                let proto =
                    encode_forward_backward("m", 7, &data, &loss, forward_only, false).expect("bytes");
                assert_eq!(read, decode_forward_backward_request(&proto).expect("a pass"));
            }
        }
    }

    #[test]
    fn the_body_has_the_documented_form() {
        let data = [Datum::cross_entropy(&[1], &[2, 3])];
        let body = encode_pass("m", 1, &data, &LossFn::CrossEntropy.into(), false).expect("JSON");
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        let expected = serde_json::json!({
            "model_id": "m", "seq_id": 1,
            "forward_backward_input": {
                "data": [{
                    "model_input": {"chunks": [{"type": "encoded_text", "tokens": [1, 2]}]},
                    "loss_fn_inputs": {
                        "target_tokens": {"data": [2, 3], "dtype": "int64", "shape": [2]},
                        "weights": {"data": [1.0, 1.0], "dtype": "float32", "shape": [2]},
                    },
                }],
                "loss_fn": "cross_entropy", "loss_fn_config": null,
            },
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn sparse_tensors_are_written_dense_and_infinite_values_are_refused_by_name() {
        let mut datum = Datum::default().with("weights", matrix());
        datum.pack(false);
        assert!(datum.loss_fn_inputs["weights"].sparse.is_some());
        let loss = LossFn::CrossEntropy.into();
        let body = encode_pass("m", 1, &[datum], &loss, false).expect("JSON");
        let read = decode_forward_backward_json(&body, "forward_backward_input").expect("a pass");
        assert_eq!(read.data[0].loss_fn_inputs["weights"], matrix());
        let infinite = Datum::default().with("logprobs", vec![0.0, f32::NEG_INFINITY]);
        let error = encode_pass("m", 1, &[infinite], &loss, false).expect_err("a refusal");
        assert_eq!(error.violation().expect("a path").path, "data[0].loss_fn_inputs[\"logprobs\"][1]");
    }
}
