//! JSON of examples and of the origin of their tokens.
//!
//! Examples are written in the form of requests in JSON, with the sparse tensors and the origin of the tokens, for which
//! requests in JSON have no form:
//! ```json
//! [{"model_input": {"chunks": [{"type": "encoded_text", "tokens": [1, 2]}]},
//!   "loss_fn_inputs": {"target_tokens": {"data": [2, 3], "dtype": "int64", "shape": [2]}},
//!   "provenance": {"model_input": [{"origin": "prompt", "sequence_id": "s", "offset": 0, "length": 2}],
//!                  "loss_fn_inputs": [{"origin": "sampled", "sequence_id": "s", "offset": 0, "length": 2}]}}]
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::border::{Fault, Result};
use crate::types::{Datum, Origin, Provenance, ProvenanceSpan, TensorData, Values};
use crate::wire::json::ModelInputJson;

#[derive(Serialize)]
struct DatumJson<'a> {
    model_input: ModelInputJson,
    loss_fn_inputs: BTreeMap<&'a str, TensorJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provenance: Option<ProvenanceJson>,
}

#[derive(Serialize)]
struct TensorJson<'a> {
    data: ValuesJson<'a>,
    dtype: &'static str,
    shape: Vec<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crow_indices: Option<&'a [i64]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    col_indices: Option<&'a [i64]>,
}

/// NaN and infinities are written as null.
#[derive(Serialize)]
#[serde(untagged)]
enum ValuesJson<'a> {
    F32(&'a [f32]),
    I64(&'a [i64]),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProvenanceJson {
    model_input: Vec<SpanJson>,
    loss_fn_inputs: Vec<SpanJson>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SpanJson {
    origin: OriginJson,
    sequence_id: String,
    offset: u64,
    length: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OriginJson {
    Prompt,
    Sampled,
}

impl<'a> From<&'a TensorData> for TensorJson<'a> {
    fn from(tensor: &'a TensorData) -> Self {
        let sparse = tensor.sparse.as_ref();
        TensorJson {
            data: match &tensor.values {
                Values::F32(values) => ValuesJson::F32(values),
                Values::I64(values) => ValuesJson::I64(values),
            },
            dtype: tensor.values.dtype(),
            shape: tensor.shape(),
            crow_indices: sparse.map(|sparse| &*sparse.crow_indices),
            col_indices: sparse.map(|sparse| &*sparse.col_indices),
        }
    }
}

impl<'a> From<&'a Datum> for DatumJson<'a> {
    fn from(datum: &'a Datum) -> Self {
        let inputs = datum.loss_fn_inputs.iter();
        DatumJson {
            model_input: (&datum.model_input).into(),
            loss_fn_inputs: inputs.map(|(name, tensor)| (name.as_str(), tensor.into())).collect(),
            provenance: datum.provenance.as_ref().map(|provenance| ProvenanceJson {
                model_input: provenance.model_input.iter().map(SpanJson::from).collect(),
                loss_fn_inputs: provenance.loss_fn_inputs.iter().map(SpanJson::from).collect(),
            }),
        }
    }
}

impl From<&ProvenanceSpan> for SpanJson {
    fn from(span: &ProvenanceSpan) -> Self {
        SpanJson {
            origin: match span.origin {
                Origin::Prompt => OriginJson::Prompt,
                Origin::Sampled => OriginJson::Sampled,
            },
            sequence_id: span.sequence_id.clone(),
            offset: span.offset,
            length: span.length,
        }
    }
}

impl From<SpanJson> for ProvenanceSpan {
    fn from(span: SpanJson) -> Self {
        match span.origin {
            OriginJson::Prompt => ProvenanceSpan::prompt(span.sequence_id, span.offset, span.length),
            OriginJson::Sampled => ProvenanceSpan::sampled(span.sequence_id, span.offset, span.length),
        }
    }
}

/// Writes examples.
pub(super) fn write(data: &[Datum]) -> Result<String> {
    let data: Vec<DatumJson<'_>> = data.iter().map(DatumJson::from).collect();
    serde_json::to_string(&data)
        .map_err(|error| Fault::invalid("batch", format!("the batch cannot be written as JSON: {error}")))
}

/// Reads the origin of the tokens of an example.
pub(super) fn read_provenance(text: &str) -> Result<Provenance> {
    let read: ProvenanceJson = serde_json::from_str(text)
        .map_err(|error| Fault::invalid("json", format!("`json` is not a valid provenance: {error}")))?;
    let spans = |spans: Vec<SpanJson>| spans.into_iter().map(ProvenanceSpan::from).collect();
    Ok(Provenance::new(spans(read.model_input), spans(read.loss_fn_inputs)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn examples_are_written_and_provenance_is_read() {
        let text = r#"{"model_input":[{"origin":"prompt","sequence_id":"s","offset":0,"length":2}],"loss_fn_inputs":[{"origin":"sampled","sequence_id":"s","offset":1,"length":2}]}"#;
        let provenance = read_provenance(text).unwrap();
        assert_eq!(provenance.loss_fn_inputs, [ProvenanceSpan::sampled("s", 1, 2)]);
        let sparse = TensorData::from_csr([1, 2], vec![0, 1], vec![1], Values::F32(vec![f32::NEG_INFINITY]));
        let datum = Datum::cross_entropy(&[1], &[2, 3]).with("x", sparse).with_provenance(provenance);
        let expected = format!(
            "{}{}{}{text}}}]",
            r#"[{"model_input":{"chunks":[{"type":"encoded_text","tokens":[1,2]}]},"loss_fn_inputs":{"#,
            r#""target_tokens":{"data":[2,3],"dtype":"int64","shape":[2]},"weights":{"data":[1.0,1.0],"dtype":"float32","shape":[2]},"#,
            r#""x":{"data":[null],"dtype":"float32","shape":[1,2],"crow_indices":[0,1],"col_indices":[1]}},"provenance":"#,
        );
        assert_eq!(write(&[datum]).unwrap(), expected);
        for wrong in ["{}", "null", &text.replace("prompt", "other"), &text.replace("offset", "start")] {
            assert!(read_provenance(wrong).is_err(), "{wrong}");
        }
    }
}
