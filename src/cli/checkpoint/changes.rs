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

/// A checkpoint and what became of its change.
#[derive(Clone, Debug)]
pub(super) struct Changed {
    pub(super) path: CheckpointPath,
    pub(super) result: tinkex::Result<()>,
    /// False if the result is that of another one, which concerns all.
    is_tried: bool,
}

impl Changed {
    /// Why the checkpoint was not changed.
    fn failure(&self) -> Option<Failure> {
        let failure = Failure::from(self.result.as_ref().err()?.clone());
        if self.is_tried {
            return Some(failure);
        }
        let remedy = "the same command once that is mended";
        Some(
            Failure::text(format!("not tried after another one failed: {}", failure.summary()))
                .with_remedy(remedy),
        )
    }
}

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
            let is_tried = known.is_none();
            let result = known.map_or_else(|| change(path.clone()), Err);
            if let Err(error) = &result
                && concerns_all(error)
            {
                failed_for_all.lock().get_or_insert_with(|| error.clone());
            }
            bar.inc(1);
            results.push((i, Changed { path: path.clone(), result, is_tried }));
        }
        results
    };
    let mut results: Vec<(usize, Changed)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..concurrency.min(paths.len())).map(|_| scope.spawn(work)).collect();
        let own = work();
        let joined = threads.into_iter().map(|it| it.join().unwrap_or_else(|panic| resume_unwind(panic)));
        own.into_iter().chain(joined.flatten()).collect()
    });
    bar.finish_and_clear();
    results.sort_by_key(|(i, _)| *i);
    results.into_iter().map(|(_, changed)| changed).collect()
}

/// The results of the checkpoints that existed, and the paths of the others if these are ignored.
pub(super) fn without_missing(results: Vec<Changed>, ignore: bool) -> (Vec<Changed>, Vec<CheckpointPath>) {
    let is_missing = |it: &Changed| ignore && it.result.as_ref().err().is_some_and(Error::is_not_found);
    let (missing, results): (Vec<Changed>, _) = results.into_iter().partition(is_missing);
    (results, missing.into_iter().map(|it| it.path).collect())
}

/// The results of deletions as JSON with the keys of the official command.
pub(super) fn json(results: &[Changed]) -> Value {
    let deleted: Vec<&str> =
        results.iter().filter(|it| it.result.is_ok()).map(|it| it.path.as_str()).collect();
    let results_of: Vec<_> = results.iter().map(|it| (it.path.clone(), it.result.clone())).collect();
    let mut json = report_json::deletion(&results_of);
    json["deleted"] = deleted.into();
    json["failed"] = failed(results);
    json
}

/// The results of other changes as JSON.
pub(super) fn json_of_updates(results: &[Changed]) -> Value {
    let n_updated = results.iter().filter(|it| it.result.is_ok()).count();
    json!({ "updated_count": n_updated, "failed": failed(results) })
}

/// The failed changes.
fn failed(results: &[Changed]) -> Value {
    results.iter().filter_map(|it| json_of_failure(it.path.as_str(), &it.failure()?)).collect()
}

/// A checkpoint that was not changed, with the words of the failure and those for programs.
pub(super) fn json_of_failure(path: &str, failure: &Failure) -> Option<Value> {
    let json = failure.to_json()?["error"].take();
    Some(json!({
        "tinker_path": path,
        "error": failure.summary(),
        "code": json["code"],
        "kind": json["kind"],
        "retryable": json["retryable"],
    }))
}

/// Writes the failures of the `n_items` that were chosen to stderr: a person reads the first ones. Returns their number.
pub(super) fn report(results: &[Changed], n_items: usize, app: &App) -> usize {
    let failures: Vec<(&Changed, Failure)> =
        results.iter().filter_map(|changed| Some((changed, changed.failure()?))).collect();
    let is_json = app.out.is_json();
    let is_shown = |it: &&(&Changed, Failure)| is_json || it.0.is_tried;
    let n_shown = if is_json { failures.len() } else { SHOWN };
    for (changed, failure) in failures.iter().filter(is_shown).take(n_shown) {
        failure.report_item(changed.path.as_str(), n_items == 1, is_json);
    }
    let n_tried = failures.iter().filter(|(changed, _)| changed.is_tried).count();
    if !is_json && n_shown < n_tried {
        notes::write(&format!("... and {} more; -f json lists all", n_tried - n_shown));
    }
    if !is_json && n_tried < failures.len() {
        let rest = counted((failures.len() - n_tried) as u64, "checkpoint");
        notes::write(&format!("{rest} not tried after that; -f json lists all"));
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
    let n_failed = results.iter().filter(|it| it.result.is_err()).count();
    if let Some(signal) = app.stop.signal() {
        app.note(&format!("stopped: {} of {all} {changed}", results.len() - n_failed));
        return Err(Failure::signal(signal));
    }
    let is_missing = |it: &Changed| it.result.as_ref().is_err_and(Error::is_not_found);
    let of_all = results.iter().find(|it| it.result.as_ref().is_err_and(concerns_all));
    let remedy = of_all.filter(|_| n_items != 1).and_then(|it| it.failure()?.remedy());
    problem::of_all(n_failed, n_items, results.iter().any(is_missing)).map_err(|failure| match remedy {
        Some(remedy) => failure.with_remedy(remedy),
        None => failure,
    })
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
