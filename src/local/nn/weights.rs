//! The frozen weights of the base model.

use super::config::ModelConfig;
use super::rng::Rng;

/// The frozen weights of one model, matrices row-major as `[outputs, inputs]`.
#[derive(Debug)]
pub(crate) struct Weights {
    pub(super) config: ModelConfig,
    pub(super) embed: Vec<f32>,
    pub(super) layers: Vec<LayerWeights>,
    pub(super) norm: Vec<f32>,
    /// `None` if the head is tied to the embedding.
    head: Option<Vec<f32>>,
    /// Cosines and sines of the rotary embedding, `[max_len, head_dim]`. The row of a position holds the cosines of all
    /// frequencies, then the sines.
    rope: Vec<f32>,
}

/// The frozen weights of one decoder layer. Projections that read the same input are stacked into one matrix, so that
/// one product computes them.
#[derive(Debug)]
pub(super) struct LayerWeights {
    pub(super) norm_attn: Vec<f32>,
    /// Queries, keys, values: `[q + 2·kv, hidden]`.
    pub(super) qkv: Vec<f32>,
    pub(super) o: Vec<f32>,
    pub(super) norm_mlp: Vec<f32>,
    /// Gate, then up: `[2·mlp, hidden]`.
    pub(super) gate_up: Vec<f32>,
    pub(super) down: Vec<f32>,
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
                    qkv,
                    o: silent_unit(o, c.q_width()),
                    norm_mlp: vec![1.0; h],
                    gate_up,
                    down: silent_unit(down, c.mlp),
                }
            })
            .collect();
        let mut head = make("lm_head", c.vocab, h, HEAD_STD);
        for (id, row) in head.chunks_exact_mut(h).enumerate() {
            row[0] = if id < c.live_vocab { 0.0 } else { -8.0 };
        }
        Weights {
            config: c.clone(),
            embed,
            layers,
            norm: vec![1.0; h],
            head: (!c.tied_head).then_some(head),
            rope: rope_table(c),
        }
    }

    /// The shape of the model.
    pub(crate) fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The output head, `[vocab, hidden]`.
    pub(super) fn head(&self) -> &[f32] {
        self.head.as_deref().unwrap_or(&self.embed)
    }

    /// The embedding of a token. The id must be below the vocabulary's size.
    pub(super) fn embedding(&self, token: u32) -> &[f32] {
        let h = self.config.hidden;
        &self.embed[token as usize * h..][..h]
    }

    /// The cosines and the sines of one position; each slice is half as wide as a head.
    pub(super) fn rope(&self, position: usize) -> (&[f32], &[f32]) {
        let d = self.config.head_dim;
        self.rope[position * d..][..d].split_at(d / 2)
    }
}

fn rope_table(c: &ModelConfig) -> Vec<f32> {
    let half = c.head_dim / 2;
    let mut table = Vec::with_capacity(c.max_len * c.head_dim);
    for position in 0..c.max_len {
        let angle = |i: usize| position as f64 * c.rope_theta.powf(-(i as f64) / half as f64);
        table.extend((0..half).map(|i| angle(i).cos() as f32));
        table.extend((0..half).map(|i| angle(i).sin() as f32));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nano_has_about_a_million_parameters_and_one_seed_gives_one_model() {
        let config = ModelConfig::nano();
        let (a, b) = (Weights::seeded(&config, 1), Weights::seeded(&config, 1));
        let layer = |l: &LayerWeights| l.qkv.len() + l.o.len() + l.gate_up.len() + l.down.len();
        let count = a.embed.len() + a.head().len() + a.layers.iter().map(layer).sum::<usize>();
        assert!((800_000..1_200_000).contains(&count), "{count}");
        assert_eq!(a.layers[3].down, b.layers[3].down);
        assert_ne!(a.layers[3].down, Weights::seeded(&config, 2).layers[3].down);
        assert_ne!(a.layers[2].down, a.layers[3].down);
    }
}
