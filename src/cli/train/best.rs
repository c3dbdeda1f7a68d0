//! The best evaluation of a run, and the checkpoint nearest to it.

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

/// The checkpoint that was saved nearest to a number of steps, the earlier one of two. `sizes` has the paths of those that
/// the server still has, or nothing if it does not tell.
pub(super) fn nearest<'a>(
    records: &'a [CheckpointRecord],
    n_done: u64,
    sizes: &Sizes,
) -> Option<&'a CheckpointRecord> {
    let is_there = |record: &&CheckpointRecord| {
        let path = path(record);
        path.is_some_and(|path| sizes.is_empty() || sizes.contains_key(&path))
    };
    let distance = |record: &CheckpointRecord| record.next_batch.map(|n| (n.abs_diff(n_done), n > n_done));
    let near = records.iter().filter(is_there).filter_map(|record| Some((distance(record)?, record)));
    near.min_by_key(|(distance, _)| *distance).map(|(_, record)| record)
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

    #[test]
    fn the_nearest_checkpoint_is_one_that_the_server_still_has() {
        let record = |n: u64| {
            let mut record = CheckpointRecord::default();
            record.next_batch = Some(n);
            record.sampler_path = Some(format!("tinker://r:train:0/sampler_weights/{n}").parse().unwrap());
            record
        };
        let records = [20, 40, 60].map(record);
        let near = |n_done, sizes: &Sizes| nearest(&records, n_done, sizes).and_then(|it| it.next_batch);
        let all = Sizes::default();
        for (n_done, expected) in [(0, 20), (29, 20), (30, 20), (40, 40), (100, 60)] {
            assert_eq!(near(n_done, &all), Some(expected), "{n_done}");
        }
        let last = Sizes::from([("tinker://r:train:0/sampler_weights/60".to_owned(), 1)]);
        assert_eq!(near(20, &last), Some(60));
        assert_eq!(nearest(&[], 20, &all).map(|it| it.name.clone()), None);
    }

    #[test]
    fn the_earlier_of_equal_evaluations_is_the_best() {
        let of = |loss, n_done| Evaluation { loss, n_done };
        let all = [of(2.0, 0), of(1.0, 10), of(1.0, 20), of(f64::NAN, 30), of(1.5, 40)];
        assert_eq!(all.into_iter().fold(None, better), Some(of(1.0, 10)));
    }
}
