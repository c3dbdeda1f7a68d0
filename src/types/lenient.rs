//! How fields of records are read that servers write in more than one way.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::odd::or_absent;

/// Texts by name, none if there is something else. A value that is no text becomes its JSON.
pub(super) fn texts<'de, D: Deserializer<'de>>(input: D) -> Result<BTreeMap<String, String>, D::Error> {
    let map: BTreeMap<String, Value> = or_absent(input)?;
    let text = |value| match value {
        Value::String(it) => it,
        other => other.to_string(),
    };
    Ok(map.into_iter().map(|(name, value)| (name, text(value))).collect())
}

/// A count that may be written as a float, rounded to whole ones. Less than nothing is nothing.
pub(super) fn count<'de, D: Deserializer<'de>>(input: D) -> Result<u64, D::Error> {
    let number = serde_json::Number::deserialize(input)?;
    Ok(number.as_u64().unwrap_or_else(|| number.as_f64().unwrap_or_default().round() as u64))
}

/// As [`count`], of a field that may be missing; something else than a number counts as that.
pub(super) fn maybe_count<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u64>, D::Error> {
    let value = Value::deserialize(input)?;
    Ok(value.is_number().then(|| count(value).unwrap_or_default()))
}

/// An id that may be written as a number.
pub(super) fn id<'de, D: Deserializer<'de>>(input: D) -> Result<String, D::Error> {
    match Value::deserialize(input)? {
        Value::String(it) => Ok(it),
        Value::Number(it) => Ok(it.to_string()),
        other => Err(serde::de::Error::custom(format!("an id was expected, not {other}"))),
    }
}

/// Implements reading and writing of an enum of texts with a variant for those that this version does not know.
macro_rules! text_enum {
    ($name:ident { $($text:literal => $variant:ident),+ $(,)? }) => {
        impl $name {
            /// As servers write it.
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
