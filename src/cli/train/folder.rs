//! The folder of a run: which one it is, whether it is free, and how it is emptied.

use std::fs::{File, TryLockError};
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use super::ending::resume_command;
use super::{again, record};
use crate::failure::Failure;
use crate::shell_word::quoted;
use crate::{new_folder, notes};

/// Files that a run writes.
const FILES: [&str; 7] =
    ["config.json", "metrics.jsonl", "checkpoints.jsonl", "samples.jsonl", "log.txt", "report.html", ".lock"];
/// How the names of copies begin that a resume leaves.
const COPIES: [&str; 3] = ["metrics.jsonl.", "checkpoints.jsonl.", "samples.jsonl."];

/// Where the files of a run that is replaced are until the new one has begun.
const REPLACED: &str = ".replaced";

/// The folder of a run that names none: it does not exist yet.
pub(super) fn by_default(model: &str, now: SystemTime) -> PathBuf {
    let name: String = model.rsplit('/').next().unwrap_or(model).chars().map(safe).collect();
    let base = PathBuf::from("tinkex-runs").join(format!("{}-{name}", date(now)));
    if base.exists() { numbered(&base) } else { base }
}

fn safe(letter: char) -> char {
    if letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_') { letter } else { '-' }
}

/// Refuses the folder of a new run if another process uses it, or if something is in it and `overwrite` is not set.
/// Changes nothing but what a process left that was killed while it replaced a run.
pub(super) fn check(dir: &Path, overwrite: bool) -> Result<(), Failure> {
    let name = dir.display();
    new_folder::check(dir).map_err(|it| it.with_remedy(format!("`{}`", elsewhere(dir))))?;
    check_free(dir)?;
    recover(dir);
    if overwrite || names_in(dir)?.is_empty() {
        return Ok(());
    }
    let failure = Failure::usage(format!("the folder {name} is not empty"));
    let elsewhere = elsewhere(dir);
    let is_of_run = record::read(dir).is_ok_and(|config| record::check_own(dir, &config).is_ok());
    Err(failure.with_remedy(if is_of_run {
        format!(
            "`{}` goes on with its run; `{}` replaces it; `{elsewhere}` leaves it",
            resume_command(dir),
            again::command(&[], &["--overwrite"]),
        )
    } else {
        format!("`{elsewhere}`")
    }))
}

/// The command line of this process with a folder that does not exist yet.
fn elsewhere(dir: &Path) -> String {
    again::command(&[again::OUT, again::OVERWRITE], &["--out", &beside(dir).display().to_string()])
}

/// A folder beside another one that does not exist yet.
pub(super) fn beside(dir: &Path) -> PathBuf {
    let mut base = dir;
    // One that is named by its place alone, as `.`, has no name to put a number to.
    if !matches!(dir.components().next_back(), Some(Component::Normal(_))) {
        let run = match dir.components().next_back() {
            Some(Component::ParentDir) => dir.join("run"),
            _ => PathBuf::from("run"),
        };
        return if run.exists() { numbered(&run) } else { run };
    }
    // Not in a file.
    while let Some(parent) = base.parent().filter(|it| it.is_file()) {
        base = parent;
    }
    numbered(&base.components().collect::<PathBuf>())
}

/// The first of DIR-2, DIR-3, … that does not exist yet.
fn numbered(dir: &Path) -> PathBuf {
    let with = |n: u32| PathBuf::from(format!("{}-{n}", dir.display()));
    (2..).map(with).find(|path| !path.exists()).unwrap_or_else(|| dir.to_owned())
}

/// The names of what is in a folder, but for the lock; none if the folder does not exist.
fn names_in(dir: &Path) -> Result<Vec<String>, Failure> {
    let problem = |error: std::io::Error| Failure::text(format!("{}: {error}", dir.display()));
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(problem)? {
        names.push(entry.map_err(problem)?.file_name().to_string_lossy().into_owned());
    }
    names.retain(|name| name != ".lock" && name != REPLACED);
    Ok(names)
}

/// The folder of a new run.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub(super) dir: PathBuf,
    /// The folders that did not exist, the innermost first.
    new: Vec<PathBuf>,
    /// The files of an earlier run are kept until this one has begun.
    pub(super) has_replaced: bool,
}

/// Makes the folder of a new run. With `overwrite`, the files of an earlier run are put aside, and no others.
pub(super) fn prepare(dir: &Path, overwrite: bool) -> Result<Made, Failure> {
    check(dir, overwrite)?;
    let is_new = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let new = dir.ancestors().take_while(is_new).map(Path::to_owned).collect();
    std::fs::create_dir_all(dir)
        .map_err(|error| Failure::text(format!("cannot create the folder {}: {error}", dir.display())))?;
    let has_replaced = overwrite && put_aside(dir).inspect_err(|_| put_back(dir))?;
    Ok(Made { dir: dir.to_owned(), new, has_replaced })
}

/// Ends what a process left that was killed while it replaced the run in a folder: before the first step of the new run,
/// the earlier one is put back. No process may use the folder.
pub(super) fn recover(dir: &Path) {
    if !dir.join(REPLACED).exists() {
        return;
    }
    if has_rows(dir) {
        settle(dir);
        return;
    }
    put_back(dir);
    notes::write(&format!(
        "note: {} has its earlier run again: the one that was to replace it did not begin",
        dir.display()
    ));
}

/// Puts the files of the run in a folder aside. False if there are none.
fn put_aside(dir: &Path) -> Result<bool, Failure> {
    let problem = |error: std::io::Error| Failure::text(format!("{}: {error}", dir.display()));
    let files = run_files(dir)?;
    if files.is_empty() {
        return Ok(false);
    }
    let aside = dir.join(REPLACED);
    std::fs::create_dir_all(&aside).map_err(problem)?;
    for file in files {
        std::fs::rename(dir.join(&file), aside.join(&file)).map_err(problem)?;
    }
    Ok(true)
}

/// Puts the files of the earlier run back in the place of those of the new one, which did not begin. What cannot be moved
/// stays.
fn put_back(dir: &Path) {
    let aside = dir.join(REPLACED);
    for file in run_files(&aside).unwrap_or_default() {
        let _ = std::fs::rename(aside.join(&file), dir.join(&file));
    }
    let _ = std::fs::remove_dir(&aside);
}

/// Removes the files of the run that was replaced, once the new one has begun.
pub(super) fn settle(dir: &Path) {
    let aside = dir.join(REPLACED);
    for file in run_files(&aside).unwrap_or_default() {
        let _ = std::fs::remove_file(aside.join(file));
    }
    let _ = std::fs::remove_dir(aside);
}

/// The names of the files of a run in a folder, but for the lock.
fn run_files(dir: &Path) -> Result<Vec<String>, Failure> {
    let mut names = names_in(dir)?;
    names.retain(|it| FILES.contains(&it.as_str()) || COPIES.iter().any(|copy| it.starts_with(copy)));
    Ok(names)
}

/// True if a step of the run in a folder is logged.
fn has_rows(dir: &Path) -> bool {
    std::fs::metadata(dir.join("metrics.jsonl")).is_ok_and(|it| 0 < it.len())
}

impl Made {
    /// Removes the files of a run that did not begin, and the folders that were made for it if nothing else is in them.
    /// What cannot be removed stays. The files of a run that it was to replace are there again.
    pub(super) fn forget(&self) {
        for file in FILES {
            let _ = std::fs::remove_file(self.dir.join(file));
        }
        if self.has_replaced {
            put_back(&self.dir);
        }
        for folder in &self.new {
            let _ = std::fs::remove_dir(folder);
        }
    }
}

/// Refuses a folder that another process uses.
pub(super) fn check_free(dir: &Path) -> Result<(), Failure> {
    let path = dir.join(".lock");
    let Ok(file) = File::open(&path) else { return Ok(()) };
    if let Err(TryLockError::WouldBlock) = file.try_lock_shared() {
        let holder = std::fs::read_to_string(&path).unwrap_or_default();
        let holder = holder.trim();
        let pid = if holder.is_empty() { "another process".into() } else { format!("pid {holder}") };
        let other = quoted(&beside(dir).display().to_string());
        return Err(Failure::text(format!("{} is in use by {pid}", dir.display())).with_remedy(format!(
            "wait until it ends, or end it, which saves its state; or train in another folder: --out {other}"
        )));
    }
    Ok(())
}

/// A date, in UTC.
pub(super) fn date(time: SystemTime) -> String {
    let (year, month, day) = civil(seconds(time).div_euclid(86_400));
    format!("{year:04}-{month:02}-{day:02}")
}

/// A date and a time, in UTC.
pub(super) fn date_time(time: SystemTime) -> String {
    let second = seconds(time).rem_euclid(86_400);
    format!("{}T{:02}:{:02}:{:02}Z", date(time), second / 3600, second / 60 % 60, second % 60)
}

fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(0)
}

/// Year, month and day of a number of days since 1970. The year begins in March here, so that the leap day is its last.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_795_848_307, "2026-11-28T06:45:07Z"),
        ] {
            assert_eq!(date_time(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn a_folder_beside_one_without_a_name_has_one() {
        let beside = |dir: &str| beside(Path::new(dir)).display().to_string();
        assert_eq!([".", "./", "none", "none/."].map(beside), ["run", "run", "none-2", "none-2"]);
        assert_eq!(beside(".."), "../run");
    }

    #[test]
    fn the_folder_of_a_run_has_the_name_of_the_model() {
        let path = by_default("Qwen/Qwen3-8B:x", SystemTime::UNIX_EPOCH);
        assert_eq!(path, PathBuf::from("tinkex-runs/1970-01-01-Qwen3-8B-x"));
    }
}
