//! Names of the served model, and the files of its tokenizer in the formats of the Hugging Face libraries.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::nn::ModelConfig;
use super::reply::{Reply, refuse};
use crate::tokenizer::ByteTokenizer;

/// The one model that this engine serves.
pub(super) const NANO: &str = "tinkex/nano";

/// Name of the only revision of each model in the folder `hub` (see [`Names::new`]).
const REVISION: &str = "0000000000000000000000000000000000000000";
/// Text of the end-of-sequence token.
const EOS: &str = "<|endoftext|>";

/// Names of the model, and the folder of its tokenizer.
#[derive(Debug)]
pub(super) struct Names {
    aliases: Vec<String>,
    tokenizer: String,
}

impl Names {
    /// Checks the aliases.
    ///
    /// # Errors
    /// An alias is invalid, or stands for another model.
    pub(super) fn check_aliases(aliases: &BTreeMap<String, String>) -> Result<(), String> {
        for (alias, model) in aliases {
            if model != NANO {
                return Err(format!(
                    "the alias {alias:?} stands for {model:?}, but only {NANO:?} is served here"
                ));
            }
            let plain = |it: &str| !it.is_empty() && !it.starts_with('.') && it.bytes().all(is_plain);
            if alias == NANO || !alias.split('/').all(plain) {
                return Err(format!(
                    "{alias:?} is not a valid alias of a model: write it like \"Qwen/Qwen3-8B\""
                ));
            }
        }
        Ok(())
    }

    /// Writes the tokenizer into the data folder: once into the folder `tokenizer`, and once for each name into the
    /// folder `hub`. That folder has the layout of the Hugging Face cache, in which libraries look up a model by its
    /// name.
    ///
    /// # Errors
    /// The files cannot be written.
    pub(super) fn new(
        aliases: &BTreeMap<String, String>,
        data_dir: &Path,
        config: &ModelConfig,
    ) -> Result<Self, String> {
        let aliases: Vec<String> = aliases.keys().cloned().collect();
        let names = aliases.iter().map(String::as_str).chain([NANO]);
        let folder = write(data_dir, names, config);
        let folder =
            folder.map_err(|it| format!("cannot write a tokenizer in {}: {it}", data_dir.display()))?;
        Ok(Names { aliases, tokenizer: folder.display().to_string() })
    }

    /// Folder of the tokenizer.
    pub(super) fn tokenizer(&self) -> &str {
        &self.tokenizer
    }

    /// All names, the model's own first.
    pub(super) fn all(&self) -> impl Iterator<Item = &str> {
        [NANO].into_iter().chain(self.aliases.iter().map(String::as_str))
    }

    /// Refuses the name of a model that is not served.
    pub(super) fn check(&self, name: &str) -> Reply<()> {
        if self.all().any(|it| it == name) {
            return Ok(());
        }
        let offered = self.all().map(|it| format!("{it:?}")).collect::<Vec<_>>().join(", ");
        refuse(400, format!("base model {name:?} is not served here; this engine offers {offered}"))
    }

    /// `name` if it is a name of the model, otherwise the model's own name. An alias in an old checkpoint may no longer
    /// exist.
    pub(super) fn alias_or_own<'a>(&'a self, name: Option<&str>) -> &'a str {
        self.all().find(|it| Some(*it) == name).unwrap_or(NANO)
    }
}

/// True for the bytes that are allowed in a name: a name becomes part of a folder name.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)
}

fn write<'a>(
    data_dir: &Path,
    names: impl Iterator<Item = &'a str>,
    config: &ModelConfig,
) -> io::Result<PathBuf> {
    let data_dir = std::path::absolute(data_dir)?;
    let folder = data_dir.join("tokenizer");
    let files = files(config);
    write_files(&folder, &files)?;
    for name in names {
        let repo = data_dir.join("hub").join(format!("models--{}", name.replace('/', "--")));
        write_files(&repo.join("snapshots").join(REVISION), &files)?;
        write_files(&repo.join("refs"), &[("main", REVISION.into())])?;
    }
    Ok(folder)
}

/// Writes files that do not exist or have another content. Readers never see a partial file.
fn write_files(folder: &Path, files: &[(&str, String)]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for (name, text) in files {
        let path = folder.join(name);
        if fs::read(&path).is_ok_and(|it| it == text.as_bytes()) {
            continue;
        }
        let draft = folder.join(format!(".{name}-{:016x}", fastrand::u64(..)));
        fs::write(&draft, text)?;
        fs::rename(&draft, &path)?;
    }
    Ok(())
}

/// Files that describe [`ByteTokenizer`] in the format of the library `tokenizers`. The end-of-sequence token gets the
/// text [`EOS`].
fn files(c: &ModelConfig) -> [(&'static str, String); 3] {
    let vocab: serde_json::Map<String, Value> =
        (0..=255u8).map(|byte| (letter(byte).to_string(), json!(byte))).collect();
    let eos = json!({
        "id": ByteTokenizer::EOS, "content": EOS, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true,
    });
    let level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [eos], "normalizer": null,
        "pre_tokenizer": level, "post_processor": null, "decoder": level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": [],
        },
    });
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": EOS, "pad_token": EOS,
        "model_max_length": c.max_len, "clean_up_tokenization_spaces": false, "add_prefix_space": false,
    });
    // Libraries that look up a tokenizer by model name read this file first.
    let model = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": c.vocab,
        "hidden_size": c.hidden, "intermediate_size": c.mlp, "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads, "num_key_value_heads": c.kv_heads, "head_dim": c.head_dim,
        "max_position_embeddings": c.max_len, "rope_theta": c.rope_theta, "rms_norm_eps": c.norm_eps,
        "hidden_act": "silu", "tie_word_embeddings": c.tied_head, "eos_token_id": ByteTokenizer::EOS,
    });
    let text = |it: Value| format!("{it:#}\n");
    [
        ("tokenizer.json", text(tokenizer)),
        ("tokenizer_config.json", text(config)),
        ("config.json", text(model)),
    ]
}

/// Letter that stands for a byte in byte-level tokenizers. A byte that is a visible Latin-1 character stands for
/// itself; the other bytes, in order, get the characters from U+0100 on.
fn letter(byte: u8) -> char {
    let visible = |it: u8| matches!(it, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if visible(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|it| !visible(*it)).count() as u32;
    char::from_u32(0x100 + before).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_has_a_different_letter() {
        let all: std::collections::BTreeSet<char> = (0..=255).map(letter).collect();
        assert_eq!(all.len(), 256);
        assert_eq!([letter(b'A'), letter(b' '), letter(b'\n'), letter(0)], ['A', 'Ġ', 'Ċ', 'Ā']);
        assert_eq!([letter(0x7f), letter(0xad), letter(0xff)], ['ġ', 'Ń', 'ÿ']);
    }

    #[test]
    fn only_aliases_of_this_model_are_accepted_and_each_is_found_in_the_folders_of_the_hub() {
        let folder = std::env::temp_dir().join(format!("tinkex-names-{}", std::process::id()));
        let named = |alias: &str, model: &str| {
            let aliases = [(alias.to_string(), model.to_string())].into();
            Names::check_aliases(&aliases).and_then(|()| Names::new(&aliases, &folder, &ModelConfig::nano()))
        };
        let error = named("Qwen/Qwen3-8B", "Qwen/Qwen3-4B").expect_err("an error");
        assert!(error.contains("only \"tinkex/nano\" is served here"), "{error}");
        for bad in ["", "/", "a//b", "../x", "a/..", "a b", "tinkex/nano", "/a"] {
            let error = named(bad, NANO).expect_err("an error");
            assert!(error.contains("not a valid alias"), "{bad:?}: {error}");
        }
        let names = named("Qwen/Qwen3-8B", NANO).expect("names");
        assert!(names.check("Qwen/Qwen3-8B").is_ok() && names.check(NANO).is_ok());
        let refusal = names.check("Qwen/Qwen3-4B").expect_err("a refusal");
        assert!(refusal.detail.contains(r#"offers "tinkex/nano", "Qwen/Qwen3-8B""#), "{}", refusal.detail);
        assert_eq!(
            [
                names.alias_or_own(Some("Qwen/Qwen3-8B")),
                names.alias_or_own(Some("gone")),
                names.alias_or_own(None)
            ],
            ["Qwen/Qwen3-8B", NANO, NANO]
        );
        let read = |path: &str| fs::read_to_string(folder.join(path)).expect("a file");
        let tokenizer = read("tokenizer/tokenizer.json");
        for name in ["Qwen--Qwen3-8B", "tinkex--nano"] {
            let repo = format!("hub/models--{name}");
            let revision = read(&format!("{repo}/refs/main"));
            assert_eq!(read(&format!("{repo}/snapshots/{revision}/tokenizer.json")), tokenizer);
        }
        assert!(Path::new(names.tokenizer()).is_absolute() && Path::new(names.tokenizer()).is_dir());
        fs::remove_dir_all(&folder).expect("cleaning up");
    }
}
