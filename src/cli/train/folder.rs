//! The folder of a run: which one it is, whether it is free, and how it is emptied.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::failure::Failure;

/// Files that a run writes.
const FILES: [&str; 7] =
    ["config.json", "metrics.jsonl", "checkpoints.jsonl", "samples.jsonl", "log.txt", "report.html", ".lock"];
/// How the names of copies begin that a resume leaves.
const COPIES: [&str; 3] = ["metrics.jsonl.", "checkpoints.jsonl.", "samples.jsonl."];

/// The folder of a run that names none: it does not exist yet.
pub(super) fn by_default(model: &str, now: SystemTime) -> PathBuf {
    let name: String = model.rsplit('/').next().unwrap_or(model).chars().map(safe).collect();
    let base = PathBuf::from("tinkex-runs").join(format!("{}-{name}", date(now)));
    let with = |n: u32| PathBuf::from(format!("{}-{n}", base.display()));
    let further = (2..).map(with).find(|path| !path.exists());
    if base.exists() { further.unwrap_or(base) } else { base }
}

fn safe(letter: char) -> char {
    if letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_') { letter } else { '-' }
}

/// Makes the folder of a new run. With `overwrite`, the files of an earlier run are removed, and no others.
pub(super) fn prepare(dir: &Path, overwrite: bool) -> Result<(), Failure> {
    let name = dir.display();
    let problem = |error: std::io::Error| Failure::text(format!("{name}: {error}"));
    std::fs::create_dir_all(dir)
        .map_err(|error| Failure::text(format!("cannot create the folder {name}: {error}")))?;
    check_free(dir)?;
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(problem)? {
        names.push(entry.map_err(problem)?.file_name().to_string_lossy().into_owned());
    }
    names.retain(|name| name != ".lock");
    if names.is_empty() {
        return Ok(());
    }
    if !overwrite {
        let resume = if names.iter().any(|name| name == "config.json") {
            format!("tinkex train --resume {name}`, `--overwrite`, or another folder with `--out")
        } else {
            "--out with another folder".into()
        };
        return Err(
            Failure::usage(format!("the folder {name} is not empty")).with_remedy(format!("`{resume}`"))
        );
    }
    let is_of_run =
        |name: &&String| FILES.contains(&name.as_str()) || COPIES.iter().any(|copy| name.starts_with(copy));
    for file in names.iter().filter(is_of_run) {
        std::fs::remove_file(dir.join(file)).map_err(problem)?;
    }
    Ok(())
}

/// Removes the files of a run that did not begin, and the folder if nothing else is in it. What cannot be removed stays.
pub(super) fn forget(dir: &Path) {
    for file in FILES {
        let _ = std::fs::remove_file(dir.join(file));
    }
    let _ = std::fs::remove_dir(dir);
}

/// Refuses a folder that another process uses.
pub(super) fn check_free(dir: &Path) -> Result<(), Failure> {
    let path = dir.join(".lock");
    let Ok(file) = File::open(&path) else { return Ok(()) };
    if let Err(TryLockError::WouldBlock) = file.try_lock_shared() {
        let holder = std::fs::read_to_string(&path).unwrap_or_default();
        let holder = holder.trim();
        let pid = if holder.is_empty() { "another process".into() } else { format!("pid {holder}") };
        return Err(Failure::text(format!("{} is in use by {pid}", dir.display())).with_remedy(
            "wait until it ends, or end it, which saves its state; or train in another folder: --out DIR",
        ));
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
    fn the_folder_of_a_run_has_the_name_of_the_model() {
        let path = by_default("Qwen/Qwen3-8B:x", SystemTime::UNIX_EPOCH);
        assert_eq!(path, PathBuf::from("tinkex-runs/1970-01-01-Qwen3-8B-x"));
    }
}
