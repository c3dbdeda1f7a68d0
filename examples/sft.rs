//! Supervised fine-tuning on a file of chats, with an evaluation, checkpoints and logs. Killed at any moment and started
//! again, the run continues exactly where it stopped.
//!
//! ```text
//! cargo run --release --features local --example sft -- --help
//! ```
//!
//! Without an address and an API key the example runs offline on the built-in engine. With `TINKER_BASE_URL` or
//! `TINKER_API_KEY` it uses that service and trains the base model `TINKEX_BASE_MODEL`. The tokenizer is the model's own;
//! with the feature `hub` it is downloaded from the Hugging Face hub:
//!
//! ```text
//! TINKER_API_KEY=… TINKEX_BASE_MODEL=Qwen/Qwen3-8B cargo run --release --features hub --example sft
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to a person")]

#[path = "sft/arguments.rs"]
mod arguments;
#[path = "sft/chats.rs"]
mod chats;
#[path = "sft/config.rs"]
mod config;
mod connect;

use std::collections::VecDeque;
use std::error::Error;
use std::process::ExitCode;

use tinkex::chat::{Message, Renderer};
use tinkex::train::{Run, RunOptions, Schedule};
use tinkex::types::{AdamParams, ForwardBackwardOutput, LoraConfig, LossFn, OptimStepOutput, SamplingParams};
use tinkex::{CloseStatus, Pending, ServiceClient};

use self::arguments::{Arguments, HELP};
use self::chats::{Chats, Data};

const RANK: u32 = 16;
const BATCH_SIZE: usize = 8;
const N_TEST: usize = 5;
const EVAL_EVERY: u64 = 10;
const LEARNING_RATE: f64 = 5e-3;
const SEED: u64 = 0;
/// The next step is submitted before this many earlier ones have finished, so that the server is not idle between them.
const SUBMIT_AHEAD: usize = 1;

fn main() -> ExitCode {
    let arguments = match Arguments::read(std::env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprintln!("sft: {problem}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sft: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let chats = Chats::read(&arguments.data, N_TEST, BATCH_SIZE, SEED)?;
    let base_model = connect::base_model();
    let renderer_name = renderer_name(arguments, &base_model)?;
    let config = serde_json::json!({
        "model_name": base_model,
        "renderer_name": renderer_name,
        "lora_rank": RANK,
        "data_path": arguments.data.display().to_string(),
        "data_bytes": chats.n_bytes,
        "data_fnv1a": chats.digest,
        "learning_rate": LEARNING_RATE,
        "lr_schedule": "linear",
        "batch_size": BATCH_SIZE,
        "max_steps": arguments.steps,
        "seed": SEED,
    });
    config::check_same_run(&arguments.folder, &config)?;
    // The engine keeps its checkpoints in the folder of the run.
    let connection = connect::connect(Some(arguments.folder.join("engine")))?;
    let (service, base_model) = (&connection.service, &connection.base_model);
    let options = RunOptions {
        lora: LoraConfig { rank: RANK, seed: Some(SEED), ..Default::default() },
        renderer_name: Some(renderer_name.into()),
        save_every: arguments.save_every,
        batches_per_epoch: Some(chats.batches.n_batches() as u64),
        ..Default::default()
    };
    let mut run = Run::open(&arguments.folder, service, base_model, &options)?;
    println!(
        "{}: {base_model}, from step {} of {}",
        run.folder().display(),
        run.next_step(),
        arguments.steps
    );
    let renderer = Renderer::new(renderer_name, run.training().tokenizer()?)?;
    let data = chats.data(&renderer, max_context(service, base_model)?)?;
    // Only now is it known that there is something to train.
    run.write_config(&config)?;

    let mut in_flight = VecDeque::new();
    while run.next_step() < arguments.steps || !in_flight.is_empty() {
        if run.next_step() < arguments.steps {
            in_flight.push_back(Step::submit(&mut run, &data, arguments.steps)?);
        }
        if (SUBMIT_AHEAD < in_flight.len() || run.next_step() == arguments.steps)
            && let Some(step) = in_flight.pop_front()
        {
            step.finish(&mut run)?;
        }
    }
    let record = run.finish()?;

    if let Some(path) = &record.sampler_path {
        let sampler = service.create_sampling_client(path)?;
        let question = [Message::user("What is the capital of France?")];
        let params = SamplingParams {
            max_tokens: Some(40),
            temperature: 0.0,
            stop: Some(renderer.get_stop_sequences()),
            ..Default::default()
        };
        let prompt = renderer.build_generation_prompt(&question)?;
        let answer = sampler.sample(&prompt, 1, &params).wait()?;
        let (answer, _) = renderer.parse_response(&answer.sequences[0].tokens)?;
        println!("What is the capital of France? {}", answer.text());
    }
    service.close(CloseStatus::Success)?;
    println!("sft: {} steps, {}", run.next_step(), arguments.folder.display());
    Ok(())
}

/// A step whose results are not there yet.
struct Step {
    number: u64,
    learning_rate: f64,
    /// The pass over the test data, before the step's update.
    test: Option<Pending<ForwardBackwardOutput>>,
    pass: Pending<ForwardBackwardOutput>,
    update: Pending<OptimStepOutput>,
}

impl Step {
    /// Submits the next step of the run, and a checkpoint if one is due after it.
    fn submit(run: &mut Run, data: &Data, n_steps: u64) -> tinkex::Result<Self> {
        let number = run.next_step();
        let learning_rate =
            Schedule::Linear.learning_rate(number as usize, n_steps as usize, LEARNING_RATE)?;
        let training = run.training().clone();
        let is_eval = number.is_multiple_of(EVAL_EVERY) || number + 1 == n_steps;
        let test = is_eval.then(|| training.forward(data.test.clone(), LossFn::CrossEntropy));
        let pass = training.forward_backward(data.batch(number), LossFn::CrossEntropy);
        let update = training.optim_step(AdamParams { learning_rate, ..Default::default() });
        run.checkpoint_if_due(number)?;
        Ok(Step { number, learning_rate, test, pass, update })
    }

    /// Waits for the results and writes them to the logs.
    fn finish(self, run: &mut Run) -> tinkex::Result<()> {
        let train_nll = self.pass.wait()?.loss_per_token().unwrap_or(f64::NAN);
        self.update.wait()?;
        let mut row = vec![
            ("learning_rate", self.learning_rate.into()),
            ("num_sequences", BATCH_SIZE.into()),
            ("train_mean_nll", train_nll.into()),
        ];
        if let Some(test) = self.test {
            let test_nll = test.wait()?.loss_per_token().unwrap_or(f64::NAN);
            row.push(("test/nll", test_nll.into()));
            println!("  step {:>4}: train nll {train_nll:.3}, test nll {test_nll:.3}", self.number);
        }
        run.log(self.number, &row)
    }
}

/// The name of the renderer, which is checked before anything is written.
fn renderer_name<'a>(arguments: &'a Arguments, base_model: &str) -> Result<&'a str, Box<dyn Error>> {
    let Some(name) = &arguments.renderer else { return Ok(Renderer::recommended_names(base_model)?[0]) };
    if !Renderer::names().contains(&name.as_str()) {
        let names = Renderer::names().join(", ");
        return Err(format!("{name:?} is not the name of a renderer; known are {names}").into());
    }
    Ok(name)
}

/// The largest number of tokens that the model takes, if the server tells it.
fn max_context(service: &ServiceClient, base_model: &str) -> tinkex::Result<Option<u64>> {
    let models = service.get_server_capabilities()?.supported_models;
    let model = models.into_iter().find(|model| model.model_name.as_deref() == Some(base_model));
    Ok(model.and_then(|model| model.max_context_length))
}
