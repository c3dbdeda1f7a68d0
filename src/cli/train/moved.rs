//! Files of a resumed run that are no longer where they were.

use std::path::{Path, PathBuf};

use super::again;
use super::given::{DATA, Given};
use super::settings::{Settings, TestData};
use crate::failure::Failure;

/// Refuses a run one of whose files is gone, and says how to name it where it is. `given` are the options of this
/// process: a file that they name was never a part of the run.
pub(super) fn check(dir: &Path, settings: &Settings, given: &Given) -> Result<(), Failure> {
    let tests = match &settings.test {
        TestData::Files(files) => files.as_slice(),
        TestData::None | TestData::Split(_) => &[],
    };
    let parts = [
        (None, settings.data.as_slice()),
        (Some("eval-data"), tests),
        (Some("prompts"), settings.prompts.as_slice()),
    ];
    let mut first = None;
    let mut words: Vec<String> = Vec::new();
    for (option, files) in parts {
        let gone = files.iter().find(|path| is_gone(path));
        let Some(gone) = gone.filter(|_| given.get(option.unwrap_or(DATA)).is_none()) else { continue };
        first.get_or_insert(gone);
        for path in files {
            words.extend(option.map(|option| format!("--{option}")));
            words.push(found(path, dir).display().to_string());
        }
    }
    let Some(first) = first else { return Ok(()) };
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let command = again::command(&[], &words);
    let place =
        if words.contains(&PLACE) { format!(", where {PLACE} is its new place") } else { String::new() };
    Err(Failure::text(format!("{}, a file of the run, is gone", first.display()))
        .with_remedy(format!("`{command}`{place}")))
}

/// What stands for a file that is not found.
const PLACE: &str = "FILE";

fn is_gone(path: &Path) -> bool {
    path.as_os_str() != "-" && !path.exists()
}

/// The file itself, or one of the same name here or beside the run; otherwise a word that stands for it.
fn found(path: &Path, dir: &Path) -> PathBuf {
    let name = path.file_name().map(PathBuf::from).unwrap_or_default();
    let beside = dir.parent().map(|parent| parent.join(&name));
    let places = [Some(path.to_owned()), Some(name), beside];
    places.into_iter().flatten().find(|it| it.is_file()).unwrap_or_else(|| PLACE.into())
}
