//! The models of the bench, the arithmetic that a training step of each needs, and folders with random weights.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::{Map, json};

/// Rank of the adapters.
const RANK: usize = 32;

/// The shape of a model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    /// `llama` or `qwen3`.
    family: &'static str,
    vocab: usize,
    hidden: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    mlp: usize,
    /// Whether the head is the embedding.
    tied: bool,
}

/// The model that the engine has built in.
pub(crate) const NANO: Shape = Shape {
    name: "tinkex/nano",
    family: "llama",
    vocab: 512,
    hidden: 128,
    layers: 4,
    heads: 4,
    kv_heads: 2,
    head_dim: 32,
    mlp: 384,
    tied: false,
};

pub(crate) const QWEN: Shape = Shape {
    name: "qwen3-512",
    family: "qwen3",
    vocab: 8192,
    hidden: 512,
    layers: 8,
    heads: 8,
    kv_heads: 4,
    head_dim: 64,
    mlp: 1536,
    tied: false,
};

pub(crate) const LLAMA: Shape = Shape {
    name: "llama-135m",
    family: "llama",
    vocab: 49_152,
    hidden: 576,
    layers: 30,
    heads: 9,
    kv_heads: 3,
    head_dim: 64,
    mlp: 1536,
    tied: true,
};

impl Shape {
    /// The projections of a layer: names, outputs and inputs.
    fn projections(&self) -> [(&'static str, usize, usize); 7] {
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        [
            ("self_attn.q_proj", q, self.hidden),
            ("self_attn.k_proj", kv, self.hidden),
            ("self_attn.v_proj", kv, self.hidden),
            ("self_attn.o_proj", self.hidden, q),
            ("mlp.gate_proj", self.mlp, self.hidden),
            ("mlp.up_proj", self.mlp, self.hidden),
            ("mlp.down_proj", self.hidden, self.mlp),
        ]
    }

    /// Weights that each generated token is multiplied with: all projections and the head.
    pub(crate) fn multiplied(&self) -> usize {
        let layer: usize = self.projections().iter().map(|(_, outputs, inputs)| outputs * inputs).sum();
        self.layers * layer + self.vocab * self.hidden
    }

    /// Size of a folder's weights in MB.
    pub(crate) fn megabytes(&self) -> f64 {
        let embedding = if self.tied { 0 } else { self.vocab * self.hidden };
        2.0 * (self.multiplied() + embedding) as f64 / 1e6
    }

    /// Arithmetic of a training step of some sequences, in billions of operations, where a multiply-add counts as two.
    /// The frozen weights take one product forward and one backward, the adapter one more backward. Attention takes two
    /// products forward and five backward, each over half of the pairs of positions.
    pub(crate) fn step_gflop(&self, batch: usize, tokens: usize) -> f64 {
        let adapted: usize = self.projections().iter().map(|(_, outputs, inputs)| outputs + inputs).sum();
        let adapter = RANK * (self.layers * adapted + self.vocab + self.hidden);
        let rows = (batch * tokens) as f64;
        let weights = 2.0 * rows * (2 * self.multiplied() + 3 * adapter) as f64;
        let width = (self.layers * self.heads * self.head_dim) as f64;
        let attention = 7.0 * rows * tokens as f64 * width;
        (weights + attention) / 1e9
    }

    /// Writes a folder in the format of the Hugging Face libraries, with random weights in bf16.
    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        std::fs::create_dir_all(folder)?;
        let class = if self.family == "qwen3" { "Qwen3ForCausalLM" } else { "LlamaForCausalLM" };
        let config = json!({
            "architectures": [class], "model_type": self.family, "torch_dtype": "bfloat16",
            "vocab_size": self.vocab, "hidden_size": self.hidden, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim, "intermediate_size": self.mlp, "rms_norm_eps": 1e-5,
            "rope_theta": 10_000.0, "max_position_embeddings": 4096, "hidden_act": "silu",
            "tie_word_embeddings": self.tied, "bos_token_id": null, "eos_token_id": null, "pad_token_id": 0,
        });
        std::fs::write(folder.join("config.json"), config.to_string())?;
        let tensors = self.tensors();
        let (mut header, mut at) = (Map::new(), 0);
        for (name, shape) in &tensors {
            let end = at + 2 * shape.iter().product::<usize>();
            let entry = json!({"dtype": "BF16", "shape": shape, "data_offsets": [at, end]});
            header.insert(name.clone(), entry);
            at = end;
        }
        let mut header = serde_json::to_vec(&header)?;
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut file = BufWriter::new(File::create(folder.join("model.safetensors"))?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        let mut random = fastrand::Rng::with_seed(1);
        for (_, shape) in tensors {
            let range = if shape.len() == 1 { 0.0 } else { (3.0 / shape[1] as f32).sqrt() };
            let middle = if shape.len() == 1 { 1.0 } else { 0.0 };
            for _ in 0..shape.iter().product() {
                let value = middle + range * (2.0 * random.f32() - 1.0);
                file.write_all(&value.to_le_bytes()[2..])?;
            }
        }
        file.flush()
    }

    /// The names and the shapes of all tensors.
    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let embedding = vec![self.vocab, self.hidden];
        let mut all = vec![("model.embed_tokens.weight".to_owned(), embedding.clone())];
        for l in 0..self.layers {
            let mut add =
                |name: &str, shape: Vec<usize>| all.push((format!("model.layers.{l}.{name}.weight"), shape));
            for (name, outputs, inputs) in self.projections() {
                add(name, vec![outputs, inputs]);
            }
            add("input_layernorm", vec![self.hidden]);
            add("post_attention_layernorm", vec![self.hidden]);
            if self.family == "qwen3" {
                add("self_attn.q_norm", vec![self.head_dim]);
                add("self_attn.k_norm", vec![self.head_dim]);
            }
        }
        all.push(("model.norm.weight".to_owned(), vec![self.hidden]));
        if !self.tied {
            all.push(("lm_head.weight".to_owned(), embedding));
        }
        all
    }
}
