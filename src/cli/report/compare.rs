//! The page that compares several runs: their curves over each other, and the settings that differ.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use super::facts::{self, Objective};
use super::read::Run;
use super::series::{self, Point};
use super::svg::{Chart, Line, Shape, fit};
use super::text::{cut, figure, grouped, html, span, usd};
use super::{charts, page};

/// Number of colors that can be told from each other.
pub(crate) const MAX_RUNS: usize = 8;
/// Longest list of differing settings.
const MAX_SETTINGS: usize = 60;

/// The page, with at most `n` points a line.
pub(super) fn page(runs: &[Run], n: usize) -> String {
    let objectives: Vec<Objective> = runs.iter().map(facts::objective).collect();
    let names = names(runs);
    let mut body = format!(
        "<header><div class=\"eyebrow\"><span>Training runs</span></div>\n<h1>{} runs compared</h1>\n<p class=\"lede\">{}</p>\n</header>\n",
        runs.len(),
        html(&lede(runs, &objectives, &names))
    );
    body.push_str(&table(runs, &objectives, &names));
    let charts: String = curves(runs, &objectives, &names, n).iter().map(Chart::html).collect();
    if !charts.is_empty() {
        let _ = write!(body, "<section><h2>Curves</h2><div class=\"charts\">\n{charts}</div></section>\n");
    }
    body.push_str(&settings(runs, &names));
    let data: Vec<Value> = runs.iter().map(|run| page::data(run, n.min(400))).collect();
    page::document("Training runs compared", &body, &json!({ "format": "tinkex-report/1", "runs": data }))
}

/// Names of the runs: those of their folders, with the folder above where two are the same.
pub(super) fn names(runs: &[Run]) -> Vec<String> {
    let name = |run: &Run| {
        let is_unique = runs.iter().filter(|it| it.name == run.name).count() == 1;
        if is_unique { cut(&run.name, 60) } else { cut(&run.folder.to_string_lossy(), 80) }
    };
    runs.iter().map(name).collect()
}

fn lede(runs: &[Run], objectives: &[Objective], names: &[String]) -> String {
    let is_falling = objectives.iter().all(|it| it.falls);
    let has_test = objectives.iter().all(|it| !it.test.is_empty());
    let value =
        |it: &Objective| if has_test { it.best_test().map(|it| it.1) } else { facts::recent(&it.points) };
    let values = objectives.iter().zip(names).filter_map(|(it, name)| Some((value(it)?, name)));
    let best = if is_falling {
        values.min_by(|a, b| a.0.total_cmp(&b.0))
    } else {
        values.max_by(|a, b| a.0.total_cmp(&b.0))
    };
    let what = match (has_test, is_falling) {
        (true, _) => "evaluation",
        (false, true) => "final loss",
        (false, false) => "final reward",
    };
    match best {
        Some((value, name)) if 1 < runs.len() => {
            let order = if is_falling { "lowest" } else { "highest" };
            format!("The {order} {what} is that of {name}, {}.", figure(value))
        }
        _ => "The runs have no values in common.".into(),
    }
}

fn table(runs: &[Run], objectives: &[Objective], names: &[String]) -> String {
    let mut out = String::from(
        "<section><h2>Runs</h2><div class=\"scroll\"><table><tr><th>Run</th><th>Model</th><th>State</th><th class=\"n\">Steps</th>\
         <th class=\"n\">Final loss</th><th class=\"n\">Best loss</th><th class=\"n\">Best evaluation</th><th class=\"n\">Tokens</th>\
         <th class=\"n\">Time</th><th class=\"n\">Cost</th></tr>\n",
    );
    let or_dash = |it: Option<String>| it.unwrap_or_else(|| "–".into());
    for (i, ((run, objective), name)) in runs.iter().zip(objectives).zip(names).enumerate() {
        let state = facts::state(run).name();
        // Writing to a `String` cannot fail, here and below.
        let _ = write!(
            out,
            "<tr><td class=\"name\"><span class=\"swatch b{i}\"></span>{}</td><td>{}</td><td>{state}</td>",
            html(name),
            html(&cut(&facts::model(run), 100))
        );
        let cells = [
            Some(grouped(facts::steps(run) as f64)),
            facts::recent(&objective.points).map(figure),
            objective.best().map(|it| figure(it.1)),
            objective.best_test().map(|it| figure(it.1)),
            facts::tokens(run).filter(|it| 0.0 < *it).map(figure),
            facts::seconds(run).map(span),
            facts::cost(run).map(usd),
        ];
        for cell in cells {
            let _ = write!(out, "<td class=\"n\">{}</td>", or_dash(cell));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</table></div></section>\n");
    out
}

fn curves(runs: &[Run], objectives: &[Objective], names: &[String], n: usize) -> Vec<Chart> {
    let n = (6000 / runs.len().max(1)).min(n);
    let ranges = runs.iter().filter(|it| !it.rows.is_empty()).map(charts::steps);
    let steps = series::range(ranges.flat_map(|(from, to)| [from, to])).unwrap_or((0.0, 0.0));
    let overlay = |title: &str, unit, is_wide, of: &dyn Fn(usize) -> Vec<Point>, shape| {
        let line = |i: usize| {
            let points = of(i);
            let note = points.iter().rev().find(|it| it.1.is_finite()).map(|it| figure(it.1))?;
            let label = names[i].clone();
            let line = Line { label: label.clone(), color: i, shape, points: fit(&points, n), note };
            Some((line, facts::in_words(&format!("{label} "), &points)))
        };
        let (lines, words): (Vec<Line>, Vec<String>) = (0..runs.len().min(MAX_RUNS)).filter_map(line).unzip();
        let summary = words.join("; ");
        Chart {
            title: title.into(),
            unit,
            is_wide,
            hides_legend: !is_wide,
            from_zero: !is_wide && shape == Shape::Line,
            lines,
            steps,
            summary,
            ..Default::default()
        }
    };
    let average = |points: &[Point]| series::ema(points, charts::span_of(points));
    let first = objectives.iter().find(|it| !it.points.is_empty());
    let (title, unit) = first.map_or(("Training loss", ""), |it| (it.title, it.unit));
    let is_same = objectives.iter().all(|it| it.points.is_empty() || it.title == title);
    let title = if is_same { format!("{title}, average") } else { "Objective, average".into() };
    vec![
        overlay(&title, unit, true, &|i| average(&objectives[i].points), Shape::Line),
        overlay("Evaluation", unit, false, &|i| objectives[i].test.clone(), Shape::Line),
        overlay(
            "Learning rate",
            "",
            false,
            &|i| runs[i].points(&["learning_rate", "optim/lr", "lr"]),
            Shape::Line,
        ),
        overlay("Accuracy, average", "", false, &|i| average(&runs[i].points(&["accuracy"])), Shape::Line),
        overlay("Margin, average", "", false, &|i| average(&runs[i].points(&["margin"])), Shape::Line),
        overlay("Tokens a second, average", "", false, &|i| average(&facts::speed(&runs[i])), Shape::Line),
    ]
}

/// The settings that are not the same in all runs.
fn settings(runs: &[Run], names: &[String]) -> String {
    let flat: Vec<BTreeMap<String, String>> = runs.iter().map(flat).collect();
    let mut keys: Vec<&String> = flat.iter().flat_map(BTreeMap::keys).collect();
    keys.sort();
    keys.dedup();
    keys.retain(|key| flat.iter().any(|it| it.get(*key) != flat[0].get(*key)));
    let n = keys.len();
    if keys.is_empty() {
        return "<section><h2>Settings</h2><p>All settings are the same.</p></section>\n".into();
    }
    let mut out = String::from(
        "<section><h2>Settings that differ</h2><div class=\"scroll\"><table><tr><th>Setting</th>",
    );
    for (i, name) in names.iter().enumerate() {
        let _ = write!(out, "<th><span class=\"swatch b{i}\"></span><span>{}</span></th>", html(name));
    }
    out.push_str("</tr>\n");
    for key in keys.iter().take(MAX_SETTINGS) {
        let _ = write!(out, "<tr><td><code>{}</code></td>", html(&cut(key, 80)));
        for settings in &flat {
            match settings.get(*key) {
                Some(value) => {
                    let _ = write!(out, "<td>{}</td>", html(&cut(value, 80)));
                }
                None => out.push_str("<td class=\"none\">–</td>"),
            }
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</table></div>");
    if MAX_SETTINGS < n {
        let _ = write!(out, "<p class=\"label\">and {} more</p>", n - MAX_SETTINGS);
    }
    out.push_str("</section>\n");
    out
}

/// The settings as paths and texts. What differs between any two runs is left out.
fn flat(run: &Run) -> BTreeMap<String, String> {
    fn walk(path: &str, value: &Value, out: &mut BTreeMap<String, String>) {
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    walk(&path, member, out);
                }
            }
            Value::String(text) => drop(out.insert(path.to_owned(), text.clone())),
            other => drop(out.insert(path.to_owned(), other.to_string())),
        }
    }
    const ALWAYS: [&str; 6] =
        ["log_path", "out", "tinkex.command", "tinkex.data.example", "tinkex.began", "tinkex.status"];
    let mut out = BTreeMap::new();
    walk("", &Value::Object(run.config.clone()), &mut out);
    out.retain(|key, _| !ALWAYS.contains(&key.as_str()) && !key.starts_with("tinkex.data.lengths"));
    out
}
