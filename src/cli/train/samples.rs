//! `samples.jsonl`: answers to the same prompts before, during and after the training.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tinkex::SamplingClient;
use tinkex::chat::Message;
use tinkex::types::{ModelInput, SamplingParams};

use super::plan::Tokens;
use crate::counted::counted;
use crate::examples::{DataFormat, Encoder, Problems};
use crate::failure::Failure;
use crate::notes;
use crate::prompts::{self, Prompt, unusable};

const MAX_TOKENS: u32 = 128;
/// More prompts than this would cost more than the training.
const MAX_PROMPTS: usize = 256;

/// The prompts of a run.
#[derive(Debug)]
pub(super) struct Prompts {
    all: Vec<(Value, ModelInput)>,
    /// The format of the data.
    format: DataFormat,
}

/// The prompts, and the file of the samples.
#[derive(Debug)]
pub(super) struct Samples {
    prompts: Prompts,
    path: PathBuf,
}

impl Prompts {
    /// Reads the prompts. `template` is the format that the settings name.
    pub(super) fn read(
        file: &Path,
        encoder: &Encoder,
        format: DataFormat,
        template: Option<&str>,
    ) -> Result<Self, Failure> {
        let mut lines = prompts::Prompts::open(file, "id", template)?;
        let (mut prompts, mut problems) = (Vec::new(), Problems::default());
        while let Some(item) = lines.next().map_err(Failure::text)? {
            let input = item
                .prompt
                .and_then(|prompt| input_of(&prompt, encoder, format).map_err(|failure| failure.summary()));
            match input {
                Ok(input) => prompts.push((item.json.unwrap_or_default(), input)),
                Err(problem) => problems.add(&item.place, &problem),
            }
        }
        if !problems.is_empty() {
            return Err(unusable(&problems));
        }
        if prompts.is_empty() || MAX_PROMPTS < prompts.len() {
            let n = prompts.len();
            return Err(Failure::text(format!(
                "{}: has {n} prompts: give 1 to {MAX_PROMPTS}",
                file.display()
            )));
        }
        Ok(Prompts { all: prompts, format })
    }
}

impl Samples {
    /// `path` is that of `samples.jsonl`.
    pub(super) fn new(prompts: Prompts, path: PathBuf) -> Self {
        Samples { prompts, path }
    }

    /// Removes the samples of a step and of later ones, which are sampled again. A torn last line goes, too.
    pub(super) fn cut(&self, step: u64) -> Result<(), Failure> {
        let Ok(text) = std::fs::read_to_string(&self.path) else { return Ok(()) };
        let is_before = |line: &&str| {
            let row: Option<Value> = serde_json::from_str(line).ok();
            row.and_then(|row| row["step"].as_u64()).is_some_and(|it| it < step)
        };
        let kept: String = text.lines().filter(is_before).map(|line| format!("{line}\n")).collect();
        let new = self.path.with_extension("jsonl.new");
        std::fs::write(&new, kept)
            .and_then(|()| std::fs::rename(&new, &self.path))
            .map_err(|error| Failure::text(format!("{}: {error}", self.path.display())))
    }

    /// True if the samples after so many steps are there.
    pub(super) fn has(&self, step: u64) -> bool {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        text.lines().any(|line| {
            let row: Option<Value> = serde_json::from_str(line).ok();
            row.is_some_and(|row| row["step"] == step)
        })
    }

    /// Samples an answer to each prompt and appends them. `step` is the number of steps that are done.
    pub(super) fn add(
        &self,
        step: u64,
        sampler: &SamplingClient,
        encoder: &Encoder,
    ) -> Result<Tokens, Failure> {
        let params = SamplingParams {
            max_tokens: Some(MAX_TOKENS),
            temperature: 0.0,
            stop: encoder.stop(),
            ..Default::default()
        };
        let pending: Vec<_> =
            self.prompts.all.iter().map(|(_, input)| sampler.sample(input, 1, &params)).collect();
        let mut tokens = Tokens::default();
        let mut lines = String::new();
        for ((index, (shown, input)), pending) in self.prompts.all.iter().enumerate().zip(pending) {
            let answer = pending.wait()?;
            let Some(sequence) = answer.sequences.first() else { continue };
            tokens.prefilled += input.len().unwrap_or(0) as u64;
            tokens.sampled += sequence.tokens.len() as u64;
            let text = encoder.answer_text(&sequence.tokens, is_chat(shown, self.prompts.format));
            lines.push_str(&format!(
                "{}\n",
                json!({ "step": step, "index": index, "prompt": shown, "text": text })
            ));
        }
        let file = File::options().create(true).append(true).open(&self.path);
        file.and_then(|mut file| file.write_all(lines.as_bytes()))
            .map_err(|error| Failure::text(format!("{}: {error}", self.path.display())))?;
        let when = match step {
            0 => "before the training".to_owned(),
            n => format!("after {}", counted(n, "step")),
        };
        notes::say(&format!("samples {when}: {}", self.path.display()));
        Ok(tokens)
    }
}

/// True if the prompt has the format of conversations: messages, and texts if the data are conversations.
fn is_chat(prompt: &Value, format: DataFormat) -> bool {
    prompt.is_array() || matches!(format, DataFormat::Chat | DataFormat::Preference)
}

fn input_of(prompt: &Prompt, encoder: &Encoder, format: DataFormat) -> Result<ModelInput, Failure> {
    let text = match prompt {
        Prompt::Messages(messages) => return encoder.prompt(messages),
        Prompt::Text(text) if is_chat(&Value::Null, format) => return encoder.prompt(&[Message::user(text)]),
        Prompt::Text(text) => text,
    };
    let tokenizer = encoder.tokenizer().ok_or_else(|| Failure::text("prompts need a tokenizer"))?;
    let mut tokens: Vec<i32> = tokenizer.bos_id().into_iter().collect();
    tokens.extend(tokenizer.encode_ordinary(text)?);
    Ok(ModelInput::from_ints(tokens))
}
