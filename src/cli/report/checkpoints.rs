//! The checkpoints of a run on its page.

use std::fmt::Write;

use serde_json::{Map, Value};

use super::super::moments::size;
use super::facts;
use super::read::Run;
use super::text::{cut, grouped, html};
use crate::connection::place_of;
use crate::shell_word::quoted;

/// Checkpoints that are shown at once, and with a click.
const MAX_CHECKPOINTS: (usize, usize) = (8, 150);

/// The checkpoints, the last one first, and the command that samples from it.
pub(super) fn section(run: &Run) -> String {
    if run.checkpoints.is_empty() {
        return String::new();
    }
    let mut out = String::from("<section><h2>Checkpoints</h2>\n");
    let newest: Vec<_> = run.checkpoints.iter().rev().collect();
    let (n_shown, n_most) = MAX_CHECKPOINTS;
    let (shown, folded) = newest.split_at(n_shown.min(newest.len()));
    checkpoint_table(&mut out, run, shown);
    if !folded.is_empty() {
        let _ = write!(out, "<details><summary>{} earlier checkpoints</summary>", folded.len());
        checkpoint_table(&mut out, run, &folded[..folded.len().min(n_most)]);
        if n_most < folded.len() {
            out.push_str("<p class=\"label\">All others are in checkpoints.jsonl.</p>");
        }
        out.push_str("</details>");
    }
    let path = |name: &str| newest.iter().find_map(|it| it.get(name)?.as_str());
    if let Some(path) = path("sampler_path") {
        let command = format!("tinkex sample -m {}{} 'Hello'", quoted(path), place(run));
        let _ = write!(
            out,
            "<p class=\"label\">Sample from the last one</p><code class=\"command\">{}</code>",
            html(&cut(&command, 600))
        );
    }
    if facts::state(run) != facts::State::Finished
        && let Some(path) = path("state_path")
    {
        // A run of another program does not say what its next step is.
        let command = if run.config.contains_key("tinkex") {
            format!("tinkex train --resume {}", quoted(&run.folder.to_string_lossy()))
        } else {
            format!("tinkex train DATA --from {}", quoted(path))
        };
        let _ = write!(
            out,
            "<p class=\"label\">Continue from {}</p><code class=\"command\">{}</code>",
            html(&cut(path, 300)),
            html(&cut(&command, 600))
        );
    }
    out.push_str("</section>\n");
    out
}

/// The options that name the server or the engine of a run.
pub(super) fn place(run: &Run) -> String {
    let text = |name: &str| run.config.get(name).and_then(Value::as_str);
    let url = text("base-url").or_else(|| text("base_url"));
    let local = match run.config.get("local") {
        Some(Value::String(dir)) => Some(Some(dir.as_str())),
        Some(Value::Bool(true)) => Some(None),
        _ => None,
    };
    place_of(local, url)
}

/// When a checkpoint expires: as recorded, or else by the settings of the run.
fn expiry(run: &Run, checkpoint: &Map<String, Value>) -> Option<String> {
    let recorded = ["expires_at", "expires"].iter().find_map(|name| checkpoint.get(*name)?.as_str());
    if let Some(time) = recorded {
        return Some(time.replace('T', " ").chars().take(16).collect());
    }
    let is_final = checkpoint.get("final").and_then(Value::as_bool) == Some(true);
    let of_final = run.setting(&["final-ttl"]).filter(|_| is_final);
    of_final
        .or_else(|| run.setting(&["ttl"]))
        .map(|it| if it == "never" { it } else { cut(&format!("after {it}"), 40) })
}

/// The size of a checkpoint: as its record or the settings tell it.
fn bytes_of(run: &Run, checkpoint: &Map<String, Value>) -> Option<u64> {
    let recorded = checkpoint.get("size_bytes").and_then(Value::as_u64);
    let sizes: Vec<u64> =
        paths(checkpoint).filter_map(|it| run.own("checkpoint_bytes")?.get(it)?.as_u64()).collect();
    recorded.or_else(|| (!sizes.is_empty()).then(|| sizes.iter().sum()))
}

fn paths(checkpoint: &Map<String, Value>) -> impl Iterator<Item = &str> {
    ["state_path", "sampler_path"].into_iter().filter_map(|it| checkpoint.get(it)?.as_str())
}

/// True if the run deleted a checkpoint, as with --keep-last: at its end it records the sizes of those that exist, of
/// this training run and of a later checkpoint, too.
fn is_deleted(run: &Run, checkpoint: &Map<String, Value>) -> bool {
    let Some(known) = run.own("checkpoint_bytes").and_then(Value::as_object) else { return false };
    let is_known = |it: &Map<String, Value>| paths(it).any(|path| known.contains_key(path));
    let run_of = |path: &str| path.split('/').nth(2).map(str::to_owned);
    let own = paths(checkpoint).next().and_then(run_of);
    let mut later = run.checkpoints.iter().rev().take_while(|it| !std::ptr::eq(*it, checkpoint));
    own.is_some()
        && !is_known(checkpoint)
        && known.keys().any(|path| run_of(path) == own)
        && later.any(is_known)
}

fn checkpoint_table(out: &mut String, run: &Run, checkpoints: &[&Map<String, Value>]) {
    let text = |it: &Map<String, Value>, names: &[&str]| {
        names.iter().find_map(|name| it.get(*name)).and_then(|value| match value {
            Value::String(text) => Some(cut(text, 300)),
            Value::Number(number) => number.as_f64().map(grouped),
            _ => None,
        })
    };
    let bytes = |it: &&Map<String, Value>| bytes_of(run, it).map(size);
    let has_size = checkpoints.iter().any(|it| bytes(it).is_some());
    let has_expiry = checkpoints.iter().any(|it| expiry(run, it).is_some());
    out.push_str("<div class=\"scroll\"><table><tr><th>Name</th><th class=\"n\">Steps</th><th>Paths</th>");
    out.push_str(if has_size { "<th class=\"n\">Size</th>" } else { "" });
    out.push_str(if has_expiry { "<th>Expires</th>" } else { "" });
    out.push_str("</tr>\n");
    for checkpoint in checkpoints {
        let name = text(checkpoint, &["name"]).unwrap_or_default();
        let steps = text(checkpoint, &["next_batch", "batch"]).unwrap_or_default();
        let paths: Vec<String> = ["state_path", "sampler_path"]
            .iter()
            .filter_map(|it| text(checkpoint, &[it]))
            .map(|it| format!("<span class=\"path\">{}</span>", html(&it)))
            .collect();
        let _ = write!(
            out,
            "<tr><td>{}</td><td class=\"n\">{}</td><td>{}</td>",
            html(&name),
            html(&steps),
            paths.join("<br>")
        );
        if has_size {
            let unknown = if is_deleted(run, checkpoint) { "deleted" } else { "–" };
            let _ =
                write!(out, "<td class=\"n\">{}</td>", bytes(checkpoint).unwrap_or_else(|| unknown.into()));
        }
        if has_expiry {
            let expiry = match expiry(run, checkpoint) {
                _ if is_deleted(run, checkpoint) => "–".into(),
                expiry => expiry.unwrap_or_else(|| "never".into()),
            };
            let _ = write!(out, "<td class=\"date\">{}</td>", html(&expiry));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</table></div>");
}
