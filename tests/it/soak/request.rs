//! Decodes the requests of the soak. Each operation has a number, which the test puts into the content of the request
//! (as a token, a name or a learning rate). So the server knows the operation of each request.

use serde_json::Value;
use tinkex::testing::Seen;

/// A decoded request, with the fields that the server of the soak needs. `op` is the number of the operation.
#[derive(Debug)]
pub(super) enum Request {
    /// A training request with a sequence id.
    Train(Train),
    CreateModel {
        session: String,
        number: u64,
        op: u32,
    },
    GetInfo {
        op: u32,
    },
    CreateSampler {
        op: u32,
    },
    Sample(Sample),
    Retrieve {
        promise: String,
        allow_metadata: bool,
    },
    /// A request that belongs to no operation, such as a heartbeat.
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Train {
    pub(super) model: String,
    pub(super) seq_id: u64,
    pub(super) op: u32,
    /// Index of this part: the client splits the data of a large call into `n_parts` requests.
    pub(super) part: usize,
    pub(super) n_parts: usize,
    pub(super) kind: Kind,
}

/// Kind of a training request. `Step` is an optimizer step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Step,
    /// A checkpoint, with its name and the directory in its path.
    Save {
        name: String,
        directory: &'static str,
    },
    /// A pass with `n` data. `first` is the index of its first datum in the call.
    Pass {
        first: usize,
        n: usize,
    },
}

#[derive(Debug)]
pub(super) struct Sample {
    pub(super) sampler: String,
    pub(super) seq_id: u64,
    pub(super) op: u32,
    pub(super) n_samples: usize,
    pub(super) n_prompt: usize,
    pub(super) wants_logprobs: bool,
}

/// Maximum number of data in one request of a pass. The server sends it to the client as a flag.
pub(super) const CHUNK: usize = 4;

/// Name of the base model for an operation that creates a client.
pub(super) fn base_model(op: u32) -> String {
    format!("soak/{op}")
}

impl Request {
    /// Decodes a request. `None` if the soak does not send such a request.
    pub(super) fn read(seen: &Seen) -> Option<Self> {
        let name = seen.path.strip_prefix("/api/v1/")?;
        if matches!(name, "forward_backward" | "forward") {
            // Passes are protobuf. If the server refuses the first pass, the client may repeat it as JSON.
            let json = seen.json();
            return json.map_or_else(|| pass(&seen.body), |it| json_pass(&it)).map(Request::Train);
        }
        let known = [
            "optim_step",
            "save_weights",
            "save_weights_for_sampler",
            "create_model",
            "get_info",
            "create_sampling_session",
            "asample",
            "retrieve_future",
        ];
        if !known.contains(&name) {
            return Some(Request::Other);
        }
        let body = seen.json()?;
        let text = |key: &str| body[key].as_str().map(str::to_string);
        let number = |key: &str| body[key].as_u64();
        let base_op = || text("base_model")?.strip_prefix("soak/")?.parse().ok();
        let train = |op, kind| {
            let (model, seq_id) = (text("model_id")?, number("seq_id")?);
            Some(Request::Train(Train { model, seq_id, op, part: 0, n_parts: 1, kind }))
        };
        match name {
            "optim_step" => train(whole(&body["adam_params"]["learning_rate"])?, Kind::Step),
            "save_weights" => save(text("path")?, "weights").and_then(|(op, kind)| train(op, kind)),
            "save_weights_for_sampler" => {
                save(text("path")?, "sampler_weights").and_then(|(op, kind)| train(op, kind))
            }
            "create_model" => Some(Request::CreateModel {
                session: text("session_id")?,
                number: number("model_seq_id")?,
                op: base_op()?,
            }),
            "get_info" => {
                Some(Request::GetInfo { op: text("model_id")?.strip_prefix("model-")?.parse().ok()? })
            }
            "create_sampling_session" => Some(Request::CreateSampler { op: base_op()? }),
            "asample" => {
                let tokens = body["prompt"]["chunks"][0]["tokens"].as_array()?;
                Some(Request::Sample(Sample {
                    sampler: text("sampling_session_id")?,
                    seq_id: number("seq_id")?,
                    op: whole(tokens.first()?)?,
                    n_samples: usize::try_from(number("num_samples")?).ok()?,
                    n_prompt: tokens.len(),
                    wants_logprobs: body["prompt_logprobs"] == true,
                }))
            }
            _ => Some(Request::Retrieve {
                promise: text("request_id")?,
                allow_metadata: body["allow_metadata_only"] == true,
            }),
        }
    }

    /// Number of the request's operation, if the request contains it.
    pub(super) fn op(&self) -> Option<u32> {
        match self {
            Request::Train(Train { op, .. }) | Request::Sample(Sample { op, .. }) => Some(*op),
            Request::CreateModel { op, .. } | Request::GetInfo { op } | Request::CreateSampler { op } => {
                Some(*op)
            }
            Request::Retrieve { .. } | Request::Other => None,
        }
    }
}

/// Converts a JSON number to an integer. `None` if it has a fraction.
fn whole(number: &Value) -> Option<u32> {
    let number = number.as_f64()?;
    (number.fract() == 0.0).then_some(number as u32)
}

/// Decodes the name of a checkpoint: `op-17` for operation 17.
fn save(name: String, directory: &'static str) -> Option<(u32, Kind)> {
    let op = name.strip_prefix("op-")?.parse().ok()?;
    Some((op, Kind::Save { name, directory }))
}

/// Decodes a pass in protobuf. Each datum has three tokens: the number of the operation, the index of the datum in the
/// call, and the number of data in the call.
fn pass(body: &[u8]) -> Option<Train> {
    let (mut model, mut seq_id, mut data) = (None, None, Vec::new());
    for (field, value) in fields(body)? {
        match (field, value) {
            (1, Field::Bytes(it)) => model = Some(String::from_utf8(it.to_vec()).ok()?),
            (2, Field::Number(it)) => seq_id = Some(it),
            (3, Field::Bytes(it)) => data.push(tokens(it)?),
            _ => {}
        }
    }
    part_of_pass(model?, seq_id?, &data)
}

/// Decodes a pass in JSON.
fn json_pass(body: &Value) -> Option<Train> {
    let tokens = |datum: &Value| {
        let tokens = &datum["model_input"]["chunks"][0]["tokens"];
        let token = |i: usize| u32::try_from(tokens[i].as_u64()?).ok();
        Some([token(0)?, token(1)?, token(2)?])
    };
    let input = body.get("forward_backward_input").or(body.get("forward_input"))?;
    let data: Option<Vec<_>> = input["data"].as_array()?.iter().map(tokens).collect();
    part_of_pass(body["model_id"].as_str()?.to_string(), body["seq_id"].as_u64()?, &data?)
}

/// Makes a [`Train`] from the data of a request. `None` if the data are not consecutive or do not begin at a multiple
/// of [`CHUNK`].
fn part_of_pass(model: String, seq_id: u64, data: &[[u32; 3]]) -> Option<Train> {
    let [op, first, total] = *data.first()?;
    let (first, total) = (first as usize, total as usize);
    let in_order = data.iter().enumerate().all(|(i, it)| *it == [op, (first + i) as u32, total as u32]);
    let (part, n_parts) = (first / CHUNK, total.div_ceil(CHUNK));
    (in_order && first % CHUNK == 0).then_some(())?;
    let kind = Kind::Pass { first, n: data.len() };
    Some(Train { model, seq_id, op, part, n_parts, kind })
}

fn tokens(datum: &[u8]) -> Option<[u32; 3]> {
    let mut bytes = datum;
    // The tokens are nested: field 1 of the datum is the input, field 1 of the input a chunk, field 1 of the chunk the
    // tokens.
    for _ in 0..3 {
        bytes = fields(bytes)?.into_iter().find_map(|it| match it {
            (1, Field::Bytes(it)) => Some(it),
            _ => None,
        })?;
    }
    let mut words = bytes.chunks_exact(4).map(|it| u32::from_le_bytes([it[0], it[1], it[2], it[3]]));
    Some([words.next()?, words.next()?, words.next()?])
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Splits a protobuf message into its fields.
fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, Field<'_>)>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let value = match tag & 7 {
            0 => Field::Number(varint(&mut bytes)?),
            1 => Field::Bytes(take(&mut bytes, 8)?),
            2 => {
                let n = usize::try_from(varint(&mut bytes)?).ok()?;
                Field::Bytes(take(&mut bytes, n)?)
            }
            5 => Field::Bytes(take(&mut bytes, 4)?),
            _ => return None,
        };
        all.push((tag >> 3, value));
    }
    Some(all)
}

fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (head, tail) = bytes.split_at_checked(n)?;
    *bytes = tail;
    Some(head)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
