//! A folder of a training run in place of a model: its last weights to sample from, on the server of the run.

use std::path::Path;

use serde_json::Value;

use super::connection::App;
use super::failure::Failure;
use super::train;

/// The path of the weights that `model` names, and the options with the server that has them. A model that is no folder
/// of a run is returned as it is.
pub(crate) fn weights_of(model: &str, app: &App) -> Result<(String, App), Failure> {
    let folder = Path::new(model);
    let log = folder.join("checkpoints.jsonl");
    if model.contains("://") || !log.is_file() {
        return Ok((model.to_owned(), app.clone()));
    }
    let text = std::fs::read_to_string(&log)
        .map_err(|error| Failure::text(format!("{}: cannot be read: {error}", log.display())))?;
    let path = last_sampler(&text).ok_or_else(|| {
        let remedy = "wait for a checkpoint, or name weights of another run";
        Failure::text(format!("{model}: the run has saved no weights to sample from yet")).with_remedy(remedy)
    })?;
    // A run of another program has no such file, and its server is that of the environment.
    let app = match train::config_of(folder) {
        Ok(config) => train::with_place(app, &config),
        Err(_) => app.clone(),
    };
    Ok((path, app))
}

/// The last record with weights to sample from. A torn line is passed over.
fn last_sampler(log: &str) -> Option<String> {
    log.lines().rev().find_map(|line| {
        let record: Value = serde_json::from_str(line).ok()?;
        record["sampler_path"].as_str().map(str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_weights_count_and_a_torn_line_does_not() {
        let log = "{\"sampler_path\": \"tinker://a\"}\n{\"sampler_path\": \"tinker://b\"}\n{\"state_path\": \"x\"}\n{\"sampl";
        assert_eq!(last_sampler(log).as_deref(), Some("tinker://b"));
        assert_eq!(last_sampler("{\"state_path\": \"x\"}\n"), None);
    }
}
