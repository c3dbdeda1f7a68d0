//! Deletes checkpoints, several at a time. The library repeats requests after 409, 425, 429 and 5xx.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};

use indicatif::ProgressBar;
use parking_lot::Mutex;
use serde_json::Value;
use tinkex::types::CheckpointPath;
use tinkex::{Error, ErrorKind, RestClient, report_json};

use super::problem;
use crate::args::Progress;
use crate::connection::App;
use crate::notes;

/// Failures that are written to stderr for a person.
const SHOWN: usize = 20;

pub(super) type Deleted = (CheckpointPath, tinkex::Result<()>);

/// Deletes checkpoints and returns the result of each, in order. After a failure that concerns all of them, such as a
/// refused key, no further request is sent and the remaining ones fail, too. After a signal they are left out.
pub(super) fn delete(
    rest: &RestClient,
    paths: Vec<CheckpointPath>,
    concurrency: usize,
    app: &App,
) -> Vec<Deleted> {
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
                None => rest.delete_checkpoint_from_tinker_path(path.clone()),
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
pub(super) fn without_missing(results: Vec<Deleted>, ignore: bool) -> (Vec<Deleted>, Vec<CheckpointPath>) {
    let is_missing = |(_, result): &Deleted| ignore && result.as_ref().err().is_some_and(Error::is_not_found);
    let (missing, results): (Vec<Deleted>, _) = results.into_iter().partition(is_missing);
    (results, missing.into_iter().map(|(path, _)| path).collect())
}

/// The results as JSON with the keys of the official command.
pub(super) fn json(results: &[Deleted]) -> Value {
    let mut json = report_json::deletion(results);
    let failures = results.iter().filter_map(|(_, result)| result.as_ref().err());
    for (i, error) in failures.enumerate() {
        json["failed"][i]["error"] = problem::of(error).into();
    }
    json
}

/// Writes the failures to stderr: a person reads the first ones. Returns their number.
pub(super) fn report(results: &[Deleted], app: &App) -> usize {
    let failures: Vec<_> =
        results.iter().filter_map(|(path, result)| Some((path, result.as_ref().err()?))).collect();
    let n_shown = if app.out.is_json() { failures.len() } else { SHOWN };
    for (path, error) in failures.iter().take(n_shown) {
        problem::report(path, error, app);
    }
    if n_shown < failures.len() {
        notes::write(&format!("... and {} more; -f json lists all", failures.len() - n_shown));
    }
    failures.len()
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
