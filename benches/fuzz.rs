//! Fuzzer: gives damaged messages to every decoder of the crate and reports panics.
//!
//! ```text
//! cargo bench --bench fuzz -- --seconds 60            # each decoder for 60 s
//! cargo bench --bench fuzz -- --only SampleResponse   # only this decoder
//! cargo bench --bench fuzz -- --seed 7                # the same random numbers as in a run with this seed
//! ```
//!
//! The undamaged messages (the corpus) are the recordings and test vectors of `tests/data/wire` and an example of each
//! message. For each input the fuzzer takes a message that the decoder can decode, or sometimes any message, and
//! damages it at random. It is not guided by code coverage, which would need a nightly compiler.
//!
//! Prints one line of JSON for each decoder, with the seed. After a panic the line has the input in base64, and the
//! program ends with exit status 1.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a bench talks to a person"
)]

mod support;

#[cfg(not(feature = "testing"))]
fn main() {
    support::run_with_testing("fuzz");
}

#[cfg(feature = "testing")]
fn main() {
    fuzz::main();
}

#[cfg(feature = "testing")]
mod fuzz {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::time::{Duration, Instant};

    use base64::Engine;
    use fastrand::Rng;
    use serde_json::Value;
    use tinkex::testing::codecs;

    /// Largest length of an input in bytes. Damage can make an input longer, so longer inputs are cut.
    const LONGEST: usize = 1 << 16;
    /// Number of inputs between two checks of the time.
    const ROUND: usize = 256;

    pub(super) fn main() {
        let option = |name: &str| {
            let mut arguments = std::env::args().skip_while(|it| it != name);
            arguments.next().and_then(|_| arguments.next())
        };
        let seconds: f64 = option("--seconds").map_or(2.0, |it| it.parse().expect("a number of seconds"));
        let seed: u64 = option("--seed").map_or_else(|| fastrand::u64(..), |it| it.parse().expect("a seed"));
        let only = option("--only");
        let corpus = corpus();
        let mut found = 0;
        let mut ran = 0;
        for (name, decode) in codecs::decoders() {
            if only.as_ref().is_some_and(|it| it != name) {
                continue;
            }
            ran += 1;
            found += u32::from(!run(name, decode, &corpus, seconds, seed));
        }
        assert_ne!(ran, 0, "--only does not name a decoder: {only:?}");
        if found != 0 {
            println!("{found} of {ran} decoders panicked");
            std::process::exit(1);
        }
    }

    /// Fuzzes one decoder for the given time. Returns false if it panicked.
    fn run(name: &str, decode: fn(&[u8]) -> bool, corpus: &[Vec<u8>], seconds: f64, seed: u64) -> bool {
        let mut random = Rng::with_seed(seed);
        let (mut tried, mut read) = (0u64, 0u64);
        let mut own: Vec<Vec<u8>> = corpus.iter().filter(|input| decode(input)).cloned().collect();
        let understood = own.len();
        let end = Instant::now() + Duration::from_secs_f64(seconds);
        while Instant::now() < end {
            for _ in 0..ROUND {
                // Seven times in eight a message that this decoder can decode, if there is one; otherwise any message.
                let from = if own.is_empty() || random.u8(..8) == 0 { corpus } else { &own };
                let mut input = random.choice(from).expect("a corpus").clone();
                for _ in 0..random.usize(1..5) {
                    damage(&mut input, corpus, &mut random);
                }
                input.truncate(LONGEST);
                match catch_unwind(AssertUnwindSafe(|| decode(&input))) {
                    Ok(true) => {
                        read += 1;
                        // Keep some damaged inputs that still decode, to damage them further.
                        if own.len() < 4096 && random.u8(..16) == 0 {
                            own.push(input);
                        }
                    }
                    Ok(false) => {}
                    Err(_) => {
                        let bytes = base64::engine::general_purpose::STANDARD.encode(&input);
                        println!("{{\"decoder\":{name:?},\"panicked_at_base64\":{bytes:?},\"seed\":{seed}}}");
                        return false;
                    }
                }
                tried += 1;
            }
        }
        println!(
            "{{\"decoder\":{name:?},\"tried\":{tried},\"read\":{read},\"corpus\":{understood},\"seed\":{seed}}}"
        );
        true
    }

    fn damage(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Rng) {
        let from = random.usize(..=bytes.len());
        let longest = 1 << random.u8(..8);
        let to = (from + random.usize(..longest)).min(bytes.len());
        match random.u8(..8) {
            0 => bytes.truncate(from),
            1 => drop(bytes.drain(from..to)),
            2 => {
                let part = bytes[from..to].to_vec();
                bytes.splice(from..from, part);
            }
            3 => {
                let other = random.choice(corpus).expect("a corpus");
                let start = random.usize(..=other.len());
                let end = (start + random.usize(..64)).min(other.len());
                bytes.splice(from..to, other[start..end].iter().copied());
            }
            // Cases 4 and 5 insert boundary values of lengths and sizes: as text (4) or as a varint (5).
            4 => {
                let texts = ["0", "-1", "1e309", "18446744073709551616", "null", "[]", "{}", "\"\"", "1.5"];
                bytes.splice(from..to, random.choice(texts).expect("some").bytes());
            }
            5 => {
                let mut number = (1u64 << random.u8(..64)) - random.u64(..2);
                let mut varint = Vec::new();
                while 0x80 <= number {
                    varint.push(number as u8 | 0x80);
                    number >>= 7;
                }
                varint.push(number as u8);
                bytes.splice(from..to, varint);
            }
            6 => bytes[from..to].iter_mut().for_each(|it| *it = random.u8(..)),
            _ => {
                if let Some(byte) = bytes.get_mut(from) {
                    *byte ^= 1 << random.u8(..8);
                }
            }
        }
    }

    /// Collects the messages to damage: all recorded bodies, the test vectors, and an example of each message.
    fn corpus() -> Vec<Vec<u8>> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/wire");
        let text = |name: &str| std::fs::read_to_string(format!("{folder}/{name}")).unwrap();
        let mut all: Vec<Vec<u8>> = codecs::examples().iter().map(|it| it.as_bytes().to_vec()).collect();
        for line in text("vectors.txt").lines().filter(|it| !it.starts_with('#')) {
            let hex = line.split_whitespace().last().unwrap();
            let byte = |i: usize| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap();
            all.push((0..hex.len() / 2).map(byte).collect());
        }
        for name in ["sdk-0.38.0.jsonl", "sdk-0.38.0-zstd.jsonl"] {
            for line in text(name).lines() {
                let line: Value = serde_json::from_str(line).unwrap();
                for body in [&line["request_body"], &line["response_body"]] {
                    match body["_b64"].as_str() {
                        Some(it) => all.push(base64::engine::general_purpose::STANDARD.decode(it).unwrap()),
                        None if body.is_null() => {}
                        None => all.push(body.to_string().into_bytes()),
                    }
                }
            }
        }
        // Messages for the hand-written decoders that do not occur in the recordings.
        let data = r#"{"data":[{"model_input":{"chunks":[{"type":"encoded_text","tokens":[1,2]}]},"loss_fn_inputs":{"target_tokens":{"data":[2,3],"dtype":"int64","shape":[2]},"weights":{"data":[0.5],"dtype":"float32","shape":[1,2],"sparse_crow_indices":[0,1],"sparse_col_indices":[1]}}}],"loss_fn":"cross_entropy","loss_fn_config":{"a":0.5}}"#;
        for input in ["forward_backward_input", "forward_input"] {
            all.push(format!(r#"{{"model_id":"m","seq_id":1,"{input}":{data}}}"#).into_bytes());
        }
        all.push(br#"{"type":"sample","sequences":[{"tokens":[1,2],"logprobs":[-0.5,-1.0],"stop_reason":"stop"}],"prompt_logprobs":[null,-0.5],"topk_prompt_logprobs":[null,[[3,-0.5]]]}"#.to_vec());
        all.push(b"tinker://s:train:0/weights/a".to_vec());
        all.push(b"\"2026-11-20T13:06:53.748789Z\"".to_vec());
        all.sort();
        all.dedup();
        all
    }
}
