//! The best evaluation of a run, and the checkpoint to take for it.

use std::cmp::Ordering;

use tinkex::train::CheckpointRecord;

use super::saved::Sizes;

/// An evaluation: its loss, and the number of steps that were done before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Evaluation {
    pub(super) loss: f64,
    pub(super) n_done: u64,
}

/// The better of two evaluations; of equal ones the earlier.
pub(super) fn better(best: Option<Evaluation>, next: Evaluation) -> Option<Evaluation> {
    match best {
        Some(best) if best.loss <= next.loss || next.loss.is_nan() => Some(best),
        _ => Some(next),
    }
}

/// A checkpoint to take instead of the final one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pick<'a> {
    pub(super) record: &'a CheckpointRecord,
    /// The evaluation of these very weights. `None` if they were not evaluated: they are the nearest to the best evaluation.
    pub(super) loss: Option<f64>,
}

/// The checkpoint with the best evaluation. If that is the final one, and was not the best of all evaluations, a checkpoint
/// that is nearer to the best one and was not evaluated may be better. `sizes` has the paths of those that the server still
/// has, or nothing if it does not tell.
pub(super) fn pick<'a>(
    records: &'a [CheckpointRecord],
    evaluations: &[Evaluation],
    sizes: &Sizes,
) -> Option<Pick<'a>> {
    let best = evaluations.iter().copied().fold(None, better)?;
    let at = |n_done: u64| evaluations.iter().filter(|it| it.n_done == n_done).copied().fold(None, better);
    let is_there = |record: &&CheckpointRecord| {
        let path = path(record);
        path.is_some_and(|path| sizes.is_empty() || sizes.contains_key(&path))
    };
    let there = || records.iter().filter(is_there).filter_map(|it| Some((it.next_batch?, it)));
    let evaluated = there().filter_map(|(n_done, record)| Some((at(n_done)?, record)));
    let measured = evaluated.min_by(|(a, _), (b, _)| compare(a.loss, b.loss));
    let measured = measured.map(|(it, record)| Pick { record, loss: Some(it.loss) });
    let last = there().map(|(n_done, _)| n_done).max();
    if measured.is_some_and(|it| it.record.next_batch != last) {
        return measured;
    }
    let (_, near) =
        there().min_by_key(|(n_done, _)| (n_done.abs_diff(best.n_done), best.n_done < *n_done))?;
    let is_evaluated = near.next_batch.and_then(at).is_some();
    if is_evaluated { measured } else { Some(Pick { record: near, loss: None }) }
}

/// The order of losses, in which one that is no number is the largest.
fn compare(a: f64, b: f64) -> Ordering {
    a.is_nan().cmp(&b.is_nan()).then(a.partial_cmp(&b).unwrap_or(Ordering::Equal))
}

/// The path of a checkpoint: to sample from, if it has such weights.
pub(super) fn path(record: &CheckpointRecord) -> Option<String> {
    let sampler = record.sampler_path.as_ref().map(ToString::to_string);
    sampler.or_else(|| record.state_path.as_ref().map(ToString::to_string))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn record(n: u64) -> CheckpointRecord {
        let mut record = CheckpointRecord::default();
        record.next_batch = Some(n);
        record.sampler_path = Some(format!("tinker://r:train:0/sampler_weights/{n}").parse().unwrap());
        record
    }

    fn evaluations(all: &[(u64, f64)]) -> Vec<Evaluation> {
        all.iter().map(|(n_done, loss)| Evaluation { loss: *loss, n_done: *n_done }).collect()
    }

    #[test]
    fn the_checkpoint_with_the_best_evaluation_is_taken_and_not_the_one_nearest_to_the_best_step() {
        let records = [20, 40, 60].map(record);
        let of = |all: &[(u64, f64)]| {
            let pick = pick(&records, &evaluations(all), &Sizes::default()).unwrap();
            (pick.record.next_batch.unwrap(), pick.loss)
        };
        for (all, expected) in [
            // The best evaluation of all is nearest to the worse of two checkpoints.
            (&[(20, 1.5), (30, 1.0), (40, 1.2), (60, 2.0)][..], (40, Some(1.2))),
            (&[(20, 1.0), (40, 1.0), (60, 1.0)], (20, Some(1.0))),
            (&[(20, f64::NAN), (40, 1.3), (60, 1.4)], (40, Some(1.3))),
            (&[(20, 1.5), (40, 1.2), (60, 1.0)], (60, Some(1.0))),
            // Only the final one is evaluated, or it is better than the others that are.
            (&[(10, 1.0), (30, 1.1), (60, 2.0)], (20, None)),
            (&[(30, 1.0), (40, 3.0), (60, 2.0)], (20, None)),
            (&[(42, 1.0), (40, 3.0), (60, 2.0)], (60, Some(2.0))),
        ] {
            assert_eq!(of(all), expected, "{all:?}");
        }
    }

    #[test]
    fn the_checkpoint_is_one_that_the_server_still_has() {
        let records = [20, 40, 60].map(record);
        let all = evaluations(&[(20, 1.0), (60, 2.0)]);
        let last = Sizes::from([("tinker://r:train:0/sampler_weights/60".to_owned(), 1)]);
        assert_eq!(pick(&records, &all, &last).and_then(|it| it.record.next_batch), Some(60));
        assert!(pick(&[], &all, &Sizes::default()).is_none());
        assert!(pick(&records, &[], &Sizes::default()).is_none());
    }

    #[test]
    fn the_earlier_of_equal_evaluations_is_the_best() {
        let of = |loss, n_done| Evaluation { loss, n_done };
        let all = [of(2.0, 0), of(1.0, 10), of(1.0, 20), of(f64::NAN, 30), of(1.5, 40)];
        assert_eq!(all.into_iter().fold(None, better), Some(of(1.0, 10)));
    }
}
