//! Deletes or changes checkpoints, several at a time. The library repeats requests after 409, 425, 429 and 5xx.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};

use indicatif::ProgressBar;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tinkex::types::CheckpointPath;
use tinkex::{Error, ErrorKind, report_json};

use super::problem;
use crate::args::Progress;
use crate::connection::App;
use crate::counted::counted;
use crate::failure::Failure;
use crate::notes;

/// Failures that are written to stderr for a person.
const SHOWN: usize = 20;

/// Changes at a time unless a command has an option for it.
pub(super) const CONCURRENCY: usize = 4;

pub(super) type Changed = (CheckpointPath, tinkex::Result<()>);

/// Changes checkpoints and returns the result of each, in order. After a failure that concerns all of them, such as a
/// refused key, no further request is sent and the remaining ones fail, too. After a signal they are left out.
pub(super) fn each(
    paths: &[CheckpointPath],
    concurrency: usize,
    app: &App,
    change: impl Fn(CheckpointPath) -> tinkex::Result<()> + Sync,
) -> Vec<Changed> {
    app.stop.defer_briefly();
    let bar = bar(paths.len(), app);
    let next = AtomicUsize::new(0);
    let failed_for_all: Mutex<Option<Error>> = Mutex::new(None);
    let work = || {
        let mut results = Vec::new();
        while !app.stop.is_asked() {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(path) = paths.get(i) else { break };
            let known = failed_for_all.lock().clone();
            let result = match known {
                Some(error) => Err(error),
                None => change(path.clone()),
            };
            if let Err(error) = &result
                && concerns_all(error)
            {
                *failed_for_all.lock() = Some(error.clone());
            }
            bar.inc(1);
            results.push((i, result));
        }
        results
    };
    let mut results: Vec<(usize, tinkex::Result<()>)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..concurrency.min(paths.len())).map(|_| scope.spawn(work)).collect();
        let own = work();
        let joined = threads.into_iter().map(|it| it.join().unwrap_or_else(|panic| resume_unwind(panic)));
        own.into_iter().chain(joined.flatten()).collect()
    });
    bar.finish_and_clear();
    results.sort_by_key(|(i, _)| *i);
    results.into_iter().map(|(i, result)| (paths[i].clone(), result)).collect()
}

/// The results of the checkpoints that existed, and the paths of the others if these are ignored.
pub(super) fn without_missing(results: Vec<Changed>, ignore: bool) -> (Vec<Changed>, Vec<CheckpointPath>) {
    let is_missing = |(_, result): &Changed| ignore && result.as_ref().err().is_some_and(Error::is_not_found);
    let (missing, results): (Vec<Changed>, _) = results.into_iter().partition(is_missing);
    (results, missing.into_iter().map(|(path, _)| path).collect())
}

/// The results of deletions as JSON with the keys of the official command.
pub(super) fn json(results: &[Changed]) -> Value {
    let mut json = report_json::deletion(results);
    json["failed"] = failed(results);
    let deleted = results.iter().filter(|(_, result)| result.is_ok()).map(|(path, _)| path.as_str());
    json["deleted"] = deleted.collect();
    json
}

/// The results of other changes as JSON.
pub(super) fn json_of_updates(results: &[Changed]) -> Value {
    let n_updated = results.iter().filter(|(_, result)| result.is_ok()).count();
    json!({ "updated_count": n_updated, "failed": failed(results) })
}

/// The failed changes, with the words of the failure and those for programs.
fn failed(results: &[Changed]) -> Value {
    let failed = results.iter().filter_map(|(path, result)| {
        let error = result.as_ref().err()?;
        Some(json!({
            "tinker_path": path.as_str(),
            "error": problem::of(error),
            "code": error.http_status(),
            "kind": error.kind().name(),
            "retryable": error.is_retryable(),
        }))
    });
    failed.collect()
}

/// Writes the failures of the `n_items` that were chosen to stderr: a person reads the first ones. Returns their number.
pub(super) fn report(results: &[Changed], n_items: usize, app: &App) -> usize {
    let failures: Vec<_> =
        results.iter().filter_map(|(path, result)| Some((path, result.as_ref().err()?))).collect();
    let n_shown = if app.out.is_json() { failures.len() } else { SHOWN };
    for (path, error) in failures.iter().take(n_shown) {
        problem::report(path, error, n_items == 1, app);
    }
    if n_shown < failures.len() {
        notes::write(&format!("... and {} more; -f json lists all", failures.len() - n_shown));
    }
    failures.len()
}

/// The end of a command after its result is written: tells which checkpoints did not exist, and fails if it was stopped or
/// if some of the `n_items` could not be changed. `changed` is the word for what was done.
pub(super) fn end(
    results: &[Changed],
    n_missing: usize,
    n_items: usize,
    changed: &str,
    app: &App,
) -> Result<(), Failure> {
    let all = counted(n_items as u64, "checkpoint");
    if 0 < n_missing {
        app.note(&format!("note: {n_missing} of {all} did not exist"));
    }
    let n_failed = results.iter().filter(|(_, result)| result.is_err()).count();
    if let Some(signal) = app.stop.signal() {
        app.note(&format!("stopped: {} of {all} {changed}", results.len() - n_failed));
        return Err(Failure::Signal(signal));
    }
    let is_missing = |(_, result): &Changed| result.as_ref().is_err_and(Error::is_not_found);
    problem::of_all(n_failed, n_items, results.iter().any(is_missing))
}

fn concerns_all(error: &Error) -> bool {
    use ErrorKind::{Auth, Billing, CircuitOpen, Closed, Config, Connection};
    matches!(error.kind(), Auth | Billing | CircuitOpen | Closed | Config | Connection { .. })
}

fn bar(n: usize, app: &App) -> ProgressBar {
    let is_shown = !app.global.quiet
        && matches!(app.global.progress, Progress::Auto | Progress::Bar)
        && notes::are_read()
        && 1 < n;
    if is_shown {
        notes::add(ProgressBar::new(n.try_into().unwrap_or_default()))
    } else {
        ProgressBar::hidden()
    }
}
