//! A folder of a training run in place of a model or a state: its last weights to sample from, or its last state, on
//! the server of the run.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tinkex::train::CheckpointRecord;

use super::connection::App;
use super::counted::counted;
use super::doubts::{Doubt, Last};
use super::failure::Failure;
use super::{engine, nearby_runs, train};

/// The file that makes a folder that of a run.
pub(crate) const LOG: &str = "checkpoints.jsonl";

/// The model of `--local` if none is named.
const NANO: &str = "tinkex/nano";

/// The path of the weights that `model` names, and the options with the server that has them. A model that is no folder
/// of a run is returned as it is.
pub(crate) fn weights_of(model: &str, app: &App) -> Result<(String, App), Failure> {
    resolve(model, app, "sampler_path", "weights to sample from")
}

/// The model that a command asks if `-m` names none: that of the engine.
pub(crate) fn unnamed_model(app: &App) -> Result<String, Failure> {
    let newest = nearby_runs::newest(app);
    if app.global.local.is_some() {
        let newest = newest.map(|run| format!("; -m {run} is the newest run here")).unwrap_or_default();
        app.note(&format!("note: without -m the model is {NANO}, which is not trained{newest}"));
        return Ok(NANO.to_owned());
    }
    let newest = newest.map(|run| format!("-m {run}, the newest run here; or ")).unwrap_or_default();
    Err(Failure::usage("no model is named").with_remedy(format!(
        "{newest}a model, as in -m Qwen/Qwen3-8B; `tinkex model list` shows the models"
    )))
}

/// True if a name is that of the folder of a run.
pub(crate) fn is_run(name: &str) -> bool {
    !name.contains("://") && Path::new(name).join(LOG).is_file()
}

/// The same for the state that `from` names.
pub(crate) fn state_of(from: &str, app: &App) -> Result<(String, App), Failure> {
    resolve(from, app, "state_path", "state")
}

/// The path of the last state of the run in a folder, and the number of steps that it contains, if it is known. `None`
/// also if the folder is none of a run.
pub(crate) fn last_state(folder: &Path) -> Option<(String, Option<u64>)> {
    let record = last_record(&std::fs::read_to_string(folder.join(LOG)).ok()?, "state_path")?;
    Some((record["state_path"].as_str()?.to_owned(), record["next_batch"].as_u64()))
}

fn resolve(name: &str, app: &App, member: &'static str, what: &str) -> Result<(String, App), Failure> {
    let (path, mut app) = found(name, app, member, what)?;
    // What was saved is in a folder that is there.
    app.may_create_engine &= !path.contains("://");
    Ok((path, app))
}

fn found(name: &str, app: &App, member: &'static str, what: &str) -> Result<(String, App), Failure> {
    let folder = Path::new(name);
    let log = folder.join(LOG);
    if !is_run(name) {
        let mut runs = if name.contains("://") { Vec::new() } else { nearby_runs::similar(name) };
        if runs.is_empty() && !name.contains('/') && !folder.is_dir() {
            // Most models have a slash in their names.
            runs = nearby_runs::newest_ones();
        }
        let option = if member == "state_path" { "--from" } else { "-m" };
        let doubt = if folder.is_dir() {
            Some(Doubt::NotARun { name: name.to_owned(), option, runs })
        } else {
            // The name of a model of a server has a slash.
            let may_be_folder = !runs.is_empty() || !name.contains('/') || name.starts_with(['.', '/', '~']);
            may_be_folder.then(|| Doubt::Similar { name: name.to_owned(), option, runs })
        };
        if let Some(doubt) = doubt {
            app.doubts.add(doubt);
        }
        not_a_model(name, folder.is_dir()).map_or(Ok(()), Err)?;
        return Ok((name.to_owned(), app.clone()));
    }
    let text = std::fs::read_to_string(&log)
        .map_err(|error| Failure::text(format!("{}: cannot be read: {error}", log.display())))?;
    let record = last_record(&text, member);
    let path = record.as_ref().and_then(|record| record[member].as_str());
    let config = config_of(folder).map_err(|failure| match path {
        Some(path) => failure.with_remedy(format!(
            "correct the file, or put a copy of it back; or name the checkpoint itself, and the engine or the server that \
             has it: `{}`",
            train::command_with_word(name, path, if app.place().is_empty() { " --local=DIR" } else { "" })
        )),
        None => failure,
    })?;
    let Some(path) = path else { return Err(not_saved(name, member, what, config.as_ref())) };
    let asked = match &config {
        Some(config) => {
            let asked = train::with_place(app, config);
            train::check_engine(folder, app, &asked)?;
            doubt_place(name, path, config, &asked);
            asked
        }
        None => app.clone(),
    };
    let (name, global) = (name.to_owned(), asked.global.clone());
    app.doubts.add(Doubt::Gone(Box::new(Last { name, path: path.to_owned(), member, global })));
    Ok((path.to_owned(), asked))
}

/// The settings of a run. A run of another program has none, and its server is that of the environment.
pub(crate) fn config_of(folder: &Path) -> Result<Option<Map<String, Value>>, Failure> {
    if folder.join("config.json").exists() { train::config_of(folder).map(Some) } else { Ok(None) }
}

/// The failure of looking for what a run has not saved.
fn not_saved(name: &str, member: &str, what: &str, config: Option<&Map<String, Value>>) -> Failure {
    let folder = Path::new(name);
    let is_left_out = config.is_some_and(|config| config.get("no-sampler-weights") == Some(&true.into()));
    // A run of another program says nothing about its process.
    let is_own = config.is_some_and(train::is_own);
    if !is_own || train::is_in_use(folder) {
        if is_left_out && member == "sampler_path" {
            return Failure::text(format!(
                "{name}: the run has --no-sampler-weights: it saves {what} at its end"
            ))
            .with_remedy("wait for its end, or name another run");
        }
        return Failure::text(format!("{name}: the run has saved no {what} yet"))
            .with_remedy("wait for a checkpoint, or name another run");
    }
    Failure::text(format!("{name}: the run ended before it saved any {what}"))
        .with_remedy(format!("`{}` goes on with it", train::resume_command(folder)))
}

/// The failure of a command that asked for the last checkpoint of a run, which is gone: names the newest one that is there.
/// `None` if the checkpoint is there, or if the server does not tell. `asked` has the options of the command line.
pub(crate) fn gone(last: &Last, asked: &App) -> Option<Failure> {
    let Last { name, path, member, global } = last;
    let mut app = App { global: global.clone(), ..asked.clone() };
    // The checkpoints were in a folder that is there.
    app.may_create_engine = false;
    let text = std::fs::read_to_string(Path::new(name).join(LOG)).ok()?;
    let records: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let saved = records.iter().map(|record| {
        let mut saved = CheckpointRecord::default();
        saved.state_path = record["state_path"].as_str().and_then(|it| it.parse().ok());
        saved.sampler_path = record["sampler_path"].as_str().and_then(|it| it.parse().ok());
        saved
    });
    let connection = app.connect().ok()?;
    let there = train::there(&connection.service, &saved.collect::<Vec<_>>()).ok()??;
    let is_there = |path: &str| there.iter().any(|it| it.tinker_path == path);
    if is_there(path) {
        return None;
    }
    let failure = Failure::missing(format!(
        "{name}: its last checkpoint was deleted or has expired: {path} does not exist"
    ));
    let newest = records.iter().rev().find(|record| record[*member].as_str().is_some_and(is_there));
    Some(match newest.and_then(|record| Some((record, record[*member].as_str()?))) {
        Some((record, newest)) => {
            let place = if asked.place().is_empty() { app.place() } else { String::new() };
            let command = train::command_with_word(name, newest, &place);
            let after = record["next_batch"].as_u64().map(|n| format!(", that after {}", counted(n, "step")));
            failure.with_remedy(format!(
                "`{command}` takes the newest one that is there{}",
                after.unwrap_or_default()
            ))
        }
        None => failure.with_remedy(format!(
            "`{} --dry-run` says what is left of the run",
            train::resume_command(Path::new(name))
        )),
    })
}

/// Tells the place where the run was trained if what it has saved is not found at another one, that of `app`.
pub(crate) fn doubt_place(run: &str, path: &str, config: &Map<String, Value>, app: &App) {
    let mut own = app.clone();
    (own.global.local, own.global.base_url) = (None, None);
    let own_app = train::with_place(&own, config);
    let own = own_app.place();
    if !own.is_empty() && !is_same_place(&own_app, app) {
        let (name, path, asked) = (run.to_owned(), path.to_owned(), app.place());
        app.doubts.add(Doubt::Elsewhere { name, path, own, asked });
    }
}

/// True if the options of two commands name the same server or the same folder, in whatever way it is written.
fn is_same_place(one: &App, other: &App) -> bool {
    let folder = |dir: &Option<PathBuf>| {
        let dir = dir.clone().map_or_else(engine::default_folder, Ok).ok()?;
        std::fs::canonicalize(&dir).or_else(|_| std::path::absolute(&dir)).ok()
    };
    let url = |app: &App| app.global.base_url.as_deref().map(|it| it.trim_end_matches('/').to_owned());
    match (&one.global.local, &other.global.local) {
        (Some(one), Some(other)) => folder(one) == folder(other),
        (None, None) => url(one) == url(other),
        _ => false,
    }
}

/// Why a text cannot be the name of a model, if that is seen without a server.
fn not_a_model(model: &str, is_folder: bool) -> Option<Failure> {
    const REMEDY: &str = "`tinkex checkpoint list` shows whole paths, `tinkex model list` the models";
    let is_path = model.ends_with('/') || model.starts_with(['.', '/', '~']);
    let is_tail = || {
        let parts: Vec<&str> = model.split('/').collect();
        matches!(parts[..], ["weights" | "sampler_weights", _]) || parts[0].contains(":train:")
    };
    let problem = if model.contains("://") {
        return None;
    } else if is_folder {
        // A server may have a model of the name of a folder that happens to be here.
        if !is_path {
            return None;
        }
        format!("{model}: the folder is not that of a training run: it has no checkpoints.jsonl")
    } else if is_path {
        format!("{model} is neither a model, nor a tinker:// path, nor the folder of a training run")
    } else if is_tail() {
        format!("{model} is a part of a path; a whole one is tinker://RUN_ID/sampler_weights/NAME")
    } else {
        return None;
    };
    Some(Failure::usage(problem).with_remedy(REMEDY))
}

/// The last record that has this member. A torn line is passed over.
fn last_record(log: &str, member: &str) -> Option<Value> {
    log.lines().rev().find_map(|line| {
        let record: Value = serde_json::from_str(line).ok()?;
        record[member].is_string().then_some(record)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_weights_count_and_a_torn_line_does_not() {
        let last = |log: &str, member: &str| {
            last_record(log, member).and_then(|record| record[member].as_str().map(str::to_owned))
        };
        let log = "{\"sampler_path\": \"tinker://a\"}\n{\"sampler_path\": \"tinker://b\"}\n{\"state_path\": \"x\"}\n{\"sampl";
        assert_eq!(last(log, "sampler_path").as_deref(), Some("tinker://b"));
        assert_eq!(last(log, "state_path").as_deref(), Some("x"));
        assert_eq!(last("{\"state_path\": \"x\"}\n", "sampler_path"), None);
    }

    #[test]
    fn a_part_of_a_path_and_a_folder_of_something_else_are_no_models() {
        for (model, is_folder, expected) in [
            ("tinkex/nano", false, None),
            ("tinkex/nano", true, None),
            ("gpt2", true, None),
            ("tinker://r:train:0/weights/a", false, None),
            ("weights/final", false, Some("weights/final is a part of a path")),
            ("sampler_weights/000020", false, Some("is a part of a path")),
            ("r:train:0/weights/a", false, Some("is a part of a path")),
            ("nosuchdir/", false, Some("is neither a model, nor a tinker:// path, nor the folder")),
            ("./nosuchdir", false, Some("is neither a model")),
            ("examples/", true, Some("it has no checkpoints.jsonl")),
        ] {
            let found = not_a_model(model, is_folder).map(|it| it.summary());
            match expected {
                None => assert_eq!(found, None, "{model}"),
                Some(expected) => assert!(found.is_some_and(|it| it.contains(expected)), "{model}"),
            }
        }
    }
}
