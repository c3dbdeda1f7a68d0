//! Conversations: from messages to training examples and prompts, and from answers back to messages.

mod answer;
mod assemble;
mod example;
mod failure;
mod families;
mod family;
mod json;
mod message;
mod pieces;
mod recommended;
mod renderer;
mod tags;
#[cfg(all(test, feature = "text"))]
mod tests;
mod train_on_what;

pub use answer::Termination;
pub use example::{Example, Reduction};
pub use failure::{ParseFailureKind, parse_failure};
pub(crate) use json::Pairs;
pub use message::{Image, Message, Part, ToolCall, ToolSpec, UnparsedToolCall};
pub use renderer::{Renderer, RendererOptions};
pub use train_on_what::TrainOnWhat;
