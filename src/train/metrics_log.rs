//! `metrics.jsonl` and `config.json` of a training run, in the format of the Tinker cookbook.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::log_file::{self, Line, LogFile};
use super::python_json;
use crate::error::{Error, Result};

/// Name of the file.
const FILE: &str = "metrics.jsonl";
/// How the suffix of a copy begins.
const COPY: &str = "pre_resume_";
/// The largest number of copies that are kept.
const MAX_COPIES: usize = 5;

/// One value of a row of metrics.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum MetricValue {
    /// A number, which may be NaN or infinite.
    Float(f64),
    /// A whole number, such as a number of tokens.
    Int(i64),
    /// A text.
    Text(String),
    /// Any other JSON value that another program has written.
    Json(Value),
}

impl MetricValue {
    /// The value as a number, if it is one.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            MetricValue::Float(value) => Some(*value),
            MetricValue::Int(value) => Some(*value as f64),
            MetricValue::Text(_) | MetricValue::Json(_) => None,
        }
    }

    fn to_json(&self) -> Value {
        match self {
            MetricValue::Float(value) => python_json::number(*value),
            MetricValue::Int(value) => (*value).into(),
            MetricValue::Text(text) => text.as_str().into(),
            MetricValue::Json(value) => value.clone(),
        }
    }

    fn from_json(value: Value) -> Self {
        match value {
            Value::Number(number) => match number.as_i64() {
                Some(int) => MetricValue::Int(int),
                None => MetricValue::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => match python_json::non_finite(&text) {
                Some(number) => MetricValue::Float(number),
                None => MetricValue::Text(text),
            },
            other => MetricValue::Json(other),
        }
    }
}

impl From<f64> for MetricValue {
    fn from(value: f64) -> Self {
        MetricValue::Float(value)
    }
}

impl From<i64> for MetricValue {
    fn from(value: i64) -> Self {
        MetricValue::Int(value)
    }
}

impl From<usize> for MetricValue {
    fn from(value: usize) -> Self {
        i64::try_from(value).map_or(MetricValue::Float(value as f64), MetricValue::Int)
    }
}

impl From<&str> for MetricValue {
    fn from(value: &str) -> Self {
        MetricValue::Text(value.into())
    }
}

/// One row of `metrics.jsonl`.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct MetricsRow {
    /// The step. Rows of other programs may have none.
    pub step: Option<u64>,
    /// The values by name, without the step.
    pub values: BTreeMap<String, MetricValue>,
}

/// Writes `metrics.jsonl`, one row for each step, and `config.json`, as the Tinker cookbook does, so that its viewers
/// read them.
///
/// NaN and infinite values are written as Python writes them: `NaN`, `Infinity`, `-Infinity`. Python and
/// [`read`](MetricsLog::read) read such a row; a strict JSON parser refuses it, and reads all others.
///
/// # Example: write and read metrics
/// ```
/// use tinkex::train::MetricsLog;
///
/// # let folder = std::env::temp_dir().join(format!("tinkex-doc-metrics-{}", std::process::id()));
/// let mut log = MetricsLog::open(&folder, 0)?;
/// log.log(0, &[("train_mean_nll", 2.5.into()), ("num_tokens", 128_usize.into())])?;
/// log.log(1, &[("train_mean_nll", f64::NAN.into())])?;
/// let rows = MetricsLog::read(&folder)?;
/// assert_eq!(rows[0].values["train_mean_nll"].as_f64(), Some(2.5));
/// assert!(rows[1].values["train_mean_nll"].as_f64().is_some_and(f64::is_nan));
/// # std::fs::remove_dir_all(&folder).unwrap();
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Debug)]
pub struct MetricsLog {
    folder: PathBuf,
    file: LogFile,
}

impl MetricsLog {
    /// Opens the log of a run in `folder`, which is created if necessary. `resume_step` is the first step that will be
    /// logged: rows of this step and of later ones are dropped, because their steps will run again; the old file is kept
    /// as `metrics.jsonl.pre_resume_%06d`. An incomplete last line, which a killed process leaves, is dropped in the same
    /// way. Of these copies the 5 newest are kept; where nothing is dropped, no copy is made. The file is rewritten in
    /// one step: a process that is killed meanwhile leaves the old file or the new one.
    ///
    /// # Errors
    /// A file that cannot be read or written; a line that is not a JSON object, or whose `step` is not a whole number
    /// (the error names file and line).
    pub fn open(folder: impl AsRef<Path>, resume_step: u64) -> Result<Self> {
        let folder = folder.as_ref();
        std::fs::create_dir_all(folder).map_err(|error| log_file::file_error("create", folder, &error))?;
        let path = folder.join(FILE);
        let contents = log_file::read(&path)?;
        let mut kept = String::new();
        let mut n_kept = 0;
        for line in &contents.lines {
            if step(line, &path)?.is_none_or(|step| step < resume_step) {
                n_kept += 1;
                kept.push_str(&line.text);
                kept.push('\n');
            }
        }
        let n_dropped = contents.lines.len() - n_kept;
        if 0 < n_dropped || contents.is_cut {
            let copy = log_file::write_copy(&path, &format!("{COPY}{resume_step:06}"), &contents.bytes)?;
            log_file::keep_newest(&path, COPY, MAX_COPIES);
            log_file::replace(&path, kept.as_bytes())?;
            log::info!("{n_dropped} rows from step {resume_step} on were dropped; see {}", copy.display());
        } else if contents.is_torn {
            // Only the line break of the last row is missing.
            log_file::replace(&path, kept.as_bytes())?;
        }
        Ok(MetricsLog { folder: folder.into(), file: LogFile::open(&path)? })
    }

    /// Appends a row. Several rows of one step are allowed.
    ///
    /// # Errors
    /// A value with the name `step`, or two values of one name; a file that cannot be written, for example because the
    /// disk is full. Then the row is not written, and all others are whole: the call can be repeated.
    pub fn log(&mut self, step: u64, row: &[(&str, MetricValue)]) -> Result<()> {
        if row.iter().any(|(name, _)| *name == "step") {
            return Err(Error::invalid("row[\"step\"]", "is the name of the step itself; use another name"));
        }
        for (i, (name, _)) in row.iter().enumerate() {
            if row[..i].iter().any(|(earlier, _)| earlier == name) {
                return Err(Error::invalid(
                    format!("row[{name:?}]"),
                    "comes twice; give each value its own name",
                ));
            }
        }
        let step = Value::from(step);
        let row: Vec<(&str, Value)> = row.iter().map(|(name, value)| (*name, value.to_json())).collect();
        let values = row.iter().map(|(name, value)| (*name, value));
        self.file.append(&python_json::object([("step", &step)].into_iter().chain(values)))
    }

    /// Waits until all rows are on the disk, so that they survive a power failure. Rows survive the end of the process
    /// in any case.
    ///
    /// # Errors
    /// The disk reports an error.
    pub fn sync(&self) -> Result<()> {
        self.file.sync()
    }

    /// Writes `config.json`, indented by 2, in place of an earlier one.
    ///
    /// # Errors
    /// A value that cannot be written as JSON; a file that cannot be written.
    pub fn write_config(&self, config: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(config)
            .map_err(|error| Error::invalid("config", format!("cannot be written as JSON: {error}")))?;
        log_file::replace(&self.folder.join("config.json"), text.as_bytes())
    }

    /// Reads the rows of the run in `folder`; none if there is no file. An incomplete last line is left out.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn read(folder: impl AsRef<Path>) -> Result<Vec<MetricsRow>> {
        let path = folder.as_ref().join(FILE);
        let row = |line: Line| {
            let step = step(&line, &path)?;
            let mut object = line.object;
            object.remove("step");
            let values =
                object.into_iter().map(|(name, value)| (name, MetricValue::from_json(value))).collect();
            Ok(MetricsRow { step, values })
        };
        log_file::read(&path)?.lines.into_iter().map(row).collect()
    }
}

/// The step of a row, if it has one.
fn step(line: &Line, path: &Path) -> Result<Option<u64>> {
    match line.object.get("step") {
        None | Some(Value::Null) => Ok(None),
        Some(step) => match step.as_u64() {
            Some(step) => Ok(Some(step)),
            None => {
                let problem = format!("`step` is not a whole number of at least 0: {step}");
                Err(log_file::at_line(path, line.number, &problem))
            }
        },
    }
}
