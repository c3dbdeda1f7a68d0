//! Speed of loading tokenizers, of encoding text and of rendering chats.
//!
//! ```text
//! cargo bench --bench text --features text
//! ```
//!
//! For each vocabulary: loads it, then encodes the sources of this crate, in parts of about 8 KB, on one thread. Prints one
//! line of JSON for each vocabulary: `load_ms`, and `mb_per_s` of the first round, which finds no word in a cache, and as
//! the median of the others. If the Python of `TINKEX_PYTHON` (default: `python3`) has the package `tokenizers`, it encodes
//! the same parts with the same file on one thread, before and after: `python_mb_per_s`.
//!
//! For each renderer: makes training examples of the chats in `examples/data`, on one thread and on all:
//! `chats_per_s`, `chats_per_s_all_threads`.

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
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use rayon::prelude::*;
use tinkex::chat::{Renderer, TrainOnWhat};
use tinkex::data::{Conversation, read_jsonl};
use tinkex::tokenizer::{Bpe, Tokenizer};

const ROUNDS: usize = 5;
const PART: usize = 8000;
const CHATS: usize = 10_000;

fn main() {
    let parts = parts();
    for name in vocabularies::JSON {
        let file = vocabularies::tokenizer_json(name);
        encoding(name, &parts, Some(&file), || Bpe::from_tokenizer_json(&file).unwrap());
    }
    let (ranks, pattern, markers) = vocabularies::kimi();
    encoding("kimi", &parts, None, || Bpe::from_tiktoken(&ranks, &pattern, &markers).unwrap());
    for (vocabulary, renderer) in [("qwen3", "qwen3"), ("llama3", "llama3"), ("deepseek", "deepseekv3")] {
        let bpe = Bpe::from_tokenizer_json(&vocabularies::tokenizer_json(vocabulary)).unwrap();
        rendering(&Renderer::new(renderer, Arc::new(bpe)).unwrap());
    }
}

/// Measures a renderer.
fn rendering(renderer: &Renderer) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/chats.jsonl");
    let chats: Vec<Conversation> = read_jsonl(path).unwrap().collect::<tinkex::Result<_>>().unwrap();
    let chats: Vec<&Conversation> = chats.iter().cycle().take(CHATS).collect();
    let what = TrainOnWhat::AllAssistantMessages;
    let render = |chat: &&Conversation| {
        let examples = renderer.build_supervised_examples(&chat.messages, what).unwrap();
        examples.iter().map(|example| example.n_tokens()).sum::<usize>()
    };
    let mut tokens = 0;
    let mut speeds = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        let start = Instant::now();
        tokens = chats.iter().map(render).sum();
        speeds[0].push(CHATS as f64 / start.elapsed().as_secs_f64());
        let start = Instant::now();
        assert_eq!(chats.par_iter().map(render).sum::<usize>(), tokens);
        speeds[1].push(CHATS as f64 / start.elapsed().as_secs_f64());
    }
    let [one, all] = speeds.map(median);
    println!(
        r#"{{"bench":"render","renderer":"{}","tokens_per_chat":{:.0},"chats_per_s":{one:.0},"chats_per_s_all_threads":{all:.0}}}"#,
        renderer.name(),
        tokens as f64 / CHATS as f64,
    );
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The speed of the Python package `tokenizers`, in MB/s; `None` if it is not there.
fn python(file: &[u8], parts: &[String]) -> Option<f64> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-text");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("tokenizer.json"), file).unwrap();
    std::fs::write(folder.join("parts.json"), serde_json::to_vec(parts).unwrap()).unwrap();
    let python = std::env::var("TINKEX_PYTHON").unwrap_or_else(|_| "python3".into());
    let script = "import json, sys, time, tokenizers\n\
        made = tokenizers.Tokenizer.from_file('tokenizer.json')\n\
        parts = json.load(open('parts.json'))\n\
        n = sum(len(part.encode()) for part in parts)\n\
        speeds = []\n\
        for _ in range(3):\n    \
            start = time.perf_counter()\n    \
            for part in parts: made.encode(part, add_special_tokens=False)\n    \
            speeds.append(n / 1e6 / (time.perf_counter() - start))\n\
        print(sorted(speeds)[1])";
    let output = Command::new(python)
        .args(["-c", script])
        .env("TOKENIZERS_PARALLELISM", "false")
        .current_dir(folder)
        .output()
        .ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// Measures one vocabulary.
fn encoding(name: &str, parts: &[String], file: Option<&[u8]>, load: impl Fn() -> Bpe) {
    let before = file.and_then(|file| python(file, parts));
    let start = Instant::now();
    let bpe = load();
    let load = start.elapsed();
    let n_bytes: usize = parts.iter().map(String::len).sum();
    let round = || {
        let start = Instant::now();
        for part in parts {
            black_box(bpe.encode_ordinary(part).unwrap());
        }
        n_bytes as f64 / 1e6 / start.elapsed().as_secs_f64()
    };
    let first = round();
    let speed = median((0..ROUNDS).map(|_| round()).collect());
    let after = file.and_then(|file| python(file, parts));
    let python = match before.zip(after) {
        Some((before, after)) => {
            let python = (before + after) / 2.0;
            format!(r#","python_mb_per_s":{python:.2},"times_python":{:.1}"#, first / python)
        }
        None => String::new(),
    };
    println!(
        r#"{{"bench":"encode","vocabulary":"{name}","load_ms":{:.0},"first_mb_per_s":{first:.1},"mb_per_s":{speed:.1}{python},"text_mb":{:.2}}}"#,
        load.as_secs_f64() * 1e3,
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
