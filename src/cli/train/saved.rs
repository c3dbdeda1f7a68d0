//! Checkpoints of a run on the server: the last one, their sizes, what they cost, and which of them go.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::SystemTime;

use tinkex::train::CheckpointRecord;
use tinkex::types::{Checkpoint, Timestamp};
use tinkex::{ErrorKind, ServiceClient};

use super::log::Log;
use crate::counted::counted;
use crate::failure::Failure;
use crate::moments::minute;
use crate::run_folder;

/// Sizes in bytes by the paths of checkpoints.
pub(super) type Sizes = BTreeMap<String, u64>;

/// Most training runs that are asked for sizes: each process of a run has one.
const MOST_RUNS: usize = 4;

/// What a run that stopped can be resumed from, as a sentence.
pub(super) fn last(folder: &Path) -> String {
    let Some((state, n_steps)) = run_folder::last_state(folder) else {
        return "no state is saved yet: a resumed run begins anew".into();
    };
    match n_steps {
        Some(n) => format!("the last saved state is that after {}: {state}", counted(n, "step")),
        None => format!("the last saved state is {state}"),
    }
}

/// Deletes the periodic checkpoints of this run before the last `n` ones. Those that are gone already are fine, and public
/// ones, which others may use, stay.
pub(super) fn keep_last(service: &ServiceClient, records: &[CheckpointRecord], n: usize, log: &Log) {
    let rest = service.create_rest_client();
    let surplus = surplus(records, n);
    let runs: BTreeSet<&str> = surplus.iter().filter_map(|record| run_id(record)).collect();
    let mut public = BTreeSet::new();
    for run in runs {
        match rest.list_checkpoints(run) {
            Ok(list) => public.extend(list.into_iter().filter(|it| it.public).map(|it| it.tinker_path)),
            // A server that lists no checkpoints publishes none either.
            Err(error) if error.is_not_found() || *error.kind() == ErrorKind::Incompatible => {}
            Err(error) => {
                log.say(&format!("warning: no earlier checkpoint is deleted: {error}"));
                return;
            }
        }
    }
    for record in surplus {
        if paths(record).iter().flatten().any(|path| public.contains(path)) {
            log.say(&format!("note: the checkpoint {} is public and stays", record.name));
            continue;
        }
        let state = record.state_path.as_ref().map(|path| rest.delete_checkpoint_from_tinker_path(path));
        let sampler = record.sampler_path.as_ref().map(|path| rest.delete_checkpoint_from_tinker_path(path));
        let mut is_deleted = false;
        for result in [state, sampler].into_iter().flatten() {
            match result {
                Ok(()) => is_deleted = true,
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    log.say(&format!("warning: cannot delete the checkpoint {}: {error}", record.name))
                }
            }
        }
        if is_deleted {
            log.write(&format!("deleted the checkpoint {}", record.name));
        }
    }
}

/// What is there of the final checkpoint of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Weights {
    pub(super) state: Option<String>,
    pub(super) sampler: Option<String>,
    /// The paths of those that were saved and are no longer there.
    pub(super) gone: Vec<String>,
    /// How long they are kept, as words.
    pub(super) kept: String,
    /// When they are deleted, if the server was asked and tells it.
    pub(super) expires_at: Option<Timestamp>,
}

impl Weights {
    /// Weights that were saved a moment ago, with this lifetime.
    pub(super) fn new(record: &CheckpointRecord, lifetime: &str) -> Self {
        let kept =
            if lifetime == "never" { "kept until deleted".into() } else { format!("kept for {lifetime}") };
        let [state, sampler] = paths(record);
        Weights { state, sampler, kept, ..Default::default() }
    }

    /// Weights that were saved by another process, of which the server has these.
    pub(super) fn found(record: &CheckpointRecord, there: &[Checkpoint]) -> Self {
        let of = |path: &String| there.iter().find(|it| it.tinker_path == *path);
        let saved = paths(record);
        let [state, sampler] = saved.clone().map(|path| path.filter(|path| of(path).is_some()));
        let gone = saved.into_iter().flatten().filter(|path| of(path).is_none()).collect();
        let first = sampler.as_ref().or(state.as_ref()).and_then(of);
        let expires_at = first.and_then(|it| it.expires_at.clone());
        let kept = match expires_at.as_ref().and_then(Timestamp::to_system_time) {
            Some(at) => format!("kept until {}", minute(at)),
            None => "kept until deleted".into(),
        };
        Weights { state, sampler, gone, kept, expires_at }
    }
}

fn paths(record: &CheckpointRecord) -> [Option<String>; 2] {
    [
        record.state_path.as_ref().map(ToString::to_string),
        record.sampler_path.as_ref().map(ToString::to_string),
    ]
}

/// The checkpoints of a run that the server still has. `None` if it is one that does not list them.
pub(crate) fn there(
    service: &ServiceClient,
    records: &[CheckpointRecord],
) -> Result<Option<Vec<Checkpoint>>, Failure> {
    let rest = service.create_rest_client();
    let mut all = Vec::new();
    for id in run_ids(records) {
        match rest.list_checkpoints(id) {
            Ok(checkpoints) => all.extend(checkpoints),
            Err(error) if error.is_not_found() => {}
            Err(error) if *error.kind() == ErrorKind::Incompatible => return Ok(None),
            // The newest run is what matters; earlier ones may be those of another key.
            Err(error) if all.is_empty() => return Err(error.into()),
            Err(_) => break,
        }
    }
    Ok(Some(current(all).collect()))
}

/// The checkpoints that have not expired.
fn current(all: Vec<Checkpoint>) -> impl Iterator<Item = Checkpoint> {
    let now = SystemTime::now();
    let end = |it: &Checkpoint| it.expires_at.as_ref().and_then(Timestamp::to_system_time);
    all.into_iter().filter(move |it| end(it).is_none_or(|end| now <= end))
}

/// The checkpoints that the server lists for the newest training runs of a run.
#[derive(Debug, Default)]
pub(super) struct Listed {
    paths: BTreeSet<String>,
    runs: BTreeSet<String>,
}

impl Listed {
    /// Asks the server. Training runs that it does not list stay unknown.
    pub(super) fn of(service: &ServiceClient, records: &[CheckpointRecord]) -> Self {
        let rest = service.create_rest_client();
        let mut listed = Listed::default();
        for id in run_ids(records) {
            let list = match rest.list_checkpoints(id) {
                Err(error) if error.is_not_found() => Vec::new(),
                Err(_) => continue,
                Ok(list) => list,
            };
            listed.runs.insert(id.to_owned());
            listed.paths.extend(current(list).map(|it| it.tinker_path));
        }
        listed
    }

    /// True if the path is not among the checkpoints of its run; `None` if these are not known.
    pub(super) fn lacks(&self, path: &str) -> Option<bool> {
        let id = path.strip_prefix("tinker://")?.split('/').next()?;
        self.runs.contains(id).then(|| !self.paths.contains(path))
    }
}

/// The ids of the training runs that have saved the newest checkpoints.
fn run_ids(records: &[CheckpointRecord]) -> Vec<&str> {
    let mut ids: Vec<&str> = records.iter().rev().filter_map(run_id).collect();
    ids.dedup();
    ids.truncate(MOST_RUNS);
    ids
}

fn run_id(record: &CheckpointRecord) -> Option<&str> {
    let of_state = record.state_path.as_ref().map(|path| path.run_id());
    of_state.or_else(|| Some(record.sampler_path.as_ref()?.run_id()))
}

/// The sizes of the checkpoints that the server still has. Empty if it does not tell.
pub(super) fn sizes(service: &ServiceClient, records: &[CheckpointRecord]) -> Sizes {
    let there = there(service, records).ok().flatten();
    sizes_of(&there.unwrap_or_default())
}

pub(super) fn sizes_of(there: &[Checkpoint]) -> Sizes {
    there.iter().filter_map(|it| Some((it.tinker_path.clone(), it.size_bytes?))).collect()
}

/// What the storage of a checkpoint costs in a month, if its size and the price are known.
pub(super) fn monthly_usd(service: &ServiceClient, record: &CheckpointRecord, sizes: &Sizes) -> Option<f64> {
    let bytes: u64 = paths(record).iter().flatten().filter_map(|path| sizes.get(path)).sum();
    if bytes == 0 {
        return None;
    }
    let usage = service.create_admin_client().get_current_checkpoint_storage_usage(None).ok()?;
    Some(bytes as f64 / 1e9 * usage.effective_rate_usd_per_gigabyte_month?)
}

/// The periodic checkpoints that are too many. Only the newest of them can still exist, so that each save asks for few
/// deletions.
fn surplus(records: &[CheckpointRecord], n: usize) -> Vec<&CheckpointRecord> {
    const AT_ONCE: usize = 2;
    let periodic: Vec<&CheckpointRecord> =
        records.iter().filter(|record| !record.is_final && record.state_path.is_some()).collect();
    let end = periodic.len().saturating_sub(n.max(1));
    periodic[end.saturating_sub(AT_ONCE)..end].to_vec()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_and_the_final_checkpoint_stay() {
        let record = |name: &str, is_final| {
            let mut record = CheckpointRecord::default();
            record.name = name.into();
            record.is_final = is_final;
            record.state_path = Some("tinker://run/weights/x".parse().unwrap());
            record
        };
        let names = |records: &[CheckpointRecord], n| -> Vec<String> {
            surplus(records, n).iter().map(|record| record.name.clone()).collect()
        };
        let records = [record("1", false), record("2", false), record("final", true), record("3", false)];
        assert_eq!(names(&records, 1), ["1", "2"]);
        assert_eq!(names(&records, 2), ["1"]);
        assert_eq!(names(&records, 0), ["1", "2"]);
        assert!(names(&records, 3).is_empty());
    }
}
