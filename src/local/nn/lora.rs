//! The low-rank adapter (LoRA): the matrices that it adapts, the layout of its parameters in one flat vector, and their
//! names.

use super::config::ModelConfig;
use super::rng::Rng;
use std::ops::Range;

/// LoRA's alpha: the adapter's output is multiplied by alpha / rank, as on the Tinker service.
const ALPHA: f32 = 32.0;

/// The matrices to adapt, the rank of the adapter, and the seed of its A matrices.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LoraSpec {
    /// Inner width of `B·A`; 0 adapts nothing.
    pub rank: usize,
    /// Seed of the A matrices.
    pub seed: u64,
    /// Adapt the attention projections q, k, v and o.
    pub train_attn: bool,
    /// Adapt the MLP projections gate, up and down.
    pub train_mlp: bool,
    /// Adapt the output head.
    pub train_unembed: bool,
}

impl LoraSpec {
    /// True if the adapters have the same matrices and the same scale: the parameters of one fit the other.
    pub(crate) fn fits(&self, other: &LoraSpec) -> bool {
        LoraSpec { seed: 0, ..self.clone() } == LoraSpec { seed: 0, ..other.clone() }
    }

    /// Factor by which `B·A·x` is multiplied: alpha / rank.
    pub(super) fn scale(&self) -> f32 {
        ALPHA / self.rank.max(1) as f32
    }
}

/// One named matrix of the adapter, stored row-major in the flat parameters.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) range: Range<usize>,
    pub(super) rows: usize,
    pub(super) cols: usize,
}

/// The adapter of one stack: several projections that read the same input and are computed by one product.
#[derive(Clone, Debug)]
pub(super) struct Site {
    /// Range of all A matrices of the stack in the flat parameters: one `[parts·rank, inputs]` matrix.
    pub(super) a: Range<usize>,
    pub(super) inputs: usize,
    pub(super) rank: usize,
    pub(super) parts: Vec<Part>,
}

/// One projection of a stack.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// Range of the B matrix, `[width, rank]`, in the flat parameters.
    pub(super) b: Range<usize>,
    /// Offset of the projection's outputs in the output of the stack.
    pub(super) at: usize,
    pub(super) width: usize,
}

impl Site {
    /// Width of `A·x` for the whole stack.
    pub(super) fn inner(&self) -> usize {
        self.parts.len() * self.rank
    }
}

/// The adapters of one decoder layer; `None` for projections that are not adapted.
#[derive(Clone, Debug, Default)]
pub(super) struct LayerSites {
    pub(super) qkv: Option<Site>,
    pub(super) o: Option<Site>,
    pub(super) gate_up: Option<Site>,
    pub(super) down: Option<Site>,
}

/// Positions of all matrices of an adapter in its flat parameters.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) tensors: Vec<Tensor>,
    pub(super) layers: Vec<LayerSites>,
    pub(super) head: Option<Site>,
    /// Number of parameters.
    pub(super) len: usize,
}

impl Layout {
    pub(super) fn new(c: &ModelConfig, spec: &LoraSpec) -> Layout {
        let mut layout = Layout { tensors: Vec::new(), layers: Vec::new(), head: None, len: 0 };
        let (attn, mlp) = (spec.train_attn && spec.rank > 0, spec.train_mlp && spec.rank > 0);
        for l in 0..c.layers {
            let mut site = |on: bool, inputs: usize, parts: &[(&str, usize)]| {
                let path = |name: &str| format!("base_model.model.model.layers.{l}.{name}");
                on.then(|| layout.site(spec.rank, inputs, parts, path))
            };
            let q = [("self_attn.q_proj", c.q_width()), ("self_attn.k_proj", c.kv_width())];
            let sites = LayerSites {
                qkv: site(attn, c.hidden, &[q[0], q[1], ("self_attn.v_proj", c.kv_width())]),
                o: site(attn, c.q_width(), &[("self_attn.o_proj", c.hidden)]),
                gate_up: site(mlp, c.hidden, &[("mlp.gate_proj", c.mlp), ("mlp.up_proj", c.mlp)]),
                down: site(mlp, c.mlp, &[("mlp.down_proj", c.hidden)]),
            };
            layout.layers.push(sites);
        }
        if spec.train_unembed && spec.rank > 0 {
            let path = |name: &str| format!("base_model.model.{name}");
            layout.head = Some(layout.site(spec.rank, c.hidden, &[("lm_head", c.vocab)], path));
        }
        layout
    }

    fn site(
        &mut self,
        rank: usize,
        inputs: usize,
        parts: &[(&str, usize)],
        path: impl Fn(&str) -> String,
    ) -> Site {
        let start = self.len;
        for (name, _) in parts {
            self.push(format!("{}.lora_A.weight", path(name)), rank, inputs);
        }
        let a = start..self.len;
        let mut at = 0;
        let parts = parts
            .iter()
            .map(|&(name, width)| {
                let b = self.push(format!("{}.lora_B.weight", path(name)), width, rank);
                at += width;
                Part { b, at: at - width, width }
            })
            .collect();
        Site { a, inputs, rank, parts }
    }

    fn push(&mut self, name: String, rows: usize, cols: usize) -> Range<usize> {
        let range = self.len..self.len + rows * cols;
        self.len = range.end;
        self.tensors.push(Tensor { name, range: range.clone(), rows, cols });
        range
    }

    /// Parameters of a new adapter. A is uniform in ±1/√inputs, as in PEFT; B is zero, so a new adapter does not change
    /// the output of the model.
    pub(super) fn init(&self, seed: u64) -> Vec<f32> {
        let mut params = vec![0.0; self.len];
        for tensor in self.tensors.iter().filter(|t| t.name.ends_with("lora_A.weight")) {
            let limit = 1.0 / (tensor.cols as f64).sqrt();
            Rng::named(seed, &tensor.name).fill_uniform(&mut params[tensor.range.clone()], limit);
        }
        params
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(train_attn: bool, train_mlp: bool, train_unembed: bool) -> LoraSpec {
        LoraSpec { rank: 4, seed: 1, train_attn, train_mlp, train_unembed }
    }

    #[test]
    fn tensors_have_the_names_and_shapes_that_peft_uses() {
        let config = ModelConfig::nano();
        let layout = Layout::new(&config, &spec(true, true, true));
        assert_eq!(layout.tensors.len(), 4 * 14 + 2);
        let shape = |name: &str| {
            layout.tensors.iter().find(|t| t.name == name).map(|t| (t.rows, t.cols, t.range.len()))
        };
        let q = "base_model.model.model.layers.0.self_attn.q_proj";
        assert_eq!(shape(&format!("{q}.lora_A.weight")), Some((4, 128, 512)));
        assert_eq!(shape(&format!("{q}.lora_B.weight")), Some((128, 4, 512)));
        assert_eq!(shape("base_model.model.lm_head.lora_B.weight"), Some((512, 4, 2048)));
        assert_eq!(
            shape("base_model.model.model.layers.3.mlp.down_proj.lora_A.weight"),
            Some((4, 384, 1536))
        );
    }

    #[test]
    fn each_switch_selects_its_own_matrices_and_rank_zero_selects_none() {
        let config = ModelConfig::nano();
        let count = |a, m, u| Layout::new(&config, &spec(a, m, u)).tensors.len();
        assert_eq!([count(true, false, false), count(false, true, false)], [32, 24]);
        assert_eq!([count(false, false, true), count(false, false, false)], [2, 0]);
        assert_eq!(Layout::new(&config, &LoraSpec { rank: 0, ..spec(true, true, true) }).len, 0);
    }

    #[test]
    fn a_fresh_adapter_has_random_a_and_zero_b() {
        let layout = Layout::new(&ModelConfig::nano(), &spec(true, true, true));
        let params = layout.init(3);
        for t in &layout.tensors {
            let zero = params[t.range.clone()].iter().all(|&v| v == 0.0);
            assert_eq!(zero, t.name.ends_with("lora_B.weight"), "{}", t.name);
        }
        assert_eq!(params, layout.init(3));
        assert_ne!(params, layout.init(4));
    }
}
