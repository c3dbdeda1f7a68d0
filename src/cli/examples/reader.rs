//! Reads files of examples, all lines of them.

use std::path::{Path, PathBuf};

use tinkex::chat::Message;
use tinkex::data::Preferred;

use super::format::{DataFormat, Shape, detect};
use super::line::{self, Content};
use super::options::DataOptions;
use super::problems::Problems;
use super::remarks::Remarks;
use super::roles::{TemplateRoles, role_meant};
use super::source::{Source, hash};
use super::template::template_roles;
use crate::failure::Failure;

/// The examples of some files.
#[derive(Debug)]
pub(crate) struct Lines {
    pub(crate) format: DataFormat,
    pub(crate) records: Vec<Record>,
    pub(crate) files: Vec<FileFacts>,
    /// Number of preferences without a better answer.
    pub(crate) n_ties: usize,
    pub(crate) remarks: Remarks,
}

/// A file that was read.
#[derive(Clone, Debug)]
pub(crate) struct FileFacts {
    pub(crate) path: PathBuf,
    /// Of the file as it lies on the disk.
    pub(crate) sha256: String,
    /// Number of lines that are not blank, or of the items of an array.
    pub(crate) n_lines: usize,
    /// True if the file is one JSON array.
    pub(crate) is_array: bool,
}

impl FileFacts {
    /// The place of a line, or of an item of an array, by its number from 1.
    fn place(&self, number: usize) -> String {
        let name = file_name(&self.path);
        if self.is_array { format!("{name}, item {number}") } else { format!("{name}:{number}") }
    }
}

/// An example.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// Index of the file.
    pub(crate) file: usize,
    /// Number of the line, or of the item of an array, from 1.
    pub(crate) line: usize,
    /// A number of the line's bytes, for a split that is the same in each run.
    pub(crate) raw_hash: u64,
    /// The bytes of the line; only with [`Keep::Lines`].
    pub(crate) raw: Vec<u8>,
    pub(crate) content: Content,
    /// Keys that the format does not have, with their JSON; only with [`Keep::All`].
    pub(crate) further: Vec<(String, String)>,
}

impl Lines {
    /// `file:line`.
    pub(crate) fn place(&self, record: &Record) -> String {
        self.files.get(record.file).map(|file| file.place(record.line)).unwrap_or_default()
    }

    pub(crate) fn file_name(&self, record: &Record) -> String {
        self.files.get(record.file).map(|file| file_name(&file.path)).unwrap_or_default()
    }
}

/// What was found in some files, problems included.
#[derive(Debug)]
pub(crate) struct Scan {
    /// `None` if no line tells the format.
    pub(crate) format: Option<DataFormat>,
    pub(crate) records: Vec<Record>,
    pub(crate) files: Vec<FileFacts>,
    pub(crate) n_ties: usize,
    pub(crate) problems: Problems,
    pub(crate) remarks: Remarks,
    /// Number of lines that were read, good and bad.
    n_read: usize,
    n_bad: usize,
}

impl Scan {
    /// Number of lines that are examples.
    pub(crate) fn n_examples(&self) -> usize {
        self.n_read - self.n_bad
    }
}

/// What is kept of the lines in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    Nothing,
    Examples,
    /// Also the bytes of the lines.
    Lines,
    /// Also the keys that the format does not have.
    All,
}

/// All lines of the files, each read and checked. `-` is stdin.
///
/// # Errors
/// Lists the problems as `file:line: path: problem`: more than 20 by their kinds, each with its number.
pub(crate) fn read(files: &[PathBuf], options: &DataOptions) -> Result<Lines, Failure> {
    read_keeping(Keep::Examples, files, options)
}

/// As [`read`], with a choice of what is kept.
pub(crate) fn read_keeping(keep: Keep, files: &[PathBuf], options: &DataOptions) -> Result<Lines, Failure> {
    let Scan { format, records, files, n_ties, problems, remarks, .. } = scan(files, options, keep);
    match format {
        Some(format) if problems.is_empty() => Ok(Lines { format, records, files, n_ties, remarks }),
        _ => Err(Failure::text(problems.lines().join("\n"))),
    }
}

/// Reads all lines of the files.
pub(crate) fn scan(files: &[PathBuf], options: &DataOptions, keep: Keep) -> Scan {
    let mut scan = Scanner {
        asked: options.data_format.and_then(super::options::FormatChoice::format),
        limit: options.limit.unwrap_or(usize::MAX),
        template_roles: template_roles(options.template.as_deref()),
        needs_answers: options.train_on != Some(super::options::TrainOn::All),
        keep,
        scan: Scan {
            format: None,
            records: Vec::new(),
            files: Vec::new(),
            n_ties: 0,
            problems: Problems::default(),
            remarks: Remarks::default(),
            n_read: 0,
            n_bad: 0,
        },
    };
    for (i, path) in files.iter().enumerate() {
        if let Err(problem) = scan.file(i, path) {
            scan.scan.problems.add(&file_name(path), &problem);
        }
    }
    scan.scan
}

/// The name of a file in messages.
pub(crate) fn file_name(path: &Path) -> String {
    if path.as_os_str() == "-" { "stdin".into() } else { path.display().to_string() }
}

struct Scanner {
    asked: Option<DataFormat>,
    limit: usize,
    template_roles: TemplateRoles,
    needs_answers: bool,
    keep: Keep,
    scan: Scan,
}

impl Scanner {
    fn file(&mut self, index: usize, path: &Path) -> Result<(), String> {
        let mut source = Source::open(path)?;
        let mut facts =
            FileFacts { path: path.to_owned(), sha256: String::new(), n_lines: 0, is_array: false };
        let mut first: Option<(usize, Shape)> = None;
        let (mut line, mut number) = (Vec::new(), 0);
        loop {
            number += 1;
            let next = source.next(&mut line);
            facts.is_array = source.is_array();
            // Blank lines before an array are not items.
            let number = if facts.is_array { facts.n_lines + 1 } else { number };
            match next {
                Ok(Some(())) => {}
                Ok(None) => break,
                Err(problem) => {
                    self.scan.problems.add(&facts.place(number), &problem);
                    self.scan.files.push(facts);
                    return Ok(());
                }
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            facts.n_lines += 1;
            if self.limit <= self.scan.n_read {
                continue;
            }
            self.scan.n_read += 1;
            let place = facts.place(number);
            match self.record(&line, &mut first, number, &place) {
                Ok((content, further)) => {
                    if matches!(&content, Content::Preference(it) if it.preferred == Preferred::Tie) {
                        self.scan.n_ties += 1;
                    }
                    let raw_hash = hash(&line);
                    self.scan.remarks.add_roles(&place, &content, !self.needs_answers);
                    let files = &self.scan.files;
                    self.scan.remarks.add_line(raw_hash, (index, number), |(file, number)| {
                        if file == index {
                            return facts.place(number);
                        }
                        files.get(file).map(|file| file.place(number)).unwrap_or_default()
                    });
                    if self.keep != Keep::Nothing {
                        let raw = if self.keep == Keep::Lines { line.clone() } else { Vec::new() };
                        self.scan.records.push(Record {
                            file: index,
                            line: number,
                            raw_hash,
                            raw,
                            content,
                            further,
                        });
                    }
                }
                Err(problem) => {
                    self.scan.n_bad += 1;
                    self.scan.problems.add(&place, &problem);
                }
            }
        }
        let is_empty = facts.n_lines == 0;
        facts.sha256 = source.sha256()?;
        self.scan.files.push(facts);
        if is_empty { Err("has no examples".into()) } else { Ok(()) }
    }

    /// Reads a line, whose place is its number in words. `first` is the number and the shape of the first line of the file
    /// that has one.
    fn record(
        &mut self,
        line: &[u8],
        first: &mut Option<(usize, Shape)>,
        number: usize,
        place: &str,
    ) -> Result<(Content, Vec<(String, String)>), String> {
        let translated = self.template_roles.translated(line);
        let line = match &translated {
            Some((text, names)) => {
                self.scan.remarks.add_translated(names);
                text.as_bytes()
            }
            None => line,
        };
        let fields = line::fields(line)?;
        let shape = match *first {
            None => {
                let shape = detect(&fields.keys(), self.asked)?;
                let format = *self.scan.format.get_or_insert(shape.format());
                if format != shape.format() {
                    return Err(format!(
                        "has the format {}, but the lines before have the format {}",
                        shape.format().name(),
                        format.name()
                    ));
                }
                *first = Some((number, shape));
                shape
            }
            Some((first, shape)) => {
                let needed = shape.words();
                if !needed.split(", ").all(|key| fields.has(key)) {
                    // The better of two errors: a misspelt key, or another shape than that of the first line.
                    return Err(match detect(&fields.keys(), Some(shape.format())) {
                        Ok(_) | Err(_) if detect(&fields.keys(), self.asked).is_ok() => {
                            let keys = fields.keys().join(", ");
                            format!(
                                "has the keys {keys}, but line {first} has {needed}; all lines must have the same format"
                            )
                        }
                        Ok(_) => format!("the keys {needed} are needed, as in line {first}"),
                        Err(problem) => problem,
                    });
                }
                shape
            }
        };
        let content = line::content(&fields, shape)?;
        if self.needs_answers
            && let Content::Chat(chat) = &content
            && !chat
                .messages
                .iter()
                .any(|message| message.role == "assistant" || message.trainable == Some(true))
        {
            return Err(format!(
                "messages: has no message of the assistant, so that nothing is trained{}",
                unknown_role(&chat.messages)
            ));
        }
        self.scan.remarks.add_columns(place, &fields.given_keys(), shape, self.asked);
        let further = if self.keep == Keep::All { line::further(&fields, shape) } else { Vec::new() };
        Ok((content, further))
    }
}

/// The first role of a conversation that is not known, in words: its messages may be meant as answers.
fn unknown_role(messages: &[Message]) -> String {
    let found = messages.iter().rev().find_map(|message| Some((&message.role, role_meant(&message.role)?)));
    match found {
        Some((role, Some(meant))) => format!("; unknown role {role:?}; did you mean {meant:?}?"),
        Some((role, None)) => format!("; unknown role {role:?}"),
        None => String::new(),
    }
}
