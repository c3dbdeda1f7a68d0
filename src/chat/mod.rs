//! Conversations: from messages to training examples and prompts, and from answers back to messages.
//!
//! A [`Renderer`] knows the format of a model. Three programs write these formats, and they do not agree everywhere: the
//! Tinker cookbook 0.6.1, the chat template that comes with the model, and tml-renderers 0.2.1. The renderers follow the
//! cookbook except in the rows of this table; [`RendererOptions::like_cookbook`] takes back those that are marked with *,
//! for runs that were begun in Python. Golden tests compare each token and each weight with all three.
//!
//! | where they differ | what is written, and why |
//! |---|---|
//! | markers in the text of a message | ordinary text: no message can end its turn or begin another one |
//! | `<think>…</think>` in a text | ordinary text; a thought is a [`Part::Thinking`] |
//! | JSON outside ASCII * | as it is, like the templates: the model never saw `\u00e9` |
//! | Qwen: results of parallel calls * | in one block, like the template |
//! | Qwen: thoughts before a call * | kept until the turn ends, like the template |
//! | Qwen3.5: declared tools * | as functions, like the template |
//! | DeepSeek: an answer without text * | ends with the end of the sentence, so that the model learns to stop |
//! | gpt-oss: thoughts, results, declared tools * | like the template: thoughts of earlier turns go, results are quoted |
//! | Kimi: calls and results without an id * | numbered, like the template |
//! | what the prompt gives of an answer, such as `<think>` * | never trained, in any mode that trains answers alone |
//! | an answer that thinks, after a prompt that says not to | refused |
//! | the mode [`TrainOnWhat::Customized`] in formats of several examples | an example for each answer that is trained |
//! | calls of tools in formats without them | refused, not left out |

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
mod roles;
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
pub use roles::foreign_role;
#[cfg(feature = "jinja")]
pub use template::{TemplateOptions, TemplateRenderer, ToolArguments};
pub use train_on_what::TrainOnWhat;
