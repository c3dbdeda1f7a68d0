//! The chats, and the training data that they make.

use std::error::Error;
use std::path::{Path, PathBuf};

use tinkex::chat::{Example, Message, Reduction, Renderer, TrainOnWhat};
use tinkex::data::{Batches, Conversation, Jsonl, split_test, to_data};
use tinkex::types::Datum;

use crate::config::digest;

/// A file of chats.
pub(crate) struct Chats {
    path: PathBuf,
    pub(crate) n_bytes: usize,
    pub(crate) digest: String,
    /// Each chat with the number of its line.
    chats: Vec<(usize, Conversation)>,
    train: Vec<usize>,
    test: Vec<usize>,
    pub(crate) batches: Batches,
}

impl Chats {
    /// Reads a file, and puts chats aside for the test.
    pub(crate) fn read(
        path: &Path,
        n_test: usize,
        batch_size: usize,
        seed: u64,
    ) -> Result<Self, Box<dyn Error>> {
        let name = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|error| format!("{name}: cannot be read: {error}"))?;
        let mut records = Jsonl::<_, Conversation>::new(bytes.as_slice(), name.as_str());
        let mut chats = Vec::new();
        while let Some(chat) = records.next() {
            chats.push((records.line_number(), chat?));
        }
        if chats.len() < n_test + batch_size {
            return Err(format!(
                "{name}: has {} chats, but at least {} are needed: {n_test} for the test and {batch_size} for a batch",
                chats.len(),
                n_test + batch_size
            )
            .into());
        }
        let (test, train) = split_test(chats.len(), n_test, seed)?;
        let batches = Batches::new(train.len(), batch_size, seed)?;
        Ok(Chats {
            path: path.into(),
            n_bytes: bytes.len(),
            digest: digest(&bytes),
            chats,
            train,
            test,
            batches,
        })
    }

    /// The data of all chats. `max_context` is the largest number of tokens that the model takes.
    pub(crate) fn data(&self, renderer: &Renderer, max_context: Option<u64>) -> Result<Data, Box<dyn Error>> {
        let data = |i: &usize| -> Result<Vec<Datum>, Box<dyn Error>> {
            let (line, chat) = &self.chats[*i];
            data_of(renderer, &chat.messages, max_context)
                .map_err(|problem| format!("{}:{line}: {problem}", self.path.display()).into())
        };
        let all = |indices: &[usize]| indices.iter().map(data).collect::<Result<Vec<_>, _>>();
        Ok(Data { train: all(&self.train)?, test: all(&self.test)?.concat(), batches: self.batches })
    }
}

/// The training data and the test data.
pub(crate) struct Data {
    /// The data of each chat: one datum, or one for each answer where the format needs that.
    train: Vec<Vec<Datum>>,
    pub(crate) test: Vec<Datum>,
    batches: Batches,
}

impl Data {
    /// The batch of a step: a function of the step alone, so that a resumed run trains on the same batches.
    pub(crate) fn batch(&self, step: u64) -> Vec<Datum> {
        let batch = self.batches.from_step(step).next();
        batch.iter().flat_map(|batch| &batch.indices).flat_map(|i| self.train[*i].clone()).collect()
    }
}

/// The data of a chat.
fn data_of(
    renderer: &Renderer,
    messages: &[Message],
    max_context: Option<u64>,
) -> Result<Vec<Datum>, Box<dyn Error>> {
    let is_flagged = messages.iter().all(|message| message.trainable.is_some());
    let what = if is_flagged { TrainOnWhat::Customized } else { TrainOnWhat::AllAssistantMessages };
    let examples: Vec<Example> = renderer.build_supervised_examples(messages, what)?;
    if examples.is_empty() {
        let why =
            if is_flagged { "no message is marked as trained" } else { "it has no message of the assistant" };
        return Err(format!("nothing is left to train on: {why}; remove the line").into());
    }
    for example in &examples {
        if let Some(max) = max_context.filter(|max| *max < example.n_tokens() as u64) {
            let n = example.n_tokens();
            return Err(
                format!("has {n} tokens, but the model takes at most {max}; make the chat shorter").into()
            );
        }
    }
    Ok(to_data(&examples, None, Reduction::Mean)?.data)
}
