//! Names of models, and the files of their tokenizers in the formats of the Hugging Face libraries.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::checkpoint::drafts;
use super::disk::TempPath;
use super::nn::ModelConfig;
use crate::tokenizer::ByteTokenizer;

/// The model that every engine serves.
pub(super) const NANO: &str = "tinkex/nano";

/// Name of the only revision of each model in the folder `hub` (see [`write`]).
const REVISION: &str = "0000000000000000000000000000000000000000";
/// Text of the end-of-sequence token.
const EOS: &str = "<|endoftext|>";

/// Files of a model's folder that hold a tokenizer. Without one of them clients cannot load it.
pub(super) const TOKENIZER_FILES: [&str; 2] = ["tokenizer.json", "tiktoken.model"];

/// Other small files that libraries read together with the tokenizer.
const BESIDE: [&str; 10] = [
    "tokenizer_config.json",
    "config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "tokenization_kimi.py",
];

/// True if a text can be the name of a model, and so of a folder: `Qwen/Qwen3-8B`.
pub(super) fn is_valid(name: &str) -> bool {
    let plain = |it: &str| !it.is_empty() && !it.starts_with('.') && it.bytes().all(is_plain);
    name.split('/').all(plain)
}

/// True for the bytes that are allowed in a name: a name becomes part of a folder name.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)
}

/// Writes the tokenizer of bytes into the data folder: once into the folder `tokenizer`, which is returned, and once for
/// each name into the folder `hub`. That folder has the layout of the Hugging Face cache, in which libraries look up a
/// model by its name.
///
/// # Errors
/// The files cannot be written.
pub(super) fn write(data_dir: &Path, names: &[String], config: &ModelConfig) -> io::Result<PathBuf> {
    let folder = std::path::absolute(data_dir)?.join("tokenizer");
    let files = files(config).map(|(name, text)| (name, text.into_bytes()));
    write_files(data_dir, &folder, &files)?;
    write_hub(data_dir, names, &files)?;
    Ok(folder)
}

/// Copies the tokenizer of a model's folder for each name into the folder `hub`.
///
/// # Errors
/// The files cannot be read or written.
pub(super) fn copy(data_dir: &Path, names: &[String], folder: &Path) -> io::Result<()> {
    let mut files = Vec::new();
    for name in TOKENIZER_FILES.into_iter().chain(BESIDE) {
        if folder.join(name).is_file() {
            files.push((name, fs::read(folder.join(name))?));
        }
    }
    write_hub(data_dir, names, &files)
}

fn write_hub(data_dir: &Path, names: &[String], files: &[(&str, Vec<u8>)]) -> io::Result<()> {
    for name in names {
        let repo = data_dir.join("hub").join(format!("models--{}", name.replace('/', "--")));
        write_files(data_dir, &repo.join("snapshots").join(REVISION), files)?;
        write_files(data_dir, &repo.join("refs"), &[("main", REVISION.into())])?;
    }
    Ok(())
}

/// Writes files that do not exist or have another content. Readers never see a partial file. Drafts are where the next
/// engine removes them if this one is killed.
fn write_files(data_dir: &Path, folder: &Path, files: &[(&str, Vec<u8>)]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let drafts = drafts(data_dir);
    fs::create_dir_all(&drafts)?;
    for (name, text) in files {
        let path = folder.join(name);
        if fs::read(&path).is_ok_and(|it| it == *text) {
            continue;
        }
        let draft = TempPath(drafts.join(format!("{name}-{:016x}", fastrand::u64(..))));
        fs::write(&draft.0, text)?;
        fs::rename(&draft.0, &path)?;
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
}
