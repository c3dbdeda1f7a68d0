//! The shape of a model.

use super::rope::RopeScaling;

/// The shape of a decoder-only transformer of the Llama and Qwen families: RMSNorm before each block, rotary
/// positions, grouped-query attention and a gated MLP. Biases and norms of queries and keys are with the weights.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ModelConfig {
    /// Number of token ids; valid ids are 0 to `vocab − 1`.
    pub(crate) vocab: usize,
    /// Number of live ids. The untrained model gives almost no probability to ids from this number on, as a trained
    /// model does to the unused ids of its vocabulary.
    pub(crate) live_vocab: usize,
    /// Width of the residual stream.
    pub(crate) hidden: usize,
    /// Number of decoder layers.
    pub(crate) layers: usize,
    /// Number of query heads.
    pub(crate) heads: usize,
    /// Number of key and value heads; a divisor of `heads`.
    pub(crate) kv_heads: usize,
    /// Width of one head; an even number.
    pub(crate) head_dim: usize,
    /// Inner width of the MLP.
    pub(crate) mlp: usize,
    /// Base of the rotary frequencies.
    pub(crate) rope_theta: f64,
    /// How the rotary frequencies differ from those of the base.
    pub(crate) rope_scaling: RopeScaling,
    /// Added to the mean square in RMSNorm.
    pub(crate) norm_eps: f32,
    /// Longest sequence, prompt and answer together.
    pub(crate) max_len: usize,
    /// True if the embedding matrix is also the output head.
    pub(crate) tied_head: bool,
}

impl ModelConfig {
    /// `tinkex/nano`, with about a million parameters. Its token ids 0 to 255 are bytes, and 256 is the end of a
    /// sequence.
    pub(crate) fn nano() -> Self {
        ModelConfig {
            vocab: 512,
            live_vocab: 257,
            hidden: 128,
            layers: 4,
            heads: 4,
            kv_heads: 2,
            head_dim: 32,
            mlp: 384,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::None,
            norm_eps: 1e-5,
            max_len: 32_768,
            tied_head: false,
        }
    }

    /// Width of all query heads together.
    pub(crate) fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key heads together, and of all value heads.
    pub(crate) fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Width of queries, keys and values side by side.
    pub(crate) fn qkv_width(&self) -> usize {
        self.q_width() + 2 * self.kv_width()
    }

    /// Number of query heads that share one key head.
    pub(crate) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
}
