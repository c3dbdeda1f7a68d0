//! Stdout: the data of a command in the format that was asked for, and nothing else.

use std::io::{IsTerminal, Write};

use serde_json::Value;

use super::args::Format;
use super::failure::Failure;
use super::printable;
use super::table::{self, Column};

/// Writes the data of a command. If the reader of stdout is gone, the writing functions return
/// [`Failure::PipeClosed`].
#[derive(Clone, Debug)]
pub(crate) struct Out {
    format: Format,
    /// Number of columns of the terminal.
    width: usize,
    color: bool,
}

/// A list of entries, in all formats.
#[derive(Debug)]
pub(crate) struct Records<'a> {
    pub(crate) columns: &'a [Column],
    pub(crate) rows: Vec<Vec<String>>,
    /// The whole as JSON, an object.
    pub(crate) json: Value,
    /// The key in `json` of the list of entries, each of which is a line of JSONL.
    pub(crate) list: &'static str,
}

impl Out {
    /// `format` is the one that was asked for; by default it is a table for people and TSV for programs.
    pub(crate) fn new(format: Option<Format>, color: bool) -> Self {
        let by_default = if std::io::stdout().is_terminal() { Format::Table } else { Format::Tsv };
        let columns = std::env::var("COLUMNS").ok().and_then(|it| it.parse().ok());
        let of_terminal = || terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
        Out {
            format: format.unwrap_or(by_default),
            width: columns.or_else(of_terminal).unwrap_or(100),
            color,
        }
    }

    /// True if errors are also written as JSON.
    pub(crate) fn is_json(&self) -> bool {
        matches!(self.format, Format::Json | Format::Jsonl)
    }

    /// Refuses JSON for a command whose output is a text that has no other form.
    pub(crate) fn needs_text(&self, command: &str) -> Result<(), Failure> {
        if self.is_json() {
            return Err(Failure::usage(format!("`tinkex {command}` prints a text, which has no JSON form"))
                .with_remedy("leave -f out"));
        }
        Ok(())
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// True if texts on stdout may have colors.
    pub(crate) fn has_color(&self) -> bool {
        self.color
    }

    /// Writes a list of entries.
    pub(crate) fn records(&self, records: &Records<'_>) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.all(&table::lines(records.columns, &records.rows, self.width)),
            Format::Tsv => self.all(&table::tsv(records.columns, &records.rows)),
            Format::Json => self.json(&records.json),
            Format::Jsonl => {
                let entries = records.json[records.list].as_array();
                let lines: Vec<String> = entries.into_iter().flatten().map(Value::to_string).collect();
                self.all(&lines)
            }
        }
    }

    /// Writes the properties of one thing.
    pub(crate) fn properties(&self, rows: Vec<(&str, String)>, json: Value) -> Result<(), Failure> {
        const COLUMNS: [Column; 2] = [Column::never_cut("Property"), Column::never_cut("Value")];
        let rows: Vec<Vec<String>> =
            rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
        match self.format {
            Format::Json | Format::Jsonl => self.value(&json, String::new),
            Format::Table => self.all(&table::properties(&COLUMNS, &rows, self.width)),
            Format::Tsv => self.all(&table::tsv(&COLUMNS, &rows)),
        }
    }

    /// Writes one value: as JSON, or as the text that `text` returns, without what could control a terminal.
    pub(crate) fn value(&self, json: &Value, text: impl FnOnce() -> String) -> Result<(), Failure> {
        match self.format {
            Format::Json => self.json(json),
            Format::Jsonl => self.line(&json.to_string()),
            Format::Table | Format::Tsv => self.line(&printable::text(&text())),
        }
    }

    /// Writes what a command has changed. If that cannot be written, the failure says what was done.
    pub(crate) fn done(&self, json: &Value, done: impl Into<String>) -> Result<(), Failure> {
        let done = done.into();
        self.value(json, || done.clone()).map_err(|failure| failure.after(&done))
    }

    fn json(&self, json: &Value) -> Result<(), Failure> {
        self.line(&format!("{json:#}"))
    }

    fn all(&self, lines: &[String]) -> Result<(), Failure> {
        let mut text = lines.join("\n");
        if !text.is_empty() {
            text.push('\n');
        }
        self.bytes(text.as_bytes())
    }

    /// Writes a line.
    pub(crate) fn line(&self, line: &str) -> Result<(), Failure> {
        self.bytes(format!("{line}\n").as_bytes())
    }

    /// Writes bytes as they are, and flushes them.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| Failure::of_stdout(&error))
    }
}
