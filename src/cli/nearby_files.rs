//! The files near one that is not there: for those who do not remember the name, or mistype it.

use std::path::{Path, PathBuf};

use super::failure::Failure;
use super::shell_word::quoted;
use super::similar;

/// How many entries of a folder are looked at.
const MOST_ENTRIES: usize = 1000;
/// How many files are named.
const MOST_NAMES: usize = 3;

/// What to do about a file that cannot be opened: names the files that were probably meant, or else those of its kind that
/// are there. `None` if the file is there, or nothing like it is.
pub(crate) fn remedy(path: &Path) -> Option<String> {
    if path.exists() {
        return None;
    }
    let similar = similar(path);
    if !similar.is_empty() {
        return Some(format!("did you mean {}?", list(&similar)));
    }
    let parent = parent(path);
    if !parent.is_dir() {
        return Some(format!("the folder {} does not exist", shown(parent)));
    }
    let mut others: Vec<PathBuf> = files_in(parent);
    others.retain(|it| path.extension().is_some() && it.extension() == path.extension());
    if others.is_empty() {
        return None;
    }
    let place = if parent == Path::new(".") { "here".to_owned() } else { format!("in {}", shown(parent)) };
    let more = others.len().saturating_sub(MOST_NAMES);
    others.truncate(MOST_NAMES);
    let verb = if others.len() == 1 { "is" } else { "are" };
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    let names: Vec<String> = others.iter().map(|it| shown(it)).collect();
    Some(format!("{place} {verb} {}{more}", names.join(", ")))
}

/// The failure of opening a file, with what to do about it if the file is not there.
pub(crate) fn explained(failure: Failure, path: &Path) -> Failure {
    match remedy(path) {
        Some(remedy) => failure.with_remedy(remedy),
        None => failure,
    }
}

/// The same for the end of a message.
pub(crate) fn after(path: &Path) -> String {
    remedy(path).map(|it| format!("; {it}")).unwrap_or_default()
}

/// A name for a file beside this one, as a shell reads it: the name itself if it is free, or the first of NAME-2, NAME-3, …
pub(crate) fn unused(path: &Path) -> String {
    if !path.exists() {
        return shown(path);
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let end = path.extension().map(|it| format!(".{}", it.to_string_lossy())).unwrap_or_default();
    let named = |n: u32| path.with_file_name(format!("{stem}-{n}{end}"));
    let free = (2..).map(named).find(|it| !it.exists());
    shown(&free.unwrap_or_else(|| path.to_owned()))
}

/// The files whose names are almost this one, in its folder or in the folders around; the best first.
fn similar(path: &Path) -> Vec<PathBuf> {
    let Some(name) = path.file_name().map(|it| it.to_string_lossy().into_owned()) else { return Vec::new() };
    let parent = parent(path);
    let found = if parent.is_dir() { alike(&name, &files_in(parent)) } else { Vec::new() };
    if !found.is_empty() {
        return found;
    }
    // The same file in another folder: the one that is meant, and those below it.
    let near = parent.ancestors().map(non_empty).find(|it| it.is_dir()).unwrap_or(Path::new("."));
    let folders = [vec![near.to_owned(), PathBuf::from(".")], folders_in(near)].concat();
    let mut same: Vec<PathBuf> = folders.iter().map(|it| cleaned(&it.join(&name))).collect();
    same.retain(|it| it.is_file());
    same.dedup();
    same.truncate(MOST_NAMES);
    same
}

/// The files with such a name. The extension may be another one.
fn alike(name: &str, files: &[PathBuf]) -> Vec<PathBuf> {
    let names: Vec<String> =
        files.iter().filter_map(|it| it.file_name()).map(|it| it.to_string_lossy().into_owned()).collect();
    let whole: Vec<&str> = names.iter().map(String::as_str).collect();
    let stems: Vec<&str> = whole.iter().map(|it| stem(it)).collect();
    let by_name = similar::names(name, &whole);
    let by_stem = similar::names(stem(name), &stems);
    let is_meant =
        |i: usize| by_name.contains(&whole[i]) || by_name.is_empty() && by_stem.contains(&stems[i]);
    let mut found: Vec<PathBuf> =
        (0..files.len()).filter(|i| is_meant(*i)).map(|i| files[i].clone()).collect();
    found.truncate(MOST_NAMES);
    found
}

fn stem(name: &str) -> &str {
    name.split('.').next().filter(|it| !it.is_empty()).unwrap_or(name)
}

/// The files in a folder that are not hidden, in the order of their names.
fn files_in(dir: &Path) -> Vec<PathBuf> {
    entries(dir, Path::is_file)
}

fn folders_in(dir: &Path) -> Vec<PathBuf> {
    entries(dir, Path::is_dir)
}

fn entries(dir: &Path, is_wanted: fn(&Path) -> bool) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().take(MOST_ENTRIES).flatten();
    let is_shown = |path: &Path| path.file_name().is_some_and(|it| !it.to_string_lossy().starts_with('.'));
    let mut found: Vec<PathBuf> =
        entries.map(|it| cleaned(&it.path())).filter(|it| is_shown(it) && is_wanted(it)).collect();
    found.sort();
    found
}

fn parent(path: &Path) -> &Path {
    path.parent().map_or(Path::new("."), non_empty)
}

fn non_empty(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

/// The path as a person types it.
fn cleaned(path: &Path) -> PathBuf {
    path.strip_prefix(".").unwrap_or(path).to_owned()
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|it| shown(it)).collect::<Vec<_>>().join(" or ")
}

fn shown(path: &Path) -> String {
    quoted(&path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_there_leads_to_those_that_are() {
        let dir = std::env::temp_dir().join(format!("tinkex-nearby-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join("data")).unwrap();
        for name in ["piglatin.jsonl", "chats.jsonl", "data/other.jsonl", "run.toml", ".hidden.jsonl"] {
            std::fs::write(dir.join(name), "").unwrap();
        }
        let shown = |name: &str| dir.join(name).display().to_string();
        for (name, expected) in [
            ("piglatn.jsonl", format!("did you mean {}?", shown("piglatin.jsonl"))),
            ("PigLatin.jsonl", format!("did you mean {}?", shown("piglatin.jsonl"))),
            ("piglatin", format!("did you mean {}?", shown("piglatin.jsonl"))),
            ("piglatin.json", format!("did you mean {}?", shown("piglatin.jsonl"))),
            ("mypiglatin.json", format!("did you mean {}?", shown("piglatin.jsonl"))),
            ("other.jsonl", format!("did you mean {}?", shown("data/other.jsonl"))),
            ("dta/chats.jsonl", format!("did you mean {}?", shown("chats.jsonl"))),
            ("data/chats.jsonl", format!("in {} is {}", shown("data"), shown("data/other.jsonl"))),
            (
                "x.jsonl",
                format!("in {} are {}, {}", dir.display(), shown("chats.jsonl"), shown("piglatin.jsonl")),
            ),
            ("dta/x.jsonl", format!("the folder {} does not exist", shown("dta"))),
            ("x.txt", String::new()),
            ("chats.jsonl", String::new()),
        ] {
            assert_eq!(remedy(&dir.join(name)).unwrap_or_default(), expected, "{name}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
