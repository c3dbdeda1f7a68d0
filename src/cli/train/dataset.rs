//! The data of a run: examples, or pairs of them, to train on and to evaluate with.

use std::collections::HashSet;

use rayon::prelude::*;
use serde_json::{Value, json};
use tinkex::chat::{Example, Message, Reduction};
use tinkex::train::preference_data;
use tinkex::types::Datum;

use super::ending::Prompt;
use super::lengths::{histogram, quantile};
use super::settings::{Settings, TestData};
use crate::counted::counted;
use crate::examples::{
    self, Content, DataFormat, Encoder, Fate, FileFacts, Lines, Problems, Record, n_inputs, n_targets,
};
use crate::failure::Failure;

/// What one position of a batch trains: an example, or the two answers of a preference.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) examples: Vec<Example>,
}

impl Item {
    pub(super) fn n_tokens(&self) -> usize {
        self.examples.iter().map(Example::n_tokens).sum()
    }

    /// Number of tokens that go through the model.
    pub(super) fn n_inputs(&self) -> usize {
        self.examples.iter().map(n_inputs).sum()
    }

    fn n_targets(&self) -> usize {
        self.examples.iter().map(n_targets).sum()
    }

    /// The item as it is sent.
    pub(super) fn data(&self, reduction: Reduction) -> Result<Vec<Datum>, Failure> {
        match self.examples.as_slice() {
            [chosen, rejected] => Ok(preference_data(&[(chosen.clone(), rejected.clone())], None)?),
            all => {
                let data: tinkex::Result<Vec<Datum>> =
                    all.iter().map(|example| example.datum(None, reduction)).collect();
                Ok(data?)
            }
        }
    }
}

/// Files that were read, not yet turned into tokens.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) train: Lines,
    /// The files of `--eval-data`.
    pub(super) test: Option<Lines>,
}

/// All data of a run.
#[derive(Debug)]
pub(super) struct Dataset {
    pub(super) format: DataFormat,
    pub(super) train: Vec<Item>,
    pub(super) test: Vec<Item>,
    pub(super) facts: Facts,
}

/// What is said about the data.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) files: Vec<FileFacts>,
    pub(super) test_files: Vec<FileFacts>,
    pub(super) n_lines: usize,
    pub(super) n_truncated: usize,
    pub(super) n_dropped: usize,
    pub(super) n_ties: usize,
    /// Tokens that go through the model in an epoch, those that are learned, and those of an evaluation.
    pub(super) n_tokens: u64,
    pub(super) n_trained: u64,
    pub(super) n_test_tokens: u64,
    /// Number of examples, or pairs, to train on and to evaluate with.
    pub(super) n_items: usize,
    pub(super) n_test_items: usize,
    /// A prompt of the data to try the model with.
    pub(super) prompt: Option<Prompt>,
    /// Numbers of tokens of the examples to train on: smallest, 10%, median, 90%, largest.
    pub(super) lengths: [usize; 5],
    /// The same lengths as bars: largest length and number.
    pub(super) histogram: Vec<[usize; 2]>,
    /// What is strange in the lines, each with the word note or warning.
    pub(super) remarks: Vec<String>,
}

impl Source {
    /// Reads and validates all lines of all files.
    pub(super) fn read(settings: &Settings) -> Result<Self, Failure> {
        let train = examples::read(&settings.data, &settings.data_options)?;
        let test = match &settings.test {
            TestData::Files(files) => Some(examples::read(files, &settings.data_options)?),
            TestData::None | TestData::Split(_) => None,
        };
        if let Some(test) = test.as_ref().filter(|test| test.format != train.format) {
            return Err(Failure::usage(format!(
                "the data of the evaluation have another format ({:?}) than those of the training ({:?})",
                test.format, train.format
            )));
        }
        Ok(Source { train, test })
    }

    /// What is strange in the lines.
    fn remarks(&self) -> Vec<String> {
        let mut all = self.train.remarks.lines();
        let Some(test) = &self.test else { return all };
        // Both have the same columns, as a rule.
        let further: Vec<String> = test.remarks.lines().into_iter().filter(|it| !all.contains(it)).collect();
        all.extend(further);
        let trained: HashSet<u64> = self.train.records.iter().map(|record| record.raw_hash).collect();
        let mut both = test.records.iter().filter(|record| trained.contains(&record.raw_hash));
        if let Some(first) = both.next() {
            let n = both.count() as u64 + 1;
            let place = test.place(first);
            all.push(format!(
                "warning: {} of the evaluation {} trained on, too, the first in {place}",
                counted(n, "line"),
                if n == 1 { "is" } else { "are" }
            ));
        }
        all
    }

    /// Turns the lines into examples.
    pub(super) fn encode(&self, encoder: &Encoder, test: &TestData) -> Result<Dataset, Failure> {
        let mut facts = Facts {
            files: self.train.files.clone(),
            test_files: self.test.as_ref().map(|lines| lines.files.clone()).unwrap_or_default(),
            n_lines: self.train.records.len(),
            n_ties: self.train.n_ties,
            prompt: self.train.records.first().and_then(|record| prompt(&record.content)),
            remarks: self.remarks(),
            ..Default::default()
        };
        let is_test = match test {
            TestData::Split(share) => examples::held_out(&self.train.records, *share),
            TestData::None | TestData::Files(_) => vec![false; self.train.records.len()],
        };
        if let TestData::Split(share) = test {
            facts.remarks.extend(uneven(&is_test, *share));
        }
        let mut dataset = Dataset {
            format: self.train.format,
            train: Vec::new(),
            test: Vec::new(),
            facts: Facts::default(),
        };
        let train = items(&self.train, encoder, &mut facts)?;
        for (items, is_test) in train.into_iter().zip(is_test) {
            let part = if is_test { &mut dataset.test } else { &mut dataset.train };
            part.extend(items);
        }
        if let Some(lines) = &self.test {
            dataset.test = items(lines, encoder, &mut facts)?.into_iter().flatten().collect();
        }
        if dataset.train.is_empty() {
            return Err(Failure::text("there is nothing to train on: all examples are left out"));
        }
        let mut lengths: Vec<usize> = dataset.train.iter().map(Item::n_tokens).collect();
        lengths.sort_unstable();
        facts.lengths = [0.0, 0.1, 0.5, 0.9, 1.0].map(|share| quantile(&lengths, share));
        facts.histogram = histogram(&lengths);
        (facts.n_items, facts.n_test_items) = (dataset.train.len(), dataset.test.len());
        facts.n_tokens = dataset.train.iter().map(|item| item.n_inputs() as u64).sum();
        facts.n_trained = dataset.train.iter().map(|item| item.n_targets() as u64).sum();
        facts.n_test_tokens = dataset.test.iter().map(|item| item.n_inputs() as u64).sum();
        dataset.facts = facts;
        Ok(dataset)
    }
}

impl Dataset {
    /// The first example, with its trained tokens marked.
    pub(super) fn shown(&self, encoder: &Encoder, color: bool) -> String {
        let example = self.train.first().and_then(|item| item.examples.first());
        example.map(|example| encoder.show(example, color).trim_end().to_owned()).unwrap_or_default()
    }
}

impl Facts {
    /// The facts for `config.json`, by which a resumed run knows its data.
    pub(super) fn to_json(&self) -> Value {
        let files = |files: &[FileFacts]| -> Vec<Value> {
            let file = |file: &FileFacts| json!({ "path": absolute(&file.path), "sha256": file.sha256, "lines": file.n_lines });
            files.iter().map(file).collect()
        };
        json!({
            "files": files(&self.files),
            "eval_files": files(&self.test_files),
            "n_lines": self.n_lines,
            "n_examples": self.n_items,
            "n_eval_examples": self.n_test_items,
            "n_truncated": self.n_truncated,
            "n_dropped": self.n_dropped,
            "n_ties": self.n_ties,
            "n_tokens": self.n_tokens,
            "n_target_tokens": self.n_trained,
            "lengths": self.lengths,
            "length_histogram": self.histogram,
        })
    }
}

/// Says that a split has another share than was asked for, which is frequent if there are few lines.
fn uneven(is_held_out: &[bool], share: f64) -> Option<String> {
    let (n, n_held) = (is_held_out.len(), is_held_out.iter().filter(|it| **it).count());
    let expected = share * n as f64;
    let difference = (n_held as f64 - expected).abs();
    (2.0 <= difference && 0.25 * expected < difference).then(|| {
        format!(
            "note: --eval-split {share} holds out {n_held} of {n} lines ({:.0}%): each line is chosen by its content, so \
             that equal lines are on one side, and the share is exact only for many lines",
            100.0 * n_held as f64 / n as f64
        )
    })
}

/// A path that means the same in another folder; `-` stays.
pub(super) fn absolute(path: &std::path::Path) -> String {
    if path.as_os_str() == "-" {
        return "-".into();
    }
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

/// The prompt of a line, if it can be given in a command: a short text that is the first of its conversation.
fn prompt(content: &Content) -> Option<Prompt> {
    const LONGEST: usize = 80;
    const LONGEST_SYSTEM: usize = 400;
    let is_short = |text: &String, most| {
        !text.is_empty() && text.len() <= most && !text.contains(|it: char| it.is_control() && it != '\n')
    };
    let messages = match content {
        Content::Chat(chat) => chat.messages.as_slice(),
        Content::Preference(preference) => preference.prompt.as_slice(),
        Content::Completion(completion) => {
            let text = Some(completion.prompt.clone()).filter(|it| is_short(it, LONGEST))?;
            return Some(Prompt { text, is_raw: true, system: None });
        }
        Content::Text(_) | Content::Tokens(_) => return None,
    };
    let before: Vec<&Message> = messages.iter().take_while(|it| it.role != "assistant").collect();
    let (asked, system) = match before.as_slice() {
        [asked] if asked.role == "user" => (asked, None),
        [system, asked] if system.role == "system" && asked.role == "user" => (asked, Some(system.text())),
        _ => return None,
    };
    let text = Some(asked.text()).filter(|it| is_short(it, LONGEST))?;
    if system.as_ref().is_some_and(|it| !is_short(it, LONGEST_SYSTEM)) {
        return None;
    }
    Some(Prompt { text, is_raw: false, system })
}

/// The items of each line. Lines are encoded by all processors: a file can have millions of tokens.
fn items(lines: &Lines, encoder: &Encoder, facts: &mut Facts) -> Result<Vec<Vec<Item>>, Failure> {
    let encoded: Vec<Result<(Vec<Item>, Fate), Failure>> =
        lines.records.par_iter().map(|record| items_of(lines, record, encoder)).collect();
    let mut all = Vec::with_capacity(encoded.len());
    let mut problems = Problems::default();
    for result in encoded {
        match result {
            Ok((items, fate)) => {
                match fate {
                    Fate::Kept => {}
                    Fate::Truncated { .. } => facts.n_truncated += 1,
                    Fate::Dropped { .. } => facts.n_dropped += 1,
                }
                all.push(items);
            }
            Err(Failure::Text { message, .. }) => {
                let (place, problem) = message.split_once(": ").unwrap_or(("", &message));
                problems.add(place, problem);
            }
            Err(other) => return Err(other),
        }
    }
    if problems.is_empty() {
        return Ok(all);
    }
    Err(Failure::text(problems.lines().join("\n")))
}

fn items_of(lines: &Lines, record: &Record, encoder: &Encoder) -> Result<(Vec<Item>, Fate), Failure> {
    if lines.format == DataFormat::Preference {
        let pair = encoder.pair(lines, record)?;
        let item = pair.map(|(chosen, rejected)| Item { examples: vec![chosen, rejected] });
        return Ok((item.into_iter().collect(), Fate::Kept));
    }
    let encoded = encoder.encode(lines, record)?;
    let items = encoded.examples.into_iter().map(|example| Item { examples: vec![example] });
    Ok((items.collect(), encoded.fate))
}
