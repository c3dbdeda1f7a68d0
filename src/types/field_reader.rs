//! Serde readers for two kinds of fields: fields that different servers write differently (an id as a string or as a
//! number), and inessential fields, in which an invalid value must not make the whole message unreadable (PROTOCOL
//! §11.1).

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Reads a value. A value of another type or out of range counts as absent and becomes the default.
pub(crate) fn or_absent<'de, D, T>(input: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned + Default,
{
    Ok(serde_json::from_value(Value::deserialize(input)?).unwrap_or_default())
}

/// Reads a list and skips the items that cannot be read.
pub(crate) fn readable<'de, D, T>(input: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let items: Vec<Value> = or_absent(input)?;
    Ok(items.into_iter().filter_map(|item| serde_json::from_value(item).ok()).collect())
}

/// Reads an id that is a string or a number. Any other value is an error.
pub(super) fn id<'de, D: Deserializer<'de>>(input: D) -> Result<String, D::Error> {
    match Value::deserialize(input)? {
        Value::String(id) => Ok(id),
        Value::Number(id) => Ok(id.to_string()),
        other => Err(serde::de::Error::custom(format!("expected an id, found {other}"))),
    }
}

/// Reads an id that is a string or a number. Any other value becomes `None`.
pub(crate) fn maybe_id<'de, D: Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    Ok(id_text(Value::deserialize(input)?))
}

/// Reads a list of string or number ids and skips other values.
pub(crate) fn ids<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    let ids: Vec<Value> = or_absent(input)?;
    Ok(ids.into_iter().filter_map(id_text).collect())
}

/// Reads a list of string or number ids. If it contains any other value, the whole list is `None`: skipping the value
/// would move the ids after it to wrong positions.
pub(crate) fn maybe_ids<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Vec<String>>, D::Error> {
    let ids: Option<Vec<Value>> = or_absent(input)?;
    Ok(ids.and_then(|ids| ids.into_iter().map(id_text).collect()))
}

/// Reads a map of strings. A value that is not a string becomes its JSON; a field that is not an object becomes an
/// empty map.
pub(super) fn texts<'de, D: Deserializer<'de>>(input: D) -> Result<BTreeMap<String, String>, D::Error> {
    let map: BTreeMap<String, Value> = or_absent(input)?;
    let text = |value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    Ok(map.into_iter().map(|(name, value)| (name, text(value))).collect())
}

/// Reads a count that may be written as a float; rounds to an integer. Negative values become 0.
pub(super) fn count<'de, D: Deserializer<'de>>(input: D) -> Result<u64, D::Error> {
    let number = serde_json::Number::deserialize(input)?;
    Ok(number.as_u64().unwrap_or_else(|| number.as_f64().unwrap_or_default().round() as u64))
}

/// As [`count`], for an optional field. A value that is not a number becomes `None`.
pub(super) fn maybe_count<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u64>, D::Error> {
    let value = Value::deserialize(input)?;
    Ok(value.is_number().then(|| count(value).unwrap_or_default()))
}

fn id_text(id: Value) -> Option<String> {
    match id {
        Value::String(id) => Some(id),
        Value::Number(id) => Some(id.to_string()),
        _ => None,
    }
}

/// Implements `as_str`, `Serialize` and `Deserialize` for an enum of strings with the variant `Other(String)` for
/// values that this version does not know.
macro_rules! text_enum {
    ($name:ident { $($text:literal => $variant:ident),+ $(,)? }) => {
        impl $name {
            /// The value on the wire.
            pub fn as_str(&self) -> &str {
                match self {
                    $($name::$variant => $text,)+
                    $name::Other(text) => text,
                }
            }

            fn read(text: &str) -> Self {
                match text {
                    $($text => $name::$variant,)+
                    other => $name::Other(other.into()),
                }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
                out.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
                Ok($name::read(&<String as serde::Deserialize>::deserialize(input)?))
            }
        }
    };
}
pub(super) use text_enum;
