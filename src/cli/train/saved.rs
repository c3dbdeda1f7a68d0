//! Checkpoints of a run on the server: what they cost, and which of them go.

use tinkex::ServiceClient;
use tinkex::train::CheckpointRecord;

use super::log::Log;

/// Deletes the periodic checkpoints of this run before the last `n` ones. Those that are gone already are fine.
pub(super) fn keep_last(service: &ServiceClient, records: &[CheckpointRecord], n: usize, log: &Log) {
    let rest = service.create_rest_client();
    for record in surplus(records, n) {
        let state = record.state_path.as_ref().map(|path| rest.delete_checkpoint_from_tinker_path(path));
        let sampler = record.sampler_path.as_ref().map(|path| rest.delete_checkpoint_from_tinker_path(path));
        for result in [state, sampler].into_iter().flatten() {
            match result {
                Ok(()) => log.write(&format!("deleted the checkpoint {}", record.name)),
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    log.say(&format!("warning: cannot delete the checkpoint {}: {error}", record.name))
                }
            }
        }
    }
}

/// What the storage of a checkpoint costs in a month, if the server tells its size and the price.
pub(super) fn monthly_usd(service: &ServiceClient, record: &CheckpointRecord) -> Option<f64> {
    let run_id = record.state_path.as_ref()?.run_id();
    let checkpoints = service.create_rest_client().list_checkpoints(run_id).ok()?;
    let paths = [
        record.state_path.as_ref().map(ToString::to_string),
        record.sampler_path.as_ref().map(ToString::to_string),
    ];
    let is_of_record = |path: &str| paths.iter().flatten().any(|known| known == path);
    let bytes: u64 =
        checkpoints.iter().filter(|it| is_of_record(&it.tinker_path)).filter_map(|it| it.size_bytes).sum();
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
