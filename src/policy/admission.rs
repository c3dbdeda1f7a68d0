//! What a sample has to acquire before it is sent (PROTOCOL §9.2).

use crate::types::{Chunk, ModelInput};

/// Samples that are being sent at the same time.
pub(crate) const CONCURRENT: usize = 400;
/// As many as that while the server recently asked to slow down.
pub(crate) const CONCURRENT_THROTTLED: usize = 10;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throttled_prompts_cost_twenty_times_their_estimate() {
        let prompt = ModelInput::from_ints([1, 2, 3]);
        assert_eq!(estimate(&prompt), 30);
        assert_eq!((cost(30, false), cost(30, true), cost(usize::MAX, true)), (30, 600, usize::MAX));
    }
}
