//! `tinkex train`: fine-tunes a model on files of examples, in a folder from which it can be resumed exactly.

mod again;
mod args;
mod best;
mod budget;
mod checks;
mod dataset;
mod ending;
mod finished;
mod folder;
mod given;
mod held_out;
mod job;
mod left;
mod lengths;
mod log;
mod moved;
mod objective;
mod order;
mod plan;
mod progress;
mod ready;
mod record;
mod row;
mod samples;
mod saved;
mod saving;
mod seen;
mod settings;
mod speed;
mod steps;
mod summary;
mod supervisor;
mod values;
mod wrong;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

pub(crate) use self::again::with_word as command_with_word;
pub(crate) use self::args::Args;
pub(crate) use self::ending::resume_command;
use self::given::Given;
use self::job::{Job, Place};
pub(crate) use self::moved::check_engine;
pub(crate) use self::progress::clock;
pub(crate) use self::record::{read as config_of, with_place};
pub(crate) use self::saved::there;
use self::settings::{NANO, Settings};
pub(crate) use self::speed::window as speed_window;
use crate::args::{self as args_of_all, Format};
use crate::connection::App;
use crate::failure::Failure;
use crate::run_folder;
use crate::shell_word::quoted;

pub(crate) fn run(args: Args, app: &App) -> Result<(), Failure> {
    let mut given = Given::of_process()?;
    let mut app = app.clone();
    if let Some(file) = &args.config {
        let object = given::object_of(file)?;
        app = with_place(&app, &object);
        let mut old = Given::of_file(file, &object, &given)?;
        if object.contains_key(record::OWN) {
            leave_default_epochs(&mut old, &object, &given);
        }
        given = given.over(old);
    }
    match &args.resume {
        Some(dir) => resume(dir, given, &args, &app),
        None => start(given, &args, &app),
    }
}

fn start(mut given: Given, control: &Args, app: &App) -> Result<(), Failure> {
    let mut args = given.args()?;
    let mut app = app.clone();
    if let Some(from) = &args.from {
        // The path is what a resumed run needs: the other run may save further states.
        let (path, app_of_run) = run_folder::state_of(from, &app)?;
        check_state(&path, &app_of_run)?;
        given.set("from", &path);
        (args.from, app) = (Some(path), app_of_run);
    }
    if let Some(reference) = &args.reference {
        let (path, app_of_run) = run_folder::weights_of(reference, &app)?;
        given.set("reference", &path);
        (args.reference, app) = (Some(path), app_of_run);
    }
    if let Some(model) = args.model.as_deref().filter(|it| run_folder::last_state(Path::new(it)).is_some()) {
        return Err(Failure::usage(format!("-m {model} is the folder of a run, not a base model"))
            .with_remedy(format!(
                "`{}` begins with its last state",
                again::command(&[again::MODEL], &["--from", model])
            )));
    }
    check_local(&args.data)?;
    let settings = Settings::of(&args)?;
    if control.print_config {
        if let Some(out) = &control.out {
            let out = quoted(&out.display().to_string());
            app.note(&format!(
                "note: the folder of a run is not a setting: --out {out} is to be given with --config"
            ));
        }
        return print(settings.to_object(given.to_object(), None), &app);
    }
    if settings.data.is_empty() {
        let command = again::command(&[], &["chats.jsonl"]);
        return Err(Failure::usage("no data: name a file of examples").with_remedy(format!("`{command}`")));
    }
    let model = match (&args.model, &settings.from) {
        (Some(model), _) => Some(model.clone()),
        (None, Some(_)) => None,
        (None, None) if app.global.local.is_some() => Some(NANO.to_owned()),
        (None, None) => {
            return Err(Failure::usage("no model: name one with -m")
                .with_remedy("`tinkex model list` shows them; --local trains offline"));
        }
    };
    let place = Place::New { out: control.out.clone(), overwrite: control.overwrite };
    Job { app, given, settings, model, place, dry_run: control.dry_run, yes: control.yes }.run()
}

fn resume(dir: &Path, mut given: Given, control: &Args, app: &App) -> Result<(), Failure> {
    folder::check_free(dir)?;
    folder::recover(dir);
    let config = record::read(dir)?;
    record::check_own(dir, &config)?;
    let mut old = Given::of_object(
        &without_null(&config),
        &dir.join("config.json").display().to_string(),
        None,
        &given,
    )?;
    leave_default_epochs(&mut old, &config, &given);
    let by_user = given.clone();
    given = given.over(old);
    let args = given.args()?;
    let settings = Settings::of(&args)?;
    let asked = app;
    let mut app = record::with_place(asked, &config);
    if control.print_config {
        return print(settings.to_object(given.to_object(), None), &app);
    }
    let mut gone_engine = None;
    if let Some((path, _)) = run_folder::last_state(dir) {
        // What was saved is in a folder that is there.
        app.may_create_engine = false;
        run_folder::doubt_place(&dir.display().to_string(), &path, &config, &app);
        gone_engine = moved::gone_engine(asked, &app);
    }
    let found = moved::check(dir, &config, &settings, &by_user, gone_engine)?;
    let (args, settings) = if found.is_empty() {
        (args, settings)
    } else {
        found.into_iter().for_each(|moved| moved.apply(&mut given, &app));
        let args = given.args()?;
        let settings = Settings::of(&args)?;
        (args, settings)
    };
    let place =
        Place::Resumed { dir: PathBuf::from(dir), config, asked: by_user, force: control.force_resume };
    Job { app, given, settings, model: args.model, place, dry_run: control.dry_run, yes: control.yes }.run()
}

/// True if the settings of a run are those of this program.
pub(crate) fn is_own(config: &Map<String, Value>) -> bool {
    config.contains_key(record::OWN)
}

/// True if a process trains in a folder.
pub(crate) fn is_in_use(dir: &Path) -> bool {
    folder::check_free(dir).is_err()
}

/// Refuses weights to sample from as the beginning of a run, and names a state of their run if the server has one.
fn check_state(from: &str, app: &App) -> Result<(), Failure> {
    let parts = from.strip_prefix("tinker://").and_then(|it| it.split_once("/sampler_weights/"));
    let Some((run_id, name)) = parts else { return Ok(()) };
    let failure = Failure::usage(format!(
        "--from {from}: these are weights to sample from; a run begins with a saved state"
    ));
    // Nothing is saved in a folder that does not exist.
    let mut app = app.clone();
    app.may_create_engine = false;
    let listed = app.connect().and_then(|it| Ok(it.service.create_rest_client().list_checkpoints(run_id)?));
    let states = listed.unwrap_or_default().into_iter().filter(|it| it.tinker_path.contains("/weights/"));
    // The state that was saved with the weights has their name; otherwise the newest one.
    let same = format!("/weights/{name}");
    let state =
        states.max_by_key(|it| (it.tinker_path.ends_with(&same), it.time.as_ref().map(ToString::to_string)));
    Err(failure.with_remedy(match state {
        Some(state) => format!("`{}`", again::command(&[again::FROM], &["--from", &state.tinker_path])),
        None => format!(
            "`tinkex checkpoint list{}` shows the states that are there: those with /weights/",
            app.place()
        ),
    }))
}

/// Leaves the number of epochs of a run out if steps are given: for this model, it follows the steps by default.
fn leave_default_epochs(old: &mut Given, config: &Map<String, Value>, given: &Given) {
    let is_nano = config.get("model").and_then(Value::as_str) == Some(NANO);
    if is_nano && given.get("max-steps").is_some() && given.get("epochs").is_none() {
        old.remove("epochs");
    }
}

/// Refuses the folder of `--local` where clap took it for a file of examples.
fn check_local(data: &[PathBuf]) -> Result<(), Failure> {
    match args_of_all::word_after_local(&args_of_all::words()) {
        Some(word) if data.iter().any(|path| path.as_os_str() == word && !path.is_file()) => Err(
            Failure::usage(format!("{word} is taken for a file of examples, not for the folder of --local"))
                .with_remedy(format!("--local={word}, with an equals sign")),
        ),
        _ => Ok(()),
    }
}

fn without_null(object: &Map<String, Value>) -> Map<String, Value> {
    object
        .iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Prints settings as a file for `--config`.
fn print(mut object: Map<String, Value>, app: &App) -> Result<(), Failure> {
    record::add_place(&mut object, app);
    if matches!(app.out.format(), Format::Json | Format::Jsonl) {
        return app.out.value(&Value::Object(object), String::new);
    }
    let text = toml::to_string(&without_null(&object))
        .map_err(|error| Failure::text(format!("cannot write the settings as TOML: {error}")))?;
    app.out.bytes(text.as_bytes())
}
