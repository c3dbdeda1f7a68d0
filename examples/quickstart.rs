//! Teaches a model pig latin and shows what it learned.
//!
//! ```text
//! cargo run --release --features local --example quickstart
//! ```
//!
//! Without an API key the example runs offline on the built-in engine. If `TINKER_API_KEY` is set, it uses the service
//! at `TINKER_BASE_URL` and trains the base model `TINKEX_BASE_MODEL`. In both cases the example needs no tokenizer:
//! each byte of the text is one token, and token ids below 256 exist in every model's vocabulary.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to a person")]

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tinkex::event::{Observer, Retry};
use tinkex::tokenizer::ByteTokenizer;
use tinkex::types::{AdamParams, Datum, LoraConfig, LossFn, ModelInput, SamplingParams, Stop, Ttl};
use tinkex::{CloseStatus, Error, ErrorKind, SamplingClient, ServiceClient, wait_all};

/// Training data: an English word and the answer in pig latin. The first [`N_TESTED`] words are tested before and after
/// the training.
const PAIRS: [(&str, &str); 48] = [
    ("banana", "ananabay"),
    ("pizza", "izzapay"),
    ("smile", "ilesmay"),
    ("string", "ingstray"),
    ("apple", "appleway"),
    ("quick", "ickquay"),
    ("thunder", "underthay"),
    ("orange", "orangeway"),
    ("glove", "oveglay"),
    ("happy", "appyhay"),
    ("latin", "atinlay"),
    ("duck", "uckday"),
    ("trash", "ashtray"),
    ("floor", "oorflay"),
    ("store", "orestay"),
    ("egg", "eggway"),
    ("under", "underway"),
    ("island", "islandway"),
    ("cheers", "eerschay"),
    ("shesh", "eshshay"),
    ("moon", "oonmay"),
    ("river", "iverray"),
    ("bread", "eadbray"),
    ("cloud", "oudclay"),
    ("dream", "eamdray"),
    ("friend", "iendfray"),
    ("green", "eengray"),
    ("house", "ousehay"),
    ("jungle", "unglejay"),
    ("kitten", "ittenkay"),
    ("lemon", "emonlay"),
    ("music", "usicmay"),
    ("night", "ightnay"),
    ("planet", "anetplay"),
    ("rocket", "ocketray"),
    ("snow", "owsnay"),
    ("table", "abletay"),
    ("voice", "oicevay"),
    ("window", "indowway"),
    ("yellow", "ellowyay"),
    ("zebra", "ebrazay"),
    ("ocean", "oceanway"),
    ("spring", "ingspray"),
    ("three", "eethray"),
    ("whale", "alewhay"),
    ("ghost", "ostghay"),
    ("paper", "aperpay"),
    ("garden", "ardengay"),
];

/// Words that are not in the training data.
const UNSEEN: [&str; 5] = ["lemonade", "street", "pencil", "umbrella", "forest"];

const N_TESTED: usize = 10;
const STEPS: usize = 150;
const LEARNING_RATE: f64 = 6e-3;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quickstart: {error}");
            if *error.kind() == ErrorKind::Auth {
                eprintln!("Check TINKER_API_KEY, or unset it to train offline (with `--features local`).");
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Error> {
    let started = Instant::now();
    // Keep the engine (`_server`) alive until the session has been closed.
    let (service, base_model, _server) = connect()?;
    let training = service.create_lora_training_client(&base_model, LoraConfig::default())?;

    let words: Vec<&str> = PAIRS.iter().take(N_TESTED).map(|it| it.0).collect();
    println!("Answers of {base_model} before training:");
    let before = answers(&service.create_sampling_client(base_model.as_str())?, &words)?;
    for (word, answer) in words.iter().zip(&before) {
        println!("  {word:<10} {}", printable(answer));
    }

    println!("Training on {} words …", PAIRS.len());
    let data: Vec<Datum> = PAIRS
        .iter()
        .map(|it| Datum::cross_entropy(&prompt(it.0), &ByteTokenizer.encode(&format!("{}\n", it.1))))
        .collect();
    let n_tokens: usize = data.iter().map(|it| it.model_input.len()).sum::<Result<usize, Error>>()?;

    let bar = ProgressBar::new(STEPS as u64).with_style(style());
    let trained = Instant::now();
    let (mut first, mut last) = (f64::NAN, f64::NAN);
    let submit = |step: usize| {
        // Submit the pass and the update before waiting for the pass, so that the server is not idle between them. The
        // learning rate falls linearly towards zero.
        let learning_rate = LEARNING_RATE * (1.0 - step as f64 / STEPS as f64);
        let step = training.forward_backward(data.clone(), LossFn::CrossEntropy);
        (step, training.optim_step(AdamParams { learning_rate, ..Default::default() }))
    };
    let mut pending = Some(submit(0));
    for step in 0..STEPS {
        let next = (step + 1 < STEPS).then(|| submit(step + 1));
        if let Some((pass, update)) = std::mem::replace(&mut pending, next) {
            // The mean loss of the tokens that have a weight: the tokens of the answer.
            last = pass.wait()?.loss_per_token().unwrap_or(f64::NAN);
            update.wait()?;
        }
        if step == 0 {
            first = last;
        }
        let speed = ((step + 1) * n_tokens) as f64 / trained.elapsed().as_secs_f64();
        bar.set_message(format!("loss {last:.3} per token, {speed:.0} tokens/s"));
        bar.inc(1);
    }
    bar.finish();

    let state = training.save_state("pig-latin", Ttl::Never);
    let weights = training.save_weights_for_sampler("pig-latin", Ttl::Never).wait()?;
    let sampler = service.create_sampling_client(&weights.path)?;
    let after = answers(&sampler, &words)?;
    println!("\n  {:<10} {:<14} {:<14} {:<14}", "word", "before", "after", "right answer");
    let mut exact = 0;
    for ((word, right), (before, after)) in PAIRS.iter().zip(before.iter().zip(&after)) {
        exact += usize::from(after == right);
        let mark = if after == right { "✓" } else { " " };
        println!("  {word:<10} {:<14} {:<14} {right:<14} {mark}", printable(before), printable(after));
    }
    println!("\nWords that were not in the training data:");
    for (word, answer) in UNSEEN.iter().zip(answers(&sampler, &UNSEEN)?) {
        println!("  {word:<10} {}", printable(&answer));
    }
    println!("\nSaved as {}", state.wait()?.path);

    service.close(CloseStatus::Success)?;
    let seconds = started.elapsed().as_secs_f64();
    println!("quickstart: exact {exact}/{N_TESTED}, loss {first:.2} -> {last:.2}, {seconds:.1} s");
    Ok(())
}

/// Connects to the service that the environment variables set, or starts the built-in engine.
#[cfg(feature = "local")]
fn connect() -> Result<(ServiceClient, String, Option<tinkex::local::Server>), Error> {
    if std::env::var_os("TINKER_API_KEY").is_some() {
        let (service, base_model) = remote()?;
        return Ok((service, base_model, None));
    }
    let server = tinkex::local::Server::start(Default::default())?;
    let service = ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build()?;
    Ok((service, "tinkex/nano".into(), Some(server)))
}

/// Connects to the service that the environment variables set.
#[cfg(not(feature = "local"))]
fn connect() -> Result<(ServiceClient, String, ()), Error> {
    let (service, base_model) = remote()?;
    Ok((service, base_model, ()))
}

/// Prints the reason of each retry.
struct PrintRetries;

impl Observer for PrintRetries {
    fn on_retry(&self, retry: &Retry) {
        println!("  attempt {} of {} failed, trying again: {}", retry.attempts, retry.path, retry.error);
    }
}

fn remote() -> Result<(ServiceClient, String), Error> {
    let service = ServiceClient::builder()
        .observer(Arc::new(PrintRetries))
        // The default of five minutes is long for an example.
        .timeouts(|it| it.submit = Duration::from_secs(60))
        .build()?;
    if let Ok(name) = std::env::var("TINKEX_BASE_MODEL") {
        return Ok((service, name));
    }
    println!("Set TINKEX_BASE_MODEL to one of the server's models:");
    for model in service.get_server_capabilities()?.supported_models {
        println!("  {}", model.model_name.unwrap_or_default());
    }
    std::process::exit(2)
}

fn prompt(word: &str) -> Vec<i32> {
    ByteTokenizer.encode(&format!("{word} -> "))
}

/// Samples an answer for each word. All samples are in flight at the same time.
fn answers(sampler: &SamplingClient, words: &[&str]) -> Result<Vec<String>, Error> {
    let newline = i32::from(b'\n');
    let params = SamplingParams {
        max_tokens: Some(14),
        temperature: 0.0,
        stop: Some(Stop::Tokens(vec![newline])),
        ..Default::default()
    };
    let samples = words.iter().map(|word| sampler.sample(&ModelInput::from_ints(prompt(word)), 1, &params));
    let answers = wait_all(samples)?;
    Ok(answers
        .iter()
        .map(|answer| ByteTokenizer.decode(&answer.sequences[0].tokens).trim_end().to_string())
        .collect())
}

/// Replaces characters that are not printable ASCII, which an untrained model may produce.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_graphic() { c } else { '·' }).collect()
}

fn style() -> ProgressStyle {
    // The template is valid, so the fallback is never used; it replaces an `unwrap`.
    ProgressStyle::with_template("  {bar:40} {pos}/{len} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}
