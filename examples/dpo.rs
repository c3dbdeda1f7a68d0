//! Direct preference optimization: teaches a model to prefer polite answers, and tests it on unseen questions.
//!
//! ```text
//! cargo run --release --features local --example dpo
//! ```
//!
//! Without an address and an API key the example runs offline on the built-in engine. With `TINKER_BASE_URL` or
//! `TINKER_API_KEY` it uses that service and trains the base model `TINKEX_BASE_MODEL`, with its own tokenizer (feature
//! `hub`) and the format that is recommended for it.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to a person")]

mod connect;
mod usage;

use std::process::ExitCode;

use tinkex::chat::{Example, Message, Renderer, TrainOnWhat};
use tinkex::train::{Schedule, dpo_loss, preference_data, sequence_logprobs};
use tinkex::types::{AdamParams, Datum, LoraConfig};
use tinkex::{CloseStatus, Error};

/// Questions; the last [`N_TESTED`] are not trained on.
const THINGS: [&str; 12] =
    ["tea", "milk", "bread", "soup", "rice", "fish", "cake", "salt", "fruit", "water", "jam", "toast"];
const N_TESTED: usize = 4;
const CHOSEN: &str = "yes please";
const REJECTED: &str = "no way man";
const STEPS: usize = 15;
const PEAK: f64 = 5e-3;
const BETA: f64 = 0.1;

const HELP: &str = "\
Teaches a model to prefer polite answers, by direct preference optimization.

Usage: dpo

  -h, --help      print this text

Without TINKER_BASE_URL and TINKER_API_KEY it runs on the built-in engine, otherwise on that service with the base
model TINKEX_BASE_MODEL.
";

fn main() -> ExitCode {
    usage::run_without_arguments("dpo", HELP, run)
}

fn run() -> Result<(), Error> {
    let connection = connect::connect(None)?;
    let lora = LoraConfig { seed: Some(1), ..Default::default() };
    let training = connection.service.create_lora_training_client(&connection.base_model, lora)?;
    let renderer = Renderer::recommended(&connection.base_model, training.tokenizer()?)?;

    let (trained, tested) = THINGS.split_at(THINGS.len() - N_TESTED);
    let (data, test_data) = (preferences(&renderer, trained)?, preferences(&renderer, tested)?);
    // The reference is the model before the first step. Its log-probabilities never change.
    let before = training.save_weights_and_get_sampling_client()?;
    let (reference, test_reference) =
        (sequence_logprobs(&data, &before)?, sequence_logprobs(&test_data, &before)?);

    for step in 0..STEPS {
        let reference = reference.clone();
        let pass = training.forward_backward_custom(data.clone(), move |data, logprobs| {
            dpo_loss(data, logprobs, &reference, BETA)
        });
        let learning_rate = Schedule::Cosine.with_warmup(2).learning_rate(step, STEPS, PEAK)?;
        let update = training.optim_step(AdamParams { learning_rate, ..Default::default() });
        let metrics = pass.wait()?.metrics;
        update.wait()?;
        println!(
            "step {step:>2}: loss {:.3}, accuracy {:.2}, margin {:+.2}",
            metrics["dpo_loss"], metrics["accuracy"], metrics["margin"]
        );
    }

    // Without training, log-probabilities equal those of the reference: no pair is preferred, and the loss is ln 2.
    let unseen = |logprobs: &[Vec<f32>]| dpo_loss(&test_data, logprobs, &test_reference, BETA);
    let after = training.save_weights_and_get_sampling_client()?;
    let (first, last) = (unseen(&test_reference)?, unseen(&sequence_logprobs(&test_data, &after)?)?);
    connection.service.close(CloseStatus::Success)?;
    println!(
        "dpo: unseen questions: accuracy {:.2} -> {:.2}, loss {:.2} -> {:.2}",
        first.metrics["accuracy"], last.metrics["accuracy"], first.loss, last.loss
    );
    Ok(())
}

/// For each thing, a question with a chosen and a rejected answer.
fn preferences(renderer: &Renderer, things: &[&str]) -> Result<Vec<Datum>, Error> {
    let mut pairs = Vec::new();
    for thing in things {
        pairs.push((example(renderer, thing, CHOSEN)?, example(renderer, thing, REJECTED)?));
    }
    preference_data(&pairs, None)
}

/// A question and an answer. Only the tokens of the answer count.
fn example(renderer: &Renderer, thing: &str, answer: &str) -> Result<Example, Error> {
    let messages = [Message::user(format!("Some {thing}?")), Message::assistant(answer)];
    renderer.build_supervised_example(&messages, TrainOnWhat::LastAssistantMessage)
}
