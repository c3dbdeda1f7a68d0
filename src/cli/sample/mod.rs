//! `tinkex sample`: samples answers to one prompt, or to a file of prompts.

mod answers;
mod batch;
mod ending;
mod kept;
mod made;
mod progress;
mod prompt;
mod sampler;
mod settings;
mod work;

use std::path::PathBuf;

use serde_json::{Value, json};

use super::args::Format;
use super::connection::App;
use super::failure::Failure;

pub(crate) use self::progress::Progress;
pub(crate) use self::prompt::printed;
pub(crate) use self::sampler::{Answer, Sampler};
pub(crate) use self::settings::Settings;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Prompt: a text, @FILE, or - for stdin, which is also the default
    #[arg(conflicts_with = "input")]
    prompt: Option<String>,
    /// Number of answers to each prompt
    #[arg(short, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    n: u32,
    /// Send the text as it is, without the format of conversations
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    settings: Settings,
    /// Write the log-probability of each token; needs -f json, -f jsonl or -i
    #[arg(long)]
    logprobs: bool,
    #[command(flatten)]
    batch: BatchArgs,
}

/// Options of a file of prompts.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Many prompts")]
pub(crate) struct BatchArgs {
    /// File of prompts: JSON objects with `prompt` or `messages`, one a line or in one array, or lines of text; - is
    /// stdin. The answers are JSON Lines
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// File that gets a line for each prompt. Prompts that it has an answer to are skipped: those with the same id, and,
    /// without ids, equal ones, wherever they stand now [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Add to the file of -o although its answers were made with another model or other settings
    #[arg(long, requires = "output")]
    force_resume: bool,
    /// Number of prompts that are worked on at the same time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    in_flight: u16,
    /// Key of a line that identifies its prompt
    #[arg(long, value_name = "KEY", default_value = "id")]
    id_field: String,
    /// Write the lines in the order of the prompts, also after lines were added to the input
    #[arg(long)]
    ordered: bool,
}

pub(crate) fn run(args: Args, app: &App) -> Result<(), Failure> {
    if args.batch.input.is_some() {
        return batch::run(&args, app);
    }
    if args.batch.output.is_some() || args.batch.ordered {
        return Err(
            Failure::usage("-o and --ordered are for a file of prompts").with_remedy("name it with -i")
        );
    }
    let is_json = matches!(app.out.format(), Format::Json | Format::Jsonl);
    if args.logprobs && !is_json {
        return Err(Failure::usage("--logprobs are not text").with_remedy("-f json"));
    }
    let text = prompt::read(args.prompt.as_deref(), args.raw)?;
    let sampler = Sampler::open(&args.settings, args.raw, app)?;
    let prompt = sampler.prompt(&text).map_err(Failure::text)?;
    let response = sampler.client.sample(&prompt, args.n, &sampler.params).wait()?;
    let answers: Vec<Answer> = response.sequences.iter().map(|sequence| sampler.answer(sequence)).collect();
    if is_json {
        let sequences: Vec<Value> = answers.iter().map(|answer| answer.json(args.logprobs)).collect();
        return app.out.value(&json!({ "prompt": text, "sequences": sequences }), String::new);
    }
    for (i, answer) in answers.iter().enumerate() {
        let gap = if i == 0 { "" } else { "\n" };
        app.out.line(&format!("{gap}{}", printed(&answer.text)))?;
    }
    Ok(())
}

impl Answer {
    /// The sequence in JSON.
    pub(crate) fn json(&self, logprobs: bool) -> Value {
        let mut json = json!({ "text": self.text, "tokens": self.tokens, "stop_reason": self.stop_reason });
        if logprobs {
            json["logprobs"] = json!(self.logprobs);
        }
        json
    }
}
