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
use crate::examples::{DataFormat, Encoder};
use crate::failure::Failure;
use crate::notes;

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
    /// Reads the prompts.
    pub(super) fn read(file: &Path, encoder: &Encoder, format: DataFormat) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(file)
            .map_err(|error| Failure::text(format!("{}: cannot be read: {error}", file.display())))?;
        let mut prompts = Vec::new();
        for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let at = |problem: String| Failure::text(format!("{}:{}: {problem}", file.display(), i + 1));
            let shown = prompt_of(line).map_err(at)?;
            let input = input_of(&shown, encoder, format).map_err(|failure| match failure {
                Failure::Text { message, .. } | Failure::Usage { message, .. } => at(message),
                other => other,
            })?;
            prompts.push((shown, input));
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

/// The prompt of a line: a text, or messages.
fn prompt_of(line: &str) -> Result<Value, String> {
    if !line.trim_start().starts_with('{') {
        return Ok(line.into());
    }
    let mut object: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
    match (object["prompt"].take(), object["messages"].take()) {
        (prompt @ (Value::String(_) | Value::Array(_)), _) => Ok(prompt),
        (_, messages @ Value::Array(_)) => Ok(messages),
        _ => Err("has neither `prompt` nor `messages`".into()),
    }
}

/// True if the prompt has the format of conversations: messages, and texts if the data are conversations.
fn is_chat(prompt: &Value, format: DataFormat) -> bool {
    prompt.is_array() || matches!(format, DataFormat::Chat | DataFormat::Preference)
}

fn input_of(prompt: &Value, encoder: &Encoder, format: DataFormat) -> Result<ModelInput, Failure> {
    let text = match prompt {
        Value::Array(messages) => {
            let messages: Result<Vec<Message>, String> = messages.iter().map(message).collect();
            return encoder.prompt(&messages.map_err(Failure::text)?);
        }
        prompt => prompt.as_str().unwrap_or_default(),
    };
    if is_chat(prompt, format) {
        return encoder.prompt(&[Message::user(text)]);
    }
    let tokenizer = encoder.tokenizer().ok_or_else(|| Failure::text("prompts need a tokenizer"))?;
    let mut tokens: Vec<i32> = tokenizer.bos_id().into_iter().collect();
    tokens.extend(tokenizer.encode_ordinary(text)?);
    Ok(ModelInput::from_ints(tokens))
}

fn message(value: &Value) -> Result<Message, String> {
    match (value["role"].as_str(), value["content"].as_str()) {
        (Some(role), Some(content)) => Ok(Message::new(role, content)),
        _ => Err("a message needs `role` and `content`, both texts".into()),
    }
}
