//! Passes over data: the protobuf request, its legacy JSON form, and the output (PROTOCOL §3.3, §5).

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

/// A request for a pass over data, read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ForwardBackwardCall {
    pub(crate) model_id: String,
    pub(crate) seq_id: u32,
    pub(crate) data: Vec<Datum>,
    pub(crate) loss: Loss,
    pub(crate) forward_only: bool,
}

/// The body of a `forward_backward` request. `seq_id` counts from 1. In parallel it is written on the threads of the
/// rayon pool of the caller.
pub(crate) fn encode_forward_backward(
    model_id: &str,
    seq_id: u32,
    data: &[Datum],
    loss: &Loss,
    forward_only: bool,
    parallel: bool,
) -> Result<Vec<u8>> {
    let seq_id = match i32::try_from(seq_id) {
        Ok(it) if 0 < it => it,
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
    // Messages that follow each other count as one. So each datum is built, written and dropped before the next one,
    // and what was copied for it is still in the cache.
    let write = |out: &mut Vec<u8>, i: usize, it: &Datum| {
        let datum = write_datum(it, i)?;
        append(out, &proto::ForwardBackwardRequest { data: vec![datum], ..Default::default() })
    };
    let estimate = |it: &Datum| it.n_bytes() + ROOM_FOR_NAMES;
    let n_bytes: usize = data.iter().map(estimate).sum();
    let mut out = Vec::with_capacity(head.encoded_len() + n_bytes + tail.encoded_len());
    append(&mut out, &head)?;
    if parallel {
        let one = |(i, it): (usize, &Datum)| {
            let mut out = Vec::with_capacity(estimate(it));
            write(&mut out, i, it).map(|()| out)
        };
        for part in data.par_iter().enumerate().map(one).collect::<Result<Vec<_>>>()? {
            out.extend_from_slice(&part);
        }
    } else {
        data.iter().enumerate().try_for_each(|(i, it)| write(&mut out, i, it))?;
    }
    append(&mut out, &tail)?;
    Ok(out)
}

fn append(out: &mut Vec<u8>, message: &impl Message) -> Result<()> {
    message.encode(out).map_err(|it| Error::invalid("data", format!("cannot be written: {it}")))
}

/// What the names, lengths and shapes of a datum usually take besides its numbers. A larger one is written as well, after the
/// buffer has grown.
const ROOM_FOR_NAMES: usize = 256;

fn write_datum(datum: &Datum, i: usize) -> Result<proto::Datum> {
    let chunk = |(j, it)| write_chunk(it, &format!("data[{i}].model_input.chunks[{j}]"));
    Ok(proto::Datum {
        model_input: datum.model_input.chunks.iter().enumerate().map(chunk).collect::<Result<_>>()?,
        loss_fn_inputs: datum.loss_fn_inputs.iter().map(|(k, v)| (k.clone(), tensor::to_proto(v))).collect(),
        model_input_spans: datum.provenance.iter().flat_map(|it| spans::write(&it.model_input)).collect(),
        loss_fn_input_spans: datum
            .provenance
            .iter()
            .flat_map(|it| spans::write(&it.loss_fn_inputs))
            .collect(),
    })
}

fn write_chunk(chunk: &Chunk, path: &str) -> Result<proto::Chunk> {
    let kind = match chunk {
        Chunk::EncodedText { tokens } => {
            ChunkKind::EncodedText(proto::EncodedTextChunk { tokens: le::write_i32(tokens) })
        }
        Chunk::Image { data, format, expected_tokens } => {
            let narrow = |it: u32| {
                i32::try_from(it)
                    .map_err(|_| Error::invalid(format!("{path}.expected_tokens"), "is too large"))
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
            return Err(Error::invalid(path, "an image pointer can be sampled from but not trained on"));
        }
    };
    Ok(proto::Chunk { chunk: Some(kind) })
}

/// Numbers go into both maps, because some servers know only the first; texts only into the second.
fn write_config(
    config: &BTreeMap<String, LossValue>,
) -> (BTreeMap<String, f64>, BTreeMap<String, LossConfigValue>) {
    let mut numbers = BTreeMap::new();
    let mut all = BTreeMap::new();
    for (name, value) in config {
        let value = match value {
            LossValue::Number(it) => {
                numbers.insert(name.clone(), *it);
                LossConfig::Number(*it)
            }
            LossValue::Text(it) => LossConfig::Text(it.clone()),
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

/// Reads the protobuf body of a `forward_backward` request, whose arrays are read where they lie.
pub(crate) fn decode_forward_backward_bytes(body: Bytes) -> Result<ForwardBackwardCall> {
    if MOST_PARTS < parts(&body) {
        return Err(Error::decode(format!("the request consists of more than {MOST_PARTS} parts")));
    }
    let request = proto::ForwardBackwardRequest::decode(body).map_err(not_protobuf)?;
    let data =
        request.data.into_iter().enumerate().map(|(i, it)| read_datum(it, i)).collect::<Result<_>>()?;
    let numbers = request.loss_fn_config.into_iter().map(|(name, it)| (name, LossValue::Number(it)));
    let newer = request.loss_fn_config_v2.into_iter().filter_map(|(name, it)| match it.value? {
        LossConfig::Number(it) => Some((name, LossValue::Number(it))),
        LossConfig::Text(it) => Some((name, LossValue::Text(it))),
    });
    let config = numbers.chain(newer).collect();
    Ok(ForwardBackwardCall {
        model_id: request.model_id,
        seq_id: read_seq_id(i64::from(request.seq_id))?,
        data,
        loss: Loss { loss_fn: LossFn::parse(&request.loss_fn, &config), config },
        forward_only: request.forward_only,
    })
}

/// How many data, chunks, tensors, options, spans and dimensions a request may have together: each takes more room than an
/// empty one takes in a message.
const MOST_PARTS: usize = 1 << 18;

/// The number of those, as far as the message can be read.
fn parts(body: &[u8]) -> usize {
    const DATA: u64 = 3;
    const INPUTS: u64 = 2;
    const VALUE: u64 = 2;
    const SHAPE: u64 = 4;
    let tensor = |it: &[u8]| -> usize {
        fields(it).map(|(tag, it)| 1 + if tag == SHAPE { it.len() } else { 0 }).sum()
    };
    let entry = |it| -> usize { fields(it).map(|(tag, it)| if tag == VALUE { tensor(it) } else { 0 }).sum() };
    let datum =
        |it| -> usize { fields(it).map(|(tag, it)| 1 + if tag == INPUTS { entry(it) } else { 0 }).sum() };
    fields(body).map(|(tag, it)| 1 + if tag == DATA { datum(it) } else { 0 }).sum()
}

/// The fields of a message with their bytes, of which numbers have none here.
fn fields(mut rest: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    std::iter::from_fn(move || {
        let key = varint(&mut rest)?;
        let size = match key & 7 {
            0 => varint(&mut rest).map(|_| 0)?,
            1 => 8,
            2 => usize::try_from(varint(&mut rest)?).ok()?,
            5 => 4,
            // A group begins or ends: what it holds counts as if it stood here.
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

fn read_seq_id(it: i64) -> Result<u32> {
    match u32::try_from(it) {
        Ok(it) if 0 < it && it <= i32::MAX as u32 => Ok(it),
        _ => Err(Error::decode(format!("seq_id must be in 1..2^31, is {it}"))),
    }
}

fn read_datum(datum: proto::Datum, i: usize) -> Result<Datum> {
    let chunk = |(j, it): (usize, proto::Chunk)| match it.chunk {
        Some(it) => read_chunk(it, &format!("data[{i}].model_input.chunks[{j}]")),
        None => Err(Error::decode(format!("data[{i}].model_input.chunks[{j}]: a chunk of an unknown kind"))),
    };
    let input = |(name, it)| {
        let tensor = tensor::from_proto(it, &format!("data[{i}].loss_fn_inputs[{name:?}]"))?;
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
        ChunkKind::EncodedText(it) => Ok(Chunk::EncodedText { tokens: le::read_i32(&it.tokens)? }),
        ChunkKind::Dmel(it) => Ok(Chunk::Dmel { dmel: it.dmel.into() }),
        ChunkKind::Image(it) => {
            let format = ImageFormat::parse(&it.format)
                .ok_or_else(|| Error::decode(format!("{path}: unknown image format {:?}", it.format)))?;
            let expected_tokens = it.expected_tokens.and_then(|it| u32::try_from(it).ok());
            Ok(Chunk::Image { data: it.data.into(), format, expected_tokens })
        }
    }
}

#[derive(Deserialize)]
struct CallJson {
    model_id: String,
    #[serde(default)]
    seq_id: Option<i64>,
    // One of the two. Named one by one, because what is named is read where it lies.
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

/// Reads the legacy JSON body, whose input stands under `key`: `forward_backward_input` or `forward_input`.
pub(crate) fn decode_forward_backward_json(body: &[u8], key: &str) -> Result<ForwardBackwardCall> {
    let call: CallJson = json::request(body)?;
    let input = match key {
        "forward_input" => call.forward_input,
        _ => call.forward_backward_input,
    };
    let input = input.ok_or_else(|| Error::decode(format!("{key} is missing")))?;
    let datum = |(i, it): (usize, DatumJson)| {
        let tensor = |(name, it): (String, TensorJson)| {
            let tensor = it.read(&format!("data[{i}].loss_fn_inputs[{name:?}]"))?;
            Ok((name, tensor))
        };
        Ok(Datum {
            model_input: it.model_input.read()?,
            loss_fn_inputs: it.loss_fn_inputs.into_iter().map(tensor).collect::<Result<_>>()?,
            provenance: None,
        })
    };
    let option = |(name, it): (String, Value)| match it {
        Value::String(it) => Some((name, LossValue::Text(it))),
        it => it.as_f64().map(|it| (name, LossValue::Number(it))),
    };
    let config = input.loss_fn_config.into_iter().flatten().filter_map(option).collect();
    Ok(ForwardBackwardCall {
        model_id: call.model_id,
        // The legacy body may leave it out; then the request counts as the next one.
        seq_id: call.seq_id.map(read_seq_id).transpose()?.unwrap_or(0),
        data: input.data.into_iter().enumerate().map(datum).collect::<Result<_>>()?,
        loss: Loss { loss_fn: LossFn::parse(&input.loss_fn, &config), config },
        forward_only: key == "forward_input",
    })
}

/// The protobuf form of an output. Consecutive data share a record while their fields have the same types and
/// trailing dimensions, because within a record these are stated once.
pub(crate) fn encode_forward_backward_output(output: &ForwardBackwardOutput) -> Vec<u8> {
    let like = |it: &BTreeMap<String, TensorData>| -> Vec<(String, i32, Vec<usize>)> {
        let dims = |it: &TensorData| it.shape().get(1..).unwrap_or_default().to_vec();
        it.iter().map(|(k, v)| (k.clone(), tensor::dtype(&v.values).into(), dims(v))).collect()
    };
    let records = output.loss_fn_outputs.chunk_by(|a, b| like(a) == like(b)).map(write_record).collect();
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

/// Reads the protobuf form of an output (PROTOCOL §5.2).
///
/// Takes the body itself, because from [`Bytes`] the arrays are read where they lie.
#[cfg_attr(
    not(any(feature = "local", feature = "testing", test)),
    allow(dead_code, reason = "a client knows how many data there are")
)]
pub(crate) fn decode_forward_backward_output(body: impl Into<Bytes>) -> Result<ForwardBackwardOutput> {
    decode_forward_backward_output_of(body, usize::MAX)
}

/// As [`decode_forward_backward_output`], of so many data at most. A record of more is refused before memory is taken for it:
/// a map takes two hundred times as many bytes as what announces it.
pub(crate) fn decode_forward_backward_output_of(
    body: impl Into<Bytes>,
    n_data: usize,
) -> Result<ForwardBackwardOutput> {
    let output = proto::ForwardBackwardOutput::decode(body.into()).map_err(not_protobuf)?;
    let mut outputs = Vec::new();
    for record in output.loss_fn_outputs {
        read_record(record, &mut outputs, n_data)?;
    }
    let named = last_part(&output.loss_fn_output_type);
    let no_records = if outputs.is_empty() && named.is_empty() { "ArrayRecord" } else { named };
    Ok(ForwardBackwardOutput {
        loss_fn_output_type: no_records.into(),
        loss_fn_outputs: outputs,
        metrics: output.metrics,
        ..Default::default()
    })
}

fn last_part(text: &str) -> &str {
    text.rsplit(':').next().unwrap_or(text)
}

/// How many data without any field are believed. Data with fields are bounded by the bytes of their offsets.
const MOST_BARE_DATA: usize = 1 << 20;

fn read_record(
    record: proto::ArrayRecord,
    outputs: &mut Vec<BTreeMap<String, TensorData>>,
    most: usize,
) -> Result<()> {
    let stated = usize::try_from(record.num_datums)
        .map_err(|_| Error::decode(format!("a record of {} data", record.num_datums)))?;
    let n = match record.fields.values().next() {
        Some(field) if stated == 0 => (field.offsets.len() / 8).saturating_sub(1),
        Some(_) => stated,
        None if outputs.len().saturating_add(stated) <= MOST_BARE_DATA => stated,
        None => return Err(Error::decode(format!("a record of {stated} data without fields"))),
    };
    let first = outputs.len();
    if most < first.saturating_add(n) {
        let found = first.saturating_add(n);
        return Err(Error::decode(format!("the server sent {found} outputs for the {most} data")));
    }
    // Checked before anything is allocated for n data.
    for (name, field) in &record.fields {
        if n.checked_add(1).and_then(|it| it.checked_mul(8)) != Some(field.offsets.len()) {
            let problem = format!("{} bytes of offsets for {n} data", field.offsets.len());
            return Err(Error::decode(format!("output {name:?}: {problem}")));
        }
    }
    outputs.resize_with(first + n, BTreeMap::new);
    for (name, field) in record.fields {
        let tensors =
            split(&field).map_err(|it| Error::decode(format!("output {name:?}: {}", it.message())))?;
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
        .try_fold(1usize, |n, it| n.checked_mul(*it))
        .ok_or_else(|| Error::decode(format!("trailing dimensions {trailing:?} are too large")))?;
    let offsets = le::read_i64(&field.offsets)?;
    let one = |ends: &[i64]| {
        let range = usize::try_from(ends[0]).ok().zip(usize::try_from(ends[1]).ok());
        let bytes = range.and_then(|(from, to)| field.data.get(from..to)).ok_or_else(|| {
            Error::decode(format!("offsets {}..{} leave its {} bytes", ends[0], ends[1], field.data.len()))
        })?;
        let n = bytes.len() / size;
        let rows = n.checked_div(row).unwrap_or(0);
        if bytes.len() % size != 0 || rows * row != n {
            return Err(Error::decode(format!("{} bytes do not fill rows of {trailing:?}", bytes.len())));
        }
        let shape = std::iter::once(rows).chain(trailing.iter().copied()).collect();
        Ok(TensorData { values: tensor::read_values(field.dtype, bytes)?, shape: Some(shape), sparse: None })
    };
    // What the ranges hold together is bounded by the message only while they do not overlap.
    if offsets.windows(2).any(|it| it[1] < it[0]) {
        return Err(Error::decode("its offsets do not rise"));
    }
    offsets.windows(2).map(one).collect()
}

/// Reads an output that came as JSON, in whatever of its shapes (PROTOCOL §6.7).
pub(crate) fn forward_backward_output_from_json(value: &Value) -> Result<ForwardBackwardOutput> {
    let Some(object) = value.as_object() else {
        return Err(Error::decode("the output of a pass over data is no JSON object"));
    };
    if !json::is_result("ForwardBackward", value) {
        return Err(Error::decode("the output of a pass over data has neither outputs nor metrics"));
    }
    let mut outputs = Vec::new();
    for (i, datum) in list(object.get("loss_fn_outputs")).iter().enumerate() {
        let mut fields = BTreeMap::new();
        for (name, it) in datum.as_object().into_iter().flatten().filter(|it| !it.1.is_null()) {
            let path = format!("loss_fn_outputs[{i}][{name:?}]");
            fields.insert(name.clone(), read_json_tensor(it, &path)?);
        }
        outputs.push(fields);
    }
    let metrics = object.get("metrics").and_then(Value::as_object).into_iter().flatten();
    let kind = object.get("loss_fn_output_type").and_then(Value::as_str).unwrap_or_default();
    Ok(ForwardBackwardOutput {
        loss_fn_output_type: last_part(kind).into(),
        loss_fn_outputs: outputs,
        metrics: metrics.filter_map(|(name, it)| Some((name.clone(), it.as_f64()?))).collect(),
        ..Default::default()
    })
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// A tensor, or a bare list of numbers, or a single one.
fn read_json_tensor(value: &Value, path: &str) -> Result<TensorData> {
    let bare = |data| TensorJson { data, dtype: "float32".into(), ..TensorJson::default() };
    let unread = |it| Error::decode(format!("{path}: {it}"));
    let tensor = match value {
        Value::Array(_) => bare(Numbers::deserialize(value).map_err(unread)?),
        Value::Number(it) => bare(Numbers::Any(it.as_f64().into_iter().collect())),
        other => TensorJson::deserialize(other).map_err(unread)?,
    };
    tensor.read(path)
}

/// The JSON form of an output.
pub(crate) fn forward_backward_output_to_json(output: &ForwardBackwardOutput) -> Value {
    let datum = |it: &BTreeMap<String, TensorData>| -> BTreeMap<String, TensorJson> {
        it.iter().map(|(name, it)| (name.clone(), TensorJson::from(it))).collect()
    };
    let outputs: Vec<_> = output.loss_fn_outputs.iter().map(datum).collect();
    serde_json::json!({
        "loss_fn_output_type": output.loss_fn_output_type,
        "loss_fn_outputs": outputs,
        "metrics": output.metrics,
    })
}

pub(super) fn not_protobuf(error: prost::DecodeError) -> Error {
    Error::decode(format!("the bytes are not the protobuf message expected: {error}"))
}
