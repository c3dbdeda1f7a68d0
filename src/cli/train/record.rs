//! `config.json` of a run: the settings, and what a resumed run must find unchanged.

use std::path::Path;
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::dataset::Facts;
use super::folder::date_time;
use crate::connection::App;
use crate::examples::Encoder;
use crate::failure::Failure;
use crate::{nearby_runs, run_folder};

/// The key of everything that is not a setting.
pub(super) const OWN: &str = "tinkex";

/// The times at which the run was resumed.
pub(super) const RESUMES: &str = "resumes";

/// Settings on which each step depends. Others may change when a run is resumed.
const FIXED: [&str; 29] = [
    "model",
    "from",
    "data-format",
    "train-on",
    "mask-prompt",
    "max-length",
    "too-long",
    "limit",
    "shuffle",
    "seed",
    "eval-split",
    "loss",
    "beta",
    "reference",
    "reduction",
    "lr",
    "schedule",
    "warmup",
    "batch-size",
    "beta1",
    "beta2",
    "eps",
    "weight-decay",
    "grad-clip",
    "rank",
    "no-mlp",
    "no-attn",
    "no-unembed",
    "lora-seed",
];

/// What is written beside the settings.
pub(super) fn own(facts: &Facts, encoder: &Encoder, n_steps: u64, example: &str) -> Value {
    let threads = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "started": date_time(SystemTime::now()),
        "data": facts.to_json(),
        "tokenizer": encoder.tokenizer_fingerprint,
        "template": encoder.template_name,
        "n_steps": n_steps,
        "threads": threads,
        "warnings": facts.remarks,
        "example": example,
    })
}

/// The options of all commands that a resumed run needs: the server, without credentials.
pub(super) fn add_place(object: &mut Map<String, Value>, app: &App) {
    let global = &app.global;
    if let Some(dir) = &global.local {
        let dir = dir.as_ref().map(|dir| super::dataset::absolute(dir));
        object.insert("local".into(), dir.map_or(Value::Bool(true), Value::from));
        return;
    }
    let url = global.base_url.clone().or_else(|| std::env::var("TINKER_BASE_URL").ok());
    if let Some(url) = url.filter(|url| !url.is_empty()) {
        object.insert("base-url".into(), without_user(&url).into());
    }
    if let Some(project) = &global.project {
        object.insert("project".into(), project.as_str().into());
    }
}

/// An address without user and password.
fn without_user(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.into() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

/// The options of all commands, with those of the run where the command line has none.
pub(crate) fn with_place(app: &App, config: &Map<String, Value>) -> App {
    let mut app = app.clone();
    let global = &mut app.global;
    let text = |name: &str| config.get(name).and_then(Value::as_str).map(str::to_owned);
    if global.local.is_none() && global.base_url.is_none() {
        global.local = match config.get("local") {
            Some(Value::String(dir)) => Some(Some(dir.into())),
            Some(Value::Bool(true)) => Some(None),
            _ => None,
        };
        if global.local.is_none() {
            global.base_url = text("base-url");
        }
    }
    if global.project.is_none() || app.is_project_of_environment {
        global.project = text("project").or(global.project.take());
    }
    app
}

/// Reads `config.json` of a run.
pub(crate) fn read(folder: &Path) -> Result<Map<String, Value>, Failure> {
    let path = folder.join("config.json");
    let name = path.display();
    let text = std::fs::read_to_string(&path).map_err(|error| {
        let remedy = match run_folder::last_state(folder) {
            Some((state, _)) => new_run(&state),
            None => nearby_runs::remedy(folder, "--resume "),
        };
        let problem = if folder.exists() {
            format!("{name}: cannot be read: {error}")
        } else {
            format!("the folder {} does not exist", folder.display())
        };
        Failure::text(problem).with_remedy(remedy)
    })?;
    serde_json::from_str(&text).map_err(|error| {
        let problem = error.to_string();
        let what = problem.rsplit_once(" at line ").map_or(problem.as_str(), |(what, _)| what);
        let line = error.line().max(1);
        Failure::text(format!("{name}:{line}: the file of the run is damaged: {what}"))
            .with_remedy("correct the file, or put a copy of it back")
    })
}

/// Refuses to resume a run of another program, whose `config.json` does not say what each step is.
pub(super) fn check_own(folder: &Path, config: &Map<String, Value>) -> Result<(), Failure> {
    if config.contains_key(OWN) {
        return Ok(());
    }
    let remedy = match run_folder::last_state(folder) {
        Some((state, _)) => new_run(&state),
        None => {
            "`tinkex train chats.jsonl -m Qwen/Qwen3-8B`: the run has saved no state to begin with".into()
        }
    };
    let text = format!(
        "{}: the run is not of `tinkex train`: its config.json does not name the data, their order and the batch size",
        folder.display()
    );
    Err(Failure::usage(text).with_remedy(remedy))
}

fn new_run(state: &str) -> String {
    format!("`tinkex train chats.jsonl --from {state}` begins a new run with its last state")
}

/// A member that a resumed run keeps from its beginning.
pub(super) fn keep(new: &mut Map<String, Value>, old: &Map<String, Value>, name: &str) {
    let value = old.get(OWN).and_then(|own| own.get(name)).cloned();
    if let (Some(value), Some(own)) = (value, new.get_mut(OWN)) {
        own[name] = value;
    }
}

/// Records that the run goes on after `step` steps of `n_steps`. False if nothing was done before.
pub(super) fn add_resume(config: &mut Map<String, Value>, step: u64, n_steps: u64) -> bool {
    let Some(own) = config.get_mut(OWN).filter(|_| 0 < step) else { return false };
    let one = json!({ "step": step, "n_steps": n_steps, "at": date_time(SystemTime::now()) });
    match own.get_mut(RESUMES).and_then(Value::as_array_mut) {
        Some(all) => all.push(one),
        None => own[RESUMES] = json!([one]),
    }
    true
}

/// The differences on account of which a resumed run would not have the same curve, one a line.
pub(super) fn differences(old: &Map<String, Value>, new: &Map<String, Value>) -> Vec<String> {
    let mut all = Vec::new();
    for name in FIXED {
        let (old, new) = (old.get(name), new.get(name));
        if !is_same(old, new) {
            all.push(format!("{name}: was {}, is {}", shown(old), shown(new)));
        }
    }
    let own = |object: &Map<String, Value>, name: &str| object.get(OWN).map(|own| own[name].clone());
    for name in ["tokenizer", "template"] {
        let (old, new) = (own(old, name), own(new, name));
        if old.is_some() && old != new {
            all.push(format!("{name}: was {}, is {}", shown(old.as_ref()), shown(new.as_ref())));
        }
    }
    let data = |object: &Map<String, Value>, name: &str| own(object, "data").map(|data| data[name].clone());
    for (key, name) in [("files", "data"), ("eval_files", "eval-data")] {
        let (old, new) = (data(old, key), data(new, key));
        let (old, new) = (files(old.as_ref()), files(new.as_ref()));
        if old.len() != new.len() {
            all.push(format!("{name}: were {} files, are {}", old.len(), new.len()));
        }
        for (old, new) in old.iter().zip(&new).filter(|(old, new)| old["sha256"] != new["sha256"]) {
            let path = |file: &Value| file["path"].as_str().unwrap_or_default().to_owned();
            let (was, is) = (path(old), path(new));
            let (had, has) = (&old["lines"], &new["lines"]);
            all.push(if was == is {
                format!("{name}: {is} has changed (it had {had} lines, and has {has})")
            } else {
                format!("{name}: was the file {was} ({had} lines), is {is} ({has} lines)")
            });
        }
    }
    all
}

/// The digest of a file of a run, as the run has recorded it.
pub(super) fn sha256_of(config: &Map<String, Value>, path: &Path) -> Option<String> {
    let data = &config.get(OWN)?["data"];
    let mut all = ["files", "eval_files"].into_iter().flat_map(|key| files(Some(&data[key])));
    let file = all.find(|file| file["path"].as_str().is_some_and(|it| Path::new(it) == path))?;
    Some(file["sha256"].as_str()?.to_owned())
}

/// True if a run was begun with other files, which are all there still.
pub(super) fn can_go_on_as_begun(old: &Map<String, Value>, new: &Map<String, Value>) -> bool {
    let paths = |object: &Map<String, Value>| -> Vec<String> {
        let data = object.get(OWN).map(|own| &own["data"]);
        let all = ["files", "eval_files"].into_iter().flat_map(|key| files(data.map(|data| &data[key])));
        all.filter_map(|file| file["path"].as_str().map(str::to_owned)).collect()
    };
    let (was, is) = (paths(old), paths(new));
    was != is && was.iter().all(|path| Path::new(path).is_file())
}

fn files(value: Option<&Value>) -> Vec<Value> {
    value.and_then(Value::as_array).cloned().unwrap_or_default()
}

fn is_same(old: Option<&Value>, new: Option<&Value>) -> bool {
    match (old, new) {
        (Some(Value::Number(old)), Some(Value::Number(new))) => old.as_f64() == new.as_f64(),
        (old, new) => old == new,
    }
}

fn shown(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => "not set".into(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn what_changes_the_curve_is_named_and_the_rest_may_change() {
        let file = |sha: &str| json!([{ "path": "/d/x.jsonl", "sha256": sha, "lines": 3 }]);
        let config = |seed: u64, sha: &str, template: &str| {
            object(json!({
                "seed": seed,
                "batch-size": 8,
                "save-every": seed,
                "max-steps": seed,
                "tinkex": { "template": template, "tokenizer": "t", "data": { "files": file(sha), "eval_files": [] } },
            }))
        };
        assert!(differences(&config(0, "a", "x"), &config(0, "a", "x")).is_empty());
        assert_eq!(
            differences(&config(0, "a", "x"), &config(1, "b", "y")),
            [
                "seed: was 0, is 1",
                "template: was x, is y",
                "data: /d/x.jsonl has changed (it had 3 lines, and has 3)"
            ]
        );
    }

    #[test]
    fn a_file_that_has_changed_is_not_another_file() {
        let config = |path: &str, sha: &str| {
            let files = json!([{ "path": path, "sha256": sha, "lines": 3 }]);
            object(json!({ "tinkex": { "data": { "files": [], "eval_files": files } } }))
        };
        for (path, sha, expected) in [
            ("/d/x", "b", &["eval-data: /d/x has changed (it had 3 lines, and has 3)"][..]),
            ("/d/y", "b", &["eval-data: was the file /d/x (3 lines), is /d/y (3 lines)"]),
            // The same lines under another name.
            ("/d/y", "a", &[]),
        ] {
            assert_eq!(differences(&config("/d/x", "a"), &config(path, sha)), expected);
        }
    }

    #[test]
    fn an_address_is_recorded_without_credentials() {
        for (url, expected) in [
            ("https://u:p@host:1/x", "https://host:1/x"),
            ("https://host/a@b", "https://host/a@b"),
            ("host", "host"),
        ] {
            assert_eq!(without_user(url), expected);
        }
    }
}
