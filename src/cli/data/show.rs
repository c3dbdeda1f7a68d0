//! `tinkex data show`.

use serde_json::{Value, json};
use tinkex::chat::Example;

use super::Files;
use crate::args::Format;
use crate::connection::App;
use crate::examples::{DataFormat, Encoder, Fate, Keep, Lines, Record, TooLong, read_keeping};
use crate::failure::Failure;
use crate::printable;

/// What is shown of a line.
struct Shown {
    /// Each example with its name.
    examples: Vec<(&'static str, Example)>,
    fate: Fate,
}

pub(super) fn run(mut files: Files, n: usize, app: &App) -> Result<(), Failure> {
    files.options.limit = Some(files.options.limit.map_or(n, |limit| limit.min(n)));
    files.options.too_long.get_or_insert(TooLong::Truncate);
    let lines = read_keeping(Keep::All, &files.files, &files.options)?;
    let encoder = files.encoder(app, &lines)?;
    let mut all = Vec::new();
    for (i, record) in lines.records.iter().enumerate() {
        let shown = shown(&encoder, &lines, record)?;
        match app.out.format() {
            Format::Json => all.push(json(&lines, record, &shown, &encoder)),
            Format::Jsonl => app.out.line(&json(&lines, record, &shown, &encoder).to_string())?,
            Format::Table | Format::Tsv => {
                let gap = if i == 0 { "" } else { "\n" };
                let text = text(&lines, record, &shown, &encoder, app.out.has_color());
                app.out.line(&format!("{gap}{text}"))?;
            }
        }
    }
    match app.out.format() {
        Format::Json => app.out.value(&json!({ "examples": all }), String::new),
        _ => Ok(()),
    }
}

fn shown(encoder: &Encoder, lines: &Lines, record: &Record) -> Result<Shown, Failure> {
    if lines.format == DataFormat::Preference {
        let pair = encoder.pair(lines, record)?;
        let examples = pair.map(|(chosen, rejected)| vec![("chosen", chosen), ("rejected", rejected)]);
        return Ok(Shown { examples: examples.unwrap_or_default(), fate: Fate::Kept });
    }
    let encoded = encoder.encode(lines, record)?;
    let examples = encoded.examples.into_iter().map(|example| ("", example)).collect();
    Ok(Shown { examples, fate: encoded.fate })
}

fn text(lines: &Lines, record: &Record, shown: &Shown, encoder: &Encoder, color: bool) -> String {
    let place = lines.place(record);
    let mut parts = Vec::new();
    for (key, raw) in &record.further {
        parts.push(format!("{key}: {}", printable::text(raw)));
    }
    for (name, example) in &shown.examples {
        let name = if name.is_empty() { String::new() } else { format!(" {name}") };
        let fate = match shown.fate {
            Fate::Truncated { n_tokens } => format!(", cut from {n_tokens}"),
            _ => String::new(),
        };
        parts.push(format!(
            "# {place}{name}: {} tokens, {} trained{fate}\n{}",
            example.n_tokens(),
            example.n_trained(),
            encoder.show(example, color)
        ));
    }
    if let Fate::Dropped { n_tokens } = shown.fate {
        parts.push(format!("# {place}: dropped, {n_tokens} tokens"));
    } else if shown.examples.is_empty() {
        parts.push(format!("# {place}: a tie, which is skipped"));
    }
    parts.join("\n")
}

fn json(lines: &Lines, record: &Record, shown: &Shown, encoder: &Encoder) -> Value {
    let examples = shown.examples.iter().map(|(name, example)| {
        json!({
            "name": if name.is_empty() { Value::Null } else { Value::from(*name) },
            "tokens": example.tokens().to_ints().ok(),
            "weights": example.weights(),
            "text": encoder.show(example, false),
        })
    });
    let further = record
        .further
        .iter()
        .map(|(key, raw)| (key.clone(), serde_json::from_str(raw).unwrap_or(Value::Null)));
    json!({
        "file": lines.file_name(record),
        "line": record.line,
        "examples": examples.collect::<Vec<_>>(),
        "other_keys": further.collect::<serde_json::Map<_, _>>(),
    })
}
