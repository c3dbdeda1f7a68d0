//! Teaches a model to speak pig latin, and shows what it learned.
//!
//! ```text
//! cargo run --release --features local --example quickstart
//! ```
//!
//! Without an API key it runs offline, on the engine that is built in. With `TINKER_API_KEY` set it uses the service at
//! `TINKER_BASE_URL` and trains the base model named by `TINKEX_BASE_MODEL`. Either way a token is a byte: ids below 256
//! exist in every model's vocabulary, so that the example needs no tokenizer of any particular model.

#![allow(clippy::print_stdout, reason = "an example talks to a person")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tinkex::event::{Observer, Retry};
use tinkex::tokenizer::ByteTokenizer;
use tinkex::types::{AdamParams, Datum, LoraConfig, LossFn, ModelInput, SamplingParams, Stop, Ttl};
use tinkex::{CloseStatus, Error, SamplingClient, ServiceClient, wait_all};

/// What the model is taught. The first ten are asked again at the end.
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

/// Words that the model never saw, for interest.
const UNSEEN: [&str; 5] = ["lemonade", "street", "pencil", "umbrella", "forest"];

const ASKED: usize = 10;
const STEPS: usize = 150;
const LEARNING_RATE: f64 = 6e-3;

fn main() -> Result<(), Error> {
    let started = Instant::now();
    // The server must outlive the client, and the session should be closed before it goes.
    let (service, base_model, _server) = connect()?;
    let training = service.create_lora_training_client(&base_model, LoraConfig::default())?;

    let asked: Vec<&str> = PAIRS.iter().take(ASKED).map(|it| it.0).collect();
    println!("Asking {base_model} before it has learned anything …");
    let before = answers(&service.create_sampling_client(base_model.as_str())?, &asked)?;
    for (word, answer) in asked.iter().zip(&before) {
        println!("  {word:<10} {}", shown(answer));
    }

    println!("Teaching it {} words …", PAIRS.len());
    let data: Vec<Datum> = PAIRS
        .iter()
        .map(|it| Datum::cross_entropy(&prompt(it.0), &ByteTokenizer.encode(&format!("{}\n", it.1))))
        .collect();
    let n_tokens: usize = data.iter().map(|it| it.model_input.len()).sum::<Result<usize, Error>>()?;

    let bar = ProgressBar::new(STEPS as u64).with_style(style());
    let trained = Instant::now();
    let (mut first, mut last) = (f64::NAN, f64::NAN);
    let submit = |step: usize| {
        // Both are submitted before either is waited for: the server never idles between them. The learning rate falls
        // to zero, so that the last steps only settle what the first ones found.
        let learning_rate = LEARNING_RATE * (1.0 - step as f64 / STEPS as f64);
        let step = training.forward_backward(data.clone(), LossFn::CrossEntropy);
        (step, training.optim_step(AdamParams { learning_rate, ..Default::default() }))
    };
    let mut pending = Some(submit(0));
    for step in 0..STEPS {
        let next = (step + 1 < STEPS).then(|| submit(step + 1));
        if let Some((pass, update)) = std::mem::replace(&mut pending, next) {
            // Per token that has weight, here those of the answers.
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
    let after = answers(&sampler, &asked)?;
    println!("\n  {:<10} {:<14} {:<14} {:<14}", "word", "before", "after", "right answer");
    let mut exact = 0;
    for ((word, right), (before, after)) in PAIRS.iter().zip(before.iter().zip(&after)) {
        exact += usize::from(after == right);
        let mark = if after == right { "✓" } else { " " };
        println!("  {word:<10} {:<14} {:<14} {right:<14} {mark}", shown(before), shown(after));
    }
    println!("\nWords that it never saw:");
    for (word, answer) in UNSEEN.iter().zip(answers(&sampler, &UNSEEN)?) {
        println!("  {word:<10} {}", shown(&answer));
    }
    println!("\nSaved as {}", state.wait()?.path);

    service.close(CloseStatus::Success)?;
    let seconds = started.elapsed().as_secs_f64();
    println!("quickstart: exact {exact}/{ASKED}, loss {first:.2} -> {last:.2}, {seconds:.1} s");
    Ok(())
}

/// The service that the environment names, or the engine that is built in.
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

/// The service that the environment names.
#[cfg(not(feature = "local"))]
fn connect() -> Result<(ServiceClient, String, ()), Error> {
    let (service, base_model) = remote()?;
    Ok((service, base_model, ()))
}

/// Says what is being waited for when a request has to be repeated.
struct Waits;

impl Observer for Waits {
    fn on_retry(&self, retry: &Retry) {
        println!(
            "  waiting for the server, {} for the {}. time: {}",
            retry.path, retry.attempts, retry.error
        );
    }
}

fn remote() -> Result<(ServiceClient, String), Error> {
    let service = ServiceClient::builder()
        .observer(Arc::new(Waits))
        // Nobody looks at an example for five minutes.
        .timeouts(|it| it.submit = Duration::from_secs(60))
        .build()?;
    if let Ok(name) = std::env::var("TINKEX_BASE_MODEL") {
        return Ok((service, name));
    }
    println!("Set TINKEX_BASE_MODEL to one of the models that the server offers:");
    for model in service.get_server_capabilities()?.supported_models {
        println!("  {}", model.model_name.unwrap_or_default());
    }
    std::process::exit(2)
}

fn prompt(word: &str) -> Vec<i32> {
    ByteTokenizer.encode(&format!("{word} -> "))
}

/// What a model makes of each word: all of them are asked at once.
fn answers(sampler: &SamplingClient, words: &[&str]) -> Result<Vec<String>, Error> {
    let newline = i32::from(b'\n');
    let params = SamplingParams {
        max_tokens: Some(14),
        temperature: 0.0,
        stop: Some(Stop::Tokens(vec![newline])),
        ..Default::default()
    };
    let asked = words.iter().map(|it| sampler.sample(&ModelInput::from_ints(prompt(it)), 1, &params));
    let answers = wait_all(asked)?;
    Ok(answers
        .iter()
        .map(|it| ByteTokenizer.decode(&it.sequences[0].tokens).trim_end().to_string())
        .collect())
}

/// Text of an untrained model may hold anything; a terminal should see only what has one column.
fn shown(text: &str) -> String {
    text.chars().map(|it| if it.is_ascii_graphic() { it } else { '·' }).collect()
}

fn style() -> ProgressStyle {
    // The template is a constant; if it ever were wrong, the plain bar would do.
    ProgressStyle::with_template("  {bar:40} {pos}/{len} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}
