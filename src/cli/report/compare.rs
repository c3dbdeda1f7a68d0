//! The page that compares several runs: their curves over each other, and the settings that differ.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use super::facts::{self, Objective};
use super::read::Run;
use super::series::{self, Point, fit};
use super::svg::{Chart, Line, Shape};
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
        "<header><div class=\"eyebrow\"><span>Training runs</span></div>\n<h1>{} runs compared</h1>\n{}<p class=\"lede\">{}</p>\n</header>\n",
        runs.len(),
        common_model(runs).map(|it| format!("<p class=\"about\">{}</p>\n", html(&it))).unwrap_or_default(),
        html(&lede(&objectives, &names))
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

/// By what the runs are ranked: by their evaluations if all of them have one, otherwise by the end of their training.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Ranking {
    by_test: bool,
    /// Lower is better.
    falls: bool,
}

impl Ranking {
    fn of(objectives: &[Objective]) -> Self {
        let by_test = objectives.iter().all(|it| it.best_test().is_some());
        Ranking { by_test, falls: objectives.iter().all(|it| it.falls) }
    }

    fn value(self, objective: &Objective) -> Option<f64> {
        let test = objective.best_test().map(|it| it.1);
        if self.by_test { test } else { facts::recent(&objective.points) }
    }

    /// The indices of the runs, the best one first and those without a value last.
    fn order(self, objectives: &[Objective]) -> Vec<usize> {
        let value = |i: usize| match self.value(&objectives[i]) {
            Some(value) if self.falls => value,
            Some(value) => -value,
            None => f64::INFINITY,
        };
        let mut order: Vec<usize> = (0..objectives.len()).collect();
        order.sort_by(|a, b| value(*a).total_cmp(&value(*b)));
        order
    }
}

fn lede(objectives: &[Objective], names: &[String]) -> String {
    let ranking = Ranking::of(objectives);
    let best = ranking.order(objectives).first().copied().unwrap_or(0);
    let what = match (ranking.by_test, ranking.falls) {
        (true, _) => "evaluation",
        (false, true) => "final loss",
        (false, false) => "final reward",
    };
    match objectives.get(best).and_then(|it| ranking.value(it)) {
        Some(value) if 1 < objectives.len() => {
            let order = if ranking.falls { "lowest" } else { "highest" };
            format!("The {order} {what} is that of {}, {}.", names[best], figure(value))
        }
        _ => "The runs have no values in common.".into(),
    }
}

/// The model, if all runs have the same.
fn common_model(runs: &[Run]) -> Option<String> {
    let model = facts::model(runs.first()?);
    runs.iter().all(|run| facts::model(run) == model).then(|| cut(&model, 200))
}

fn table(runs: &[Run], objectives: &[Objective], names: &[String]) -> String {
    let model = common_model(runs);
    let model_head = if model.is_some() { "" } else { "<th>Model</th>" };
    let mut out = format!(
        "<section><h2>Runs</h2><div class=\"scroll\"><table><tr><th>Run</th>{model_head}<th>State</th><th class=\"n\">Steps</th>\
         <th class=\"n\">Best evaluation</th><th class=\"n\">Last evaluation</th><th class=\"n\">Final loss (mean of the last tenth)</th><th class=\"n\">Best loss</th><th class=\"n\">Tokens</th>\
         <th class=\"n\">Time</th><th class=\"n\">Cost</th></tr>\n",
    );
    let or_dash = |it: Option<String>| it.unwrap_or_else(|| "–".into());
    for i in Ranking::of(objectives).order(objectives) {
        let (run, objective, name) = (&runs[i], &objectives[i], &names[i]);
        let state = facts::state(run).name();
        // Writing to a `String` cannot fail, here and below.
        let _ = write!(out, "<tr><td class=\"name\"><span class=\"swatch b{i}\"></span>{}</td>", html(name));
        if model.is_none() {
            let _ = write!(out, "<td>{}</td>", html(&cut(&facts::model(run), 100)));
        }
        let _ = write!(out, "<td>{state}</td>");
        let cells = [
            Some(grouped(facts::steps(run) as f64)),
            objective.best_test().map(|it| figure(it.1)),
            objective.test.last().map(|it| figure(it.1)),
            facts::recent(&objective.points).map(figure),
            objective.best().map(|it| figure(it.1)),
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
    let ranges =
        runs.iter().filter(|it| !it.rows.is_empty()).map(charts::steps).flat_map(|(from, to)| [from, to]);
    let tests = objectives.iter().filter_map(|it| it.test.last()).map(|it| it.0);
    let steps = series::range(ranges.chain(tests)).unwrap_or((0.0, 0.0));
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
    const ALWAYS: [&str; 10] = [
        "log_path",
        "out",
        "tinkex.command",
        "tinkex.example",
        "tinkex.data.example",
        "tinkex.data.lengths",
        "tinkex.data.length_histogram",
        "tinkex.started",
        "tinkex.ended",
        "tinkex.status",
    ];
    let mut out = BTreeMap::new();
    walk("", &Value::Object(run.config.clone()), &mut out);
    out.retain(|key, _| !ALWAYS.contains(&key.as_str()) && !key.starts_with("tinkex.checkpoint_bytes."));
    out
}
