//! Tokenizers of real models, made from the vocabularies of the `splintr-vocab-*` crates and the golden files.
//!
//! This file is included by tests and benchmarks, and names nothing of the crate.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde_json::{Value, json};

/// The names of the vocabularies whose tokenizers are `tokenizer.json` files.
pub(crate) const JSON: [&str; 4] = ["qwen3", "llama3", "deepseek", "o200k"];

/// A golden file.
pub(crate) fn golden(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/text").join(name);
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).expect("a golden file is JSON")
}

/// The tokens of a vocabulary and their ids.
pub(crate) fn tokens(name: &str) -> Vec<(Vec<u8>, u32)> {
    let packed = match name {
        "qwen3" => splintr_vocab_qwen::QWEN3_VOCAB_PACKED,
        "llama3" => splintr_vocab_llama3::LLAMA3_VOCAB_PACKED,
        "deepseek" => splintr_vocab_deepseek::DEEPSEEK_V3_VOCAB_PACKED,
        "o200k" => splintr_vocab_o200k::O200K_BASE_VOCAB_PACKED,
        "kimi" => splintr_vocab_kimi::KIMI_VOCAB_PACKED,
        _ => panic!("no vocabulary {name:?}"),
    };
    let mut rest = packed.strip_prefix(b"SPLNTRV1").expect("the known format");
    let count = u32::from_le_bytes(take(&mut rest, 4).try_into().expect("four bytes"));
    (0..count)
        .map(|_| {
            let id = number(&mut rest);
            let len = number(&mut rest) as usize;
            let token = take(&mut rest, len).to_vec();
            // This vocabulary has the texts of a byte-level file instead of the bytes.
            (if name == "deepseek" { from_letters(token) } else { token }, id)
        })
        .collect()
}

fn take<'a>(rest: &mut &'a [u8], n: usize) -> &'a [u8] {
    let (taken, left) = rest.split_at(n);
    *rest = left;
    taken
}

/// A number of which each byte holds seven bits, the lowest first.
fn number(rest: &mut &[u8]) -> u32 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let byte = take(rest, 1)[0];
        value |= u32::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    value
}

/// The markers of a golden file, as `(name, id, special)`.
pub(crate) fn markers(golden: &Value) -> Vec<(String, i32, bool)> {
    let list = golden["markers"].as_array().expect("a list of markers");
    let marker = |marker: &Value| {
        let id = marker["id"].as_i64().and_then(|id| i32::try_from(id).ok()).expect("an id");
        (marker["name"].as_str().expect("a name").to_string(), id, marker["special"] == true)
    };
    list.iter().map(marker).collect()
}

/// The `tokenizer.json` of a model, without reserved markers.
pub(crate) fn tokenizer_json(name: &str) -> Vec<u8> {
    let golden = golden(&format!("tokenizer_{name}.json"));
    let markers = markers(&golden);
    let tokens = tokens(name);
    let ids: HashMap<&[u8], u32> = tokens.iter().map(|(bytes, id)| (bytes.as_slice(), *id)).collect();
    let is_marker = |bytes: &[u8]| markers.iter().any(|(name, ..)| name.as_bytes() == bytes);
    let mut vocab = serde_json::Map::new();
    let mut merges = Vec::new();
    for (bytes, id) in &tokens {
        if is_marker(bytes) {
            vocab.insert(String::from_utf8_lossy(bytes).into_owned(), json!(id));
            continue;
        }
        vocab.insert(letters(bytes), json!(id));
        for middle in 1..bytes.len() {
            let (left, right) = bytes.split_at(middle);
            if let (Some(left_id), Some(right_id)) = (ids.get(left), ids.get(right)) {
                merges.push((*id, *left_id, *right_id, letters(left), letters(right)));
            }
        }
    }
    merges.sort();
    // The files of Qwen3 and gpt-oss have pairs, the others have texts.
    let merge = |(.., left, right): &(u32, u32, u32, String, String)| {
        if matches!(name, "qwen3" | "o200k") {
            json!([left, right])
        } else {
            json!(format!("{left} {right}"))
        }
    };
    let added = |(name, id, special): &(String, i32, bool)| {
        json!({"id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": special})
    };
    let document = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": markers.iter().map(added).collect::<Vec<_>>(),
        "normalizer": golden["normalizer"],
        "pre_tokenizer": golden["pre_tokenizer"],
        "post_processor": golden["post_processor"],
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": golden["ignore_merges"],
            "vocab": vocab,
            "merges": merges.iter().map(merge).collect::<Vec<_>>(),
        },
    });
    serde_json::to_vec(&document).expect("JSON can be written")
}

/// Ranks in the format of tiktoken, the pattern and the markers of Kimi K2.
pub(crate) fn kimi() -> (Vec<u8>, String, BTreeMap<String, i32>) {
    let golden = golden("tokenizer_kimi.json");
    let pattern = golden["patterns"][0].as_str().expect("a pattern").to_string();
    let markers = markers(&golden).into_iter().map(|(name, id, _)| (name, id)).collect();
    (ranks("kimi"), pattern, markers)
}

/// A vocabulary in the format of tiktoken.
pub(crate) fn ranks(name: &str) -> Vec<u8> {
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    let line = |(bytes, id): &(Vec<u8>, u32)| format!("{} {id}\n", BASE64_STANDARD.encode(bytes));
    tokens(name).iter().map(line).collect::<String>().into_bytes()
}

/// Writes bytes in the alphabet of byte-level tokenizers.
fn letters(bytes: &[u8]) -> String {
    let hidden = hidden();
    let letter = |byte: &u8| match hidden.iter().position(|it| it == byte) {
        Some(n) => char::from_u32(0x100 + n as u32).expect("a letter"),
        None => char::from(*byte),
    };
    bytes.iter().map(letter).collect()
}

/// Reads a token in that alphabet; markers are left as they are.
fn from_letters(token: Vec<u8>) -> Vec<u8> {
    let hidden = hidden();
    let byte = |letter: char| match u32::from(letter) {
        code @ 0x100.. => hidden.get(code as usize - 0x100).copied(),
        code => u8::try_from(code).ok(),
    };
    let text = String::from_utf8(token).expect("a text");
    text.chars().map(byte).collect::<Option<Vec<u8>>>().unwrap_or(text.into_bytes())
}

/// The bytes without a visible character in Latin-1.
fn hidden() -> Vec<u8> {
    (0..=0x20).chain(0x7f..=0xa0).chain([0xad]).collect()
}
