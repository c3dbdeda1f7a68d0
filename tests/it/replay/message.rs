//! Decodes the body of a request, JSON or protobuf, to a JSON value. The order of JSON fields and of protobuf map
//! entries does not change the value.
//!
//! Protobuf is decoded generically by field numbers. The crate's own decoder would skip unknown fields and so hide a
//! field that only one of the two clients writes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use tinkex::testing::Seen;

/// Type of a protobuf field, which decides how it is compared.
#[derive(Clone, Copy)]
enum Field {
    /// A scalar, a string, or a message whose fields are not listed here; repeated values keep their order.
    Plain,
    /// A map; its entries are sorted before the comparison, because maps have no order.
    Map,
    /// A message with these fields: number, name and type.
    Message(&'static [(u64, &'static str, Field)]),
}

const DATUM: &[(u64, &str, Field)] = &[(1, "model_input", Field::Plain), (2, "loss_fn_inputs", Field::Map)];

/// Fields of the message `ForwardBackwardRequest` (PROTOCOL §5).
const PASS: &[(u64, &str, Field)] = &[
    (1, "model_id", Field::Plain),
    (2, "seq_id", Field::Plain),
    (3, "data", Field::Message(DATUM)),
    (4, "loss_fn", Field::Plain),
    (5, "loss_fn_config", Field::Map),
    (6, "forward_only", Field::Plain),
    (7, "loss_fn_config_v2", Field::Map),
];

/// Decodes a body of the given content type. A protobuf field becomes the list of its values in the message.
pub(crate) fn read(content_type: Option<&str>, body: &[u8]) -> Value {
    match content_type {
        Some("application/x-protobuf") => tree(body, PASS),
        _ if body.is_empty() => Value::Null,
        _ => serde_json::from_slice(body).unwrap_or_else(|it| panic!("{it}: {body:?}")),
    }
}

/// Decodes the message of a request, whose body may be compressed.
pub(crate) fn of(seen: &Seen) -> Value {
    let content_type = seen.header("content-type");
    match seen.header("content-encoding") {
        #[cfg(feature = "zstd")]
        Some("zstd") => read(content_type, &zstd::stream::decode_all(&seen.body[..]).unwrap()),
        None => read(content_type, &seen.body),
        Some(other) => panic!("a body in {other}"),
    }
}

/// Sets a field of a message to a number.
pub(crate) fn put(message: &mut Value, field: &str, number: u64) {
    let old = &mut message[field];
    *old = if old.is_array() { json!([number]) } else { json!(number) };
}

/// Lists the differences of two messages: the field, our value, the recorded value.
pub(crate) fn differences(ours: &Value, recorded: &Value) -> Vec<(String, Value, Value)> {
    let (Some(a), Some(b)) = (ours.as_object(), recorded.as_object()) else {
        let whole = || ("message".to_string(), ours.clone(), recorded.clone());
        return (ours != recorded).then(whole).into_iter().collect();
    };
    let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
    names.sort();
    names.dedup();
    let differ = |name: &&String| a.get(*name) != b.get(*name);
    let field =
        |name: &String| (format!("{name} of the message"), ours[name].clone(), recorded[name].clone());
    names.into_iter().filter(differ).map(field).collect()
}

/// Reads the number in a field of a message.
pub(crate) fn number(message: &Value, field: &str) -> Option<u64> {
    let value = &message[field];
    value.get(0).unwrap_or(value).as_u64()
}

fn tree(mut body: &[u8], fields: &[(u64, &str, Field)]) -> Value {
    let mut all: Map<String, Value> = Map::new();
    while !body.is_empty() {
        let key = varint(&mut body);
        let known = fields.iter().find(|it| it.0 == key >> 3);
        let how = known.map_or(Field::Plain, |it| it.2);
        let value = match key & 7 {
            0 => json!(varint(&mut body)),
            1 => json!(STANDARD.encode(take(&mut body, 8))),
            5 => json!(STANDARD.encode(take(&mut body, 4))),
            2 => {
                let length = varint(&mut body).try_into().unwrap();
                let bytes = take(&mut body, length);
                match (how, std::str::from_utf8(bytes)) {
                    (Field::Message(fields), _) => tree(bytes, fields),
                    (Field::Plain, Ok(text)) => json!(text),
                    _ => json!(STANDARD.encode(bytes)),
                }
            }
            other => panic!("{other} is not a valid protobuf wire type"),
        };
        let name = known.map_or_else(|| format!("field {}", key >> 3), |it| it.1.to_string());
        let values = all.entry(name).or_insert_with(|| json!([])).as_array_mut().unwrap();
        values.push(value);
        if let Field::Map = how {
            values.sort_by_key(|it| it.to_string());
        }
    }
    Value::Object(all)
}

fn take<'a>(body: &mut &'a [u8], n: usize) -> &'a [u8] {
    let (taken, rest) = body.split_at(n);
    *body = rest;
    taken
}

fn varint(body: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(body, 1)[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return value;
        }
    }
    panic!("a protobuf varint is longer than 10 bytes")
}
