//! The JSON bodies (PROTOCOL §3, §4). Types are named after their endpoints: `optim_step` has `OptimStepRequest` and
//! `OptimStepResponse`.
//!
//! When a message is written, fields without a value are left out, and fields with a default value are included
//! (PROTOCOL §1.9). When a response is read ([`response`]), unknown fields and nulls are ignored, floats without a
//! fraction count as integers, and most fields may be missing (PROTOCOL §11.1).

mod fields;
mod future;
mod handle;
mod loss;
mod model_input;
mod place;
mod rest;
mod sample;
mod session;
mod train;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result, words};

pub(crate) use crate::credentials::Secret;

use fields::normalize;
pub(crate) use future::*;
pub(crate) use handle::*;
pub(crate) use loss::*;
pub(crate) use model_input::*;
pub(crate) use rest::*;
pub(crate) use sample::*;
pub(crate) use session::*;
pub(crate) use train::*;

/// Writes a body.
pub(crate) fn encode(body: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(body)
        .map_err(|error| Error::invalid("body", format!("cannot be written as JSON: {error}")))
}

/// Reads a body that a client sent.
pub(crate) fn request<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|error: serde_json::Error| {
        // A syntax error is told by its position.
        let path =
            if error.is_data() { place::path(body, error.line(), error.column()) } else { String::new() };
        let place = if path.is_empty() { path } else { format!("{path}: ") };
        Error::decode(format!("the JSON body cannot be read: {place}{error}"))
    })
}

/// Reads a body that a server sent.
pub(crate) fn response<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_value(parse(body)?).map_err(|error| unexpected_in(body, error))
}

/// Parses a body that a server sent. In the result, objects have no null fields, and floats without a fraction are
/// integers.
pub(crate) fn parse(body: &[u8]) -> Result<Value> {
    let mut value = serde_json::from_slice(body).map_err(|error| unexpected_in(body, error))?;
    normalize(&mut value);
    Ok(value)
}

/// Reads JSON that was embedded in another message, as tolerantly as [`response`].
pub(crate) fn response_value<T: DeserializeOwned>(mut value: Value) -> Result<T> {
    normalize(&mut value);
    serde_json::from_value(value).map_err(unexpected)
}

fn unexpected(error: serde_json::Error) -> Error {
    Error::decode(format!("the server's JSON does not have the expected form: {error}"))
}

fn unexpected_in(body: &[u8], error: serde_json::Error) -> Error {
    unexpected(error).adding(&format!("; it begins with {}", words::excerpt(body)))
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests;
