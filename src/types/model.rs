//! Models: what a server offers, and what is being trained.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What a server offers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerCapabilities {
    /// The base models, in the server's order.
    pub supported_models: Vec<SupportedModel>,
}

/// A base model that a server offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SupportedModel {
    /// Its name, to be given as base model.
    pub model_name: Option<String>,
    /// The longest input and answer together, in tokens.
    pub max_context_length: Option<u64>,
    /// Whether it can be trained.
    pub trainable: Option<bool>,
    /// Whether it can be sampled from.
    pub sampleable: Option<bool>,
}

/// The shape of a LoRA adapter.
///
/// # Example: a small adapter with a fixed start
/// ```
/// use tinkex::types::LoraConfig;
///
/// let lora = LoraConfig { rank: 8, seed: Some(1), ..Default::default() };
/// assert!(lora.train_attn && lora.train_mlp && lora.train_unembed);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoraConfig {
    /// The rank. Some servers take 0 for a model that is trained as a whole. Default 32.
    #[serde(default = "default_rank")]
    pub rank: u32,
    /// The seed of the adapter's first values; without one the server draws it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Train the unembedding. Default true.
    #[serde(default = "yes")]
    pub train_unembed: bool,
    /// Train the feed-forward layers. Default true.
    #[serde(default = "yes")]
    pub train_mlp: bool,
    /// Train the attention layers. Default true.
    #[serde(default = "yes")]
    pub train_attn: bool,
}

fn default_rank() -> u32 {
    32
}

fn yes() -> bool {
    true
}

impl Default for LoraConfig {
    fn default() -> Self {
        LoraConfig {
            rank: default_rank(),
            seed: None,
            train_unembed: true,
            train_mlp: true,
            train_attn: true,
        }
    }
}

impl LoraConfig {
    pub(crate) fn validate(&self) -> Result<()> {
        match self.train_attn || self.train_mlp || self.train_unembed {
            true => Ok(()),
            false => {
                let problem = "at least one of train_attn, train_mlp and train_unembed must be true";
                Err(Error::invalid("lora_config", problem))
            }
        }
    }
}

/// What the server knows of a model that is being trained.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelInfo {
    /// The model's id.
    pub model_id: String,
    /// The base model's name.
    pub base_model: Option<String>,
    /// The id of the tokenizer on the Hugging Face hub, without a revision; or the folder of a tokenizer on this machine,
    /// as the embedded engine names it.
    pub tokenizer_id: Option<String>,
    /// The architecture.
    pub arch: Option<String>,
    /// Whether an adapter is trained.
    pub is_lora: Option<bool>,
    /// The adapter's rank.
    pub lora_rank: Option<u32>,
}
