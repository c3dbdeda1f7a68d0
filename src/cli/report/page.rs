//! The frame of a page: head, style, and the metrics for programs.

use serde_json::{Map, Value, json};

use super::facts::{self, Objective};
use super::read::Run;
use super::series;
use super::text::{cut, date, html, json_in_script};
use super::{charts, checkpoints, sections};

/// The page may load nothing and run nothing.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";
const CSS: &str = include_str!("page.css");
/// Largest number of metrics that are kept for programs.
const MAX_METRICS: usize = 64;

/// A whole document.
pub(super) fn document(title: &str, body: &str, data: &Value) -> String {
    let title = html(&cut(title, 200));
    let data = json_in_script(&data.to_string());
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"generator\" content=\"tinkex {version}\">\n\
         <title>{title}</title>\n<style>\n{CSS}</style>\n</head>\n<body>\n{body}\
         <footer>Written by tinkex {version}. The page loads nothing and runs no program.</footer>\n\
         <script type=\"application/json\" id=\"tinkex-report\">{data}</script>\n</body>\n</html>\n",
        version = env!("CARGO_PKG_VERSION"),
    )
}

/// The page of one run, with at most `n` points a line.
pub(super) fn of_run(run: &Run, n: usize) -> String {
    let objective = facts::objective(run);
    let mut body = head(run, &objective);
    let warnings = facts::warnings(run, &objective);
    if !warnings.is_empty() {
        body.push_str("<section><h2>Warnings</h2><ul class=\"warnings\">\n");
        body.extend(warnings.iter().map(|it| format!("<li>{}</li>\n", html(&cut(it, 600)))));
        body.push_str("</ul></section>\n");
    }
    let charts: String = charts::of(run, &objective, n).iter().map(|it| it.html()).collect();
    if !charts.is_empty() {
        body.push_str(&format!("<section><h2>Curves</h2><div class=\"charts\">\n{charts}</div></section>\n"));
    }
    body.push_str(&sections::samples(run));
    body.push_str(&checkpoints::section(run));
    body.push_str(&sections::data(run));
    body.push_str(&sections::details(run));
    document(&format!("{} – training run", run.name), &body, &data(run, n))
}

fn head(run: &Run, objective: &Objective) -> String {
    let state = facts::state(run).name();
    let class = state.split(' ').next().unwrap_or_default();
    let title = run.setting(&["wandb_name", "name", "run_name"]).unwrap_or_else(|| run.name.clone());
    let mut about = vec![facts::model(run)];
    about.extend(run.setting(&["lora_rank", "rank"]).map(|rank| format!("LoRA of rank {rank}")));
    let (began, ended) = (run.began.map(date), run.ended.map(date));
    about.extend(match (began, ended) {
        (Some(a), Some(b)) if a == b => Some(a),
        (Some(a), Some(b)) if a[..11] == b[..11] => {
            Some(format!("{} to {}", a.trim_end_matches(" UTC"), &b[11..]))
        }
        (Some(a), Some(b)) => Some(format!("{} to {b}", a.trim_end_matches(" UTC"))),
        (a, b) => a.or(b),
    });
    let tiles: String = facts::tiles(run, objective)
        .iter()
        .map(|tile| {
            let (label, value, remark) = (tile.label, html(&tile.value), html(&tile.remark));
            format!("<div><dt>{label}</dt><dd>{value}</dd><dd class=\"remark\">{remark}</dd></div>\n")
        })
        .collect();
    let tiles = if tiles.is_empty() { tiles } else { format!("<dl class=\"tiles\">\n{tiles}</dl>\n") };
    format!(
        "<header><div class=\"eyebrow\"><span>Training run</span><span class=\"state {class}\">{state}</span></div>\n\
         <h1>{}</h1>\n<p class=\"about\">{}</p>\n<p class=\"lede\">{}</p>\n{tiles}</header>\n",
        html(&cut(&title, 160)),
        html(&cut(&about.join(" · "), 300)),
        html(&facts::lede(run, objective)),
    )
}

/// What programs read back: the totals, the settings, and the metrics by columns, thinned out to `n` rows.
pub(super) fn data(run: &Run, n: usize) -> Value {
    let objective = facts::objective(run);
    let rows = chosen_rows(run, &objective, n);
    let mut names: Vec<&String> = Vec::new();
    for row in &rows {
        for name in row.values.keys() {
            if names.len() < MAX_METRICS && name.len() <= 200 && !names.contains(&name) {
                names.push(name);
            }
        }
    }
    let mut columns = Map::new();
    columns.insert("step".into(), rows.iter().map(|it| rounded(it.step)).collect());
    for name in names {
        let column: Value =
            rows.iter().map(|it| it.values.get(name).map_or(Value::Null, |it| rounded(*it))).collect();
        columns.insert(name.clone(), column);
    }
    json!({
        "format": "tinkex-report/1",
        "name": run.name,
        "model": cut(&facts::model(run), 300),
        "state": facts::state(run).name(),
        "n_rows": run.rows.len(),
        "metrics": columns,
    })
}

/// The rows that are kept: all, or those that shape the curve of the loss, and all with an evaluation if these are few.
fn chosen_rows<'a>(run: &'a Run, objective: &Objective, n: usize) -> Vec<&'a super::read::Row> {
    if run.rows.len() <= n {
        return run.rows.iter().collect();
    }
    let finite: Vec<_> = objective.points.iter().filter(|it| it.1.is_finite()).copied().collect();
    let steps: Vec<f64> = series::lttb(&finite, n).iter().map(|it| it.0).collect();
    let is_few = objective.test.len() <= n / 4;
    let tests: Vec<f64> = objective.test.iter().filter(|_| is_few).map(|it| it.0).collect();
    let has = |all: &[f64], step: f64| all.binary_search_by(|it| it.total_cmp(&step)).is_ok();
    run.rows.iter().filter(|row| has(&steps, row.done) || has(&tests, row.before)).collect()
}

/// A number with seven digits; nothing if it is not finite.
fn rounded(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return json!(value as i64);
    }
    format!("{value:.6e}").parse::<f64>().ok().filter(|it| it.is_finite()).map_or(Value::Null, |it| json!(it))
}
