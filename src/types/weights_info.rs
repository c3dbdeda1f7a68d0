//! Weights of a checkpoint as servers describe them.

/// Base model and adapter of a checkpoint (PROTOCOL §3.5 #35).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WeightsInfo {
    /// Name of the base model.
    pub base_model: Option<String>,
    /// Optimizer that trained the weights, such as `adamw`.
    pub optimizer: String,
    /// The weights are those of an adapter.
    pub is_lora: Option<bool>,
    /// Rank of the adapter.
    pub lora_rank: Option<u32>,
    /// The unembedding was trained.
    pub train_unembed: Option<bool>,
    /// The feed-forward layers were trained.
    pub train_mlp: Option<bool>,
    /// The attention layers were trained.
    pub train_attn: Option<bool>,
}
