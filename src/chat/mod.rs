//! Conversations: from messages to training examples and prompts, and from answers back to messages.

mod example;
mod message;

pub use example::{Example, Reduction};
pub use message::{Image, Message, Part, ToolCall, ToolSpec, UnparsedToolCall};
