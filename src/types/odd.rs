//! How fields are read that nothing depends on: what a server writes there in a manner of its own counts as absent, so that it
//! does not spoil the rest of the message (PROTOCOL §11.1).

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// A value; the default if it is of another type or out of range.
pub(crate) fn or_absent<'de, D, T>(input: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned + Default,
{
    Ok(serde_json::from_value(Value::deserialize(input)?).unwrap_or_default())
}

/// The items of a list that can be read.
pub(crate) fn readable<'de, D, T>(input: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let items: Vec<Value> = or_absent(input)?;
    Ok(items.into_iter().filter_map(|it| serde_json::from_value(it).ok()).collect())
}

/// An id that may be written as a number, and may be missing.
pub(crate) fn maybe_id<'de, D: Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    Ok(text(Value::deserialize(input)?))
}

/// Ids that may be written as numbers, without what is none.
pub(crate) fn ids<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    let ids: Vec<Value> = or_absent(input)?;
    Ok(ids.into_iter().filter_map(text).collect())
}

/// Ids that may be written as numbers; none if one of them is no id, because their places count.
pub(crate) fn maybe_ids<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Vec<String>>, D::Error> {
    let ids: Option<Vec<Value>> = or_absent(input)?;
    Ok(ids.and_then(|it| it.into_iter().map(text).collect()))
}

fn text(id: Value) -> Option<String> {
    match id {
        Value::String(it) => Some(it),
        Value::Number(it) => Some(it.to_string()),
        _ => None,
    }
}
