//! Recommended learning rates, and the size of adapters.

use super::known_models::{base_name, known_model};
use crate::error::{Error, Result};
use crate::types::LoraConfig;

/// Learning rate of full fine-tuning for a hidden size of [`BASE_HIDDEN_SIZE`].
const BASE: f64 = 5e-5;
const BASE_HIDDEN_SIZE: f64 = 2000.0;
/// An adapter learns with a rate so many times that of full fine-tuning.
const LORA_FACTOR: f64 = 10.0;

/// The recommended peak learning rate to train an adapter (LoRA) of a model with Adam:
/// `5e-5 · 10 · (2000 / hidden_size)^p`, where `p` is 0.781 for Llama and 0.0775 for Qwen models. It depends neither on
/// the rank nor on the loss; a suffix of the name after a colon has no effect.
///
/// The hidden sizes of the models of the Tinker service are built in; for others see
/// [`recommended_lr_for_hidden_size`].
///
/// # Errors
/// `InvalidInput` for models other than Llama and Qwen, for which `p` has not been measured, and for models whose hidden
/// size is not known.
///
/// # Example: the rate for a model, and Adam with it
/// ```
/// use tinkex::train::recommended_lr;
/// use tinkex::types::AdamParams;
///
/// let learning_rate = recommended_lr("Qwen/Qwen3-8B")?;
/// assert!((learning_rate - 4.73e-4).abs() < 1e-6);
/// let adam = AdamParams { learning_rate, ..Default::default() };
/// assert!(recommended_lr("openai/gpt-oss-20b").is_err());
/// # Ok::<(), tinkex::Error>(())
/// ```
pub fn recommended_lr(model: &str) -> Result<f64> {
    // First the family: for another one, the hidden size would not help.
    exponent(model)?;
    match known_model(model) {
        Some(known) => recommended_lr_for_hidden_size(model, known.hidden_size),
        None => {
            let problem = format!(
                "the hidden size of {model:?} is not known; pass `hidden_size` of its config.json to \
                 `recommended_lr_for_hidden_size`"
            );
            Err(Error::invalid("model", problem))
        }
    }
}

/// As [`recommended_lr`], for a model whose hidden size is not built in. It stands as `hidden_size` in the model's
/// `config.json`.
///
/// # Errors
/// `InvalidInput` for models other than Llama and Qwen, and for the size 0.
///
/// # Example: a small Qwen model
/// ```
/// let learning_rate = tinkex::train::recommended_lr_for_hidden_size("Qwen/Qwen3-0.6B", 1024)?;
/// assert!((learning_rate - 5.27e-4).abs() < 1e-6);
/// # Ok::<(), tinkex::Error>(())
/// ```
pub fn recommended_lr_for_hidden_size(model: &str, hidden_size: u32) -> Result<f64> {
    let exponent = exponent(model)?;
    if hidden_size == 0 {
        return Err(Error::invalid("hidden_size", "is 0"));
    }
    Ok(BASE * LORA_FACTOR * (BASE_HIDDEN_SIZE / f64::from(hidden_size)).powf(exponent))
}

/// Number of parameters of an adapter (LoRA) in the parts of the model that the configuration trains.
///
/// In mixtures of experts, all experts of a layer share the factor at the model's hidden dimension.
///
/// # Errors
/// `InvalidInput` for models that the Tinker service does not serve, and if no part is trained.
///
/// # Example: the default adapter of Qwen3-8B
/// ```
/// use tinkex::types::LoraConfig;
///
/// let n = tinkex::train::lora_param_count("Qwen/Qwen3-8B", &LoraConfig { rank: 32, ..Default::default() })?;
/// assert_eq!(n, 32 * (1_769_472 + 958_464 + 156_032));
/// # Ok::<(), tinkex::Error>(())
/// ```
pub fn lora_param_count(model: &str, config: &LoraConfig) -> Result<u64> {
    let Some(known) = known_model(model) else {
        return Err(Error::invalid("model", format!("the size of adapters of {model:?} is not known")));
    };
    let parts = [
        (config.train_mlp, known.mlp),
        (config.train_attn, known.attn),
        (config.train_unembed, known.unembed),
    ];
    let per_rank: u64 = parts.iter().filter(|part| part.0).map(|part| part.1).sum();
    if per_rank == 0 {
        return Err(Error::invalid("config", "trains none of MLP, attention and unembedding"));
    }
    Ok(per_rank * u64::from(config.rank))
}

/// The exponent of the hidden size for the family of a model.
fn exponent(model: &str) -> Result<f64> {
    let name = base_name(model).to_lowercase();
    if name.contains("llama") {
        Ok(0.781)
    } else if name.contains("qwen") {
        Ok(0.0775)
    } else {
        let problem = format!(
            "there is a formula for Llama and Qwen models only, not for {model:?}; choose a learning rate by a sweep"
        );
        Err(Error::invalid("model", problem))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_rates_are_those_of_the_cookbook() {
        for (model, expected) in [
            ("Qwen/Qwen3-8B", 4.729791e-4),
            ("Qwen/Qwen3-8B:peft:262144", 4.729791e-4),
            ("Qwen/Qwen3-30B-A3B", 4.990818e-4),
            ("Qwen/Qwen3-32B", 4.648699e-4),
            ("Qwen/Qwen3.5-4B", 4.905251e-4),
            ("meta-llama/Llama-3.2-1B", 4.908239e-4),
            ("meta-llama/Llama-3.1-8B", 2.856415e-4),
            ("meta-llama/Llama-3.1-70B", 1.662329e-4),
        ] {
            let found = recommended_lr(model).unwrap();
            assert!((found - expected).abs() < 5e-11, "{model}: {found:e}");
        }
    }

    #[test]
    fn other_families_and_unknown_sizes_are_refused_with_the_way_out() {
        let problem = |model| recommended_lr(model).unwrap_err().violation().unwrap().problem.clone();
        for model in ["openai/gpt-oss-20b", "deepseek-ai/DeepSeek-V3.1", "thinkingmachines/Inkling", ""] {
            assert!(problem(model).contains("Llama and Qwen"), "{model}: {}", problem(model));
        }
        assert!(problem("Qwen/Qwen9-1B").contains("recommended_lr_for_hidden_size"));
        let error = recommended_lr_for_hidden_size("Qwen/Qwen9-1B", 0).unwrap_err();
        assert_eq!(error.violation().unwrap().path, "hidden_size");
    }

    #[test]
    fn an_adapter_has_the_parameters_of_its_parts() {
        let count = |model, train_mlp, train_attn, train_unembed| {
            let config = LoraConfig { rank: 2, train_mlp, train_attn, train_unembed, ..Default::default() };
            lora_param_count(model, &config)
        };
        assert_eq!(count("Qwen/Qwen3-8B", true, true, true).unwrap(), 2 * (1_769_472 + 958_464 + 156_032));
        assert_eq!(count("Qwen/Qwen3-8B", false, true, false).unwrap(), 2 * 958_464);
        // Derived by hand: 36 layers, of 3 matrices between 4096 and 12288, and an unembedding of 151936 rows.
        assert_eq!(count("Qwen/Qwen3-8B", true, false, false).unwrap(), 2 * 36 * 3 * (4096 + 12288));
        assert_eq!(count("Qwen/Qwen3-8B", false, false, true).unwrap(), 2 * (4096 + 151_936));
        let path = |result: Result<u64>| result.unwrap_err().violation().unwrap().path.clone();
        assert_eq!(path(count("Qwen/Qwen3-8B", false, false, false)), "config");
        assert_eq!(path(count("tinkex/nano", true, true, true)), "model");
    }
}
