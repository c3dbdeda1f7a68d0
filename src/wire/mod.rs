//! Encoding and decoding of every message on the network (PROTOCOL §3, §4, §5, §6). Transport is in [`http`](crate::http).
//!
//! The client and the embedded engine share this module, so each message can be both written and read.

// A build without the engine uses only the client's direction of each message.
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
