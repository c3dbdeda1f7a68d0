//! `tinkex data convert`.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::args::Format;
use crate::connection::App;
use crate::counted::counted;
use crate::examples::{DataFormat, DataOptions, Keep, Pairs, read_keeping, trains_less, written_as};
use crate::failure::Failure;
use crate::{nearby_files, report};

/// The column that is kept: answers to prompts are found again by it.
const ID: &str = "id";

/// The formats that can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum To {
    Chat,
    Completion,
    Preference,
}

/// Where the examples go.
pub(super) struct Output {
    /// `None`, and `-`, are stdout.
    pub(super) path: Option<PathBuf>,
    pub(super) overwrite: bool,
}

pub(super) fn run(
    files: &[PathBuf],
    options: &DataOptions,
    to: To,
    output: &Output,
    app: &App,
) -> Result<(), Failure> {
    let to = match to {
        To::Chat => DataFormat::Chat,
        To::Completion => DataFormat::Completion,
        To::Preference => DataFormat::Preference,
    };
    if let Some(Format::Table | Format::Tsv) = app.global.format {
        return Err(Failure::usage("`tinkex data convert` writes examples, which have no form as a table")
            .with_remedy("-f jsonl, the default, or -f json for one array"));
    }
    let path = output.path.as_deref().filter(|path| path.as_os_str() != "-");
    if let Some(path) = path {
        check(path, files)?;
    }
    let lines = read_keeping(Keep::All, files, options)?;
    let mut converted = Vec::with_capacity(lines.records.len());
    for record in &lines.records {
        let line = written_as(&record.content, to)
            .map_err(|problem| Failure::text(format!("{}: {problem}", lines.place(record))))?;
        let id = record.further.iter().rfind(|(key, raw)| key == ID && is_id(raw));
        converted.extend(line.map(|line| match id {
            Some((_, raw)) => with_id(&line, raw),
            None => line,
        }));
    }
    let is_array = app.global.format == Some(Format::Json);
    match path {
        Some(path) => {
            let text = if is_array {
                format!("[\n{}\n]\n", converted.join(",\n"))
            } else {
                converted.iter().map(|line| format!("{line}\n")).collect()
            };
            write(path, text.as_bytes(), output.overwrite)?;
            app.note(&format!("{}: {}", path.display(), counted(converted.len() as u64, "example")));
        }
        None if is_array => app.out.line(&format!("[\n{}\n]", converted.join(",\n")))?,
        None => converted.iter().try_for_each(|line| app.out.line(line))?,
    }
    if 0 < lines.n_ties {
        let ties =
            if lines.n_ties == 1 { "1 tie was".to_owned() } else { format!("{} ties were", lines.n_ties) };
        app.note(&format!("note: {ties} left out"));
    }
    match lines.records.iter().filter(|record| trains_less(&record.content, to)).count() as u64 {
        0 => {}
        n => app.note(&format!(
            "note: {} with several answers: as a completion, only the last one is trained",
            counted(n, "chat")
        )),
    }
    lines.remarks.of_columns(&[ID]).iter().for_each(|remark| app.note(remark));
    Ok(())
}

/// True for a text or a number, which is what prompts have as their id.
fn is_id(raw: &str) -> bool {
    raw.starts_with(|it: char| it == '"' || it == '-' || it.is_ascii_digit())
}

/// A line with the id of its example.
fn with_id(line: &str, raw: &str) -> String {
    match Pairs::of(line) {
        Ok(fields) => {
            Pairs::text([(ID, raw)].into_iter().chain(fields.0.iter().map(|(key, raw)| (key.as_str(), *raw))))
        }
        Err(_) => line.to_owned(),
    }
}

/// Refuses a file that cannot be written, before all examples are read.
fn check(path: &Path, files: &[PathBuf]) -> Result<(), Failure> {
    let refused = |problem: &str, other: &Path| {
        let failure = Failure::usage(format!("-o {} {problem}", path.display()));
        failure.with_remedy(format!("-o {}", nearby_files::unused(other)))
    };
    if path.is_dir() {
        return Err(refused("is a folder", &path.join("converted.jsonl")));
    }
    let is_compressed = |end: &str| matches!(end.to_ascii_lowercase().as_str(), "gz" | "zst");
    if path.extension().and_then(|it| it.to_str()).is_some_and(is_compressed) {
        return Err(refused("would not be compressed", &path.with_extension("")));
    }
    let Ok(own) = path.canonicalize() else { return Ok(()) };
    if files.iter().any(|file| file.canonicalize().is_ok_and(|it| it == own)) {
        return Err(refused("is the file that is converted", path));
    }
    Ok(())
}

/// Writes a file that is not there, or has the same bytes.
fn write(path: &Path, bytes: &[u8], overwrite: bool) -> Result<(), Failure> {
    let is_other = path.is_file() && std::fs::read(path).map_or(true, |it| it != bytes);
    if is_other && !overwrite {
        let problem = format!("{} is there, and has other lines", path.display());
        return Err(Failure::usage(problem).with_remedy(format!(
            "--overwrite replaces it; or another file, such as -o {}",
            nearby_files::unused(path)
        )));
    }
    report::replace(path, bytes)
}
