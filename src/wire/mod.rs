//! Encoding and decoding of all request and response bodies (PROTOCOL §3, §4, §5, §6). [`http`](crate::http) sends and
//! receives them.
//!
//! | module | content |
//! |---|---|
//! | `json` | the JSON messages |
//! | `proto` | the protobuf messages |
//! | `train`, `pass_json`, `sample` | conversion between messages and public types, for training passes and samples |
//! | `tensor`, `spans`, `le` | parts of these messages |
//! | `url` | paths and queries |
//! | `messages` | table of all messages, for tests and fuzzing |
//!
//! The client and the embedded engine share this module, so nearly every message can be both written and read.

// Without the engine, half of the code is unused: the client never reads requests and never writes responses.
#![cfg_attr(not(feature = "local"), allow(dead_code))]

pub(crate) mod json;
mod le;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod messages;
pub(crate) mod pass_json;
pub(crate) mod proto;
pub(crate) mod sample;
mod spans;
mod tensor;
pub(crate) mod train;
pub(crate) mod url;

#[cfg(test)]
#[allow(clippy::expect_used)]
mod golden;
#[cfg(test)]
#[allow(clippy::expect_used)]
mod properties;
#[cfg(test)]
#[allow(clippy::expect_used)]
mod properties_json;
#[cfg(test)]
#[allow(clippy::expect_used)]
mod vectors;
