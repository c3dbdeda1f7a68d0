//! `tinkex data convert`.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::args::Format;
use crate::connection::App;
use crate::counted::counted;
use crate::examples::{DataFormat, DataOptions, read, trains_less, written_as};
use crate::failure::Failure;

/// The formats that can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum To {
    Chat,
    Completion,
    Preference,
}

pub(super) fn run(files: &[PathBuf], options: &DataOptions, to: To, app: &App) -> Result<(), Failure> {
    let to = match to {
        To::Chat => DataFormat::Chat,
        To::Completion => DataFormat::Completion,
        To::Preference => DataFormat::Preference,
    };
    if let Some(Format::Table | Format::Tsv) = app.global.format {
        return Err(Failure::usage("`tinkex data convert` writes examples, which have no form as a table")
            .with_remedy("-f jsonl, the default, or -f json for one array"));
    }
    let lines = read(files, options)?;
    let mut converted = Vec::with_capacity(lines.records.len());
    for record in &lines.records {
        let line = written_as(&record.content, to)
            .map_err(|problem| Failure::text(format!("{}: {problem}", lines.place(record))))?;
        converted.extend(line);
    }
    match app.global.format {
        Some(Format::Json) => app.out.line(&format!("[\n{}\n]", converted.join(",\n")))?,
        _ => converted.iter().try_for_each(|line| app.out.line(line))?,
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
    lines.remarks.of_columns().iter().for_each(|remark| app.note(remark));
    Ok(())
}
