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
mod renderer;
mod show;
mod tags;
#[cfg(feature = "jinja")]
mod template;
#[cfg(all(test, feature = "text"))]
mod tests;
mod train_on_what;

pub use answer::Termination;
pub use example::{Example, Reduction};
pub use failure::{ParseFailureKind, parse_failure};
pub(crate) use json::Pairs;
pub use message::{Image, Message, Part, ToolCall, ToolSpec, UnparsedToolCall};
pub use renderer::{Renderer, RendererOptions};
#[cfg(feature = "jinja")]
pub use template::{TemplateOptions, TemplateRenderer, ToolArguments};
pub use train_on_what::TrainOnWhat;
