//! Admission of samples: the limits that a sample passes before it is sent (PROTOCOL §9.2).

use std::time::Duration;

use crate::types::{Chunk, ModelInput};

/// Largest number of samples that are sent concurrently.
pub(crate) const CONCURRENT: usize = 400;
/// The same limit while the client is throttled after a 429.
pub(crate) const CONCURRENT_THROTTLED: usize = 10;
/// Interval at which the number of threads that send samples or fetch results is adjusted.
pub(crate) const ROUND: Duration = Duration::from_millis(100);
/// Factor on the bytes of a prompt while the client is throttled.
const THROTTLED_COST: usize = 20;

/// Estimated bytes of a prompt in a request.
pub(crate) fn estimate(prompt: &ModelInput) -> usize {
    let sizes = prompt.chunks.iter().map(|chunk| match chunk {
        Chunk::EncodedText { tokens } => 10 * tokens.len(),
        Chunk::Image { data, .. } => data.len(),
        Chunk::ImageAssetPointer { location, .. } => location.len(),
        Chunk::Dmel { dmel } => dmel.len(),
    });
    sizes.sum()
}

/// Bytes of the budget that a prompt with this estimate acquires.
pub(crate) fn cost(estimate: usize, throttled: bool) -> usize {
    estimate.saturating_mul(if throttled { THROTTLED_COST } else { 1 })
}

/// Number of threads to add to `n_threads` after a round in which they took `n_taken` jobs and left `n_queued`. The
/// number doubles, at most by one thread per queued job. If each thread took two jobs, the server answers fast enough
/// that more threads would not help.
pub(crate) fn threads_to_add(n_threads: usize, n_taken: u64, n_queued: usize) -> usize {
    let is_fast = u64::try_from(n_threads).is_ok_and(|n| 2 * n <= n_taken);
    if is_fast { 0 } else { n_threads.min(n_queued) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_added_while_jobs_queue_up_behind_a_slow_server() {
        let table = [((48, 96, 900), 0), ((48, 95, 900), 48), ((48, 0, 7), 7), ((192, 10, 900), 192)];
        for ((threads, taken, queued), expected) in table {
            assert_eq!(threads_to_add(threads, taken, queued), expected, "{threads} {taken} {queued}");
        }
    }

    #[test]
    fn throttled_prompts_cost_twenty_times_their_estimate() {
        let prompt = ModelInput::from_ints([1, 2, 3]);
        assert_eq!(estimate(&prompt), 30);
        assert_eq!((cost(30, false), cost(30, true), cost(usize::MAX, true)), (30, 600, usize::MAX));
    }
}
