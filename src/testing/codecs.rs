//! The codecs of the wire, for `benches/wire.rs`, `benches/fuzz.rs` and `tests/it/replay.rs`.
//!
//! Benches and integration tests are separate crates and can use only public items. These functions are public but
//! hidden, require the feature `testing`, and do not belong to the interface of the crate.

use bytes::Bytes;

use crate::error::Result;
use crate::types::{Datum, ForwardBackwardOutput, Loss};
use crate::wire::{json, messages, train};

/// Encodes the body of a `forward_backward` request as a training client does, on the caller's thread only.
///
/// # Errors
/// As for [`TrainingClient::forward_backward`](crate::TrainingClient::forward_backward).
pub fn encode_pass(model_id: &str, seq_id: u32, data: &[Datum], loss: &Loss) -> Result<Vec<u8>> {
    train::encode_forward_backward(model_id, seq_id, data, loss, false, false)
}

/// Encodes the body of a `load_weights` request that creates a model, without checking the path.
///
/// # Errors
/// None known.
pub fn encode_load(session_id: &str, model_seq_id: u64, path: &str, optimizer: bool) -> Result<Vec<u8>> {
    json::encode(&json::LoadWeightsRequest::create(session_id, model_seq_id, path, optimizer))
}

/// Encodes the result of a pass as a server does.
pub fn encode_pass_output(output: &ForwardBackwardOutput) -> Bytes {
    train::encode_forward_backward_output(output).into()
}

/// Decodes the result of a pass as a training client does.
///
/// # Errors
/// The bytes are not a valid result.
pub fn decode_pass_output(body: Bytes) -> Result<ForwardBackwardOutput> {
    train::decode_forward_backward_output(body)
}

/// Returns true if the bytes can be decoded.
pub type Decoder = fn(&[u8]) -> bool;

/// All decoders of the crate, with their names.
pub fn decoders() -> Vec<(&'static str, Decoder)> {
    messages::OTHERS.iter().chain(messages::JSON).map(|it| (it.name, it.decode)).collect()
}

/// An example message for each decoder of plain JSON.
pub fn examples() -> Vec<String> {
    // In the table `messages::JSON` a string that begins with `=` stands for itself without the `=`: remove the `=`.
    messages::JSON.iter().map(|it| it.example.replace("\"=", "\"")).collect()
}
