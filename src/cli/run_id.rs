//! The training run that a command is about: its id, or in place of it a path of the run or of one of its checkpoints, or
//! the folder of a run of `tinkex train`.

use std::path::Path;

use serde_json::Value;
use tinkex::types::CheckpointPath;

use super::connection::App;
use super::failure::Failure;
use super::run_folder::{LOG, config_of, doubt_place, is_run};
use super::train;

/// The id of the run that `name` means, and the options with the server that has it.
pub(crate) fn of(name: &str, app: &App) -> Result<(String, App), Failure> {
    if is_run(name) {
        return of_folder(name, app);
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

/// The run whose checkpoints were saved last. A folder of a training that was resumed has more than one run.
fn of_folder(name: &str, app: &App) -> Result<(String, App), Failure> {
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
    let id = last.run_id().to_owned();
    let mut earlier: Vec<&str> = paths.iter().map(CheckpointPath::run_id).filter(|it| *it != id).collect();
    earlier.dedup();
    if !earlier.is_empty() {
        app.note(&format!("note: {name} was resumed: {id} is its last run, after {}", earlier.join(", ")));
    }
    // The run is in a folder or at a server that is there.
    let mut app = app.clone();
    app.may_create_engine = false;
    let Some(config) = config_of(folder)? else { return Ok((id, app)) };
    let placed = train::with_place(&app, &config);
    train::check_engine(folder, &app, &placed)?;
    doubt_place(name, last.as_str(), &config, &placed);
    Ok((id, placed))
}

/// The paths in the list of a run's checkpoints, in their order. Torn lines are passed over.
fn saved(log: &str) -> Vec<CheckpointPath> {
    let records = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let path = |record: Value| {
        ["state_path", "sampler_path"].iter().find_map(|member| record[*member].as_str()?.parse().ok())
    };
    records.filter_map(path).collect()
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
        let ids: Vec<String> = saved(log).iter().map(|it| it.run_id().to_owned()).collect();
        assert_eq!(ids, ["a", "b"]);
    }
}
