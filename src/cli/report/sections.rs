//! The parts of the page below the charts: samples, data, details.

use std::fmt::Write;

use serde_json::Value;

use super::checkpoints::place;
use super::facts;
use super::read::{Run, Sample, number};
use super::svg::{Chart, Layer};
use super::text::{amount, cut, figure, grouped, html};
use crate::shell_word::quoted;

const MAX_PROMPTS: usize = 8;
const MAX_SHOWN_TEXT: usize = 1200;
const MAX_FILES: usize = 40;

/// The samples of each prompt, the first beside the last.
pub(super) fn samples(run: &Run) -> String {
    let mut prompts: Vec<&str> = Vec::new();
    for sample in &run.samples {
        if !prompts.contains(&sample.prompt.as_str()) && prompts.len() < 200 {
            prompts.push(&sample.prompt);
        }
    }
    if prompts.is_empty() {
        return String::new();
    }
    let mut out = String::from("<section><h2>Samples</h2>\n");
    for prompt in prompts.iter().take(MAX_PROMPTS) {
        let mut of: Vec<&Sample> = run.samples.iter().filter(|it| it.prompt == *prompt).collect();
        of.sort_by_key(|it| it.step);
        let (Some(first), Some(last)) = (of.first(), of.last()) else { continue };
        let prompt = if prompt.is_empty() { "(no prompt)".into() } else { cut(prompt, 600) };
        // Writing to a `String` cannot fail, here and below.
        let _ = write!(
            out,
            "<div class=\"sample\"><p class=\"prompt text\" dir=\"auto\">{}</p><div class=\"sides\">",
            html(&prompt)
        );
        if first.step < last.step {
            side(&mut out, first);
        }
        side(&mut out, last);
        out.push_str("</div></div>\n");
    }
    if MAX_PROMPTS < prompts.len() {
        let n = grouped((prompts.len() - MAX_PROMPTS) as f64);
        let _ = write!(out, "<p class=\"label\">{n} more prompts are in samples.jsonl.</p>");
    }
    out.push_str("</section>\n");
    out
}

fn side(out: &mut String, sample: &Sample) {
    let text = if sample.text.is_empty() { "(empty)".into() } else { cut(&sample.text, MAX_SHOWN_TEXT) };
    let _ = write!(
        out,
        "<div class=\"side\"><h3>{}</h3><div class=\"text\" dir=\"auto\">{}</div></div>",
        facts::after(sample.step as f64),
        html(&text)
    );
}

/// What the run was trained on, as `config.json` tells it.
pub(super) fn data(run: &Run) -> String {
    let own = run.own("data");
    let get = |name: &str| own.and_then(|it| it.get(name));
    let mut facts: Vec<(&str, String)> = Vec::new();
    // Earlier versions had another name for it.
    let old = |name: &str| if name == "n_target_tokens" { get("n_trained_tokens") } else { None };
    let count = |name: &str| get(name).or_else(|| old(name)).and_then(number);
    let share = |part: Option<f64>, whole: Option<f64>| match (part, whole) {
        (Some(part), Some(whole)) if 0.0 < whole => format!(" ({})", facts::percent(part / whole)),
        _ => String::new(),
    };
    let n_tokens = count("n_tokens");
    for (label, name) in [
        ("Examples", "n_examples"),
        ("Tokens", "n_tokens"),
        ("Trained tokens", "n_target_tokens"),
        ("Cut to the limit", "n_truncated"),
        ("Left out", "n_dropped"),
    ] {
        if let Some(n) = count(name) {
            let of_all = if name == "n_target_tokens" { share(Some(n), n_tokens) } else { String::new() };
            facts.push((label, grouped(n) + &of_all));
        }
    }
    for (label, names) in [
        ("Template", &["renderer_name", "template", "template_name"][..]),
        ("Trained on", &["train_on_what", "train_on", "train-on"]),
        ("Longest length", &["max_length", "max-length"]),
        ("Data", &["data_path", "dataset", "dataset_path"]),
    ] {
        let has_files = get("files").is_some();
        facts.extend(
            run.setting(names).filter(|_| label != "Data" || !has_files).map(|it| (label, cut(&it, 300))),
        );
    }
    let files = get("files").and_then(Value::as_array).map(|it| files(it)).unwrap_or_default();
    let bars = get("length_histogram").map(lengths).filter(|it| !it.is_empty());
    if let (Some([shortest, .., longest]), true) =
        (get("lengths").and_then(numbers).as_deref(), bars.is_some())
    {
        facts.push(("Lengths", format!("{} to {} tokens", grouped(*shortest), grouped(*longest))));
    }
    let lengths = bars.or_else(|| get("lengths").map(lengths)).unwrap_or_default();
    let example = get("example")
        .or_else(|| run.own("example"))
        .and_then(Value::as_str)
        .map(rendered)
        .unwrap_or_default();
    if facts.is_empty() && files.is_empty() {
        return String::new();
    }
    let facts: String =
        facts.iter().map(|(label, value)| format!("<dt>{label}</dt><dd>{}</dd>", html(value))).collect();
    let facts = if facts.is_empty() { facts } else { format!("<dl class=\"facts\">{facts}</dl>") };
    let top = if lengths.is_empty() {
        facts
    } else {
        format!("<div class=\"pair\"><div>{facts}</div>{lengths}</div>")
    };
    format!("<section><h2>Data</h2>\n{top}\n{files}{example}</section>\n")
}

fn files(files: &[Value]) -> String {
    let mut out = String::from(
        "<div class=\"scroll\"><table class=\"files\"><tr><th>File</th><th class=\"n\">Lines</th><th>SHA-256</th></tr>\n",
    );
    for file in files.iter().take(MAX_FILES) {
        let text = |name: &str| file.get(name).and_then(Value::as_str).unwrap_or_default();
        let lines = file
            .get("n_lines")
            .or_else(|| file.get("lines"))
            .and_then(number)
            .map(grouped)
            .unwrap_or_default();
        let _ = writeln!(
            out,
            "<tr><td><span class=\"path\">{}</span></td><td class=\"n\">{lines}</td><td><span class=\"path\">{}</span></td></tr>",
            html(&cut(text("path"), 300)),
            html(&cut(text("sha256"), 64))
        );
    }
    out.push_str("</table></div>");
    if MAX_FILES < files.len() {
        let _ = write!(out, "<p class=\"label\">and {} more files</p>", files.len() - MAX_FILES);
    }
    out
}

fn numbers(value: &Value) -> Option<Vec<f64>> {
    value.as_array()?.iter().map(number).collect()
}

/// The lengths of the examples: a histogram of `[length, count]` (upper bounds) or of objects `{"to", "n"}`, or a list of
/// quantiles from the shortest to the longest. A histogram begins behind its first bins that are empty.
fn lengths(value: &Value) -> String {
    let Some(items) = value.as_array().filter(|it| it.len() <= 400) else { return String::new() };
    let bin = |it: &Value| match it {
        Value::Array(pair) => Some((number(pair.first()?)?, number(pair.get(1)?)?)),
        Value::Object(bin) => {
            let to = bin.get("to").or_else(|| bin.get("max"))?;
            let n = bin.get("n").or_else(|| bin.get("count"))?;
            Some((number(to)?, number(n)?))
        }
        _ => None,
    };
    if let Some(bins) = items.iter().map(bin).collect::<Option<Vec<_>>>().filter(|it| !it.is_empty()) {
        return histogram(&bins);
    }
    let Some(numbers) = numbers(value) else { return String::new() };
    if numbers.is_empty() {
        return String::new();
    }
    let last = numbers.len() - 1;
    let label = |i: usize| match i {
        0 => "shortest".to_owned(),
        i if i == last => "longest".to_owned(),
        i if 2 * i == last => "median".to_owned(),
        // The quantiles that the training command writes.
        1 if last == 4 => "10%".to_owned(),
        3 if last == 4 => "90%".to_owned(),
        i => format!("{:.0}%", 100.0 * i as f64 / last as f64),
    };
    let rows: String = numbers
        .iter()
        .enumerate()
        .map(|(i, n)| format!("<dt>{}</dt><dd>{} tokens</dd>", label(i), grouped(*n)))
        .collect();
    format!("<div><h3>Lengths of the examples</h3><dl class=\"facts\">{rows}</dl></div>")
}

fn histogram(bins: &[(f64, f64)]) -> String {
    let n_empty = bins.iter().take_while(|(_, n)| *n == 0.0).count();
    let (empty, bins) = bins.split_at(n_empty);
    let first = empty.last().map_or(0.0, |(to, _)| *to);
    let mut edges = Vec::with_capacity(bins.len());
    let mut from = first;
    for (to, _) in bins {
        edges.push((from, *to));
        from = *to;
    }
    let steps = (first, from);
    let total: f64 = bins.iter().map(|it| it.1).sum();
    let most = bins.iter().zip(&edges).max_by(|a, b| a.0.1.total_cmp(&b.0.1));
    let most = most.map(|(bin, edge)| {
        format!("most, {}, between {} and {} tokens", amount(bin.1), amount(edge.0), amount(edge.1))
    });
    let values = bins.iter().map(|it| it.1).collect();
    let layer = Layer { label: "examples".into(), color: 0, values, note: amount(total) };
    let chart = Chart {
        title: "Lengths of the examples".into(),
        unit: "tokens",
        layers: vec![layer],
        bins: edges,
        steps,
        summary: most.unwrap_or_default(),
        is_histogram: true,
        ..Default::default()
    };
    format!("<div class=\"bars\">{}</div>", chart.html())
}

/// The example as the model reads it. What is trained stands between ⟦ and ⟧, or between [[ and ]].
fn rendered(example: &str) -> String {
    let mut example = html(&cut(example, 3000));
    if !example.contains('⟦') {
        example = example.replace("[[", "⟦").replace("]]", "⟧");
    }
    let (mut marked, mut is_open) = (String::new(), false);
    for char in example.chars() {
        match char {
            '⟦' if !is_open => {
                is_open = true;
                marked.push_str("<mark>");
            }
            '⟧' if is_open => {
                is_open = false;
                marked.push_str("</mark>");
            }
            other => marked.push(other),
        }
    }
    marked.push_str(if is_open { "</mark>" } else { "" });
    format!(
        "<p class=\"label\">An example as the model reads it; the <mark>marked part</mark> is trained</p>\
         <pre class=\"rendered text\" dir=\"auto\">{marked}</pre>"
    )
}

/// What only some readers want to see.
pub(super) fn details(run: &Run) -> String {
    let mut out = String::from("<section><h2>Details</h2>\n");
    let command = run.own("command").and_then(Value::as_str).map(str::to_owned);
    let folder = quoted(&run.folder.to_string_lossy());
    let is_own = run.own("version").is_some();
    let (what, command) = match command {
        Some(command) => ("Reproduce the run", command),
        None if is_own => {
            let config = quoted(&run.folder.join("config.json").to_string_lossy());
            ("Reproduce the run", format!("tinkex train --config {config} --out NEW_FOLDER{}", place(run)))
        }
        None => ("Write this page again", format!("tinkex report {folder}")),
    };
    let _ = writeln!(
        out,
        "<details open><summary>{what}</summary><code class=\"command\">{}</code></details>",
        html(&cut(&command, 3000))
    );
    let mut settings = run.config.clone();
    let own = settings.remove("tinkex");
    if !settings.is_empty() {
        let text = serde_json::to_string_pretty(&settings).unwrap_or_default();
        fold(&mut out, "Settings", &text);
    }
    if let Some(Value::Object(mut own)) = own {
        if let Some(Value::Object(data)) = own.get_mut("data") {
            data.remove("example");
        }
        own.remove("example");
        fold(&mut out, "Environment", &serde_json::to_string_pretty(&own).unwrap_or_default());
    }
    let names: std::collections::BTreeSet<&String> =
        run.rows.iter().flat_map(|it| it.values.keys()).collect();
    if !names.is_empty() {
        let last = |name: &String| run.last(&[name.as_str()]).map(figure).unwrap_or_default();
        let lines: Vec<String> =
            names.iter().take(200).map(|name| format!("{}  {}", cut(name, 100), last(name))).collect();
        fold(&mut out, "Metrics and their last values", &lines.join("\n"));
    }
    out.push_str("</section>\n");
    out
}

fn fold(out: &mut String, title: &str, text: &str) {
    let text = html(&cut(text, 20_000));
    let _ = writeln!(out, "<details><summary>{title}</summary><pre class=\"text\">{text}</pre></details>");
}
