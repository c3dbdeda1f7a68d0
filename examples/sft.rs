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

mod connect;

use std::collections::VecDeque;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use tinkex::chat::{Example, Message, Reduction, Renderer, TrainOnWhat};
use tinkex::data::{Batches, Conversation, read_jsonl, split_test, to_data};
use tinkex::train::{Run, RunOptions, Schedule};
use tinkex::types::{
    AdamParams, Datum, ForwardBackwardOutput, LoraConfig, LossFn, OptimStepOutput, SamplingParams,
};
use tinkex::{CloseStatus, Pending};

const HELP: &str = "\
Fine-tunes a model on chats, one JSON object {\"messages\": [...]} a line.

Usage: sft [FOLDER] [--data FILE] [--renderer NAME] [--steps N] [--save-every N]

  FOLDER          folder of the run; if it has a run, the run continues; default: sft-run
  --data FILE     the chats; default: examples/data/chats.jsonl
  --renderer NAME format of the chats; default: the one that is recommended for the model
  --steps N       steps in all; default: 150
  --save-every N  steps between checkpoints; default: 20
  -h, --help      print this text

FOLDER gets metrics.jsonl, checkpoints.jsonl and config.json, in the format of the Tinker cookbook.
";

const BATCH_SIZE: usize = 8;
const N_TEST: usize = 5;
const EVAL_EVERY: u64 = 10;
const LEARNING_RATE: f64 = 5e-3;
const SEED: u64 = 0;
/// The next step is submitted before this many earlier ones have finished, so that the server is not idle between them.
const SUBMIT_AHEAD: usize = 1;

struct Arguments {
    folder: PathBuf,
    data: PathBuf,
    renderer: Option<String>,
    steps: u64,
    save_every: u64,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "-h" || argument == "--help") {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let arguments = match parse(arguments) {
        Ok(arguments) => arguments,
        Err(problem) => {
            eprintln!("sft: {problem}; see --help");
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

fn parse(arguments: Vec<String>) -> Result<Arguments, String> {
    let mut parsed = Arguments {
        folder: "sft-run".into(),
        data: concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/chats.jsonl").into(),
        renderer: None,
        steps: 150,
        save_every: 20,
    };
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        let number = |text: String| text.parse().map_err(|_| format!("{text:?} is not a whole number"));
        match argument.as_str() {
            "--data" => parsed.data = value()?.into(),
            "--renderer" => parsed.renderer = Some(value()?),
            "--steps" => parsed.steps = number(value()?)?,
            "--save-every" => parsed.save_every = number(value()?)?,
            unknown if unknown.starts_with('-') => return Err(format!("unknown argument {unknown:?}")),
            folder => parsed.folder = folder.into(),
        }
    }
    Ok(parsed)
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let chats = read_jsonl::<Conversation>(&arguments.data)?.collect::<tinkex::Result<Vec<_>>>()?;
    let (test, train) = split_test(chats.len(), N_TEST, SEED)?;
    let batches = Batches::new(train.len(), BATCH_SIZE, SEED)?;
    // The engine keeps its checkpoints in the folder of the run.
    let connection = connect::connect(Some(arguments.folder.join("engine")))?;
    let (service, base_model) = (&connection.service, &connection.base_model);
    let renderer_name = match &arguments.renderer {
        Some(name) => name.as_str(),
        None => Renderer::recommended_names(base_model)?[0],
    };
    let options = RunOptions {
        lora: LoraConfig { rank: 16, seed: Some(SEED), ..Default::default() },
        renderer_name: Some(renderer_name.into()),
        save_every: arguments.save_every,
        batches_per_epoch: Some(batches.n_batches() as u64),
        config: Some(serde_json::json!({
            "model_name": base_model,
            "renderer_name": renderer_name,
            "learning_rate": LEARNING_RATE,
            "lr_schedule": "linear",
            "batch_size": BATCH_SIZE,
            "max_steps": arguments.steps,
            "seed": SEED,
        })),
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
    let data = Data::new(&renderer, &chats, &train, &test, batches)?;

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

/// The training data and the test data.
struct Data {
    /// The data of each chat: one datum, or one for each answer where the format needs that.
    train: Vec<Vec<Datum>>,
    test: Vec<Datum>,
    batches: Batches,
}

impl Data {
    fn new(
        renderer: &Renderer,
        chats: &[Conversation],
        train: &[usize],
        test: &[usize],
        batches: Batches,
    ) -> Result<Self, Box<dyn Error>> {
        let data = |i: &usize| -> Result<Vec<Datum>, Box<dyn Error>> {
            let messages = &chats[*i].messages;
            let is_flagged = messages.iter().all(|message| message.trainable.is_some());
            let what = if is_flagged { TrainOnWhat::Customized } else { TrainOnWhat::AllAssistantMessages };
            let examples: Vec<Example> = renderer.build_supervised_examples(messages, what)?;
            let prepared = to_data(&examples, None, Reduction::Mean);
            Ok(prepared.map_err(|error| format!("chat {}: {error}", i + 1))?.data)
        };
        let all = |indices: &[usize]| indices.iter().map(data).collect::<Result<Vec<_>, _>>();
        Ok(Data { train: all(train)?, test: all(test)?.concat(), batches })
    }

    /// The batch of a step: a function of the step alone, so that a resumed run trains on the same batches.
    fn batch(&self, step: u64) -> Vec<Datum> {
        let batch = self.batches.from_step(step).next();
        batch.iter().flat_map(|batch| &batch.indices).flat_map(|i| self.train[*i].clone()).collect()
    }
}
