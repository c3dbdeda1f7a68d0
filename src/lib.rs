//! tinkex: the blocking SDK for the Tinker fine-tuning API.

mod client;
mod config;
mod env;
mod error;
mod http;
mod pending;
mod policy;
mod secret;
mod session;
pub mod sync;
pub mod tokenizer;
pub mod types;
mod wire;

pub use client::{SamplingClient, SamplingSource, ServiceClient, ServiceClientBuilder, TrainingClient};
pub use config::Timeouts;
pub use error::{Category, Error, ErrorKind, Phase, Result, Sent, Violation};
pub use http::transport;
pub use pending::{Canceller, Pending, Stage, Status, wait_all};
pub use session::CloseStatus;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

#[cfg(feature = "local")]
pub mod local;
