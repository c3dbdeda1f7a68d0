//! The codecs of the wire, for `benches/wire.rs`, `benches/fuzz.rs` and `tests/it/replay.rs`.
//!
//! Benches and integration tests are crates of their own and see only what is public. These functions are public here, hidden and behind the
//! feature `testing`, so that the bytes need not be reached through a server, and are no part of the crate's interface.

use bytes::Bytes;

use crate::error::Result;
use crate::types::{Datum, ForwardBackwardOutput, Loss};
use crate::wire::{json, messages, train};

/// The body of a `forward_backward` request, as a training client writes it, on the caller's thread alone.
///
/// # Errors
/// As the verb's.
pub fn encode_pass(model_id: &str, seq_id: u32, data: &[Datum], loss: &Loss) -> Result<Vec<u8>> {
    train::encode_forward_backward(model_id, seq_id, data, loss, false, false)
}

/// The body of a `load_weights` request that makes a model, as it is written whatever the path.
///
/// # Errors
/// None that is known.
pub fn encode_load(session_id: &str, model_seq_id: u64, path: &str, optimizer: bool) -> Result<Vec<u8>> {
    json::encode(&json::LoadWeightsRequest::create(session_id, model_seq_id, path, optimizer))
}

/// The result of a pass over data, as a server writes it.
pub fn encode_pass_output(output: &ForwardBackwardOutput) -> Bytes {
    train::encode_forward_backward_output(output).into()
}

/// The result of a pass over data, as a training client reads it.
///
/// # Errors
/// Bytes that are no such result.
pub fn decode_pass_output(body: Bytes) -> Result<ForwardBackwardOutput> {
    train::decode_forward_backward_output(body)
}

/// Says whether bytes could be read.
pub type Decoder = fn(&[u8]) -> bool;

/// Every decoder of the crate: its name, and a function that says whether some bytes could be read.
pub fn decoders() -> Vec<(&'static str, Decoder)> {
    messages::OTHERS.iter().chain(messages::JSON).map(|it| (it.name, it.decode)).collect()
}

/// A message for each decoder of plain JSON.
pub fn examples() -> Vec<String> {
    // The sign of a text that stands for itself is the table's own.
    messages::JSON.iter().map(|it| it.example.replace("\"=", "\"")).collect()
}
