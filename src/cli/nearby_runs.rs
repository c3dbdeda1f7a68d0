//! The folders of training runs in the current folder and in the folders in it: for those who do not remember the name.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::connection::App;
use super::run_folder::LOG;
use super::shell_word::quoted;
use super::{similar, train};

/// How many entries of a folder are looked at.
const MOST_ENTRIES: usize = 1000;
/// How many runs are named.
const MOST_NAMES: usize = 3;

/// The runs whose names are almost this one, or that are in the folder of this name; the best first.
pub(crate) fn similar(name: &str) -> Vec<String> {
    let own = Path::new(name);
    if own.is_dir() {
        let mut inside = runs_in(own);
        if !inside.is_empty() {
            inside.truncate(MOST_NAMES);
            return inside.iter().map(|run| shown(run)).collect();
        }
    }
    // A name of a model has a slash, too: it is that of a folder only if the part before the slash is one.
    let parent = own.parent().filter(|it| !it.as_os_str().is_empty());
    let known: Vec<String> = match parent {
        Some(parent) if parent.is_dir() => runs_in(parent),
        Some(_) => Vec::new(),
        None => near_here(),
    }
    .iter()
    .map(|run| shown(run))
    .collect();
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let start = tail(name.trim_end_matches('/'));
    let mut found = similar::names(name.trim_end_matches('/'), &known);
    // A few letters may be the beginning of one of a few folders.
    for run in known.iter().filter(|run| 2 <= start.len() && tail(run).starts_with(start)) {
        if found.len() < MOST_NAMES && !found.contains(run) {
            found.push(run);
        }
    }
    found.into_iter().map(str::to_owned).collect()
}

/// What to do about a name that is not the folder of a run; `option` is what stands before the name, with a space.
pub(crate) fn remedy(folder: &Path, option: &str) -> String {
    let similar = similar(&folder.display().to_string());
    let names = |runs: &[String]| {
        runs.iter().map(|run| format!("{option}{}", quoted(run))).collect::<Vec<_>>().join(" or ")
    };
    if !similar.is_empty() {
        return format!("did you mean {}?", names(&similar));
    }
    let others = newest_ones();
    match others.len() {
        0 => "name the folder of a run, which `tinkex train` has told at its end: in tinkex-runs, or that of --out".into(),
        1 => format!("{}, the only run here", names(&others)),
        _ => format!("{}, the newest runs here", names(&others)),
    }
}

/// The few runs near the current folder that have saved last.
pub(crate) fn newest_ones() -> Vec<String> {
    let mut runs = near_here();
    runs.sort_by_key(|run| std::cmp::Reverse(saved(run)));
    runs.iter().take(MOST_NAMES).map(|run| shown(run)).collect()
}

/// The run that has saved last, of those on the server or on the engine of the command.
pub(crate) fn newest(app: &App) -> Option<String> {
    let is_there = |run: &Path| {
        let Ok(config) = train::config_of(run) else { return false };
        let mut own = app.clone();
        (own.global.local, own.global.base_url) = (None, None);
        let own = train::with_place(&own, &config).global;
        let of_engine = |local: &Option<Option<PathBuf>>| {
            local
                .as_ref()
                .map(|dir| dir.as_ref().map(|dir| dir.canonicalize().unwrap_or_else(|_| dir.clone())))
        };
        app.global.local.is_none() || of_engine(&own.local) == of_engine(&app.global.local)
    };
    let mut runs = near_here();
    runs.sort_by_key(|run| std::cmp::Reverse(saved(run)));
    runs.iter().find(|run| is_there(run)).map(|run| shown(run))
}

/// When a run has saved something for the last time.
fn saved(run: &Path) -> SystemTime {
    run.join(LOG).metadata().and_then(|it| it.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The runs in the current folder and in the folders in it.
fn near_here() -> Vec<PathBuf> {
    let here = folders_in(Path::new("."));
    let mut runs: Vec<PathBuf> = here.iter().filter(|dir| is_run(dir)).cloned().collect();
    for dir in here.iter().filter(|dir| !is_run(dir)) {
        runs.extend(runs_in(dir));
    }
    runs
}

fn runs_in(dir: &Path) -> Vec<PathBuf> {
    folders_in(dir).into_iter().filter(|dir| is_run(dir)).collect()
}

/// The folders in a folder that are not hidden, in the order of their names.
fn folders_in(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().take(MOST_ENTRIES).flatten();
    let is_shown = |path: &PathBuf| path.file_name().is_some_and(|it| !it.to_string_lossy().starts_with('.'));
    let mut folders: Vec<PathBuf> =
        entries.map(|it| it.path()).filter(|path| is_shown(path) && path.is_dir()).collect();
    folders.sort();
    folders
}

fn is_run(dir: &Path) -> bool {
    dir.join(LOG).is_file()
}

/// The path as a person types it.
fn shown(run: &Path) -> String {
    run.strip_prefix(".").unwrap_or(run).display().to_string()
}

fn tail(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}
