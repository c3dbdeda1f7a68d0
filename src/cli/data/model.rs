//! The model of `-m`: a base model, saved weights, or the folder of a run, whose examples are shown as the run had them.

use std::path::Path;

use serde_json::Value;
use tinkex::chat::Renderer;

use super::Files;
use crate::connection::App;
use crate::examples::{base_model_of, renderer_of_run};
use crate::failure::Failure;
use crate::run_folder::weights_of;
use crate::train;

/// Puts the base model, the tokenizer and the template of what `-m` names in its place, as far as the command line has no
/// others. Returns the options with the server of it.
pub(super) fn resolve(files: &mut Files, app: &App) -> Result<App, Failure> {
    let Some(name) = files.model.clone() else { return Ok(app.clone()) };
    if let Some(app) = of_run(files, &name, app) {
        return Ok(app);
    }
    let (path, app) = weights_of(&name, app)?;
    if !path.contains("://") {
        return Ok(app);
    }
    let service = app.connect()?.service;
    files.model = Some(base_model_of(&service, &path)?);
    let template = &mut files.options.template;
    *template = template.take().or_else(|| renderer_of_run(&service, &path));
    Ok(app)
}

/// The same for a run of `tinkex train`, which tells all of it without a server, also before it has saved something.
fn of_run(files: &mut Files, name: &str, app: &App) -> Option<App> {
    let folder = Path::new(name);
    if name.contains("://") || !folder.join("config.json").is_file() {
        return None;
    }
    let config = train::config_of(folder).ok()?;
    let text = |name: &str| config.get(name).and_then(Value::as_str).map(str::to_owned);
    let used = config.get("tinkex")?["template"].as_str();
    files.model = Some(text("model")?);
    let options = &mut files.options;
    options.tokenizer = options.tokenizer.take().or_else(|| text("tokenizer"));
    let renderer = used.filter(|it| Renderer::names().contains(it)).map(str::to_owned);
    options.template = options.template.take().or_else(|| text("template")).or(renderer);
    let mut app = train::with_place(app, &config);
    // What was saved is in a folder that is there.
    app.may_create_engine = false;
    Some(app)
}
