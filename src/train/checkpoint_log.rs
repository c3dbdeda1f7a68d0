//! `checkpoints.jsonl` of a training run, in the format of the Tinker cookbook.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::log_file::{self, Line, LogFile};
use super::python_json;
use crate::error::{Error, Result};
use crate::types::{SamplerPath, TrainingPath};

/// Name of the file.
const FILE: &str = "checkpoints.jsonl";

/// One line of `checkpoints.jsonl`: a checkpoint that the server has confirmed.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct CheckpointRecord {
    /// Name of the checkpoint: the number of steps that it contains with six digits, or `final`.
    pub name: String,
    /// The batch with which a run of the cookbook continues, within the epoch if there is an `epoch`. In records of the
    /// cookbook's supervised loop, the state contains this batch already.
    pub batch: Option<u64>,
    /// The epoch of `batch`.
    pub epoch: Option<u64>,
    /// True for the checkpoint at the end of a run.
    pub is_final: bool,
    /// The step to do next, counted over all epochs: the state contains exactly the steps before it. Records of the
    /// cookbook have none.
    pub next_batch: Option<u64>,
    /// The state to resume from. A checkpoint for sampling alone has none.
    pub state_path: Option<TrainingPath>,
    /// The weights to sample from.
    pub sampler_path: Option<SamplerPath>,
    /// True for a short-lived checkpoint, which is deleted when the next one is recorded.
    pub is_rolling: bool,
    /// Further members of the object, also those of other programs.
    pub more: Map<String, Value>,
}

impl CheckpointRecord {
    fn to_line(&self) -> String {
        let mut members: Vec<(&str, Value)> = vec![("name", self.name.as_str().into())];
        let numbers = [("batch", self.batch), ("epoch", self.epoch), ("next_batch", self.next_batch)];
        members.extend(numbers.into_iter().filter_map(|(name, number)| Some((name, number?.into()))));
        members.extend(
            [("final", self.is_final), ("rolling", self.is_rolling)]
                .into_iter()
                .filter(|(_, is_set)| *is_set)
                .map(|(name, is_set)| (name, is_set.into())),
        );
        members.extend(self.state_path.as_ref().map(|path| ("state_path", path.as_str().into())));
        members.extend(self.sampler_path.as_ref().map(|path| ("sampler_path", path.as_str().into())));
        let more = self.more.iter().map(|(name, value)| (name.as_str(), value));
        python_json::object(members.iter().map(|(name, value)| (*name, value)).chain(more))
    }

    fn from_line(line: Line, path: &Path) -> Result<Self> {
        let mut fields = Fields { object: line.object, path, number: line.number };
        let name = fields.take("name", |value| Some(value.as_str()?.to_string()), "a text")?;
        let Some(name) = name else { return Err(fields.error("`name` is missing")) };
        Ok(CheckpointRecord {
            name,
            batch: fields.number("batch")?,
            epoch: fields.number("epoch")?,
            is_final: fields.flag("final")?,
            next_batch: fields.number("next_batch")?,
            state_path: fields.path("state_path")?,
            sampler_path: fields.path("sampler_path")?,
            is_rolling: fields.flag("rolling")?,
            more: fields.object,
        })
    }

    /// The members that have a field of their own.
    const NAMES: [&str; 8] =
        ["name", "batch", "epoch", "final", "next_batch", "state_path", "sampler_path", "rolling"];
}

/// The members of a line that are not read yet.
struct Fields<'a> {
    object: Map<String, Value>,
    path: &'a Path,
    number: usize,
}

impl Fields<'_> {
    fn error(&self, problem: &str) -> Error {
        log_file::at_line(self.path, self.number, &format!("{problem}; correct or remove the line"))
    }

    /// Takes a member out. `null` counts as missing.
    fn take<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&Value) -> Option<T>,
        expected: &str,
    ) -> Result<Option<T>> {
        match self.object.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match read(&value) {
                Some(it) => Ok(Some(it)),
                None => Err(self.error(&format!("`{name}` is not {expected}: {value}"))),
            },
        }
    }

    fn number(&mut self, name: &str) -> Result<Option<u64>> {
        self.take(name, Value::as_u64, "a whole number of at least 0")
    }

    fn flag(&mut self, name: &str) -> Result<bool> {
        Ok(self.take(name, Value::as_bool, "true or false")?.unwrap_or(false))
    }

    fn path<T: std::str::FromStr<Err = Error>>(&mut self, name: &str) -> Result<Option<T>> {
        let text = self.take(name, |value| Some(value.as_str()?.to_string()), "a text")?;
        let Some(text) = text else { return Ok(None) };
        text.parse().map(Some).map_err(|error: Error| self.error(&format!("`{name}`: {}", error.message())))
    }
}

/// Reads and writes `checkpoints.jsonl`, as the Tinker cookbook does: one object a line, the last line with a
/// `state_path` is the one to resume from.
///
/// # Example: record a checkpoint and find it again
/// ```
/// use tinkex::train::{CheckpointLog, CheckpointRecord};
///
/// # let folder = std::env::temp_dir().join(format!("tinkex-doc-checkpoints-{}", std::process::id()));
/// let mut log = CheckpointLog::open(&folder)?;
/// assert_eq!(log.last_resumable(), None);
/// let mut record = CheckpointRecord::default();
/// record.name = "000020".into();
/// record.next_batch = Some(20);
/// record.state_path = Some("tinker://run/weights/000020".parse()?);
/// log.append(record.clone())?;
/// assert_eq!(CheckpointLog::open(&folder)?.last_resumable(), Some(&record));
/// # std::fs::remove_dir_all(&folder).unwrap();
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Debug)]
pub struct CheckpointLog {
    file: LogFile,
    records: Vec<CheckpointRecord>,
}

impl CheckpointLog {
    /// Opens the log of a run in `folder`, which is created if necessary. An incomplete last line, which a killed
    /// process leaves, is dropped; the old file is kept as `checkpoints.jsonl.torn`.
    ///
    /// # Errors
    /// A file that cannot be read or written; a line that is not a record of a checkpoint (the error names file and
    /// line).
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        std::fs::create_dir_all(folder).map_err(|error| log_file::file_error("create", folder, &error))?;
        let path: PathBuf = folder.join(FILE);
        let contents = log_file::read(&path)?;
        if contents.is_torn {
            let kept: String = contents.lines.iter().map(|line| format!("{}\n", line.text)).collect();
            let copy = log_file::write_copy(&path, "torn", &contents.bytes)?;
            log_file::replace(&path, kept.as_bytes())?;
            log::warn!("{} ended with an incomplete line; see {}", path.display(), copy.display());
        }
        let records = contents.lines.into_iter().map(|line| CheckpointRecord::from_line(line, &path));
        let records = records.collect::<Result<_>>()?;
        Ok(CheckpointLog { file: LogFile::open(&path)?, records })
    }

    /// All records, in the order of the file.
    pub fn records(&self) -> &[CheckpointRecord] {
        &self.records
    }

    /// The record to resume from: the last one that has a state.
    pub fn last_resumable(&self) -> Option<&CheckpointRecord> {
        self.records.iter().rev().find(|record| record.state_path.is_some())
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Appends a record. It is on the disk when this returns.
    ///
    /// # Errors
    /// A name in `more` that has a field of its own; a file that cannot be written, for example because the disk is full.
    /// Then all other records are whole, and the call can be repeated. If only the sync fails, the record is in the file.
    pub fn append(&mut self, record: CheckpointRecord) -> Result<()> {
        if let Some(name) = CheckpointRecord::NAMES.iter().find(|name| record.more.contains_key(**name)) {
            return Err(Error::invalid(format!("more[{name:?}]"), "has a field of its own; set that one"));
        }
        self.file.append(&record.to_line())?;
        // From here on a reader sees the record, so this log does, too, even if the disk then reports an error.
        self.records.push(record);
        self.file.sync()
    }
}
