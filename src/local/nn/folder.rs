//! Loads a model from a folder in the format of the Hugging Face libraries: `config.json` and safetensors.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors};
use serde_json::Value;

use super::config::ModelConfig;
use super::folder_config;
use super::head_norm::HeadNorm;
use super::matrix::{Elements, Stack};
use super::rope::Rope;
use super::weights::{LayerWeights, Weights};
use crate::local::kernel::{Format, MappedFile, MappedSlice};

/// Largest size of a model, as 32-bit floats, that is copied into memory: a small model is faster there. Larger ones stay
/// in their files.
const MAX_OWNED: usize = 64 << 20;

/// The names of the files with the weights.
const ONE_FILE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A model of a folder.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) weights: Weights,
    /// The family of the model: `llama`, `qwen2` or `qwen3`.
    pub(crate) family: String,
    /// The tokens that end an answer.
    pub(crate) eos: Vec<u32>,
    /// Tells the weights from others: a checkpoint of an adapter fits only those that it was trained on.
    pub(crate) fingerprint: u64,
}

impl Loaded {
    /// Loads the model of a folder.
    ///
    /// # Errors
    /// A file is missing or not readable, or the model has something that is not supported. The text names the file and
    /// the value.
    pub(crate) fn open(folder: &Path) -> Result<Loaded, String> {
        Loaded::open_with(folder, MAX_OWNED)
    }

    /// Loads the model of a folder, and copies it into memory if it takes at most `max_owned` bytes there.
    pub(super) fn open_with(folder: &Path, max_owned: usize) -> Result<Loaded, String> {
        let config = read_json(&folder.join("config.json"))?;
        let at = |problem: String| format!("{}: {problem}", folder.join("config.json").display());
        let (family, config, eos) = folder_config::read(&config).map_err(at)?;
        let generation = folder.join("generation_config.json");
        let eos = if generation.is_file() {
            folder_config::eos(&read_json(&generation)?).unwrap_or(eos)
        } else {
            eos
        };
        if let Some(id) = eos.iter().find(|id| config.vocab <= **id as usize) {
            let problem = format!("eos_token_id: {id} is outside the vocabulary of {}", config.vocab);
            return Err(format!("{}: {problem}", folder.display()));
        }
        let mut tensors = Tensors::open(folder)?;
        let bytes: usize = tensors.found.values().map(|tensor| 4 * tensor.elements.len()).sum();
        tensors.owned = bytes <= max_owned;
        let fingerprint = tensors.fingerprint();
        let weights = tensors.weights(config)?;
        tensors.reject_rest(weights.config.tied_head)?;
        Ok(Loaded { weights, family, eos, fingerprint })
    }
}

fn read_json(path: &Path) -> Result<Value, String> {
    /// The configuration of a model has some thousand bytes, the index of a large one some megabytes.
    const MAX_BYTES: u64 = 64 << 20;
    let at = |problem: String| format!("{}: {problem}", path.display());
    let size = std::fs::metadata(path).map_err(|error| at(error.to_string()))?.len();
    if MAX_BYTES < size {
        return Err(at(format!("has {size} bytes; at most {MAX_BYTES} are read")));
    }
    let text = std::fs::read(path).map_err(|error| at(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| at(format!("not valid JSON: {error}")))
}

/// A tensor of a file.
struct Tensor {
    elements: MappedSlice,
    shape: Vec<usize>,
    file: String,
}

/// The tensors that were not used yet, by name.
struct Tensors {
    found: BTreeMap<String, Tensor>,
    folder: String,
    /// Whether matrices are copied into memory.
    owned: bool,
}

impl Tensors {
    fn open(folder: &Path) -> Result<Tensors, String> {
        let shown = folder.display().to_string();
        let mut tensors = Tensors { found: BTreeMap::new(), folder: shown, owned: false };
        if folder.join(ONE_FILE).is_file() {
            tensors.add(folder, ONE_FILE, None)?;
            return Ok(tensors);
        }
        let path = folder.join(INDEX);
        if !path.is_file() {
            let other = folder.join("pytorch_model.bin").is_file();
            let hint = if other { "; convert pytorch_model.bin with save_pretrained" } else { "" };
            return Err(format!("{}: has neither {ONE_FILE} nor {INDEX}{hint}", folder.display()));
        }
        let index = read_json(&path)?;
        let at = |problem: &str| format!("{}: {problem}", path.display());
        let map = index["weight_map"].as_object().ok_or_else(|| at("weight_map: must be an object"))?;
        let mut files: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, file) in map {
            let file = file.as_str().ok_or_else(|| at(&format!("weight_map.{name}: must be a string")))?;
            if file.is_empty() || file.contains(['/', '\\']) || file.starts_with('.') {
                return Err(at(&format!("weight_map.{name}: {file:?} is not the name of a file beside it")));
            }
            files.entry(file).or_default().push(name);
        }
        for (file, names) in files {
            tensors.add(folder, file, Some(&names))?;
        }
        Ok(tensors)
    }

    /// Maps a file and adds its tensors. An index names those that the file must have.
    fn add(&mut self, folder: &Path, file: &str, expected: Option<&[&str]>) -> Result<(), String> {
        let path = folder.join(file);
        let at = |problem: String| format!("{}: {problem}", path.display());
        let open = File::open(&path).map_err(|error| at(error.to_string()))?;
        let map = MappedFile::open(&open).map_err(|error| at(format!("cannot be mapped: {error}")))?;
        let (header, metadata) = SafeTensors::read_metadata(map.bytes())
            .map_err(|error| at(format!("is not a safetensors file: {error}")))?;
        let start = header + 8;
        for (name, info) in metadata.tensors() {
            let format = match info.dtype {
                Dtype::F32 => Format::F32,
                Dtype::F16 => Format::F16,
                Dtype::BF16 => Format::Bf16,
                other => {
                    let problem =
                        format!("{name}: has elements of type {other:?}; supported are F32, F16 and BF16");
                    return Err(at(problem));
                }
            };
            let bytes = start + info.data_offsets.0..start + info.data_offsets.1;
            let elements = MappedSlice::new(map.clone(), bytes, format);
            let elements = elements.ok_or_else(|| at(format!("{name}: lies outside the file")))?;
            if info.shape.iter().product::<usize>() != elements.len() {
                return Err(at(format!("{name}: its shape does not fit its bytes")));
            }
            let tensor = Tensor { elements, shape: info.shape.clone(), file: path.display().to_string() };
            if self.found.insert(name.clone(), tensor).is_some() {
                return Err(at(format!("{name}: is in another file too")));
            }
        }
        let missing = expected.unwrap_or_default().iter().find(|name| !self.found.contains_key(**name));
        match missing {
            Some(name) => Err(at(format!("lacks the tensor {name}, which {INDEX} says it has"))),
            None => Ok(()),
        }
    }

    /// A number made of the names and shapes of all tensors, and of samples of their elements: reading all elements of a
    /// large model would take long. It is the FNV-1a hash, the same in every version.
    fn fingerprint(&self) -> u64 {
        const SAMPLES: usize = 64;
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut add = |bytes: &[u8]| {
            for byte in bytes {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        };
        for (name, tensor) in &self.found {
            add(name.as_bytes());
            tensor.shape.iter().for_each(|size| add(&(*size as u64).to_le_bytes()));
            let len = tensor.elements.len();
            let mut value = [0.0];
            for i in 0..SAMPLES.min(len) {
                tensor.elements.read(i * (len - 1) / (SAMPLES - 1).max(1), &mut value);
                add(&value[0].to_bits().to_le_bytes());
            }
        }
        hash
    }

    fn take(&mut self, name: &str, shape: &[usize]) -> Result<MappedSlice, String> {
        let Some(tensor) = self.found.remove(name) else {
            return Err(format!("{}: no file has the tensor {name}", self.folder));
        };
        if tensor.shape != shape {
            let found = &tensor.shape;
            return Err(format!("{}: {name}: has the shape {found:?}, expected {shape:?}", tensor.file));
        }
        Ok(tensor.elements)
    }

    fn matrix(&mut self, name: &str, outputs: usize, inputs: usize) -> Result<Elements, String> {
        let elements = self.take(name, &[outputs, inputs])?;
        Ok(if self.owned { Elements::Owned(read(&elements)) } else { Elements::Mapped(elements) })
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>, String> {
        let values = read(&self.take(name, &[len])?);
        match values.iter().position(|value| !value.is_finite()) {
            Some(i) => Err(format!("{}: {name}[{i}]: is {}, not a finite number", self.folder, values[i])),
            None => Ok(values),
        }
    }

    /// The joined biases of several projections, or none if the file has none of them.
    fn biases(&mut self, names: &[(String, usize)]) -> Result<Option<Vec<f32>>, String> {
        if names.iter().all(|(name, _)| !self.found.contains_key(name)) {
            return Ok(None);
        }
        let mut all = Vec::new();
        for (name, len) in names {
            all.extend(self.vector(name, *len)?);
        }
        Ok(Some(all))
    }

    fn weights(&mut self, config: ModelConfig) -> Result<Weights, String> {
        let c = &config;
        let embed = self.matrix("model.embed_tokens.weight", c.vocab, c.hidden)?;
        let mut layers = Vec::with_capacity(c.layers);
        for l in 0..c.layers {
            layers.push(self.layer(c, l)?);
        }
        let norm = self.vector("model.norm.weight", c.hidden)?;
        let untied = if c.tied_head {
            None
        } else {
            Some(Stack::new(c.hidden, [self.matrix("lm_head.weight", c.vocab, c.hidden)?]))
        };
        let rope = Rope::new(c.rope_theta, c.rope_scaling, c.head_dim, c.max_len);
        Ok(Weights { embed: Stack::new(c.hidden, [embed]), layers, norm, untied, rope, config })
    }

    fn layer(&mut self, c: &ModelConfig, l: usize) -> Result<LayerWeights, String> {
        let name = |part: &str| format!("model.layers.{l}.{part}");
        let widths = [("q", c.q_width()), ("k", c.kv_width()), ("v", c.kv_width())];
        let mut qkv = Vec::new();
        for (part, width) in widths {
            qkv.push(self.matrix(&name(&format!("self_attn.{part}_proj.weight")), width, c.hidden)?);
        }
        let biases = widths.map(|(part, width)| (name(&format!("self_attn.{part}_proj.bias")), width));
        let (q_norm, k_norm) = (name("self_attn.q_norm.weight"), name("self_attn.k_norm.weight"));
        let head_norm = if self.found.contains_key(&q_norm) {
            let (q, k) = (self.vector(&q_norm, c.head_dim)?, self.vector(&k_norm, c.head_dim)?);
            Some(HeadNorm { q, k })
        } else {
            None
        };
        let gate = self.matrix(&name("mlp.gate_proj.weight"), c.mlp, c.hidden)?;
        let up = self.matrix(&name("mlp.up_proj.weight"), c.mlp, c.hidden)?;
        let o = self.matrix(&name("self_attn.o_proj.weight"), c.hidden, c.q_width())?;
        let down = self.matrix(&name("mlp.down_proj.weight"), c.hidden, c.mlp)?;
        Ok(LayerWeights {
            norm_attn: self.vector(&name("input_layernorm.weight"), c.hidden)?,
            qkv: Stack::new(c.hidden, qkv),
            qkv_bias: self.biases(&biases)?,
            head_norm,
            o: Stack::new(c.q_width(), [o]),
            o_bias: self.biases(&[(name("self_attn.o_proj.bias"), c.hidden)])?,
            norm_mlp: self.vector(&name("post_attention_layernorm.weight"), c.hidden)?,
            gate_up: Stack::new(c.hidden, [gate, up]),
            down: Stack::new(c.mlp, [down]),
        })
    }

    /// Refuses a model with tensors that were not used: its results would be wrong without them.
    fn reject_rest(&self, tied: bool) -> Result<(), String> {
        // Old files have the rotary frequencies, and files of tied models the head a second time.
        let known = |name: &str| name.ends_with("rotary_emb.inv_freq") || (tied && name == "lm_head.weight");
        match self.found.iter().find(|(name, _)| !known(name)) {
            Some((name, tensor)) => {
                Err(format!("{}: {name}: the tensor is not part of a supported model", tensor.file))
            }
            None => Ok(()),
        }
    }
}

fn read(elements: &MappedSlice) -> Vec<f32> {
    let mut values = vec![0.0; elements.len()];
    elements.read(0, &mut values);
    values
}
