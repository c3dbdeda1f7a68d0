//! Reads files of one JSON object a line.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::marker::PhantomData;
use std::path::Path;

use super::json::LINE;
use crate::error::{Error, Result};

/// A type that can be read from a line of a JSONL file: [`Conversation`](super::Conversation),
/// [`Preference`](super::Preference), [`PromptCompletion`](super::PromptCompletion), [`Text`](super::Text),
/// [`WeightedTokens`](super::WeightedTokens), or one of your own.
pub trait Record: Sized {
    /// Reads one line.
    ///
    /// # Errors
    /// `InvalidInput` with the path of the offending value within the line.
    fn from_line(line: &str) -> Result<Self>;

    /// Reads one line, without the keys that its format does not have; see [`Jsonl::ignore_unknown_keys`]. By default
    /// the same as [`from_line`](Record::from_line).
    ///
    /// # Errors
    /// As for [`from_line`](Record::from_line).
    fn from_line_ignoring_unknown_keys(line: &str) -> Result<Self> {
        Self::from_line(line)
    }
}

/// The records of a JSONL file, read as they are asked for. Made by [`read_jsonl`].
///
/// A line that cannot be read is one error, and the next line follows; after a failure of the source or a line that is
/// too long, the records end.
#[derive(Debug)]
pub struct Jsonl<R, T> {
    source: R,
    name: String,
    n_lines: usize,
    max_line_bytes: usize,
    ignores_unknown_keys: bool,
    ended: bool,
    buffer: Vec<u8>,
    record: PhantomData<fn() -> T>,
}

/// Reads a JSONL file: one JSON object a line. Blank lines are skipped; a byte order mark and CRLF are accepted.
///
/// Only one line at a time is held in memory.
///
/// # Errors
/// `InvalidInput` if the file cannot be opened. The records report the rest, as `file:line: path: problem`.
///
/// # Blocking
/// Reads the file in the caller's thread.
///
/// # Example: count the messages of a file
/// ```
/// use tinkex::data::{Conversation, read_jsonl};
///
/// # let path = std::env::temp_dir().join(format!("tinkex-doc-{}.jsonl", std::process::id()));
/// std::fs::write(&path, r#"{"messages":[{"role":"user","content":"Hi"}]}"#)?;
/// let mut n_messages = 0;
/// for conversation in read_jsonl::<Conversation>(&path)? {
///     n_messages += conversation?.messages.len();
/// }
/// assert_eq!(n_messages, 1);
/// # std::fs::remove_file(&path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn read_jsonl<T: Record>(path: impl AsRef<Path>) -> Result<Jsonl<BufReader<File>, T>> {
    let name = path.as_ref().display().to_string();
    let file = File::open(path.as_ref())
        .map_err(|error| Error::invalid(name.clone(), format!("cannot be opened: {error}")))?;
    Ok(Jsonl::new(BufReader::new(file), name))
}

impl<R: BufRead, T: Record> Jsonl<R, T> {
    /// Reads from any source. `name` stands for the file in errors.
    pub fn new(source: R, name: impl Into<String>) -> Self {
        Jsonl {
            source,
            name: name.into(),
            n_lines: 0,
            max_line_bytes: 64 << 20,
            ignores_unknown_keys: false,
            ended: false,
            buffer: Vec::new(),
            record: PhantomData,
        }
    }

    /// Sets the longest line that is accepted, in bytes. Default: 64 MiB.
    #[must_use]
    pub fn with_max_line_bytes(mut self, n_bytes: usize) -> Self {
        self.max_line_bytes = n_bytes;
        self
    }

    /// Sets whether keys that the format does not have are left out, as other columns of a data set are. Default: false,
    /// so that a misspelt key is an error; accepted are only keys with the value null, and some that say nothing about
    /// what is trained, such as `id` and `parallel_tool_calls`.
    ///
    /// # Example: a data set with a column of its own
    /// ```
    /// use tinkex::data::{Jsonl, Text};
    ///
    /// let file = &br#"{"text": "Once upon a time", "language": "en"}"#[..];
    /// assert!(Jsonl::<_, Text>::new(file, "file").next().unwrap().is_err());
    /// let mut texts = Jsonl::<_, Text>::new(file, "file").ignore_unknown_keys(true);
    /// assert_eq!(texts.next().unwrap()?.text, "Once upon a time");
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    #[must_use]
    pub fn ignore_unknown_keys(mut self, ignore: bool) -> Self {
        self.ignores_unknown_keys = ignore;
        self
    }

    /// Number of the line of the last record or error, from 1; 0 before the first one.
    pub fn line_number(&self) -> usize {
        self.n_lines
    }

    /// Reads the next line into the buffer, without its end. Returns false at the end of the source.
    fn fill(&mut self) -> Result<bool> {
        self.buffer.clear();
        // Two more bytes for the end of the line.
        let limit = (self.max_line_bytes as u64).saturating_add(2);
        let read = (&mut self.source).take(limit).read_until(b'\n', &mut self.buffer);
        self.n_lines += 1;
        let n_read = read.map_err(|error| self.invalid("", &format!("cannot be read: {error}")))?;
        for end in [b'\n', b'\r'] {
            if self.buffer.last() == Some(&end) {
                self.buffer.pop();
            }
        }
        if self.n_lines == 1 && self.buffer.starts_with(b"\xef\xbb\xbf") {
            self.buffer.drain(..3);
        }
        if self.max_line_bytes < self.buffer.len() {
            let problem = format!("the line is longer than {} bytes", self.max_line_bytes);
            return Err(self.invalid("", &problem));
        }
        Ok(0 < n_read)
    }

    fn record(&self) -> Result<T> {
        let line = std::str::from_utf8(&self.buffer).map_err(|error| {
            self.invalid("", &format!("not valid UTF-8 after {} bytes", error.valid_up_to()))
        })?;
        let record = if self.ignores_unknown_keys {
            T::from_line_ignoring_unknown_keys(line)
        } else {
            T::from_line(line)
        };
        record.map_err(|error| match error.violation() {
            Some(violation) if violation.path == LINE => self.invalid("", &violation.problem),
            Some(violation) => self.invalid(&violation.path, &violation.problem),
            None => self.invalid("", error.message()),
        })
    }

    fn invalid(&self, path: &str, problem: &str) -> Error {
        let place = format!("{}:{}", self.name, self.n_lines);
        Error::invalid(if path.is_empty() { place } else { format!("{place}: {path}") }, problem)
    }
}

impl<R: BufRead, T: Record> Iterator for Jsonl<R, T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        while !self.ended {
            match self.fill() {
                Ok(true) if self.buffer.trim_ascii().is_empty() => {}
                Ok(true) => return Some(self.record()),
                Ok(false) => self.ended = true,
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}
