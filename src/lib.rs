//! tinkex: the blocking SDK for the Tinker fine-tuning API.

mod error;
pub mod sync;
pub mod tokenizer;
pub mod types;
mod wire;

pub use error::{Category, Error, ErrorKind, Phase, Result, Sent, Violation};

#[cfg(feature = "local")]
pub mod local;
