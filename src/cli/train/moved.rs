//! Files of a resumed run, and the folder of its engine, that are no longer where they were.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value};
use tinkex::local::is_data_folder;

use super::given::{DATA, Given};
use super::settings::{Settings, TestData};
use super::{again, record};
use crate::connection::App;
use crate::failure::Failure;
use crate::{engine, examples};

/// Words for a file and for a folder that are not found.
const FILE: &str = "FILE";
const DIR: &str = "DIR";
/// In how many folders above the run something is looked for.
const MOST_ABOVE: usize = 4;

/// The files of an option of which some were found elsewhere.
#[derive(Debug)]
pub(super) struct Moved {
    option: &'static str,
    files: Vec<PathBuf>,
    /// The old places and the new ones.
    moves: Vec<(PathBuf, PathBuf)>,
}

impl Moved {
    /// Puts the new places into the settings of a run.
    pub(super) fn apply(self, given: &mut Given, app: &App) {
        for (old, new) in &self.moves {
            let (old, new) = (old.display(), new.display());
            app.note(&format!("note: {old} is gone; {new} has the same contents, and is used"));
        }
        given.set_all(self.option, self.files.iter().map(|file| file.display().to_string()).collect());
    }
}

/// Finds files of a run that were moved, by their contents. Refuses a run one of whose files is gone, or whose `engine` is,
/// and says how to name them where they are. `given` are the options of this process: a file that they name was never a
/// part of the run.
pub(super) fn check(
    dir: &Path,
    config: &Map<String, Value>,
    settings: &Settings,
    given: &Given,
    engine: Option<PathBuf>,
) -> Result<Vec<Moved>, Failure> {
    let tests = match &settings.test {
        TestData::Files(files) => files.as_slice(),
        TestData::None | TestData::Split(_) => &[],
    };
    let parts =
        [(DATA, settings.data.as_slice()), ("eval-data", tests), ("prompts", settings.prompts.as_slice())];
    let (mut moved, mut gone) = (Vec::new(), None);
    let mut words: Vec<String> = Vec::new();
    for (option, files) in parts {
        if given.get(option).is_some() || !files.iter().any(|path| is_gone(path)) {
            continue;
        }
        let mut part = Moved { option, files: Vec::new(), moves: Vec::new() };
        let mut first_gone = None;
        for old in files {
            let same = if is_gone(old) { same_file(old, dir, config) } else { Some(old.clone()) };
            match &same {
                Some(new) if new != old => part.moves.push((old.clone(), new.clone())),
                Some(_) => {}
                None => first_gone = first_gone.or(Some(old)),
            }
            part.files.push(same.unwrap_or_else(|| named_like(old, dir)));
        }
        if first_gone.is_none() {
            moved.push(part);
            continue;
        }
        gone = gone.or(first_gone);
        for file in part.files {
            words.extend((option != DATA).then(|| format!("--{option}")));
            words.push(file.display().to_string());
        }
    }
    if gone.is_none() && engine.is_none() {
        return Ok(moved);
    }
    words.extend(engine.as_deref().map(|engine| local_option(engine, dir)));
    let problem = match (gone, &engine) {
        (Some(file), Some(engine)) => format!(
            "{}, a file of the run, and {}, the folder of its engine, are gone",
            file.display(),
            engine.display()
        ),
        (Some(file), None) => format!("{}, a file of the run, is gone", file.display()),
        (None, engine) => {
            let engine = engine.as_deref().unwrap_or(dir);
            format!("{}, the folder of the engine of the run, is gone", engine.display())
        }
    };
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Err(Failure::text(problem).with_remedy(remedy(&again::command(&[], &words), &words)))
}

/// The command, and what the words in it stand for.
fn remedy(command: &str, words: &[&str]) -> String {
    let has_dir = words.iter().any(|word| word.strip_prefix("--local=") == Some(DIR));
    let place = match (words.contains(&FILE), has_dir) {
        (true, true) => format!(", where {FILE} and {DIR} are their new places"),
        (true, false) => format!(", where {FILE} is its new place"),
        (false, true) => format!(", where {DIR} is its new place"),
        (false, false) => String::new(),
    };
    format!("`{command}`{place}")
}

/// Refuses a run whose checkpoints are in the folder of an engine that is gone. `asked` has the options of the command
/// line, `placed` also those of the run.
pub(crate) fn check_engine(run: &Path, asked: &App, placed: &App) -> Result<(), Failure> {
    let Some(engine) = gone_engine(asked, placed) else { return Ok(()) };
    let word = local_option(&engine, run);
    let remedy = remedy(&again::command(&[], &[&word]), &[&word]);
    Err(Failure::usage(format!(
        "{}: {}, the folder of the engine of the run, is gone",
        run.display(),
        engine.display()
    ))
    .with_remedy(remedy))
}

/// The folder of the engine of a run, if the command line names no other server and no engine is in it.
pub(super) fn gone_engine(asked: &App, placed: &App) -> Option<PathBuf> {
    if asked.global.local.is_some() || asked.global.base_url.is_some() {
        return None;
    }
    placed.global.local.clone()?.filter(|dir| !is_data_folder(dir))
}

/// The option that names the folder of an engine where it is now.
fn local_option(old: &Path, run: &Path) -> String {
    let found = places(old, run).into_iter().find(|it| is_data_folder(it)).or_else(|| engine::similar(old));
    format!("--local={}", found.unwrap_or_else(|| DIR.into()).display())
}

fn is_gone(path: &Path) -> bool {
    path.as_os_str() != "-" && !path.exists()
}

/// A file with the contents that a file of the run had, which the run has recorded.
fn same_file(old: &Path, run: &Path, config: &Map<String, Value>) -> Option<PathBuf> {
    let recorded = record::sha256_of(config, old)?;
    let is_same = |path: &PathBuf| path.is_file() && examples::sha256_of(path).as_ref() == Some(&recorded);
    places(old, run).into_iter().find(is_same)
}

/// A file of the same name beside the run or here; otherwise a word that stands for it.
fn named_like(old: &Path, run: &Path) -> PathBuf {
    let here = old.file_name().map(PathBuf::from);
    let mut places = places(old, run).into_iter().chain(here);
    places.find(|it| it.is_file()).unwrap_or_else(|| FILE.into())
}

/// Where something is that was moved together with a run: the last parts of its old path, in the folder of the run and in
/// those above it. The most parts come first.
fn places(old: &Path, run: &Path) -> Vec<PathBuf> {
    let run = std::path::absolute(run).unwrap_or_else(|_| run.to_owned());
    let names: Vec<&OsStr> =
        old.components().filter(|it| matches!(it, Component::Normal(_))).map(|it| it.as_os_str()).collect();
    let tails = (0..names.len()).map(|at| names[at..].iter().collect::<PathBuf>());
    tails
        .flat_map(|tail| {
            run.ancestors().take(MOST_ABOVE).map(move |above| above.join(&tail)).collect::<Vec<_>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_moved_with_a_run_keeps_its_place_beside_it() {
        let places = places(Path::new("/a/p/data/x"), Path::new("/b/p/runs/1"));
        let at = |path: &str| places.iter().position(|it| it == Path::new(path));
        assert_eq!(at("/b/p/a/p/data/x"), Some(2));
        assert!(at("/b/p/data/x") < at("/b/p/x") && at("/b/p/data/x").is_some());
        assert!(at("/b/p/runs/1/x").is_some() && at("/b/x").is_some());
        assert_eq!(at("/x"), None);
    }
}
