//! Base models of a server, and models in training.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Capabilities of a server.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ServerCapabilities {
    /// Base models in the server's order.
    pub supported_models: Vec<SupportedModel>,
}

/// A base model that a server offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SupportedModel {
    /// Name to pass as base model.
    pub model_name: Option<String>,
    /// Largest total length of input and answer in tokens.
    pub max_context_length: Option<u64>,
    /// The model can be trained.
    pub trainable: Option<bool>,
    /// The model can be sampled from.
    pub sampleable: Option<bool>,
}

/// Rank and layers of a LoRA adapter. End the literal with `..Default::default()`: a minor version may add fields.
///
/// # Example: a small adapter with a fixed seed
/// ```
/// use tinkex::types::LoraConfig;
///
/// let lora = LoraConfig { rank: 8, seed: Some(1), ..Default::default() };
/// assert!(lora.train_attn && lora.train_mlp && lora.train_unembed);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoraConfig {
    /// Rank. Some servers accept 0 for training the full model. Default 32.
    #[serde(default = "default_rank")]
    pub rank: u32,
    /// Seed of the adapter's initial values. `None`: the server chooses one. Default `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Trains the unembedding. Default true.
    #[serde(default = "default_true")]
    pub train_unembed: bool,
    /// Trains the feed-forward layers. Default true.
    #[serde(default = "default_true")]
    pub train_mlp: bool,
    /// Trains the attention layers. Default true.
    #[serde(default = "default_true")]
    pub train_attn: bool,
}

fn default_rank() -> u32 {
    32
}

fn default_true() -> bool {
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
        if self.train_attn || self.train_mlp || self.train_unembed {
            Ok(())
        } else {
            let problem = "at least one of train_attn, train_mlp and train_unembed must be true";
            Err(Error::invalid("lora_config", problem))
        }
    }
}

/// Facts about a model in training.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModelInfo {
    /// Id of the model.
    pub model_id: String,
    /// Name of the base model.
    pub base_model: Option<String>,
    /// Id of the tokenizer on the Hugging Face hub without a revision; with the embedded engine, the folder of a
    /// tokenizer on this machine.
    pub tokenizer_id: Option<String>,
    /// Architecture.
    pub arch: Option<String>,
    /// An adapter is trained, not the full model.
    pub is_lora: Option<bool>,
    /// Rank of the adapter.
    pub lora_rank: Option<u32>,
}
