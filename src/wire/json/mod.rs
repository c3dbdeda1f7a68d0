//! The JSON bodies (PROTOCOL §3, §4), named after their endpoints.
//!
//! Absent values are left out, defaults are written (§1.9). Answers are read leniently with [`response`]: unknown
//! fields, nulls, integers written as floats, and nearly every field missing are all fine (§11.1).

mod data;
mod future;
mod handle;
mod loss;
mod rest;
mod sample;
mod session;
mod train;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::error::{Error, Result, words};

pub(crate) use crate::credentials::Secret;
pub(crate) use data::*;
pub(crate) use future::*;
pub(crate) use handle::*;
pub(crate) use loss::*;
pub(crate) use rest::*;
pub(crate) use sample::*;
pub(crate) use session::*;
pub(crate) use train::*;

/// Writes a body.
pub(crate) fn encode(body: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(body).map_err(|it| Error::invalid("body", format!("cannot be written as JSON: {it}")))
}

/// Reads a body that a client sent.
pub(crate) fn request<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|it| Error::decode(format!("the JSON body: {it}")))
}

/// Reads a body that a server sent.
pub(crate) fn response<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    let read = serde_json::from_slice(body).map_err(unexpected).and_then(response_value);
    read.map_err(|it| it.adding(&format!("; it begins with {}", words::excerpt(body))))
}

/// Reads a body that a server sent, parsed already.
pub(crate) fn response_value<T: DeserializeOwned>(mut value: Value) -> Result<T> {
    normalize(&mut value);
    serde_json::from_value(value).map_err(unexpected)
}

fn unexpected(error: serde_json::Error) -> Error {
    Error::decode(format!("the server's JSON is not what was expected: {error}"))
}

/// Drops nulls in objects, so that they count as absent, and writes whole floats as integers, which every field of
/// numbers can read.
fn normalize(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, it| !it.is_null());
            fields.values_mut().for_each(normalize);
        }
        Value::Array(items) => items.iter_mut().for_each(normalize),
        Value::Number(number) if number.is_f64() => {
            if let Some(it) = number.as_f64().filter(|it| it.fract() == 0.0 && it.abs() < 2f64.powi(53)) {
                *value = Value::from(it as i64);
            }
        }
        _ => {}
    }
}

/// An id that may arrive as a text or as a number.
fn id<'de, D: Deserializer<'de>>(input: D) -> Result<String, D::Error> {
    match Value::deserialize(input)? {
        Value::String(it) => Ok(it),
        Value::Number(it) => Ok(it.to_string()),
        other => Err(serde::de::Error::custom(format!("an id was expected, not {other}"))),
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests;
