//! What a sample has to acquire before it is sent (PROTOCOL §9.2).

use std::time::Duration;

use crate::types::{Chunk, ModelInput};

/// Samples that are being sent at the same time.
pub(crate) const CONCURRENT: usize = 400;
/// As many as that while the server recently asked to slow down.
pub(crate) const CONCURRENT_THROTTLED: usize = 10;
/// How often the number of threads is reconsidered that send samples, or fetch their results.
pub(crate) const ROUND: Duration = Duration::from_millis(100);
/// While throttled, bytes count this many times.
const THROTTLED_COST: usize = 20;

/// The estimated bytes of a prompt in a request.
pub(crate) fn estimate(prompt: &ModelInput) -> usize {
    let sizes = prompt.chunks.iter().map(|it| match it {
        Chunk::EncodedText { tokens } => 10 * tokens.len(),
        Chunk::Image { data, .. } => data.len(),
        Chunk::ImageAssetPointer { location, .. } => location.len(),
        Chunk::Dmel { dmel } => dmel.len(),
    });
    sizes.sum()
}

/// What a prompt of an estimated size takes from the byte budget.
pub(crate) fn cost(estimate: usize, throttled: bool) -> usize {
    estimate.saturating_mul(if throttled { THROTTLED_COST } else { 1 })
}

/// How many threads to add to so many, after a round in which they took so many jobs from their queue. Where each of them took
/// two, the server answers so fast that more threads would only take turns; otherwise they double.
pub(crate) fn more_hands(hands: usize, taken: u64, queued: usize) -> usize {
    match u64::try_from(hands) {
        Ok(hands) if 2 * hands <= taken => 0,
        _ => hands.min(queued),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_added_while_jobs_queue_up_behind_a_slow_server() {
        let table = [((48, 96, 900), 0), ((48, 95, 900), 48), ((48, 0, 7), 7), ((192, 10, 900), 192)];
        for ((hands, taken, queued), more) in table {
            assert_eq!(more_hands(hands, taken, queued), more, "{hands} {taken} {queued}");
        }
    }

    #[test]
    fn throttled_prompts_cost_twenty_times_their_estimate() {
        let prompt = ModelInput::from_ints([1, 2, 3]);
        assert_eq!(estimate(&prompt), 30);
        assert_eq!((cost(30, false), cost(30, true), cost(usize::MAX, true)), (30, 600, usize::MAX));
    }
}
