#![allow(clippy::unwrap_used, clippy::expect_used)]

mod broken;
mod folders;
mod golden;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;

#[allow(dead_code, reason = "the file is shared with benchmarks")]
#[path = "../../../tests/golden/vocabularies.rs"]
pub(crate) mod vocabularies;

/// A small `tokenizer.json`: the 256 bytes, "he" (256), "ll" (257), "hell" (258), and some markers.
pub(in crate::tokenizer) fn small() -> Value {
    let mut vocab: serde_json::Map<String, Value> =
        (0..=255_u8).map(|byte| (alphabet::letter(byte).to_string(), json!(byte))).collect();
    for (i, token) in ["he", "ll", "hell"].into_iter().enumerate() {
        vocab.insert(token.into(), json!(256 + i));
    }
    json!({
        "version": "1.0",
        "added_tokens": [
            {"id": 300, "content": "<end>", "special": true, "normalized": false},
            {"id": 259, "content": "<think>", "special": false, "normalized": false},
            {"id": 400, "content": "<left>", "special": true, "normalized": false, "lstrip": true},
            {"id": 401, "content": "<right>", "special": true, "normalized": false, "rstrip": true},
            {"id": 402, "content": "<é>", "special": false, "normalized": true},
            {"id": 403, "content": "word", "special": false, "normalized": false, "single_word": true},
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": r"\p{L}+|\s+(?!\S)|\s+|[^\s\p{L}]+"}, "behavior": "Isolated",
             "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        ]},
        "post_processor": {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "dropout": null, "vocab": vocab, "merges": ["h e", "l l", ["he", "ll"]]},
    })
}

fn load(document: &Value) -> Result<Bpe> {
    Bpe::from_tokenizer_json(document.to_string().as_bytes())
}

#[test]
fn merges_are_applied_and_ids_may_have_gaps() {
    let bpe = load(&small()).unwrap();
    assert_eq!(bpe.encode("hello<end>he").unwrap(), [258, 111, 300, 256]);
    assert_eq!(bpe.decode(&[258, 111, 300, 256, 999, -1]), "hello<end>he");
    assert_eq!(bpe.encode("").unwrap(), [0; 0]);
    assert_eq!(bpe.n_tokens(), 259 + 6);
    assert_eq!((bpe.token_id("<end>"), bpe.token_id("he")), (Some(300), None));
    assert_eq!((bpe.is_special(300), bpe.is_special(259), bpe.is_special(0)), (true, false, false));
    assert_eq!(bpe.token_bytes(195), Some(vec![0xc3]));
}

#[test]
fn without_a_pattern_the_text_is_one_piece() {
    let mut file = small();
    file["pre_tokenizer"] =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    file["model"]["vocab"]["lĠh"] = json!(500);
    file["model"]["vocab"]["lĠ"] = json!(501);
    file["model"]["merges"] = json!(["l Ġ", "lĠ h"]);
    let bpe = load(&file).unwrap();
    assert_eq!(bpe.encode("l he\n").unwrap(), [500, 101, 10]);
    assert_eq!(bpe.encode_ordinary("a\nb").unwrap(), [97, 10, 98]);
}

#[test]
fn ordinary_text_never_contains_a_marker_not_even_one_that_is_part_of_the_text() {
    let bpe = load(&small()).unwrap();
    for text in ["<end>", "<think>", "<left>", " <right> ", "<é>", "a word", "x<end><think>hello"] {
        let ids = bpe.encode_ordinary(text).unwrap();
        assert!(ids.iter().all(|id| *id < 259), "{text}: {ids:?}");
        assert_eq!(bpe.decode(&ids), text);
    }
}

#[test]
fn markers_take_spaces_match_normalized_text_and_whole_words_as_the_file_says() {
    let bpe = load(&small()).unwrap();
    assert_eq!(bpe.encode("a  <left> b").unwrap(), [97, 400, 32, 98]);
    assert_eq!(bpe.encode("a <right>  b").unwrap(), [97, 32, 401, 98]);
    assert_eq!(bpe.encode("<e\u{301}>").unwrap(), [402]);
    assert_eq!(bpe.encode("a word").unwrap(), [97, 32, 403]);
    assert_eq!(bpe.encode("swords").unwrap(), b"swords".map(i32::from));
    assert_eq!(bpe.encode("<<end>>").unwrap(), [60, 300, 62]);
}

#[test]
fn a_whole_piece_that_is_a_token_is_taken_without_merges_if_the_file_says_so() {
    let mut document = small();
    document["model"]["vocab"]["abc"] = json!(270);
    assert_eq!(load(&document).unwrap().encode("abc").unwrap(), [97, 98, 99]);
    document["model"]["ignore_merges"] = json!(true);
    assert_eq!(load(&document).unwrap().encode("abc").unwrap(), [270]);
    assert_eq!(load(&document).unwrap().encode("abcd").unwrap(), [97, 98, 99, 100]);
}

#[test]
fn bos_and_eos_are_set_by_their_text() {
    let bpe = load(&small()).unwrap();
    assert_eq!((bpe.bos_id(), bpe.eos_id()), (None, None));
    let bpe = bpe.with_bos("<think>").unwrap().with_eos("<end>").unwrap();
    assert_eq!((bpe.bos_id(), bpe.eos_id()), (Some(259), Some(300)));
    let error = bpe.with_eos("<no>").unwrap_err().to_string();
    assert_eq!(error, "eos_token: is \"<no>\", which is not a marker of this tokenizer");
}

#[test]
fn a_long_run_of_spaces_is_split_like_a_short_one() {
    // A pattern with a look-ahead, which an engine that backtracks runs.
    let mut ranks = vocabularies_of_bytes();
    ranks.push_str("ICA= 256\n");
    let pattern = r"[\p{Han}]+|\p{L}+|\s+(?!\S)|\s+";
    let bpe = Bpe::from_tiktoken(ranks.as_bytes(), pattern, &BTreeMap::new()).unwrap();
    for n in [3, 2_000_001] {
        let ids = bpe.encode(&format!("{}a", " ".repeat(n))).unwrap();
        // The last space stands alone before the text.
        assert_eq!(ids.len(), n / 2 + 2, "{n}");
        assert_eq!(ids[ids.len() - 2..], [32, 97]);
    }
}

pub(in crate::tokenizer) fn vocabularies_of_bytes() -> String {
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    (0..=255_u8).map(|byte| format!("{} {byte}\n", BASE64_STANDARD.encode([byte]))).collect()
}
