//! The families of models, by the cookbook's names of their renderers.

mod deepseek_v3;
mod gpt_oss;
mod gpt_oss_tools;
mod kimi_k2;
mod kimi_typescript;
mod llama3;
mod qwen3;
mod qwen3_5;
mod role_colon;

use std::sync::Arc;

use super::family::Family;
use super::renderer::RendererOptions;
use crate::error::{Error, Result};

/// Makes the family of a name.
type Make = fn(&RendererOptions) -> Result<Arc<dyn Family>>;

const FAMILIES: [(&str, Make); 17] = [
    ("deepseekv3", |options| deepseek_v3::DeepSeekV3::make(false, options)),
    ("deepseekv3_thinking", |options| deepseek_v3::DeepSeekV3::make(true, options)),
    ("gpt_oss_high_reasoning", |options| gpt_oss::GptOss::make(Some("high"), options)),
    ("gpt_oss_low_reasoning", |options| gpt_oss::GptOss::make(Some("low"), options)),
    ("gpt_oss_medium_reasoning", |options| gpt_oss::GptOss::make(Some("medium"), options)),
    ("gpt_oss_no_sysprompt", |options| gpt_oss::GptOss::make(None, options)),
    ("kimi_k2", |options| kimi_k2::Kimi::make(kimi_k2::Variant::K2, options)),
    ("kimi_k25", |options| kimi_k2::Kimi::make(kimi_k2::Variant::K25, options)),
    ("kimi_k25_disable_thinking", |options| kimi_k2::Kimi::make(kimi_k2::Variant::K25Disabled, options)),
    ("llama3", |_| Ok(Arc::new(llama3::Llama3))),
    ("qwen2_5", |options| qwen3::Qwen3::make(qwen3::Variant::Qwen25, options)),
    ("qwen3", |options| qwen3::Qwen3::make(qwen3::Variant::Thinking, options)),
    ("qwen3_5", |options| qwen3_5::Qwen35::make(true, options)),
    ("qwen3_5_disable_thinking", |options| qwen3_5::Qwen35::make(false, options)),
    ("qwen3_disable_thinking", |options| qwen3::Qwen3::make(qwen3::Variant::Disabled, options)),
    ("qwen3_instruct", |options| qwen3::Qwen3::make(qwen3::Variant::Instruct, options)),
    ("role_colon", |_| Ok(Arc::new(role_colon::RoleColon))),
];

pub(super) fn names() -> Vec<&'static str> {
    FAMILIES.iter().map(|(name, _)| *name).collect()
}

pub(super) fn is_known(name: &str) -> bool {
    FAMILIES.iter().any(|(known, _)| *known == name)
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
