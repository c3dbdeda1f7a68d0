//! Reads and writes results of sampling in protobuf and in JSON (PROTOCOL §5, §6.7), and encodes the request, whose
//! message is [`SampleRequest`].

use prost::Message;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::types::{
    ModelInput, PromptAltTokens, SampleOptions, SampleResponse, SampledSequence, SamplingParams, StopReason,
    TensorData, TokenLogprob,
};

use super::json::{SampleRequest, encode};
use super::tensor::{self, TensorJson};
use super::train::not_protobuf;
use super::{le, proto};

/// Encodes an `asample` request.
pub(crate) fn encode_sample(
    sampling_session_id: &str,
    seq_id: u64,
    prompt: &ModelInput,
    num_samples: u32,
    params: &SamplingParams,
    options: &SampleOptions,
    record_stability_info: bool,
) -> Result<Vec<u8>> {
    let request = SampleRequest::new(sampling_session_id, seq_id, prompt, num_samples, params, options)?;
    encode(&SampleRequest { record_stability_info: Some(record_stability_info), ..request })
}

/// Token id and log-probability of an empty cell in a top-k matrix.
const EMPTY_CELL: (i32, f32) = (0, -99999.0);

type Topk = Vec<Option<Vec<TokenLogprob>>>;

/// Reads a protobuf result. `sequence_ids` come from the answer to the submission, because the protobuf result does not
/// contain the ids of its sequences.
pub(crate) fn decode_sample_response(body: &[u8], sequence_ids: &[String]) -> Result<SampleResponse> {
    let response = proto::SampleResponse::decode(body).map_err(not_protobuf)?;
    let sequences = response.sequences.into_iter().map(read_sequence).collect::<Result<Vec<_>>>()?;
    let score = |logprob: f32| if logprob.is_nan() { None } else { Some(logprob) };
    let prompt_logprobs = match response.prompt_logprobs {
        Some(bytes) if !bytes.is_empty() => {
            Some(le::read_f32(&bytes)?.into_iter().map(score).collect::<Vec<_>>())
        }
        _ => None,
    };
    let target = response.target_prompt_logprobs;
    let response = SampleResponse {
        sequences,
        prompt_logprobs,
        topk_prompt_logprobs: response.topk_prompt_logprobs.map(read_topk).transpose()?.flatten(),
        prompt_cache_hit_tokens: u32::try_from(response.prompt_cache_hit_tokens).unwrap_or(0),
        target_prompt_logprobs: target.map(|it| read_tensor(it, TARGET)).transpose()?,
        prompt_alt_tokens: response.prompt_alt_tokens.map(read_alternatives).transpose()?,
    };
    Ok(with_sequence_ids(response, sequence_ids))
}

const TARGET: &str = "target_prompt_logprobs";
const ALTERNATIVES: [&str; 2] = ["prompt_alt_tokens.tokens", "prompt_alt_tokens.logprobs"];

fn read_alternatives(message: proto::PromptAltTokens) -> Result<PromptAltTokens> {
    let read = |tensor: Option<proto::Tensor>, path: &str| match tensor {
        Some(tensor) => read_tensor(tensor, path),
        None => Err(Error::decode(format!("{path} is missing"))),
    };
    let [tokens, logprobs] = ALTERNATIVES;
    alternatives(read(message.tokens, tokens)?, read(message.logprobs, logprobs)?)
}

/// Reads a tensor of a result. Reports an invalid tensor as a decode error, because it is a fault of the server and not
/// an invalid argument of the caller.
fn read_tensor(message: proto::Tensor, path: &str) -> Result<TensorData> {
    tensor::from_proto(message, path).map_err(|error| Error::decode(error.to_string()))
}

fn alternatives(tokens: TensorData, logprobs: TensorData) -> Result<PromptAltTokens> {
    let [ids, scores] = ALTERNATIVES;
    match (tokens.as_i64(), logprobs.as_f32()) {
        (Some(_), Some(_)) if tokens.shape() == logprobs.shape() => Ok(PromptAltTokens { tokens, logprobs }),
        (Some(_), Some(_)) => {
            let (tokens, logprobs) = (tokens.shape(), logprobs.shape());
            Err(Error::decode(format!("{ids} has the shape {tokens:?}, but {scores} has {logprobs:?}")))
        }
        _ => Err(Error::decode(format!("{ids} must be integers and {scores} floats"))),
    }
}

fn with_sequence_ids(mut response: SampleResponse, ids: &[String]) -> SampleResponse {
    for (sequence, id) in response.sequences.iter_mut().zip(ids) {
        sequence.sequence_id.get_or_insert_with(|| id.clone());
    }
    response
}

fn read_sequence(sequence: proto::SampledSequence) -> Result<SampledSequence> {
    let tokens = le::read_i32(&sequence.tokens)?;
    let logprobs = match sequence.logprobs {
        Some(bytes) if !bytes.is_empty() => Some(le::read_f32(&bytes)?),
        _ => None,
    };
    check_logprobs(tokens.len(), logprobs.as_deref())?;
    let stop_reason = match proto::StopReason::try_from(sequence.stop_reason) {
        Ok(proto::StopReason::Stop) => StopReason::Stop,
        Ok(proto::StopReason::Length) => StopReason::Length,
        Err(_) => StopReason::Other(sequence.stop_reason.to_string()),
    };
    Ok(SampledSequence {
        stop_reason,
        tokens,
        logprobs,
        topk_logprobs: sequence.topk_sampled_logprobs.map(read_topk).transpose()?.flatten(),
        sequence_id: None,
    })
}

fn check_logprobs(n_tokens: usize, logprobs: Option<&[f32]>) -> Result<()> {
    match logprobs {
        Some(logprobs) if logprobs.len() != n_tokens => {
            let n = logprobs.len();
            Err(Error::decode(format!("a sequence of {n_tokens} tokens has {n} log-probabilities")))
        }
        _ => Ok(()),
    }
}

fn read_topk(topk: proto::TopkLogprobs) -> Result<Option<Topk>> {
    let (k, length) = (topk.k as usize, topk.length as usize);
    if k == 0 || length == 0 {
        return Ok(None);
    }
    let (ids, logprobs) = (le::read_i32(&topk.token_ids)?, le::read_f32(&topk.logprobs)?);
    let n = k.checked_mul(length);
    if n != Some(ids.len()) || n != Some(logprobs.len()) {
        let found = format!("{} ids and {} log-probabilities", ids.len(), logprobs.len());
        return Err(Error::decode(format!("a top-k matrix of {length} rows of {k} has {found}")));
    }
    let row = |(ids, logprobs): (&[i32], &[f32])| {
        let mut row: Vec<_> = ids.iter().copied().zip(logprobs.iter().copied()).collect();
        if row.first() == Some(&EMPTY_CELL) {
            return None;
        }
        while row.last() == Some(&EMPTY_CELL) {
            row.pop();
        }
        Some(row.into_iter().map(|(token, logprob)| TokenLogprob { token, logprob }).collect())
    };
    Ok(Some(ids.chunks(k).zip(logprobs.chunks(k)).map(row).collect()))
}

/// Encodes a result as protobuf.
pub(crate) fn encode_sample_response(response: &SampleResponse) -> Vec<u8> {
    let scores = |logprobs: &Vec<Option<f32>>| {
        le::write_f32(&logprobs.iter().map(|it| it.unwrap_or(f32::NAN)).collect::<Vec<_>>())
    };
    let message = proto::SampleResponse {
        sequences: response.sequences.iter().map(write_sequence).collect(),
        prompt_logprobs: response.prompt_logprobs.as_ref().map(scores),
        topk_prompt_logprobs: response.topk_prompt_logprobs.as_ref().map(write_topk),
        prompt_cache_hit_tokens: i32::try_from(response.prompt_cache_hit_tokens).unwrap_or(i32::MAX),
        target_prompt_logprobs: response.target_prompt_logprobs.as_ref().map(tensor::to_proto),
        prompt_alt_tokens: response.prompt_alt_tokens.as_ref().map(|alternatives| proto::PromptAltTokens {
            tokens: Some(tensor::to_proto(&alternatives.tokens)),
            logprobs: Some(tensor::to_proto(&alternatives.logprobs)),
        }),
    };
    message.encode_to_vec()
}

fn write_sequence(sequence: &SampledSequence) -> proto::SampledSequence {
    let stop_reason = match &sequence.stop_reason {
        StopReason::Stop => proto::StopReason::Stop.into(),
        StopReason::Length => proto::StopReason::Length.into(),
        // The reader stores an unknown stop reason as its number. A text that is not a number is written as −1.
        StopReason::Other(text) => text.parse().unwrap_or(-1),
    };
    proto::SampledSequence {
        stop_reason,
        tokens: le::write_i32(&sequence.tokens),
        logprobs: sequence.logprobs.as_deref().map(le::write_f32),
        topk_sampled_logprobs: sequence.topk_logprobs.as_ref().map(write_topk),
    }
}

fn write_topk(rows: &Topk) -> proto::TopkLogprobs {
    // At least one column: with k = 0 the reader would take the whole matrix as missing.
    let k = rows.iter().flatten().map(Vec::len).max().unwrap_or(0).max(1);
    let (mut ids, mut logprobs) = (vec![EMPTY_CELL.0; k * rows.len()], vec![EMPTY_CELL.1; k * rows.len()]);
    for (i, row) in rows.iter().enumerate() {
        for (j, cell) in row.iter().flatten().enumerate() {
            (ids[i * k + j], logprobs[i * k + j]) = (cell.token, cell.logprob);
        }
    }
    proto::TopkLogprobs {
        token_ids: le::write_i32(&ids),
        logprobs: le::write_f32(&logprobs),
        k: u32::try_from(k).unwrap_or(u32::MAX),
        length: u32::try_from(rows.len()).unwrap_or(u32::MAX),
    }
}

/// Reads a result in JSON.
pub(crate) fn sample_response_from_json(value: &Value, sequence_ids: &[String]) -> Result<SampleResponse> {
    let Some(sequences) = value.get("sequences").and_then(Value::as_array) else {
        return Err(Error::decode("the result of sampling has no field `sequences`"));
    };
    let response = SampleResponse {
        sequences: sequences.iter().map(read_json_sequence).collect::<Result<_>>()?,
        prompt_logprobs: optional_list(value.get("prompt_logprobs"), read_number)?,
        topk_prompt_logprobs: optional_list(value.get("topk_prompt_logprobs"), read_json_topk)?,
        prompt_cache_hit_tokens: value
            .get("prompt_cache_hit_tokens")
            .and_then(Value::as_f64)
            .map_or(0, |it| it as u32),
        target_prompt_logprobs: value
            .get(TARGET)
            .filter(|it| !it.is_null())
            .map(|it| read_json_tensor(it, TARGET))
            .transpose()?,
        prompt_alt_tokens: value
            .get("prompt_alt_tokens")
            .filter(|it| !it.is_null())
            .map(|columns| {
                let [tokens, logprobs] = ALTERNATIVES;
                alternatives(
                    read_json_tensor(&columns["tokens"], tokens)?,
                    read_json_tensor(&columns["logprobs"], logprobs)?,
                )
            })
            .transpose()?,
    };
    Ok(with_sequence_ids(response, sequence_ids))
}

fn read_json_tensor(value: &Value, path: &str) -> Result<TensorData> {
    let tensor = TensorJson::deserialize(value)
        .map_err(|error| Error::decode(format!("{path} is not a valid tensor: {error}")))?;
    tensor.read(path).map_err(|error| Error::decode(error.to_string()))
}

fn read_json_sequence(value: &Value) -> Result<SampledSequence> {
    let token = |value: &Value| {
        let id = value
            .as_f64()
            .filter(|id| id.fract() == 0.0 && f64::from(i32::MIN) <= *id && *id <= f64::from(i32::MAX));
        id.map(|id| id as i32).ok_or_else(|| Error::decode(format!("{value} is not a valid token id")))
    };
    let logprob = |value: &Value| Ok(read_number(value)?.unwrap_or(f32::NAN));
    let tokens = optional_list(value.get("tokens"), token)?
        .ok_or_else(|| Error::decode("a sampled sequence has no tokens"))?;
    let logprobs = optional_list(value.get("logprobs"), logprob)?;
    check_logprobs(tokens.len(), logprobs.as_deref())?;
    let stop_reason = match value.get("stop_reason").and_then(Value::as_str) {
        Some("stop") => StopReason::Stop,
        Some("length") => StopReason::Length,
        Some(other) => StopReason::Other(other.into()),
        None => StopReason::Other("unknown".into()),
    };
    Ok(SampledSequence {
        stop_reason,
        tokens,
        logprobs,
        topk_logprobs: optional_list(value.get("topk_logprobs"), read_json_topk)?,
        sequence_id: value.get("sequence_id").and_then(Value::as_str).map(Into::into),
    })
}

fn optional_list<T>(value: Option<&Value>, read: impl Fn(&Value) -> Result<T>) -> Result<Option<Vec<T>>> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(items)) => items.iter().map(read).collect::<Result<_>>().map(Some),
        Some(other) => Err(Error::decode(format!("expected a list, found {other}"))),
    }
}

fn read_number(value: &Value) -> Result<Option<f32>> {
    match value {
        Value::Null => Ok(None),
        other => match other.as_f64() {
            Some(number) => Ok(Some(number as f32)),
            None => Err(Error::decode(format!("{other} is not a number"))),
        },
    }
}

/// Reads a row of a top-k matrix: pairs of a token id and its log-probability.
fn read_json_topk(value: &Value) -> Result<Option<Vec<TokenLogprob>>> {
    let pair = |value: &Value| match value.as_array().map(Vec::as_slice) {
        Some([token, logprob]) => {
            let token = token.as_i64().and_then(|id| i32::try_from(id).ok());
            token
                .zip(logprob.as_f64())
                .map(|(token, logprob)| TokenLogprob { token, logprob: logprob as f32 })
        }
        _ => None,
    };
    let read = |value: &Value| {
        let problem = || Error::decode(format!("{value} is not a pair of a token id and a log-probability"));
        pair(value).ok_or_else(problem)
    };
    optional_list(Some(value), read)
}

/// Converts a result to JSON.
pub(crate) fn sample_response_to_json(response: &SampleResponse) -> Value {
    let cell = |cell: &TokenLogprob| json!([cell.token, cell.logprob]);
    let row = |cells: &Option<Vec<TokenLogprob>>| {
        cells.as_ref().map(|cells| cells.iter().map(cell).collect::<Vec<_>>())
    };
    let topk = |rows: &Option<Topk>| rows.as_ref().map(|rows| rows.iter().map(row).collect::<Vec<_>>());
    let sequence = |sequence: &SampledSequence| {
        let stop_reason = match &sequence.stop_reason {
            StopReason::Stop => "stop",
            StopReason::Length => "length",
            StopReason::Other(text) => text,
        };
        json!({
            "stop_reason": stop_reason, "tokens": sequence.tokens, "logprobs": sequence.logprobs,
            "topk_logprobs": topk(&sequence.topk_logprobs), "sequence_id": sequence.sequence_id,
        })
    };
    json!({
        "sequences": response.sequences.iter().map(sequence).collect::<Vec<_>>(),
        "prompt_logprobs": response.prompt_logprobs,
        "topk_prompt_logprobs": topk(&response.topk_prompt_logprobs),
        "prompt_cache_hit_tokens": response.prompt_cache_hit_tokens,
        "target_prompt_logprobs": response.target_prompt_logprobs.as_ref().map(TensorJson::from),
        "prompt_alt_tokens": response.prompt_alt_tokens.as_ref().map(|columns| {
            json!({"tokens": TensorJson::from(&columns.tokens), "logprobs": TensorJson::from(&columns.logprobs)})
        }),
        "type": "sample",
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::{Sparse, Values};

    /// A message that was encoded with the protobuf schema of the official SDK. It has a sequence with its most likely
    /// tokens, and target log-probabilities and alternative tokens for a prompt of three tokens.
    const VECTOR: &str = "0a28080112040b0000001a04000080bf22180a0809000000000000001208000000bf804fc3c718022001\
        2a100a080000c07f000000c0180122020201322c0a180a1007000000000000000800000000000000180222020201\
        12100a08000000bf000080be180122020201";

    fn bytes(hex: &str) -> Vec<u8> {
        let digit = |it: u8| (it as char).to_digit(16).unwrap() as u8;
        hex.as_bytes().chunks(2).map(|it| 16 * digit(it[0]) + digit(it[1])).collect()
    }

    /// Replaces NaN by 1, so that results can be compared.
    fn without_nan(mut response: SampleResponse) -> SampleResponse {
        if let Some(Values::F32(scores)) = response.target_prompt_logprobs.as_mut().map(|it| &mut it.values) {
            scores.iter_mut().filter(|score| score.is_nan()).for_each(|score| *score = 1.0);
        }
        response
    }

    fn expected() -> SampleResponse {
        let column = |values| TensorData { values, shape: Some(vec![2, 1]), sparse: None };
        SampleResponse {
            sequences: vec![SampledSequence {
                stop_reason: StopReason::Length,
                tokens: vec![11],
                logprobs: Some(vec![-1.0]),
                topk_logprobs: Some(vec![Some(vec![TokenLogprob { token: 9, logprob: -0.5 }])]),
                sequence_id: Some("a".into()),
            }],
            target_prompt_logprobs: Some(column(Values::F32(vec![1.0, -2.0]))),
            prompt_alt_tokens: Some(PromptAltTokens {
                tokens: column(Values::I64(vec![7, 8])),
                logprobs: column(Values::F32(vec![-0.5, -0.25])),
            }),
            ..Default::default()
        }
    }

    #[test]
    fn scores_and_alternatives_are_read_and_written_in_both_forms() {
        let ids = ["a".to_string()];
        let response = decode_sample_response(&bytes(VECTOR), &ids).unwrap();
        assert_eq!(without_nan(response.clone()), expected());
        let again = decode_sample_response(&encode_sample_response(&response), &ids).unwrap();
        assert_eq!(without_nan(again), expected());
        let json = sample_response_to_json(&response);
        assert_eq!(json["target_prompt_logprobs"]["data"], json!([null, -2.0]));
        assert_eq!(without_nan(sample_response_from_json(&json, &[]).unwrap()), expected());
        let sparse = Sparse { crow_indices: vec![0, 0, 1], col_indices: vec![3] };
        let scores =
            TensorData { values: Values::F32(vec![-2.0]), shape: Some(vec![2, 4]), sparse: Some(sparse) };
        let response = SampleResponse { target_prompt_logprobs: Some(scores), ..response };
        for again in [
            decode_sample_response(&encode_sample_response(&response), &ids).unwrap(),
            sample_response_from_json(&sample_response_to_json(&response), &ids).unwrap(),
        ] {
            assert_eq!(again, response);
        }
    }

    #[test]
    fn a_result_that_contradicts_itself_is_not_a_user_error() {
        let column = |dtype: &str| json!({"data": [1, 2], "dtype": dtype, "shape": [2, 1]});
        for (name, value) in [
            ("prompt_alt_tokens", json!({"tokens": column("int64")})),
            ("prompt_alt_tokens", json!({"tokens": column("float32"), "logprobs": column("float32")})),
            (
                "prompt_alt_tokens",
                json!({"tokens": column("int64"), "logprobs": {"data": [1], "shape": [1]}}),
            ),
            ("target_prompt_logprobs", json!({"data": [1], "dtype": "float32", "shape": [2, 2]})),
            ("target_prompt_logprobs", json!({"data": [1], "dtype": "text"})),
            ("target_prompt_logprobs", json!(7)),
        ] {
            let mut body = json!({"sequences": []});
            body[name] = value;
            let error = sample_response_from_json(&body, &[]).unwrap_err();
            assert!(!error.is_user_error() && error.violation().is_none(), "{body} {error:?}");
        }
        let empty = json!({"sequences": [], "target_prompt_logprobs": null, "prompt_alt_tokens": null});
        assert_eq!(sample_response_from_json(&empty, &[]).unwrap(), SampleResponse::default());
        let incomplete = proto::SampleResponse {
            prompt_alt_tokens: Some(proto::PromptAltTokens { tokens: None, logprobs: None }),
            ..Default::default()
        };
        assert!(!decode_sample_response(&incomplete.encode_to_vec(), &[]).unwrap_err().is_user_error());
    }
}
