//! The same model in f64, in its plainest form: it shares no arithmetic with the engine.

use super::super::weights::Weights;

/// `rows · weightᵀ` for a row-major `[outputs, inputs]` matrix.
fn project(rows: &[Vec<f64>], weight: &[f64], inputs: usize) -> Vec<Vec<f64>> {
    let one =
        |row: &Vec<f64>| weight.chunks(inputs).map(|w| w.iter().zip(row).map(|(w, x)| w * x).sum()).collect();
    rows.iter().map(one).collect()
}

fn norm(rows: &[Vec<f64>], gain: &[f32], eps: f64) -> Vec<Vec<f64>> {
    let one = |row: &Vec<f64>| {
        let square = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
        let rms = (square + eps).sqrt();
        row.iter().zip(gain).map(|(x, &g)| x / rms * f64::from(g)).collect()
    };
    rows.iter().map(one).collect()
}

fn plus(a: &[Vec<f64>], b: &[Vec<f64>]) -> Vec<Vec<f64>> {
    a.iter().zip(b).map(|(a, b)| a.iter().zip(b).map(|(a, b)| a + b).collect()).collect()
}

/// A model for the reference: frozen weights, and the adapter's parameters by name.
pub(super) struct Reference<'a> {
    pub(super) weights: &'a Weights,
    pub(super) rank: usize,
    pub(super) tensor: &'a dyn Fn(&str) -> Option<Vec<f64>>,
}

impl Reference<'_> {
    /// A frozen matrix plus 32/rank times B·A.
    fn adapted(&self, frozen: &[f32], inputs: usize, name: &str) -> Vec<f64> {
        let mut merged: Vec<f64> = frozen.iter().map(|&v| f64::from(v)).collect();
        let a = (self.tensor)(&format!("base_model.model.{name}.lora_A.weight"));
        let b = (self.tensor)(&format!("base_model.model.{name}.lora_B.weight"));
        if let (Some(a), Some(b)) = (a, b) {
            for o in 0..merged.len() / inputs {
                for i in 0..inputs {
                    for r in 0..self.rank {
                        merged[o * inputs + i] +=
                            32.0 / self.rank as f64 * b[o * self.rank + r] * a[r * inputs + i];
                    }
                }
            }
        }
        merged
    }

    /// Log-probabilities of the whole vocabulary at every position.
    pub(super) fn logprobs(&self, tokens: &[u32]) -> Vec<Vec<f64>> {
        let (w, c) = (self.weights, self.weights.config());
        let h = c.hidden;
        let eps = f64::from(c.norm_eps);
        let embed = w.embed.to_vec();
        let embed = |&t: &u32| embed[t as usize * h..][..h].iter().map(|&v| f64::from(v)).collect();
        let mut x: Vec<Vec<f64>> = tokens.iter().map(embed).collect();
        for (l, layer) in w.layers.iter().enumerate() {
            let name = |part: &str| format!("model.layers.{l}.{part}");
            let (qkv, gate_up) = (layer.qkv.to_vec(), layer.gate_up.to_vec());
            let (q, rest) = qkv.split_at(c.q_width() * h);
            let (k, v) = rest.split_at(c.kv_width() * h);
            let normed = norm(&x, &layer.norm_attn, eps);
            let q = self.rotated(project(&normed, &self.adapted(q, h, &name("self_attn.q_proj")), h));
            let k = self.rotated(project(&normed, &self.adapted(k, h, &name("self_attn.k_proj")), h));
            let v = project(&normed, &self.adapted(v, h, &name("self_attn.v_proj")), h);
            let mixed = self.attend(&q, &k, &v);
            let o = self.adapted(&layer.o.to_vec(), c.q_width(), &name("self_attn.o_proj"));
            x = plus(&x, &project(&mixed, &o, c.q_width()));
            let normed = norm(&x, &layer.norm_mlp, eps);
            let (gate, up) = gate_up.split_at(c.mlp * h);
            let gate = project(&normed, &self.adapted(gate, h, &name("mlp.gate_proj")), h);
            let up = project(&normed, &self.adapted(up, h, &name("mlp.up_proj")), h);
            let silu = |g: f64| g / (1.0 + (-g).exp());
            let act: Vec<Vec<f64>> = gate
                .iter()
                .zip(&up)
                .map(|(g, u)| g.iter().zip(u).map(|(&g, &u)| silu(g) * u).collect())
                .collect();
            let down = self.adapted(&layer.down.to_vec(), c.mlp, &name("mlp.down_proj"));
            x = plus(&x, &project(&act, &down, c.mlp));
        }
        let logits = project(&norm(&x, &w.norm, eps), &self.adapted(&w.head().to_vec(), h, "lm_head"), h);
        let log_softmax = |row: &Vec<f64>| {
            let total = row.iter().map(|v| v.exp()).sum::<f64>().ln();
            row.iter().map(|v| v - total).collect()
        };
        logits.iter().map(log_softmax).collect()
    }

    fn rotated(&self, mut rows: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
        let (d, theta) = (self.weights.config().head_dim, self.weights.config().rope_theta);
        for (t, row) in rows.iter_mut().enumerate() {
            for head in row.chunks_mut(d) {
                for i in 0..d / 2 {
                    let angle = t as f64 / theta.powf(2.0 * i as f64 / d as f64);
                    let (a, b) = (head[i], head[i + d / 2]);
                    head[i] = a * angle.cos() - b * angle.sin();
                    head[i + d / 2] = b * angle.cos() + a * angle.sin();
                }
            }
        }
        rows
    }

    fn attend(&self, q: &[Vec<f64>], k: &[Vec<f64>], v: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let c = self.weights.config();
        let d = c.head_dim;
        let mut out = vec![vec![0.0; c.q_width()]; q.len()];
        for t in 0..q.len() {
            for head in 0..c.heads {
                let (at, kv) = (head * d, head / (c.heads / c.kv_heads) * d);
                let score =
                    |s: usize| (0..d).map(|i| q[t][at + i] * k[s][kv + i]).sum::<f64>() / (d as f64).sqrt();
                let weights: Vec<f64> = (0..=t).map(|s| score(s).exp()).collect();
                let total: f64 = weights.iter().sum();
                for (s, weight) in weights.iter().enumerate() {
                    for i in 0..d {
                        out[t][at + i] += weight / total * v[s][kv + i];
                    }
                }
            }
        }
        out
    }
}
