//! Data sets: from files to training examples in batches.
//!
//! [`read_jsonl`] reads a file line by line; [`to_data`] makes training data of examples and reports what a limit of
//! length cuts; [`Batches`] decides their order.

mod batches;
mod conversation;
mod json;
mod jsonl;
mod message;
mod preference;
mod prepare;
mod sequence;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use batches::{Batch, Batches, EpochBatches, split_test};
pub use conversation::Conversation;
pub use jsonl::{Jsonl, Record, read_jsonl};
pub use preference::{Preference, Preferred};
pub use prepare::{Prepared, to_data};
pub use sequence::{PromptCompletion, Text, WeightedTokens};
