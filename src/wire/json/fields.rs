//! Serde helpers of the JSON messages, for fields whose JSON type differs between servers (PROTOCOL §11.1).

use serde::{Deserialize, Deserializer};
use serde_json::Value;

pub(super) use crate::types::field_reader::{ids, maybe_id, maybe_ids, or_absent, readable};

/// Removes object fields that are null, so that they count as absent. Replaces floats without a fraction by integers,
/// because both an integer field and a float field can read an integer.
pub(super) fn normalize(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(normalize);
        }
        Value::Array(items) => items.iter_mut().for_each(normalize),
        Value::Number(number) if number.is_f64() => {
            if let Some(whole) = number.as_f64().filter(|it| it.fract() == 0.0 && it.abs() < 2f64.powi(53)) {
                *value = Value::from(whole as i64);
            }
        }
        _ => {}
    }
}

/// Reads an id that is a string or a number.
pub(super) fn id<'de, D: Deserializer<'de>>(input: D) -> Result<String, D::Error> {
    match Value::deserialize(input)? {
        Value::String(id) => Ok(id),
        Value::Number(id) => Ok(id.to_string()),
        other => Err(serde::de::Error::custom(format!("expected an id, found {other}"))),
    }
}

/// Reads an `f32`. A number beyond its range becomes infinite, and the later validation then refuses it with the name
/// of the field.
pub(super) fn f32_or_infinite<'de, D: Deserializer<'de>>(input: D) -> Result<f32, D::Error> {
    f64::deserialize(input).map(|number| number as f32)
}

/// Implements `Deserialize` for a struct of flags. A flag that is missing, has a wrong type or is out of range gets its
/// default value. Unknown flags go into the field `more`.
macro_rules! read_flags {
    ($name:ident { $($flag:ident),+ }) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
                let mut given: Map<String, Value> = Map::deserialize(input)?;
                let default = $name::default();
                Ok($name {
                    $($flag: match given.remove(stringify!($flag)).map(serde_json::from_value) {
                        Some(Ok(flag)) => flag,
                        Some(Err(_)) | None => default.$flag,
                    },)+
                    more: given,
                })
            }
        }
    };
}
pub(super) use read_flags;
