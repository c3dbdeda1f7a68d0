//! Renderers against the cookbook, the models' own templates and the renderers of Thinking Machines.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod answers;
mod broken;
mod exceptions;
mod fixtures;
mod golden;
mod gpt_oss;
mod kimi;
mod properties;
mod qwen2_5;
#[cfg(feature = "jinja")]
mod template;
mod unparsed;
