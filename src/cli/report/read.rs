//! Reads the files of a run. A file that is missing, torn or written by another program costs what it would have told,
//! never the report.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Map, Value};

use super::super::failure::Failure;
use super::super::nearby_runs;
use super::text::{cut, json_of_python};

/// A run, as its files tell it.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// Name of the folder.
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) config: Map<String, Value>,
    pub(crate) rows: Vec<Row>,
    pub(crate) checkpoints: Vec<Map<String, Value>>,
    pub(crate) samples: Vec<Sample>,
    /// Steps at which the run was resumed.
    pub(crate) resumes: Vec<u64>,
    pub(crate) began: Option<SystemTime>,
    pub(crate) ended: Option<SystemTime>,
    /// Another process holds the run's lock.
    pub(crate) is_running: bool,
    /// Lines of `log.txt` that are warnings or errors.
    pub(crate) logged: Vec<String>,
    /// What could not be read.
    pub(crate) gaps: Vec<String>,
}

/// A row of `metrics.jsonl`.
#[derive(Debug)]
pub(crate) struct Row {
    /// As the file has it.
    pub(crate) step: f64,
    /// Steps that are done with this one, and before it. People count from 1; most programs number from 0.
    pub(crate) done: f64,
    pub(crate) before: f64,
    /// The numbers, also those that are not finite.
    pub(crate) values: BTreeMap<String, f64>,
}

/// A line of `samples.jsonl`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) step: u64,
    pub(crate) prompt: String,
    pub(crate) text: String,
}

/// Longest line that is read: a longer one is no row of a run.
const MAX_LINE: usize = 4 << 20;
/// Longest text of a prompt or a sample that is kept.
const MAX_TEXT: usize = 4000;
const MAX_SAMPLES: usize = 20_000;
const MAX_LOGGED: usize = 40;

/// Reads the run in a folder.
///
/// # Errors
/// The folder does not exist, or has none of the files of a run.
pub(crate) fn read(folder: &Path) -> Result<Run, Failure> {
    if !folder.is_dir() {
        let what = if folder.exists() { "is not a folder" } else { "does not exist" };
        return Err(Failure::text(format!("{} {what}", folder.display()))
            .with_remedy(nearby_runs::remedy(folder, "")));
    }
    let has = |name: &str| folder.join(name).is_file();
    if !["metrics.jsonl", "checkpoints.jsonl", "config.json"].iter().any(|name| has(name)) {
        return Err(Failure::text(format!("{} has no files of a run", folder.display()))
            .with_remedy(nearby_runs::remedy(folder, "")));
    }
    let whole = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let name = whole.file_name().map(|it| it.to_string_lossy().into_owned()).unwrap_or_default();
    let mut run = Run { name, folder: folder.to_owned(), ..Default::default() };
    read_config(&mut run);
    run.rows = objects(&mut run, "metrics.jsonl").into_iter().filter_map(row).collect();
    sort_rows(&mut run);
    run.checkpoints = objects(&mut run, "checkpoints.jsonl");
    let samples = objects(&mut run, "samples.jsonl");
    run.samples = samples.iter().filter_map(sample).take(MAX_SAMPLES).collect();
    run.resumes = resumes(&run);
    run.logged = logged(folder);
    run.is_running = is_locked(folder);
    dates(&mut run);
    Ok(run)
}

fn read_config(run: &mut Run) {
    let path = run.folder.join("config.json");
    let Ok(text) = std::fs::read_to_string(&path) else { return };
    match serde_json::from_str(&json_of_python(&text)) {
        Ok(Value::Object(config)) => run.config = config,
        Ok(_) => run.gaps.push("config.json is not an object".into()),
        Err(error) => run.gaps.push(format!("config.json cannot be read: {error}")),
    }
}

/// The objects of a file of lines. Lines that are none are told. A torn last line is left out: a program that is killed leaves
/// one, and so does one that is writing.
fn objects(run: &mut Run, name: &str) -> Vec<Map<String, Value>> {
    let Ok(file) = File::open(run.folder.join(name)) else { return Vec::new() };
    let mut reader = BufReader::new(file);
    let (mut objects, mut broken, mut line) = (Vec::new(), Vec::new(), Vec::new());
    for number in 1_usize.. {
        line.clear();
        match reader.read_until(b'\n', &mut line) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => {
                run.gaps.push(format!("{name} cannot be read from line {number} on: {error}"));
                break;
            }
        }
        let is_torn = !line.ends_with(b"\n");
        if line.trim_ascii().is_empty() {
            continue;
        }
        let text = std::str::from_utf8(&line).ok().filter(|it| it.len() <= MAX_LINE);
        match text.and_then(|it| serde_json::from_str(&json_of_python(it)).ok()) {
            Some(Value::Object(object)) => objects.push(object),
            _ if is_torn => {}
            _ => broken.push(number),
        }
    }
    if !broken.is_empty() {
        run.gaps.push(format!("{name}: {}", unread(&broken)));
    }
    objects
}

/// Says which lines could not be read.
fn unread(lines: &[usize]) -> String {
    const MOST: usize = 10;
    let numbers: Vec<String> = lines.iter().take(MOST).map(ToString::to_string).collect();
    let numbers = numbers.join(", ");
    match lines.len() {
        1 => format!("1 line could not be read: line {numbers}"),
        n if n <= MOST => format!("{n} lines could not be read: lines {numbers}"),
        n => format!("{n} lines could not be read: lines {numbers} and {} more", n - MOST),
    }
}

/// The numbers of a row. A row without a step belongs to none of the curves.
fn row(object: Map<String, Value>) -> Option<Row> {
    let step = number(object.get("step").or_else(|| object.get("progress/batch"))?)?;
    let values = object.iter().filter_map(|(name, value)| Some((name.clone(), number(value)?)));
    Some(Row { step, done: step, before: step, values: values.filter(|(name, _)| name != "step").collect() })
}

/// A number, also one that JSON cannot write.
pub(crate) fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

/// Sorts the rows, and joins those of one step: some programs write the evaluation in a row of its own.
fn sort_rows(run: &mut Run) {
    run.rows.retain(|row| row.step.is_finite());
    run.rows.sort_by(|a, b| a.step.total_cmp(&b.step));
    run.rows.dedup_by(|later, earlier| {
        let is_same = later.step == earlier.step;
        if is_same {
            earlier.values.append(&mut later.values);
        }
        is_same
    });
    // The rows of a program that numbers its steps from 1 have the evaluation after the step.
    if run.rows.first().is_some_and(|row| row.step == 0.0) {
        for row in &mut run.rows {
            row.done += 1.0;
        }
    }
}

/// A sample, whatever program wrote it: the step, the prompt (a text or messages) and the text.
fn sample(object: &Map<String, Value>) -> Option<Sample> {
    let first = |names: &[&str]| names.iter().find_map(|name| object.get(*name));
    let step = first(&["step", "batch"]).and_then(Value::as_u64).unwrap_or(0);
    let prompt = first(&["prompt", "messages", "prompt_text"]).map(text_of).unwrap_or_default();
    let text = first(&["text", "sample", "completion", "output", "response", "answer"])
        .or_else(|| first(&["sequences", "samples"])?.get(0))
        .map(text_of)?;
    Some(Sample { step, prompt: cut(&prompt, MAX_TEXT), text: cut(&text, MAX_TEXT) })
}

/// The text of a text, of a message or of several of them.
fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(text_of).collect::<Vec<_>>().join("\n"),
        Value::Object(object) => {
            let text = object.get("content").or_else(|| object.get("text")).map(text_of).unwrap_or_default();
            match object.get("role").and_then(Value::as_str) {
                Some(role) => format!("{role}: {text}"),
                None => text,
            }
        }
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// The steps that `config.json` has, and those of `metrics.jsonl.pre_resume_000040` and its like.
fn resumes(run: &Run) -> Vec<u64> {
    let known = run.config.get("tinkex").and_then(|own| own.get("resumes")).and_then(Value::as_array);
    let known = known.into_iter().flatten().filter_map(|it| it["step"].as_u64());
    let entries = std::fs::read_dir(&run.folder).into_iter().flatten();
    let step = |name: String| {
        let digits = name.strip_prefix("metrics.jsonl.pre_resume_")?;
        digits.split('_').next()?.parse().ok()
    };
    let names = entries.flatten().filter_map(|it| it.file_name().into_string().ok());
    let mut steps: Vec<u64> = names.filter_map(step).chain(known).collect();
    steps.sort_unstable();
    steps.dedup();
    steps
}

/// The warnings and errors of `log.txt`, each once with its number of times.
fn logged(folder: &Path) -> Vec<String> {
    const MAX_LOG: u64 = 16 << 20;
    let path = folder.join("log.txt");
    if std::fs::metadata(&path).is_ok_and(|it| MAX_LOG < it.len()) {
        return vec!["log.txt is too long to be read for warnings".into()];
    }
    let Ok(bytes) = std::fs::read(&path) else { return Vec::new() };
    let text = String::from_utf8_lossy(&bytes);
    let mut counts: Vec<(String, usize)> = Vec::new();
    for line in text.lines() {
        const MARKS: [&str; 4] = ["warning:", "error:", "WARNING", "ERROR"];
        if !MARKS.iter().any(|mark| line.contains(mark)) {
            continue;
        }
        // Without the time, equal lines are equal.
        let is_time = |word: &str| word.starts_with("20") && word.ends_with('Z');
        let line = line.split_once(' ').filter(|(word, _)| is_time(word)).map_or(line, |(_, rest)| rest);
        let line = cut(line.trim(), 300);
        match counts.iter().position(|(known, _)| *known == line) {
            Some(i) => counts[i].1 += 1,
            None if counts.len() < MAX_LOGGED => counts.push((line, 1)),
            None => {}
        }
    }
    let text = |(line, n): (String, usize)| if n == 1 { line } else { format!("{line} ({n} times)") };
    counts.into_iter().map(text).collect()
}

/// True if another process writes the run. The program that trains writes the report itself at the end.
fn is_locked(folder: &Path) -> bool {
    [".lock", "lock"].iter().any(|name| {
        let path = folder.join(name);
        let holder = std::fs::read_to_string(&path).ok().and_then(|it| it.trim().parse::<u32>().ok());
        let is_other = holder.is_some_and(|id| id != std::process::id());
        is_other
            && File::open(&path)
                .is_ok_and(|file| matches!(file.try_lock(), Err(std::fs::TryLockError::WouldBlock)))
    })
}

/// Begin and end: as recorded, otherwise by the log and by the times of the files. A program may write its settings anew
/// when it ends or goes on, so that they are newer than the last step: then the begin is not known.
fn dates(run: &mut Run) {
    let modified = |name: &str| std::fs::metadata(run.folder.join(name)).and_then(|it| it.modified()).ok();
    let recorded = |name: &str| run.own(name).and_then(Value::as_str).and_then(time);
    let ended = recorded("ended").filter(|_| !run.is_running);
    let ended = ended.or_else(|| modified("metrics.jsonl")).or_else(|| modified("checkpoints.jsonl"));
    let began = recorded("started").or_else(|| first_logged(&run.folder)).or_else(|| modified("config.json"));
    run.began = began.filter(|began| ended.is_none_or(|ended| *began <= ended));
    run.ended = ended;
}

/// The time of the first line of `log.txt`.
fn first_logged(folder: &Path) -> Option<SystemTime> {
    const LONGEST: u64 = 4096;
    let mut line = String::new();
    let file = File::open(folder.join("log.txt")).ok()?;
    BufReader::new(file.take(LONGEST)).read_line(&mut line).ok()?;
    time(line.split_once(' ')?.0)
}

fn time(text: &str) -> Option<SystemTime> {
    text.parse::<tinkex::types::Timestamp>().ok()?.to_system_time()
}

impl Run {
    /// Member `name` of the part of `config.json` that `tinkex` writes.
    pub(crate) fn own(&self, name: &str) -> Option<&Value> {
        self.config.get("tinkex")?.get(name)
    }

    /// A setting as text, under the first of these names that the config has.
    pub(crate) fn setting(&self, names: &[&str]) -> Option<String> {
        let value = names.iter().find_map(|name| self.config.get(*name))?;
        match value {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }

    /// The points (step, value) of a metric: of the first of these names that a row has. Steps are counted from 1.
    pub(crate) fn points(&self, names: &[&str]) -> Vec<(f64, f64)> {
        self.points_at(names, |row| row.done)
    }

    /// The points of a metric that was measured before the step of its row, by the number of steps that were done.
    pub(crate) fn points_before(&self, names: &[&str]) -> Vec<(f64, f64)> {
        self.points_at(names, |row| row.before)
    }

    fn points_at(&self, names: &[&str], at: impl Fn(&Row) -> f64) -> Vec<(f64, f64)> {
        let value = |row: &Row| names.iter().find_map(|name| row.values.get(*name)).copied();
        self.rows.iter().filter_map(|row| Some((at(row), value(row)?))).collect()
    }

    /// The last value of a metric.
    pub(crate) fn last(&self, names: &[&str]) -> Option<f64> {
        self.points(names).last().map(|(_, value)| *value)
    }

    pub(crate) fn sum(&self, names: &[&str]) -> Option<f64> {
        let points = self.points(names);
        let finite = points.iter().map(|(_, value)| *value).filter(|it| it.is_finite());
        if points.is_empty() { None } else { Some(finite.sum()) }
    }
}
