//! Bytes ↔ types.
