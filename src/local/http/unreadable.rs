//! Requests of a model whose bodies cannot be read.
//!
//! Every request of a model has a sequence number, and a request runs only after all requests with lower numbers. If an
//! invalid request were refused, its number would be missing, and all later requests of the model would wait without
//! end. Therefore an invalid request is accepted if its model and its number can be read, and it fails when it is run.

use axum::response::Response;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use serde::Deserialize;

use crate::error::Error;

use super::super::state::State;
use super::{reply, unreadable};

/// Answers a request with an invalid body. `ids` are its model and its number, if they can be read.
pub(super) fn answer(state: &State, error: &Error, ids: Option<(String, u64)>, fingerprint: u64) -> Response {
    match ids {
        Some((model_id, seq_id)) => {
            let error = format!("the request cannot be read: {}", error.message());
            reply(state.submit_unreadable((&model_id, seq_id), fingerprint, error))
        }
        None => unreadable(error),
    }
}

/// Model and number of a request. All other fields of the body are skipped.
#[derive(Deserialize)]
struct RequestIds {
    model_id: String,
    seq_id: u64,
}

/// Model and number in a JSON body; `None` if one of them is missing or cannot be read. Requests that do not belong to
/// a model lack one of them.
pub(super) fn ids_in_json(body: &[u8]) -> Option<(String, u64)> {
    let ids: RequestIds = serde_json::from_slice(body).ok()?;
    Some((ids.model_id, ids.seq_id)).filter(|it| 0 < it.1)
}

/// Model and number in the protobuf body of a pass. They precede the data, so they can be read even if the data are
/// invalid.
pub(super) fn ids_in_protobuf(mut body: &[u8]) -> Option<(String, u64)> {
    let (mut model_id, mut seq_id) = (None, None);
    while model_id.is_none() || seq_id.is_none() {
        match decode_key(&mut body).ok()? {
            (1, WireType::LengthDelimited) => {
                let length = usize::try_from(decode_varint(&mut body).ok()?).ok()?;
                let (text, rest) = body.split_at_checked(length)?;
                (model_id, body) = (Some(std::str::from_utf8(text).ok()?.to_string()), rest);
            }
            (2, WireType::Varint) => seq_id = Some(decode_varint(&mut body).ok()?),
            (tag, wire_type) => skip_field(wire_type, tag, &mut body, DecodeContext::default()).ok()?,
        }
    }
    model_id.zip(seq_id).filter(|it| (1..=i32::MAX as u64).contains(&it.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_and_number_are_read_from_bodies_that_are_invalid_elsewhere() {
        let of = |text: &str| ids_in_json(text.as_bytes());
        let ids = Some(("m".to_string(), 7));
        assert_eq!(of(r#"{"model_id":"m","seq_id":7,"adam_params":{"eps":"x"}}"#), ids);
        for text in [
            r#"{"model_id":"m","seq_id":7,"adam_params":{"#,
            r#"{"model_id":"m","seq_id":0}"#,
            r#"{"model_id":"m","seq_id":-7}"#,
            r#"{"model_id":"m"}"#,
            r#"{"seq_id":7}"#,
            "[]",
            "",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
        assert_eq!(ids_in_protobuf(&[0x0a, 1, b'm', 0x10, 7, 0x1a, 99]), ids);
        assert_eq!(ids_in_protobuf(&[0x3a, 1, 0, 0x10, 7, 0x0a, 1, b'm']), ids);
        for bytes in
            [&[0x0a, 1, b'm', 0x10, 0][..], &[0x0a, 9, b'm'], &[0x0a, 1, 0xff, 0x10, 7], &[], &[0xff]]
        {
            assert_eq!(ids_in_protobuf(bytes), None, "{bytes:?}");
        }
    }
}
