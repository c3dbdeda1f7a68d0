//! Ids of 5000 strings, compared with those of tokenizers 0.23 and tiktoken.

use std::sync::OnceLock;

use super::vocabularies::{self, golden};
use super::*;

struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// The strings that `strings.json` describes.
fn strings() -> &'static [String] {
    static STRINGS: OnceLock<Vec<String>> = OnceLock::new();
    STRINGS.get_or_init(|| {
        let file = golden("strings.json");
        let pieces: Vec<&str> =
            file["pieces"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
        let string = |seed: u64| {
            let mut numbers = SplitMix64(seed);
            let n = 1 + numbers.next() % 14;
            (0..n).map(|_| pieces[(numbers.next() % pieces.len() as u64) as usize]).collect::<String>()
        };
        let strings: Vec<String> = (0..file["count"].as_u64().unwrap()).map(string).collect();
        assert_eq!(json!(strings[..5]), file["first"], "these are not the strings of the golden files");
        strings
    })
}

fn fnv1a(ids: &[i32]) -> u32 {
    let bytes = ids.iter().flat_map(|id| id.to_le_bytes());
    bytes.fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

fn check(name: &str, bpe: &Bpe) {
    let file = golden(&format!("tokenizer_{name}.json"));
    let digests: String = file["digests"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
    let is_normalized = file["normalizer"]["type"] == "NFC";
    for (i, text) in strings().iter().enumerate() {
        let ids = bpe.encode_ordinary(text).unwrap();
        if let Some(first) = file["first"].get(i) {
            assert_eq!(json!(ids), first["ids"], "{name} {i} {text:?}");
        }
        assert_eq!(format!("{:08x}", fnv1a(&ids)), digests[8 * i..8 * i + 8], "{name} {i} {text:?} {ids:?}");
        // None of the strings contains a marker.
        assert_eq!(bpe.encode(text).unwrap(), ids, "{name} {i} {text:?}");
        if !is_normalized {
            assert_eq!(bpe.decode(&ids), *text, "{name} {i}");
        }
    }
    for (marker, id, special) in vocabularies::markers(&file) {
        assert_eq!(bpe.encode(&format!("a{marker}b")).unwrap()[1], id, "{name} {marker}");
        assert_eq!(bpe.decode(&[id]), marker);
        assert_eq!((bpe.token_id(&marker), bpe.is_special(id)), (Some(id), special), "{name} {marker}");
        let ids = bpe.encode_ordinary(&format!("a{marker}b")).unwrap();
        assert!(!ids.contains(&id), "{name} {marker} {ids:?}");
        assert_eq!(bpe.decode(&ids), format!("a{marker}b"));
    }
}

fn check_json(name: &str) {
    check(name, &Bpe::from_tokenizer_json(&vocabularies::tokenizer_json(name)).unwrap());
}

#[test]
fn qwen3_gives_the_ids_of_tokenizers() {
    check_json("qwen3");
}

#[test]
fn llama3_gives_the_ids_of_tokenizers() {
    check_json("llama3");
}

#[test]
fn deepseek_gives_the_ids_of_tokenizers() {
    check_json("deepseek");
}

#[test]
fn gpt_oss_gives_the_ids_of_tokenizers() {
    check_json("o200k");
}

#[test]
fn kimi_gives_the_ids_of_tiktoken() {
    let (ranks, pattern, markers) = vocabularies::kimi();
    check("kimi", &Bpe::from_tiktoken(&ranks, &pattern, &markers).unwrap());
}
