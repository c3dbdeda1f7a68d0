//! The training run that a command is about: its id, or in place of it a path of the run or of one of its checkpoints, or
//! the folder of a run of `tinkex train`.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use tinkex::types::CheckpointPath;

use super::connection::App;
use super::failure::Failure;
use super::run_folder::{LOG, config_of, doubt_place, is_run};
use super::train;

/// The training runs that `--run-id` means: one, or those of a folder, since each resume opens a new one.
#[derive(Clone, Debug)]
pub(crate) struct Runs {
    /// Their ids, in the order of their beginning.
    pub(crate) ids: Vec<String>,
    /// The folder that was named.
    pub(crate) folder: Option<RunFolder>,
}

#[derive(Clone, Debug)]
pub(crate) struct RunFolder {
    pub(crate) name: String,
    /// The checkpoints that it lists. A training run may have others, such as those of a process that trained on after its
    /// folder was copied.
    pub(crate) own: BTreeSet<CheckpointPath>,
}

/// Reads the name of a run. A blank one is that of a variable of the shell that is not set.
pub(crate) fn parse(text: &str) -> Result<String, &'static str> {
    if text.trim().is_empty() { Err("the name of the run is blank") } else { Ok(text.to_owned()) }
}

/// The runs that `name` means, and the options with the server that has them.
pub(crate) fn all_of(name: &str, app: &App) -> Result<(Runs, App), Failure> {
    if !is_run(name) {
        let (id, app) = of(name, app)?;
        return Ok((Runs { ids: vec![id], folder: None }, app));
    }
    let (ids, own, own_app) = of_folder(name, app)?;
    if 1 < ids.len() {
        app.note(&format!(
            "note: {name} was resumed: it has {} training runs, {}",
            ids.len(),
            ids.join(", ")
        ));
    }
    Ok((Runs { ids, folder: Some(RunFolder { name: name.to_owned(), own }) }, own_app))
}

/// The id of the run that `name` means, and the options with the server that has it. Of a folder, it is the run whose
/// checkpoints were saved last.
pub(crate) fn of(name: &str, app: &App) -> Result<(String, App), Failure> {
    if is_run(name) {
        let (mut ids, _, own_app) = of_folder(name, app)?;
        let id = ids.pop().unwrap_or_default();
        if !ids.is_empty() {
            app.note(&format!("note: {name} was resumed: {id} is its last run, after {}", ids.join(", ")));
        }
        return Ok((id, own_app));
    }
    match id_in(name, Path::new(name).is_dir()) {
        Ok(id) => Ok((id.to_owned(), app.clone())),
        Err(problem) => {
            let list = format!("`tinkex run list{}` shows the ids", app.place());
            Err(Failure::usage(problem).with_remedy(list))
        }
    }
}

/// The id in a text that is not the name of the folder of a run.
fn id_in(name: &str, is_folder: bool) -> Result<&str, String> {
    if let Some(rest) = name.strip_prefix("tinker://") {
        let (id, tail) = rest.split_once('/').unwrap_or((rest, ""));
        // The path of a checkpoint, or that of the run itself.
        if name.parse::<CheckpointPath>().is_ok() || tail.is_empty() && !id.is_empty() {
            return Ok(id);
        }
        return Err(format!("{name} is neither the path of a run nor that of a checkpoint"));
    }
    if is_folder {
        return Err(format!("{name} is a folder, but not that of a training run: it has no {LOG}"));
    }
    if name.contains('/') {
        return Err(format!(
            "{name} is neither the id of a run, nor a tinker:// path, nor the folder of a run"
        ));
    }
    Ok(name)
}

/// The ids of the training runs of a folder, at least one, the checkpoints that it lists, and the options with their
/// server.
fn of_folder(name: &str, app: &App) -> Result<(Vec<String>, BTreeSet<CheckpointPath>, App), Failure> {
    let folder = Path::new(name);
    let log = folder.join(LOG);
    let text = std::fs::read_to_string(&log)
        .map_err(|error| Failure::text(format!("{}: cannot be read: {error}", log.display())))?;
    let paths = saved(&text);
    let Some(last) = paths.last() else {
        return Err(Failure::text(format!(
            "{name}: the run has saved no checkpoint yet, which would name its id"
        ))
        .with_remedy(format!("`tinkex run list{}` shows the ids of all runs", app.place())));
    };
    let ids = run_ids(&paths);
    // The run is in a folder or at a server that is there.
    let mut app = app.clone();
    app.may_create_engine = false;
    if let Some(config) = config_of(folder)? {
        let placed = train::with_place(&app, &config);
        train::check_engine(folder, &app, &placed)?;
        doubt_place(name, last.as_str(), &config, &placed);
        app = placed;
    }
    Ok((ids, paths.into_iter().collect(), app))
}

/// The ids of the runs of some checkpoints, each at the place of its last checkpoint.
fn run_ids(paths: &[CheckpointPath]) -> Vec<String> {
    let mut ids: Vec<String> = Vec::new();
    for id in paths.iter().rev().map(CheckpointPath::run_id) {
        if !ids.iter().any(|known| known == id) {
            ids.push(id.to_owned());
        }
    }
    ids.reverse();
    ids
}

/// The paths in the list of a run's checkpoints, in their order. Torn lines are passed over.
fn saved(log: &str) -> Vec<CheckpointPath> {
    let records = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let paths = |record: Value| {
        ["state_path", "sampler_path"]
            .into_iter()
            .filter_map(move |member| record[member].as_str()?.parse().ok())
    };
    records.flat_map(paths).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_found_in_the_paths_of_the_run_and_of_its_checkpoints() {
        for (name, is_folder, expected) in [
            ("r:train:0", false, Some("r:train:0")),
            ("tinker://r:train:0", false, Some("r:train:0")),
            ("tinker://r:train:0/", false, Some("r:train:0")),
            ("tinker://r:train:0/sampler_weights/final", false, Some("r:train:0")),
            ("tinker://r:train:0/other/final", false, None),
            ("tinker://", false, None),
            ("runs/mine", false, None),
            ("mine", true, None),
        ] {
            assert_eq!(id_in(name, is_folder).ok(), expected, "{name}");
        }
    }

    #[test]
    fn the_runs_of_a_folder_are_those_of_its_checkpoints() {
        let log = "{\"state_path\": \"tinker://a/weights/1\"}\n{\"sampler_path\": \"tinker://b/sampler_weights/2\"}\n{\"sta";
        assert_eq!(run_ids(&saved(log)), ["a", "b"]);
        let both =
            r#"{"state_path": "tinker://a/weights/1", "sampler_path": "tinker://a/sampler_weights/1"}"#;
        assert_eq!(saved(both).len(), 2);
        // A state that was loaded is not one that was saved.
        assert_eq!(saved(r#"{"from": "tinker://c/weights/1"}"#), []);
    }
}
