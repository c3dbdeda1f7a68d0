//! Checkpoints of a run on the server: the last one, their sizes, what they cost, and which of them go.

use std::collections::BTreeMap;
use std::path::Path;

use tinkex::ServiceClient;
use tinkex::train::CheckpointRecord;

use super::log::Log;
use crate::counted::counted;
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

/// Deletes the periodic checkpoints of this run before the last `n` ones. Those that are gone already are fine.
pub(super) fn keep_last(service: &ServiceClient, records: &[CheckpointRecord], n: usize, log: &Log) {
    let rest = service.create_rest_client();
    for record in surplus(records, n) {
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

/// The sizes of the checkpoints that the server still has. Empty if it does not tell.
pub(super) fn sizes(service: &ServiceClient, records: &[CheckpointRecord]) -> Sizes {
    let mut run_ids: Vec<&str> =
        records.iter().rev().filter_map(|record| Some(record.state_path.as_ref()?.run_id())).collect();
    run_ids.dedup();
    run_ids.truncate(MOST_RUNS);
    let rest = service.create_rest_client();
    let lists = run_ids.into_iter().map_while(|id| rest.list_checkpoints(id).ok());
    lists.flatten().filter_map(|it| Some((it.tinker_path, it.size_bytes?))).collect()
}

/// What the storage of a checkpoint costs in a month, if its size and the price are known.
pub(super) fn monthly_usd(service: &ServiceClient, record: &CheckpointRecord, sizes: &Sizes) -> Option<f64> {
    let paths = [
        record.state_path.as_ref().map(ToString::to_string),
        record.sampler_path.as_ref().map(ToString::to_string),
    ];
    let bytes: u64 = paths.iter().flatten().filter_map(|path| sizes.get(path)).sum();
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
