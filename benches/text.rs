//! Speed of loading tokenizers and of encoding text.
//!
//! ```text
//! cargo bench --bench text --features text
//! ```
//!
//! For each vocabulary: loads it, then encodes the sources and documents of this crate, in parts of about 8 KB, on one
//! thread. Prints one line of JSON for each vocabulary: `load_ms`, and `mb_per_s` as the median over all rounds.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a bench talks to a person"
)]

#[path = "../tests/golden/vocabularies.rs"]
mod vocabularies;

use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use tinkex::tokenizer::{Bpe, Tokenizer};

const ROUNDS: usize = 5;
const PART: usize = 8000;

fn main() {
    let parts = parts();
    for name in vocabularies::JSON {
        let file = vocabularies::tokenizer_json(name);
        encoding(name, &parts, || Bpe::from_tokenizer_json(&file).unwrap());
    }
    let (ranks, pattern, markers) = vocabularies::kimi();
    encoding("kimi", &parts, || Bpe::from_tiktoken(&ranks, &pattern, &markers).unwrap());
}

/// Measures one vocabulary.
fn encoding(name: &str, parts: &[String], load: impl Fn() -> Bpe) {
    let start = Instant::now();
    let bpe = load();
    let load = start.elapsed();
    let n_bytes: usize = parts.iter().map(String::len).sum();
    let mut speeds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for part in parts {
                black_box(bpe.encode_ordinary(part).unwrap());
            }
            n_bytes as f64 / 1e6 / start.elapsed().as_secs_f64()
        })
        .collect();
    speeds.sort_by(f64::total_cmp);
    println!(
        r#"{{"bench":"encode","vocabulary":"{name}","load_ms":{:.0},"mb_per_s":{:.1},"text_mb":{:.2}}}"#,
        load.as_secs_f64() * 1e3,
        speeds[ROUNDS / 2],
        n_bytes as f64 / 1e6,
    );
}

/// The texts that are encoded.
fn parts() -> Vec<String> {
    let mut text = String::new();
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut text);
    let mut parts = Vec::new();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (part, left) = rest.split_at(end(rest));
        parts.push(part.to_string());
        rest = left;
    }
    parts
}

fn read(folder: &Path, text: &mut String) {
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            read(&path, text);
        } else if path.extension().is_some_and(|it| it == "rs" || it == "md") {
            *text += &std::fs::read_to_string(&path).unwrap();
        }
    }
}

/// The end of the first part, which never splits a character.
fn end(text: &str) -> usize {
    (PART..text.len()).find(|end| text.is_char_boundary(*end)).unwrap_or(text.len())
}
