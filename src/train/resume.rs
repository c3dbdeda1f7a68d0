//! Decisions about checkpoints: when one is due, what it is called, and where a run continues. Pure functions.

use super::checkpoint_log::CheckpointRecord;
use crate::error::{Error, Result};

/// Kinds of checkpoints that a run saves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// State and weights to sample from, kept for days.
    Periodic,
    /// State only, kept for hours, and deleted when the next checkpoint is recorded.
    Rolling,
    /// State and weights at the end of the run, kept until they are deleted.
    Final,
}

/// The kind of checkpoint that is due when `n_done` steps of `n_steps` are done. An interval of 0 never comes.
pub(super) fn due(n_done: u64, save_every: u64, rolling_every: u64, n_steps: Option<u64>) -> Option<Kind> {
    let has_come = |every: u64| 0 < every && 0 < n_done && n_done.is_multiple_of(every);
    if 0 < n_done && n_steps == Some(n_done) {
        Some(Kind::Final)
    } else if has_come(save_every) {
        Some(Kind::Periodic)
    } else if has_come(rolling_every) {
        Some(Kind::Rolling)
    } else {
        None
    }
}

/// The record of a checkpoint after `n_done` steps, without its paths. `batch` and `epoch` are the position from which a
/// run of the cookbook would continue, so that it, too, repeats and leaves out nothing.
pub(super) fn record(kind: Kind, n_done: u64, batches_per_epoch: Option<u64>) -> CheckpointRecord {
    let per_epoch = batches_per_epoch.filter(|n| 0 < *n);
    let is_final = kind == Kind::Final;
    CheckpointRecord {
        name: if is_final { final_name(1) } else { format!("{n_done:06}") },
        batch: Some(per_epoch.map_or(n_done, |n| n_done % n)),
        epoch: per_epoch.map(|n| n_done / n),
        is_final,
        next_batch: Some(n_done),
        is_rolling: kind == Kind::Rolling,
        ..Default::default()
    }
}

/// The name of the n-th final checkpoint of a training client, from 1.
pub(super) fn final_name(n: u32) -> String {
    if n <= 1 { "final".into() } else { format!("final_{n}") }
}

/// The first step to do after resuming from a record. A record of the cookbook has no `next_batch`; the run then
/// continues where the cookbook would, which repeats a batch or two if its supervised loop wrote the record: there,
/// `batch` is a batch that the state contains.
pub(super) fn next_step(record: &CheckpointRecord, batches_per_epoch: Option<u64>) -> Result<u64> {
    if let Some(next) = record.next_batch {
        return Ok(next);
    }
    let Some(batch) = record.batch else {
        let problem = format!(
            "the checkpoint {:?} has neither `next_batch` nor `batch`: its step is unknown",
            record.name
        );
        return Err(Error::invalid("checkpoints.jsonl", problem));
    };
    match (record.epoch, batches_per_epoch) {
        (None | Some(0), _) => Ok(batch),
        (Some(epoch), Some(n)) => Ok(epoch.saturating_mul(n).saturating_add(batch)),
        (Some(epoch), None) => {
            let problem = format!(
                "must be set: the checkpoint {:?} counts its batch within epoch {epoch}",
                record.name
            );
            Err(Error::invalid("options.batches_per_epoch", problem))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_due_after_every_so_many_steps_and_the_more_lasting_kind_takes_precedence() {
        let kinds = |save_every, rolling_every, n_steps| -> Vec<(u64, Kind)> {
            (0..=12).filter_map(|n| Some((n, due(n, save_every, rolling_every, n_steps)?))).collect()
        };
        use Kind::{Final, Periodic, Rolling};
        assert_eq!(kinds(0, 0, None), []);
        assert_eq!(kinds(6, 0, None), [(6, Periodic), (12, Periodic)]);
        assert_eq!(kinds(6, 4, None), [(4, Rolling), (6, Periodic), (8, Rolling), (12, Periodic)]);
        // The last step is saved once, and further ones as before.
        assert_eq!(kinds(6, 0, Some(12)), [(6, Periodic), (12, Final)]);
        assert_eq!(kinds(0, 4, Some(8)), [(4, Rolling), (8, Final), (12, Rolling)]);
        assert_eq!(kinds(0, 0, Some(0)), []);
    }

    #[test]
    fn a_record_continues_after_its_last_step_also_in_the_cookbook() {
        for (kind, n_done, per_epoch, name, batch, epoch) in [
            (Kind::Periodic, 20, None, "000020", 20, None),
            (Kind::Rolling, 20, Some(20), "000020", 0, Some(1)),
            (Kind::Periodic, 39, Some(20), "000039", 19, Some(1)),
            (Kind::Final, 40, Some(20), "final", 0, Some(2)),
            (Kind::Final, 40, None, "final", 40, None),
            (Kind::Final, 0, None, "final", 0, None),
        ] {
            let record = record(kind, n_done, per_epoch);
            assert_eq!((record.name.as_str(), record.batch, record.epoch), (name, Some(batch), epoch));
            assert_eq!(record.is_rolling, kind == Kind::Rolling);
            assert_eq!(next_step(&record, per_epoch).unwrap(), n_done);
        }
    }

    #[test]
    fn each_final_checkpoint_of_a_client_has_its_own_name() {
        assert_eq!([1, 2, 3].map(final_name), ["final", "final_2", "final_3"]);
    }

    #[test]
    fn a_record_of_the_cookbook_continues_where_the_cookbook_would() {
        let of = |batch, epoch| CheckpointRecord { name: "x".into(), batch, epoch, ..Default::default() };
        assert_eq!(next_step(&of(Some(7), None), None).unwrap(), 7);
        assert_eq!(next_step(&of(Some(7), Some(0)), None).unwrap(), 7);
        assert_eq!(next_step(&of(Some(7), Some(2)), Some(10)).unwrap(), 27);
        let error = next_step(&of(Some(7), Some(2)), None).unwrap_err();
        assert_eq!(error.violation().unwrap().path, "options.batches_per_epoch");
        assert!(next_step(&of(None, None), None).is_err());
    }
}
