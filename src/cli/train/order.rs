//! Which examples each step trains.

use tinkex::data::Batches;

use super::settings::{Chosen, Settings};
use crate::failure::Failure;

/// The indices of the items of each batch from a step on: a function of the seed and the step alone. `n` is the number
/// of all items.
pub(super) fn order(
    settings: &Settings,
    chosen: &Chosen,
    n: usize,
    step: u64,
) -> Result<Box<dyn Iterator<Item = Vec<usize>>>, Failure> {
    let size = chosen.batch_size;
    if settings.shuffle {
        let batches = Batches::new(n, size, settings.seed)?.keep_last(true);
        return Ok(Box::new(batches.from_step(step).map(|batch| batch.indices)));
    }
    let per_epoch = chosen.batches_per_epoch.max(1);
    Ok(Box::new((step..).map(move |step| {
        let start = usize::try_from(step % per_epoch).unwrap_or(0) * size;
        (start..n.min(start + size)).collect()
    })))
}
