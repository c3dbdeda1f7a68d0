//! Byte-level byte-pair encoding, the tokenizer of the models of the service.

mod alphabet;
mod engine;
mod files;
mod json;
mod plan;
mod tiktoken;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use engine::Engine;
use plan::Plan;

use super::Tokenizer;
use crate::env::Env;
use crate::error::{Error, Result};

/// A byte-level BPE tokenizer: that of Qwen, Llama 3, DeepSeek, gpt-oss, Kimi and others.
///
/// It gives the ids that Hugging Face's `tokenizers` and OpenAI's `tiktoken` give. A file with a step that is not
/// supported is an error, so that ids are never wrong without a signal.
///
/// Encoding is pure and takes place on the caller's thread. A tokenizer can be shared by threads.
///
/// # Example: a tokenizer with one merge
/// ```
/// use std::collections::BTreeMap;
///
/// use base64::prelude::{BASE64_STANDARD, Engine as _};
/// use tinkex::tokenizer::{Bpe, Tokenizer};
///
/// // The 256 bytes, and one token for "hi".
/// let mut ranks: String =
///     (0..=255_u8).map(|byte| format!("{} {byte}\n", BASE64_STANDARD.encode([byte]))).collect();
/// ranks += "aGk= 256\n";
/// let markers = BTreeMap::from([("<|end|>".to_string(), 257)]);
/// let tokenizer = Bpe::from_tiktoken(ranks.as_bytes(), r"\p{L}+|\s+|[^\s\p{L}]+", &markers)?;
///
/// assert_eq!(tokenizer.encode("hi!<|end|>")?, [256, 33, 257]);
/// assert_eq!(tokenizer.encode_ordinary("<|end|>")?.len(), 7);
/// assert_eq!(tokenizer.decode(&[256, 33, 257]), "hi!<|end|>");
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Debug)]
pub struct Bpe {
    engine: Engine,
    tokens: HashMap<i32, Vec<u8>>,
    markers: HashMap<String, i32>,
    /// Ids of markers that are not part of the text.
    special: Vec<i32>,
    bos: Option<i32>,
    eos: Option<i32>,
}

impl Bpe {
    /// Reads a `tokenizer.json`. Beginning and end of a sequence are not in this file: see [`with_bos`](Self::with_bos)
    /// and [`with_eos`](Self::with_eos).
    ///
    /// The post-processor of the file is ignored: encoding adds no token.
    ///
    /// # Errors
    /// `InvalidInput` with the path of the value in the file: the file is broken, is not a byte-level BPE tokenizer, or
    /// has a step that is not supported.
    pub fn from_tokenizer_json(bytes: &[u8]) -> Result<Self> {
        Self::new(json::plan(bytes, vec![])?)
    }

    /// Makes a tokenizer from ranks: `ranks` has a line with a token in Base64, a space and the token's rank for each
    /// token, and the rank is the id. `pattern` is the regular expression that splits a text, `specials` are markers
    /// with their ids.
    ///
    /// # Errors
    /// `InvalidInput`: a broken line, a rank or a token that occurs twice, a byte without a token, a pattern that is not
    /// supported, or a marker whose id is taken.
    pub fn from_tiktoken(ranks: &[u8], pattern: &str, specials: &BTreeMap<String, i32>) -> Result<Self> {
        Self::new(tiktoken::plan("ranks", ranks, pattern, tiktoken::specials(specials)?)?)
    }

    /// Reads the folder of a model: `tokenizer.json`, or ranks (`tiktoken.model` or one file `*.tiktoken`) of a Kimi
    /// model. `tokenizer_config.json` names the beginning and the end of a sequence; ranks need it.
    ///
    /// # Errors
    /// As for [`from_tokenizer_json`](Self::from_tokenizer_json) and [`from_tiktoken`](Self::from_tiktoken); also a file
    /// that is missing or cannot be read.
    pub fn from_dir(path: impl AsRef<Path>) -> Result<Self> {
        files::read_dir(path.as_ref())
    }

    /// Reads the tokenizer of a repository from the cache of the Hugging Face hub on this machine, without network.
    /// `repo` is `organisation/name`; `revision` is a commit, branch or tag, by default `main`.
    ///
    /// The cache is in `HF_HUB_CACHE`, else in `HF_HOME/hub`, else in `~/.cache/huggingface/hub`.
    ///
    /// # Errors
    /// As for [`from_dir`](Self::from_dir); also a repository or revision that is not in the cache.
    pub fn from_hf_cache(repo: &str, revision: Option<&str>) -> Result<Self> {
        let cache = super::hf_cache::HfCache::of(&Env::process())?;
        files::read_dir(&cache.snapshot(repo, revision.unwrap_or("main"))?)
    }

    fn new(plan: Plan) -> Result<Self> {
        let engine = Engine::new(&plan)?;
        let mut tokens: HashMap<i32, Vec<u8>> =
            plan.vocabulary.tokens().iter().map(|(bytes, id)| (*id, bytes.clone())).collect();
        let mut markers = HashMap::with_capacity(plan.added.len());
        let mut special = Vec::new();
        for token in plan.added {
            tokens.insert(token.id, token.content.clone().into_bytes());
            if token.special {
                special.push(token.id);
            }
            markers.insert(token.content, token.id);
        }
        special.sort_unstable();
        Ok(Bpe { engine, tokens, markers, special, bos: None, eos: None })
    }

    /// Sets the token that begins a sequence, by its text.
    ///
    /// # Errors
    /// `InvalidInput` if there is no such token.
    pub fn with_bos(mut self, token: &str) -> Result<Self> {
        self.bos = Some(self.known("bos_token", token)?);
        Ok(self)
    }

    /// Sets the token that ends a sequence, by its text.
    ///
    /// # Errors
    /// `InvalidInput` if there is no such token.
    pub fn with_eos(mut self, token: &str) -> Result<Self> {
        self.eos = Some(self.known("eos_token", token)?);
        Ok(self)
    }

    /// The number of tokens, markers included.
    pub fn n_tokens(&self) -> usize {
        self.tokens.len()
    }

    fn known(&self, path: &str, token: &str) -> Result<i32> {
        let id = self.token_id(token);
        id.ok_or_else(|| {
            Error::invalid(path, format!("is {token:?}, which is not a marker of this tokenizer"))
        })
    }
}

impl Tokenizer for Bpe {
    fn encode(&self, text: &str) -> Result<Vec<i32>> {
        self.engine.encode(text, true)
    }

    fn encode_ordinary(&self, text: &str) -> Result<Vec<i32>> {
        self.engine.encode(text, false)
    }

    fn token_bytes(&self, id: i32) -> Option<Vec<u8>> {
        self.tokens.get(&id).cloned()
    }

    fn token_id(&self, token: &str) -> Option<i32> {
        self.markers.get(token).copied()
    }

    fn bos_id(&self) -> Option<i32> {
        self.bos
    }

    fn eos_id(&self) -> Option<i32> {
        self.eos
    }

    fn is_special(&self, id: i32) -> bool {
        self.special.binary_search(&id).is_ok()
    }
}

#[cfg(test)]
pub(super) mod tests;
