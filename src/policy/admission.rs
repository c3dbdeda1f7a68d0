//! Limits on the samples that are being sent at the same time: their number, and the bytes of their prompts (PROTOCOL
//! §9.2).

use crate::types::{Chunk, ModelInput};

/// Largest number of samples that are being sent, and not yet accepted, at the same time.
pub(crate) const CONCURRENT: usize = 400;
/// The same limit while the client is throttled, because the server has refused a sample recently.
pub(crate) const CONCURRENT_THROTTLED: usize = 10;
/// Factor by which the bytes of a prompt are multiplied while the client is throttled.
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

/// Number of bytes that a prompt with this estimate takes from the byte budget of the samples being sent.
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
