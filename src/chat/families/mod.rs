//! The families of models, by the cookbook's names of their renderers.

mod llama3;
mod qwen3;
mod role_colon;

use std::sync::Arc;

use super::family::Family;
use super::renderer::RendererOptions;
use crate::error::{Error, Result};

/// Makes the family of a name.
type Make = fn(&RendererOptions) -> Result<Arc<dyn Family>>;

const FAMILIES: [(&str, Make); 6] = [
    ("llama3", |_| Ok(Arc::new(llama3::Llama3))),
    ("qwen2_5", |options| qwen3::Qwen3::make(qwen3::Variant::Qwen25, options)),
    ("qwen3", |options| qwen3::Qwen3::make(qwen3::Variant::Thinking, options)),
    ("qwen3_disable_thinking", |options| qwen3::Qwen3::make(qwen3::Variant::Disabled, options)),
    ("qwen3_instruct", |options| qwen3::Qwen3::make(qwen3::Variant::Instruct, options)),
    ("role_colon", |_| Ok(Arc::new(role_colon::RoleColon))),
];

pub(super) fn names() -> Vec<&'static str> {
    FAMILIES.iter().map(|(name, _)| *name).collect()
}

pub(super) fn by_name(name: &str, options: &RendererOptions) -> Result<(&'static str, Arc<dyn Family>)> {
    match FAMILIES.iter().find(|(known, _)| *known == name) {
        Some((known, make)) => Ok((known, make(options)?)),
        None => {
            let problem = format!("{name:?} is not the name of a renderer; known are {}", names().join(", "));
            Err(Error::invalid("renderer", problem))
        }
    }
}
