//! From text to token ids and back.

mod bytes;

pub use bytes::Bytes;
