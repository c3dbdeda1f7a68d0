//! Which renderer a model of the service was made for.

use std::sync::Arc;

use super::families;
use super::renderer::{Renderer, RendererOptions};
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// Beginnings and ends of names after `organisation/`, and the renderers for them, the first one recommended. The first
/// row that fits counts.
const MODELS: [(&str, &str, &str, &[&str]); 23] = [
    ("tinkex/", "", "", &["role_colon"]),
    ("meta-llama/", "Llama-3", "-Instruct", &["llama3"]),
    ("meta-llama/", "Llama-3", "", &["role_colon"]),
    ("Qwen/", "", "-Base", &["role_colon"]),
    ("Qwen/", "Qwen2.5-VL", "", &[]),
    ("Qwen/", "Qwen2.5", "-Instruct", &["qwen2_5"]),
    ("Qwen/", "Qwen3-VL", "-Instruct", &["qwen3_vl_instruct"]),
    ("Qwen/", "Qwen3-", "-Instruct-2507", &["qwen3_instruct"]),
    ("Qwen/", "Qwen3-", "", &["qwen3", "qwen3_disable_thinking"]),
    ("Qwen/", "Qwen3.5-", "", &["qwen3_5", "qwen3_5_disable_thinking"]),
    ("Qwen/", "Qwen3.6-", "", &["qwen3_5", "qwen3_5_disable_thinking"]),
    ("Qwen/", "Qwen3.8-", "", &["qwen3_8_xhigh_reasoning"]),
    ("deepseek-ai/", "DeepSeek-V3.1-Base", "", &["role_colon"]),
    ("deepseek-ai/", "DeepSeek-V3.1", "", &["deepseekv3", "deepseekv3_thinking"]),
    ("deepseek-ai/", "DeepSeek-V4.1", "", &["deepseekv4_1"]),
    ("openai/", "gpt-oss-", "", &["gpt_oss_no_sysprompt", "gpt_oss_medium_reasoning"]),
    ("moonshotai/", "Kimi-K2-Thinking", "", &["kimi_k2"]),
    ("moonshotai/", "Kimi-K2.5", "", &["kimi_k25", "kimi_k25_disable_thinking"]),
    ("moonshotai/", "Kimi-K2.6", "", &["kimi_k26"]),
    ("moonshotai/", "Kimi-K3.1-Pro", "", &["kimi_k31_pro_max"]),
    ("zai-org/", "GLM-5.3", "", &["glm5_3_max_reasoning"]),
    ("nvidia/", "NVIDIA-Nemotron-3", "", &["nemotron3"]),
    ("thinkingmachines/", "Inkling", "", &["tml_v0"]),
];

impl Renderer {
    /// The renderer that the cookbook recommends for a model. A suffix `:…` of the name is ignored.
    ///
    /// # Example: the renderer of the embedded engine's model
    /// ```
    /// use std::sync::Arc;
    ///
    /// use tinkex::chat::Renderer;
    /// use tinkex::tokenizer::ByteTokenizer;
    ///
    /// let renderer = Renderer::recommended("tinkex/nano", Arc::new(ByteTokenizer))?;
    /// assert_eq!(renderer.name(), "role_colon");
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidInput`: a model that is not known, a model whose renderer is not built in, or what [`Renderer::new`]
    /// refuses.
    pub fn recommended(model: &str, tokenizer: Arc<dyn Tokenizer>) -> Result<Self> {
        let name = Renderer::recommended_names(model)?[0];
        Renderer::with_options(name, tokenizer, &RendererOptions::default())
    }

    /// The names of the renderers that a model was made for, the recommended one first.
    ///
    /// # Errors
    /// `InvalidInput`: a model that is not known, or a model whose renderer is not built in.
    pub fn recommended_names(model: &str) -> Result<&'static [&'static str]> {
        let name = model.split(':').next().unwrap_or_default();
        let row = MODELS.iter().find(|(organisation, start, end, _)| {
            let name = name.strip_prefix(organisation);
            name.is_some_and(|name| name.starts_with(start) && name.ends_with(end))
        });
        let advice =
            "name a renderer, or use the chat template of the model (`TemplateRenderer`, feature `jinja`)";
        match row {
            Some((.., names)) if names.first().is_some_and(|name| families::is_known(name)) => Ok(names),
            Some((.., names)) => {
                let which = names.first().unwrap_or(&"none of the cookbook");
                let problem = format!("the renderer of {name:?} ({which}) is not built in; {advice}");
                Err(Error::invalid("model", problem))
            }
            None => Err(Error::invalid("model", format!("no renderer is known for {name:?}; {advice}"))),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn models_have_the_renderers_that_the_cookbook_recommends() {
        for (model, name) in [
            ("meta-llama/Llama-3.1-8B-Instruct", "llama3"),
            ("meta-llama/Llama-3.3-70B-Instruct", "llama3"),
            ("meta-llama/Llama-3.1-8B", "role_colon"),
            ("meta-llama/Llama-3.2-1B", "role_colon"),
            ("Qwen/Qwen3-8B-Base", "role_colon"),
            ("Qwen/Qwen3-8B", "qwen3"),
            ("Qwen/Qwen3-30B-A3B:peft", "qwen3"),
            ("Qwen/Qwen3-4B-Instruct-2507", "qwen3_instruct"),
            ("Qwen/Qwen3.5-4B", "qwen3_5"),
            ("Qwen/Qwen3.5-35B-A3B-Base", "role_colon"),
            ("Qwen/Qwen3.6-27B", "qwen3_5"),
            ("deepseek-ai/DeepSeek-V3.1", "deepseekv3"),
            ("deepseek-ai/DeepSeek-V3.1-Base", "role_colon"),
            ("openai/gpt-oss-20b", "gpt_oss_no_sysprompt"),
            ("moonshotai/Kimi-K2-Thinking", "kimi_k2"),
            ("moonshotai/Kimi-K2.5", "kimi_k25"),
            ("tinkex/nano", "role_colon"),
        ] {
            assert_eq!(Renderer::recommended_names(model).unwrap()[0], name, "{model}");
        }
    }

    #[test]
    fn models_without_a_renderer_have_an_error_that_says_what_to_do() {
        for (model, text) in [
            ("Qwen/Qwen3.8-27B", "(qwen3_8_xhigh_reasoning) is not built in; name a renderer"),
            ("thinkingmachines/Inkling", "tml_v0"),
            ("Qwen/Qwen2.5-VL-7B-Instruct", "is not built in"),
            ("gpt2", "no renderer is known"),
            ("Qwen/Qwen3", "no renderer is known"),
        ] {
            let error = Renderer::recommended_names(model).unwrap_err().to_string();
            assert!(error.starts_with("model: ") && error.contains(text), "{model}: {error}");
        }
    }
}
