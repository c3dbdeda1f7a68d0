//! Reads and writes forward and backward passes (PROTOCOL §3.3, §5): the protobuf request, the legacy JSON request
//! (only its reader; [`pass_json`](super::pass_json) writes it), and the output in protobuf and JSON.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use rayon::prelude::*;
use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::types::{
    Chunk, Datum, ForwardBackwardOutput, ImageFormat, Loss, LossFn, LossValue, ModelInput, TensorData,
};

use super::json::ModelInputJson;
use super::proto::{self, ChunkKind, LossConfig, LossConfigValue};
use super::tensor::{self, Numbers, TensorJson};
use super::{json, le, spans};

/// A decoded request for a forward or backward pass.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ForwardBackwardCall {
    pub(crate) model_id: String,
    pub(crate) seq_id: u32,
    pub(crate) data: Vec<Datum>,
    pub(crate) loss: Loss,
    pub(crate) forward_only: bool,
}

/// Encodes a `forward_backward` request. `seq_id` counts from 1. If `parallel` is true, encodes the data in parallel on
/// the rayon pool of the calling thread.
pub(crate) fn encode_forward_backward(
    model_id: &str,
    seq_id: u32,
    data: &[Datum],
    loss: &Loss,
    forward_only: bool,
    parallel: bool,
) -> Result<Vec<u8>> {
    let seq_id = match i32::try_from(seq_id) {
        Ok(id) if 0 < id => id,
        _ => return Err(Error::invalid("seq_id", format!("{seq_id} is not in 1..2^31"))),
    };
    let (loss_fn_config, loss_fn_config_v2) = write_config(&loss.config);
    let head = proto::ForwardBackwardRequest { model_id: model_id.into(), seq_id, ..Default::default() };
    let tail = proto::ForwardBackwardRequest {
        loss_fn: loss.loss_fn.as_str().into(),
        loss_fn_config,
        forward_only,
        loss_fn_config_v2,
        ..Default::default()
    };
    // A protobuf reader merges concatenated messages into one. So each datum is encoded as a message of its own: built,
    // written and dropped before the next datum. This is fast, because the copied values are still in the CPU cache.
    let write = |out: &mut Vec<u8>, i: usize, datum: &Datum| {
        let datum = write_datum(datum, i)?;
        append(out, &proto::ForwardBackwardRequest { data: vec![datum], ..Default::default() })
    };
    let estimate = |datum: &Datum| datum.n_bytes() + ROOM_FOR_NAMES;
    let n_bytes: usize = data.iter().map(estimate).sum();
    let mut out = Vec::with_capacity(head.encoded_len() + n_bytes + tail.encoded_len());
    append(&mut out, &head)?;
    if parallel {
        let encode = |(i, datum): (usize, &Datum)| {
            let mut out = Vec::with_capacity(estimate(datum));
            write(&mut out, i, datum).map(|()| out)
        };
        for part in data.par_iter().enumerate().map(encode).collect::<Result<Vec<_>>>()? {
            out.extend_from_slice(&part);
        }
    } else {
        data.iter().enumerate().try_for_each(|(i, datum)| write(&mut out, i, datum))?;
    }
    append(&mut out, &tail)?;
    Ok(out)
}

fn append(out: &mut Vec<u8>, message: &impl Message) -> Result<()> {
    message.encode(out).map_err(|error| Error::invalid("data", format!("cannot be encoded: {error}")))
}

/// Estimated bytes for the names, lengths and shapes of a datum. The buffer grows if a datum needs more.
const ROOM_FOR_NAMES: usize = 256;

fn write_datum(datum: &Datum, i: usize) -> Result<proto::Datum> {
    let chunk = |(j, chunk)| write_chunk(chunk, &format!("data[{i}].model_input.chunks[{j}]"));
    let provenance = || datum.provenance.iter();
    Ok(proto::Datum {
        model_input: datum.model_input.chunks.iter().enumerate().map(chunk).collect::<Result<_>>()?,
        loss_fn_inputs: datum.loss_fn_inputs.iter().map(|(k, v)| (k.clone(), tensor::to_proto(v))).collect(),
        model_input_spans: provenance().flat_map(|it| spans::write(&it.model_input)).collect(),
        loss_fn_input_spans: provenance().flat_map(|it| spans::write(&it.loss_fn_inputs)).collect(),
    })
}

fn write_chunk(chunk: &Chunk, path: &str) -> Result<proto::Chunk> {
    let kind = match chunk {
        Chunk::EncodedText { tokens } => {
            ChunkKind::EncodedText(proto::EncodedTextChunk { tokens: le::write_i32(tokens) })
        }
        Chunk::Image { data, format, expected_tokens } => {
            let narrow = |n: u32| {
                i32::try_from(n).map_err(|_| {
                    Error::invalid(format!("{path}.expected_tokens"), format!("{n} is not below 2^31"))
                })
            };
            ChunkKind::Image(proto::ImageChunk {
                data: Bytes::copy_from_slice(data),
                format: format.wire().into(),
                expected_tokens: expected_tokens.map(narrow).transpose()?,
                override_dimensions: None,
            })
        }
        Chunk::Dmel { dmel } => ChunkKind::Dmel(proto::DmelChunk { dmel: Bytes::copy_from_slice(dmel) }),
        Chunk::ImageAssetPointer { .. } => {
            return Err(Error::invalid(
                path,
                "is an image asset pointer, which is allowed in prompts but not in training data",
            ));
        }
    };
    Ok(proto::Chunk { chunk: Some(kind) })
}

/// Returns the options as the old map and the new map. Numbers go into both, because some servers read only the old
/// one. Texts go into the new one only.
fn write_config(
    config: &BTreeMap<String, LossValue>,
) -> (BTreeMap<String, f64>, BTreeMap<String, LossConfigValue>) {
    let mut numbers = BTreeMap::new();
    let mut all = BTreeMap::new();
    for (name, value) in config {
        let value = match value {
            LossValue::Number(number) => {
                numbers.insert(name.clone(), *number);
                LossConfig::Number(*number)
            }
            LossValue::Text(text) => LossConfig::Text(text.clone()),
        };
        all.insert(name.clone(), LossConfigValue { value: Some(value) });
    }
    (numbers, all)
}

/// Reads the protobuf body of a `forward_backward` request.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn decode_forward_backward_request(body: &[u8]) -> Result<ForwardBackwardCall> {
    decode_forward_backward_bytes(Bytes::copy_from_slice(body))
}

/// Reads the protobuf body of a `forward_backward` request. The decoded messages share the memory of `body`.
pub(crate) fn decode_forward_backward_bytes(body: Bytes) -> Result<ForwardBackwardCall> {
    if MAX_PARTS < parts(&body) {
        return Err(Error::decode(format!(
            "the request has more than {MAX_PARTS} data, chunks, tensors and options"
        )));
    }
    let request = proto::ForwardBackwardRequest::decode(body).map_err(not_protobuf)?;
    let data =
        request.data.into_iter().enumerate().map(|(i, datum)| read_datum(datum, i)).collect::<Result<_>>()?;
    let numbers = request.loss_fn_config.into_iter().map(|(name, number)| (name, LossValue::Number(number)));
    let values = request.loss_fn_config_v2.into_iter().filter_map(|(name, option)| match option.value? {
        LossConfig::Number(number) => Some((name, LossValue::Number(number))),
        LossConfig::Text(text) => Some((name, LossValue::Text(text))),
    });
    let config = numbers.chain(values).collect();
    Ok(ForwardBackwardCall {
        model_id: request.model_id,
        seq_id: read_seq_id(i64::from(request.seq_id))?,
        data,
        loss: Loss { loss_fn: LossFn::parse(&request.loss_fn, &config), config },
        forward_only: request.forward_only,
    })
}

/// Largest total number of data, chunks, tensors, options, spans and dimensions of a request. The size of the message
/// does not limit the memory: an empty datum takes two bytes in the message and far more when it is decoded.
const MAX_PARTS: usize = 1 << 18;

/// Counts the parts that [`MAX_PARTS`] limits, up to the first malformed byte.
fn parts(body: &[u8]) -> usize {
    const DATA: u64 = 3;
    const INPUTS: u64 = 2;
    const VALUE: u64 = 2;
    const SHAPE: u64 = 4;
    let tensor = |message: &[u8]| -> usize {
        fields(message).map(|(tag, bytes)| 1 + if tag == SHAPE { bytes.len() } else { 0 }).sum()
    };
    let entry = |message| -> usize {
        fields(message).map(|(tag, bytes)| if tag == VALUE { tensor(bytes) } else { 0 }).sum()
    };
    let datum = |message| -> usize {
        fields(message).map(|(tag, bytes)| 1 + if tag == INPUTS { entry(bytes) } else { 0 }).sum()
    };
    fields(body).map(|(tag, bytes)| 1 + if tag == DATA { datum(bytes) } else { 0 }).sum()
}

/// Iterates over the fields of a protobuf message. Yields the field number and, for a length-delimited field, its
/// content; for any other field, an empty slice.
fn fields(mut rest: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    std::iter::from_fn(move || {
        let key = varint(&mut rest)?;
        let size = match key & 7 {
            0 => varint(&mut rest).map(|_| 0)?,
            1 => 8,
            2 => usize::try_from(varint(&mut rest)?).ok()?,
            5 => 4,
            // Start or end of a group: its fields are counted as fields of this message.
            _ => 0,
        };
        let (field, after) = rest.split_at_checked(size)?;
        rest = after;
        Some((key >> 3, if key & 7 == 2 { field } else { &[] }))
    })
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for i in 0..10 {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn read_seq_id(id: i64) -> Result<u32> {
    match u32::try_from(id) {
        Ok(id) if 0 < id && id <= i32::MAX as u32 => Ok(id),
        _ => Err(Error::decode(format!("seq_id must be in 1..2^31, is {id}"))),
    }
}

fn read_datum(datum: proto::Datum, i: usize) -> Result<Datum> {
    let chunk = |(j, chunk): (usize, proto::Chunk)| {
        let path = format!("data[{i}].model_input.chunks[{j}]");
        match chunk.chunk {
            Some(chunk) => read_chunk(chunk, &path),
            None => Err(Error::decode(format!("{path} is a chunk of an unknown kind"))),
        }
    };
    let input = |(name, tensor)| {
        let tensor = tensor::from_proto(tensor, &format!("data[{i}].loss_fn_inputs[{name:?}]"))?;
        Ok((name, tensor))
    };
    Ok(Datum {
        model_input: ModelInput {
            chunks: datum.model_input.into_iter().enumerate().map(chunk).collect::<Result<_>>()?,
        },
        loss_fn_inputs: datum.loss_fn_inputs.into_iter().map(input).collect::<Result<_>>()?,
        provenance: spans::read(datum.model_input_spans, datum.loss_fn_input_spans, &format!("data[{i}]"))?,
    })
}

fn read_chunk(chunk: ChunkKind, path: &str) -> Result<Chunk> {
    match chunk {
        ChunkKind::EncodedText(text) => Ok(Chunk::EncodedText { tokens: le::read_i32(&text.tokens)? }),
        ChunkKind::Dmel(dmel) => Ok(Chunk::Dmel { dmel: dmel.dmel.into() }),
        ChunkKind::Image(image) => {
            let format = ImageFormat::parse(&image.format).ok_or_else(|| {
                Error::decode(format!("{path} has the unknown image format {:?}", image.format))
            })?;
            let expected_tokens = image.expected_tokens.and_then(|n| u32::try_from(n).ok());
            Ok(Chunk::Image { data: image.data.into(), format, expected_tokens })
        }
    }
}

#[derive(Deserialize)]
struct CallJson {
    model_id: String,
    #[serde(default)]
    seq_id: Option<i64>,
    // Exactly one of the two is present. They are two fields instead of one flattened enum, because serde would store a
    // flattened field in a generic buffer that takes far more memory.
    #[serde(default)]
    forward_backward_input: Option<InputJson>,
    #[serde(default)]
    forward_input: Option<InputJson>,
}

#[derive(Deserialize)]
struct InputJson {
    data: Vec<DatumJson>,
    loss_fn: String,
    #[serde(default)]
    loss_fn_config: Option<BTreeMap<String, Value>>,
}

#[derive(Deserialize)]
struct DatumJson {
    model_input: ModelInputJson,
    #[serde(default)]
    loss_fn_inputs: BTreeMap<String, TensorJson>,
}

/// Reads the legacy JSON body. `key` names the field of the input: `forward_backward_input` or `forward_input`.
pub(crate) fn decode_forward_backward_json(body: &[u8], key: &str) -> Result<ForwardBackwardCall> {
    let call: CallJson = json::request(body)?;
    let input = match key {
        "forward_input" => call.forward_input,
        _ => call.forward_backward_input,
    };
    let input = input.ok_or_else(|| Error::decode(format!("{key} is missing")))?;
    let datum = |(i, datum): (usize, DatumJson)| {
        let tensor = |(name, tensor): (String, TensorJson)| {
            let tensor = tensor.read(&format!("data[{i}].loss_fn_inputs[{name:?}]"))?;
            Ok((name, tensor))
        };
        Ok(Datum {
            model_input: datum.model_input.read()?,
            loss_fn_inputs: datum.loss_fn_inputs.into_iter().map(tensor).collect::<Result<_>>()?,
            provenance: None,
        })
    };
    let option = |(name, value): (String, Value)| match value {
        Value::String(text) => Some((name, LossValue::Text(text))),
        other => other.as_f64().map(|number| (name, LossValue::Number(number))),
    };
    let config = input.loss_fn_config.into_iter().flatten().filter_map(option).collect();
    Ok(ForwardBackwardCall {
        model_id: call.model_id,
        // The legacy body may omit `seq_id`. Then 0 tells the engine to take the next `seq_id` of the model.
        seq_id: call.seq_id.map(read_seq_id).transpose()?.unwrap_or(0),
        data: input.data.into_iter().enumerate().map(datum).collect::<Result<_>>()?,
        loss: Loss { loss_fn: LossFn::parse(&input.loss_fn, &config), config },
        forward_only: key == "forward_input",
    })
}

/// Encodes an output as protobuf. Consecutive data share a record if their fields have the same names, types and
/// trailing dimensions (all but the first), because a record has these only once.
pub(crate) fn encode_forward_backward_output(output: &ForwardBackwardOutput) -> Vec<u8> {
    let layout = |fields: &BTreeMap<String, TensorData>| -> Vec<(String, i32, Vec<usize>)> {
        let dims = |tensor: &TensorData| tensor.shape().get(1..).unwrap_or_default().to_vec();
        fields.iter().map(|(k, v)| (k.clone(), tensor::dtype(&v.values).into(), dims(v))).collect()
    };
    let records = output.loss_fn_outputs.chunk_by(|a, b| layout(a) == layout(b)).map(write_record).collect();
    let output = proto::ForwardBackwardOutput {
        loss_fn_output_type: output.loss_fn_output_type.clone(),
        loss_fn_outputs: records,
        metrics: output.metrics.clone(),
    };
    output.encode_to_vec()
}

fn write_record(data: &[BTreeMap<String, TensorData>]) -> proto::ArrayRecord {
    let mut fields = BTreeMap::new();
    for (name, first) in data.iter().take(1).flatten() {
        let mut bytes = Vec::new();
        let mut offsets = vec![0i64];
        for tensor in data.iter().filter_map(|it| it.get(name)) {
            bytes.extend_from_slice(&tensor::write_values(&tensor.values));
            offsets.push(bytes.len() as i64);
        }
        let field = proto::BatchedTensor {
            data: bytes.into(),
            offsets: le::write_i64(&offsets),
            dtype: tensor::dtype(&first.values).into(),
            trailing_shape: first.shape().iter().skip(1).map(|it| *it as i64).collect(),
        };
        fields.insert(name.clone(), field);
    }
    proto::ArrayRecord { type_tag: String::new(), fields, num_datums: data.len() as i64 }
}

/// Reads an output in protobuf (PROTOCOL §5.2). If `body` is [`Bytes`], the decoded messages share its memory.
#[cfg_attr(
    not(any(feature = "local", feature = "testing", test)),
    allow(dead_code, reason = "a client knows the number of its data")
)]
pub(crate) fn decode_forward_backward_output(body: impl Into<Bytes>) -> Result<ForwardBackwardOutput> {
    decode_forward_backward_output_of(body, usize::MAX)
}

/// As [`decode_forward_backward_output`], but refuses an output for more than `n_data` data before it allocates memory
/// for them. The number of bytes of a message does not limit this memory enough: a datum with one empty tensor takes 8
/// bytes in the message (the offset of the tensor) and about 200 times as many when it is decoded.
pub(crate) fn decode_forward_backward_output_of(
    body: impl Into<Bytes>,
    n_data: usize,
) -> Result<ForwardBackwardOutput> {
    let output = proto::ForwardBackwardOutput::decode(body.into()).map_err(not_protobuf)?;
    let mut outputs = Vec::new();
    for record in output.loss_fn_outputs {
        read_record(record, &mut outputs, n_data)?;
    }
    let stated = last_part(&output.loss_fn_output_type);
    let type_name = if outputs.is_empty() && stated.is_empty() { "ArrayRecord" } else { stated };
    Ok(ForwardBackwardOutput {
        loss_fn_output_type: type_name.into(),
        loss_fn_outputs: outputs,
        metrics: output.metrics,
        ..Default::default()
    })
}

fn last_part(text: &str) -> &str {
    text.rsplit(':').next().unwrap_or(text)
}

/// Largest number of data without fields. The number of data with fields is bounded by the bytes of their offsets.
const MAX_DATA_WITHOUT_FIELDS: usize = 1 << 20;

fn read_record(
    record: proto::ArrayRecord,
    outputs: &mut Vec<BTreeMap<String, TensorData>>,
    max_outputs: usize,
) -> Result<()> {
    let stated = usize::try_from(record.num_datums)
        .map_err(|_| Error::decode(format!("a record states {} data", record.num_datums)))?;
    let n = match record.fields.values().next() {
        Some(field) if stated == 0 => (field.offsets.len() / 8).saturating_sub(1),
        Some(_) => stated,
        None if outputs.len().saturating_add(stated) <= MAX_DATA_WITHOUT_FIELDS => stated,
        None => return Err(Error::decode(format!("a record states {stated} data and has no fields"))),
    };
    let first = outputs.len();
    if max_outputs < first.saturating_add(n) {
        let found = first.saturating_add(n);
        return Err(Error::decode(format!("the server sent {found} outputs for the {max_outputs} data")));
    }
    // Check the offsets before memory is allocated for n data.
    for (name, field) in &record.fields {
        if n.checked_add(1).and_then(|it| it.checked_mul(8)) != Some(field.offsets.len()) {
            let n_bytes = field.offsets.len();
            return Err(Error::decode(format!(
                "output {name:?} has {n_bytes} bytes of offsets for {n} data"
            )));
        }
    }
    outputs.resize_with(first + n, BTreeMap::new);
    for (name, field) in record.fields {
        let tensors =
            split(&field).map_err(|error| Error::decode(format!("output {name:?}: {}", error.message())))?;
        for (output, tensor) in outputs[first..].iter_mut().zip(tensors) {
            output.insert(name.clone(), tensor);
        }
    }
    Ok(())
}

fn split(field: &proto::BatchedTensor) -> Result<Vec<TensorData>> {
    let size = tensor::item_size(field.dtype)?;
    let trailing: Vec<usize> =
        field.trailing_shape.iter().map(|it| tensor::dimension(*it)).collect::<Result<_>>()?;
    let row = trailing
        .iter()
        .try_fold(1usize, |n, dimension| n.checked_mul(*dimension))
        .ok_or_else(|| Error::decode(format!("trailing dimensions {trailing:?} are too large")))?;
    let offsets = le::read_i64(&field.offsets)?;
    let tensor = |ends: &[i64]| {
        let range = usize::try_from(ends[0]).ok().zip(usize::try_from(ends[1]).ok());
        let bytes = range.and_then(|(from, to)| field.data.get(from..to)).ok_or_else(|| {
            Error::decode(format!(
                "offsets {}..{} are not within its {} bytes",
                ends[0],
                ends[1],
                field.data.len()
            ))
        })?;
        let n = bytes.len() / size;
        let rows = n.checked_div(row).unwrap_or(0);
        if bytes.len() % size != 0 || rows * row != n {
            return Err(Error::decode(format!(
                "{} bytes are not whole rows of shape {trailing:?}",
                bytes.len()
            )));
        }
        let shape = std::iter::once(rows).chain(trailing.iter().copied()).collect();
        Ok(TensorData { values: tensor::read_values(field.dtype, bytes)?, shape: Some(shape), sparse: None })
    };
    // If offsets could decrease, the ranges could overlap, and together take more memory than the message.
    if offsets.windows(2).any(|ends| ends[1] < ends[0]) {
        return Err(Error::decode("its offsets decrease"));
    }
    offsets.windows(2).map(tensor).collect()
}

/// Reads an output in JSON (PROTOCOL §6.7). A field of an output may be a tensor, a list of numbers or a single number.
pub(crate) fn forward_backward_output_from_json(value: &Value) -> Result<ForwardBackwardOutput> {
    let Some(object) = value.as_object() else {
        return Err(Error::decode("the output of a pass over data is not a JSON object"));
    };
    if !json::is_result("ForwardBackward", value) {
        return Err(Error::decode("the output of a pass over data has neither outputs nor metrics"));
    }
    let mut outputs = Vec::new();
    for (i, datum) in list(object.get("loss_fn_outputs")).iter().enumerate() {
        let mut fields = BTreeMap::new();
        for (name, value) in datum.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
            let path = format!("loss_fn_outputs[{i}][{name:?}]");
            fields.insert(name.clone(), read_json_tensor(value, &path)?);
        }
        outputs.push(fields);
    }
    let metrics = object.get("metrics").and_then(Value::as_object).into_iter().flatten();
    let kind = object.get("loss_fn_output_type").and_then(Value::as_str).unwrap_or_default();
    Ok(ForwardBackwardOutput {
        loss_fn_output_type: last_part(kind).into(),
        loss_fn_outputs: outputs,
        metrics: metrics.filter_map(|(name, value)| Some((name.clone(), value.as_f64()?))).collect(),
        ..Default::default()
    })
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Reads a tensor, a list of numbers or a single number.
fn read_json_tensor(value: &Value, path: &str) -> Result<TensorData> {
    let bare = |data| TensorJson { data, dtype: "float32".into(), ..TensorJson::default() };
    let not_a_tensor = |error| Error::decode(format!("{path} is not a valid tensor: {error}"));
    let tensor = match value {
        Value::Array(_) => bare(Numbers::deserialize(value).map_err(not_a_tensor)?),
        Value::Number(number) => bare(Numbers::Any(number.as_f64().into_iter().collect())),
        other => TensorJson::deserialize(other).map_err(not_a_tensor)?,
    };
    tensor.read(path)
}

/// Converts an output to JSON.
pub(crate) fn forward_backward_output_to_json(output: &ForwardBackwardOutput) -> Value {
    let datum = |fields: &BTreeMap<String, TensorData>| -> BTreeMap<String, TensorJson> {
        fields.iter().map(|(name, tensor)| (name.clone(), TensorJson::from(tensor))).collect()
    };
    let outputs: Vec<_> = output.loss_fn_outputs.iter().map(datum).collect();
    serde_json::json!({
        "loss_fn_output_type": output.loss_fn_output_type,
        "loss_fn_outputs": outputs,
        "metrics": output.metrics,
    })
}

pub(super) fn not_protobuf(error: prost::DecodeError) -> Error {
    Error::decode(format!("the body is not the expected protobuf message: {error}"))
}
