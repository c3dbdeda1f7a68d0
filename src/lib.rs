//! tinkex: the blocking SDK for the Tinker fine-tuning API.

#[cfg(feature = "local")]
pub mod local;
