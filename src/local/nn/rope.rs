//! Rotary positions: the angles by which queries and keys are rotated.

use std::sync::OnceLock;

/// Number of positions whose angles are computed together, when the first of them is needed.
const BLOCK: usize = 1024;

/// How the frequencies of a model differ from those of its base.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum RopeScaling {
    /// Not at all.
    None,
    /// All are divided by a factor.
    Linear(f64),
    /// Llama 3: low frequencies are divided by a factor, high ones are kept, those between are in between.
    Llama3 { factor: f64, low: f64, high: f64, original: f64 },
}

/// Cosines and sines of all positions.
#[derive(Debug)]
pub(super) struct Rope {
    frequencies: Vec<f64>,
    /// Blocks of rows `[BLOCK, head_dim]`. The row of a position holds the cosines of all frequencies, then the sines.
    blocks: Vec<OnceLock<Vec<f32>>>,
}

impl Rope {
    pub(super) fn new(theta: f64, scaling: RopeScaling, head_dim: usize, max_len: usize) -> Rope {
        let half = head_dim / 2;
        let frequency = |i: usize| scaling.scale(theta.powf(-(i as f64) / half as f64));
        Rope {
            frequencies: (0..half).map(frequency).collect(),
            blocks: (0..max_len.div_ceil(BLOCK)).map(|_| OnceLock::new()).collect(),
        }
    }

    /// The cosines and the sines of one position; each slice is half as wide as a head.
    pub(super) fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let half = self.frequencies.len();
        let block = self.blocks[position / BLOCK].get_or_init(|| {
            let start = position / BLOCK * BLOCK;
            let mut rows = Vec::with_capacity(BLOCK * 2 * half);
            for position in start..start + BLOCK {
                let angles = || self.frequencies.iter().map(|frequency| position as f64 * frequency);
                rows.extend(angles().map(|angle| angle.cos() as f32));
                rows.extend(angles().map(|angle| angle.sin() as f32));
            }
            rows
        });
        block[position % BLOCK * 2 * half..][..2 * half].split_at(half)
    }
}

impl RopeScaling {
    /// The frequency that stands for one of the base.
    fn scale(self, frequency: f64) -> f64 {
        match self {
            RopeScaling::None => frequency,
            RopeScaling::Linear(factor) => frequency / factor,
            RopeScaling::Llama3 { factor, low, high, original } => {
                let turns = original * frequency / std::f64::consts::TAU;
                let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                frequency * (kept + (1.0 - kept) / factor)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_scaling_keeps_high_frequencies_and_divides_low_ones() {
        let scaling = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 };
        assert_eq!(scaling.scale(1.0), 1.0);
        assert_eq!(scaling.scale(1e-5), 1e-5 / 8.0);
        let between = std::f64::consts::TAU * 2.5 / 8192.0;
        assert!((scaling.scale(between) / between - (0.5 + 0.5 / 8.0)).abs() < 1e-12);
    }

    #[test]
    fn positions_beyond_the_first_block_have_their_own_angles() {
        let rope = Rope::new(100.0, RopeScaling::None, 4, 3000);
        let (cos, sin) = rope.at(2500);
        assert!((f64::from(cos[0]) - 2500f64.cos()).abs() < 1e-6);
        assert!((f64::from(sin[1]) - 250f64.sin()).abs() < 1e-6);
    }
}
