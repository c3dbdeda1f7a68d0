//! What a server knows of the weights in a checkpoint.

/// The base model and the adapter of a checkpoint (PROTOCOL §3.5 #35).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WeightsInfo {
    /// The base model's name.
    pub base_model: Option<String>,
    /// The optimizer that trained it, such as `adamw`.
    pub optimizer: String,
    /// Whether it is an adapter.
    pub is_lora: Option<bool>,
    /// The adapter's rank.
    pub lora_rank: Option<u32>,
    /// Whether the unembedding was trained.
    pub train_unembed: Option<bool>,
    /// Whether the feed-forward layers were trained.
    pub train_mlp: Option<bool>,
    /// Whether the attention layers were trained.
    pub train_attn: Option<bool>,
}
