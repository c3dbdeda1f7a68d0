//! The frozen weights of the base model.

use super::config::ModelConfig;
use super::head_norm::HeadNorm;
use super::matrix::Stack;
use super::rng::Rng;
use super::rope::Rope;

/// The frozen weights of one model, matrices row-major as `[outputs, inputs]`.
#[derive(Debug)]
pub(crate) struct Weights {
    pub(super) config: ModelConfig,
    pub(super) embed: Stack,
    pub(super) layers: Vec<LayerWeights>,
    pub(super) norm: Vec<f32>,
    /// `None` if the head is tied to the embedding.
    pub(super) untied: Option<Stack>,
    pub(super) rope: Rope,
}

/// The frozen weights of one decoder layer. Projections that read the same input are stacked into one matrix, so that
/// one product computes them.
#[derive(Debug)]
pub(super) struct LayerWeights {
    pub(super) norm_attn: Vec<f32>,
    /// Queries, keys, values: `[q + 2·kv, hidden]`.
    pub(super) qkv: Stack,
    /// The biases of queries, keys and values: `[q + 2·kv]`.
    pub(super) qkv_bias: Option<Vec<f32>>,
    pub(super) head_norm: Option<HeadNorm>,
    pub(super) o: Stack,
    pub(super) o_bias: Option<Vec<f32>>,
    pub(super) norm_mlp: Vec<f32>,
    /// Gate, then up: `[2·mlp, hidden]`.
    pub(super) gate_up: Stack,
    pub(super) down: Stack,
}

/// Value of the first hidden unit, which is the same for all tokens and layers (see [`Weights::seeded`]).
const CONSTANT: f32 = 4.0;

/// Standard deviation of the seeded head; the logits then differ by about 0.2.
const HEAD_STD: f64 = 0.02;

impl Weights {
    /// Weights that depend only on a seed: they are the same on every machine and in every version.
    ///
    /// The values of a projection are uniform, with the variance `1 / inputs`, so that its outputs are about as large
    /// as its inputs. The head has much smaller values, so that all tokens with ids below [`ModelConfig::live_vocab`]
    /// are about equally likely at the start.
    ///
    /// The first hidden unit is a constant: every embedding sets it to the same value, and no block writes to it. An
    /// untied head uses this unit to give almost no probability to the ids from [`ModelConfig::live_vocab`] on. A
    /// low-rank adapter can use it as a bias, which the architecture does not have.
    pub(crate) fn seeded(config: &ModelConfig, seed: u64) -> Weights {
        let c = config;
        let h = c.hidden;
        let make = |name: &str, outputs: usize, inputs: usize, std: f64| {
            let mut values = vec![0.0; outputs * inputs];
            Rng::named(seed, name).fill_uniform(&mut values, std * 3f64.sqrt());
            values
        };
        let unit = |inputs: usize| (1.0 / inputs as f64).sqrt();
        let silent_unit = |mut matrix: Vec<f32>, inputs: usize| {
            matrix[..inputs].fill(0.0);
            matrix
        };
        // A tied head is the embedding matrix, which then must have small values, too. The blocks then contribute more
        // to the hidden state than the embedding.
        let embed_std = if c.tied_head { HEAD_STD } else { 1.0 };
        let mut embed = make("embed_tokens", c.vocab, h, embed_std);
        for row in embed.chunks_exact_mut(h) {
            row[0] = CONSTANT * embed_std as f32;
        }
        let layers = (0..c.layers)
            .map(|l| {
                let name = |part: &str| format!("layers.{l}.{part}");
                let mut qkv = make(&name("q_proj"), c.q_width(), h, unit(h));
                qkv.extend(make(&name("k_proj"), c.kv_width(), h, unit(h)));
                qkv.extend(make(&name("v_proj"), c.kv_width(), h, unit(h)));
                let mut gate_up = make(&name("gate_proj"), c.mlp, h, unit(h));
                gate_up.extend(make(&name("up_proj"), c.mlp, h, unit(h)));
                let o = make(&name("o_proj"), h, c.q_width(), unit(c.q_width()));
                let down = make(&name("down_proj"), h, c.mlp, unit(c.mlp));
                LayerWeights {
                    norm_attn: vec![1.0; h],
                    qkv: Stack::owned(h, qkv),
                    qkv_bias: None,
                    head_norm: None,
                    o: Stack::owned(c.q_width(), silent_unit(o, c.q_width())),
                    o_bias: None,
                    norm_mlp: vec![1.0; h],
                    gate_up: Stack::owned(h, gate_up),
                    down: Stack::owned(c.mlp, silent_unit(down, c.mlp)),
                }
            })
            .collect();
        let mut head = make("lm_head", c.vocab, h, HEAD_STD);
        for (id, row) in head.chunks_exact_mut(h).enumerate() {
            row[0] = if id < c.live_vocab { 0.0 } else { -8.0 };
        }
        Weights {
            config: c.clone(),
            embed: Stack::owned(h, embed),
            layers,
            norm: vec![1.0; h],
            untied: (!c.tied_head).then(|| Stack::owned(h, head)),
            rope: Rope::new(c.rope_theta, c.rope_scaling, c.head_dim, c.max_len),
        }
    }

    /// The shape of the model.
    pub(crate) fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The output head, `[vocab, hidden]`.
    pub(super) fn head(&self) -> &Stack {
        self.untied.as_ref().unwrap_or(&self.embed)
    }

    /// Writes the embedding of a token to `out`. The id must be below the vocabulary's size.
    pub(super) fn embed(&self, token: u32, out: &mut [f32]) {
        self.embed.row(token as usize, out);
    }

    /// True if the weights are in memory, and not in files.
    pub(super) fn is_owned(&self) -> bool {
        self.embed.is_owned()
    }

    /// Bytes of the weights that are in memory, and not in files.
    pub(crate) fn owned_bytes(&self) -> u64 {
        let layer = |it: &LayerWeights| [&it.qkv, &it.o, &it.gate_up, &it.down].map(Stack::owned_bytes);
        let layers = self.layers.iter().flat_map(layer).sum::<u64>();
        layers + self.embed.owned_bytes() + self.untied.as_ref().map_or(0, Stack::owned_bytes)
    }

    /// The cosines and the sines of one position; each slice is half as wide as a head.
    pub(super) fn rope(&self, position: usize) -> (&[f32], &[f32]) {
        self.rope.at(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nano_has_about_a_million_parameters_and_one_seed_gives_one_model() {
        let config = ModelConfig::nano();
        let (a, b) = (Weights::seeded(&config, 1), Weights::seeded(&config, 1));
        let size = |stack: &Stack| stack.outputs() * stack.inputs();
        let layer = |l: &LayerWeights| [&l.qkv, &l.o, &l.gate_up, &l.down].map(size).iter().sum::<usize>();
        let count = size(&a.embed) + size(a.head()) + a.layers.iter().map(layer).sum::<usize>();
        assert!((800_000..1_200_000).contains(&count), "{count}");
        let down = |weights: &Weights, l: usize| weights.layers[l].down.to_vec();
        assert_eq!(down(&a, 3), down(&b, 3));
        assert_ne!(down(&a, 3), down(&Weights::seeded(&config, 2), 3));
        assert_ne!(down(&a, 2), down(&a, 3));
    }
}
