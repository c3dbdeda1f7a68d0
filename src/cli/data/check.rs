//! `tinkex data check`.

use serde_json::{Value, json};

use super::Files;
use crate::connection::App;
use crate::counted::counted;
use crate::examples::{DataFormat, Encoder, Keep, Lines, Remarks, Scan, file_name, scan};
use crate::failure::Failure;

pub(super) fn run(files: &Files, app: &App) -> Result<(), Failure> {
    // Only with a tokenizer can more be told than what the lines say by themselves.
    let encodes = files.model(app).is_some() || files.options.tokenizer.is_some();
    let mut scan = scan(&files.files, &files.options, if encodes { Keep::Examples } else { Keep::Nothing });
    if encodes && let Some(format) = scan.format {
        encode_all(files, app, &mut scan, format)?;
    }
    for (place, problem) in scan.remarks.mistakes() {
        scan.problems.add(place, &problem);
    }
    let json = json(&scan);
    app.out.value(&json, || text(&scan))?;
    if scan.problems.is_empty() { Ok(()) } else { Err(Failure::Negative) }
}

/// Makes tokens of all examples, and adds the problems of that.
fn encode_all(files: &Files, app: &App, scan: &mut Scan, format: DataFormat) -> Result<(), Failure> {
    let lines = Lines {
        format,
        records: std::mem::take(&mut scan.records),
        files: scan.files.clone(),
        n_ties: scan.n_ties,
        remarks: Remarks::default(),
    };
    let encoder: Encoder = files.encoder(app, &lines)?;
    for record in &lines.records {
        let problem = match format {
            DataFormat::Preference => encoder.pair(&lines, record).err(),
            _ => encoder.encode(&lines, record).err(),
        };
        if let Some(Failure::Text { message, .. }) = problem {
            let place = lines.place(record);
            let problem = message.strip_prefix(&place).and_then(|it| it.strip_prefix(": "));
            match problem {
                Some(problem) => scan.problems.add(&place, problem),
                None => scan.problems.add("", &message),
            }
        }
    }
    Ok(())
}

fn json(scan: &Scan) -> Value {
    let files = scan
        .files
        .iter()
        .map(|file| json!({ "path": file_name(&file.path), "lines": file.n_lines, "sha256": file.sha256 }));
    json!({
        "ok": scan.problems.is_empty(),
        "format": scan.format.map(DataFormat::name),
        "examples": scan.n_examples(),
        "ties": scan.n_ties,
        "files": files.collect::<Vec<_>>(),
        "problems": scan.problems.first(),
        "num_problems": scan.problems.len(),
        "faults": scan.problems.faults(),
        "unused_columns": scan.remarks.columns_json(),
        "unknown_roles": scan.remarks.roles_json(),
        "repeats": scan.remarks.repeats_json(),
    })
}

fn text(scan: &Scan) -> String {
    let mut lines = scan.problems.lines();
    lines.extend(scan.remarks.minor());
    let format = scan.format.map_or("unknown", DataFormat::name);
    let problems = match scan.problems.len() {
        0 => "no problems".to_owned(),
        n => counted(n as u64, "problem"),
    };
    let ties = match scan.n_ties {
        0 => String::new(),
        n => format!(", {}", counted(n as u64, "tie")),
    };
    let examples = counted(scan.n_examples() as u64, "example");
    lines.push(format!("{problems}: {examples}, format {format}{ties}"));
    lines.join("\n")
}
