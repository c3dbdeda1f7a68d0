//! Random numbers of the network. The numbers that follow from a seed must be the same in every version of this crate,
//! because the base weights, new adapters and samples are made from them: the same seed must always give the same ones.

/// SplitMix64 (Steele, Lea, Flood 2014): a counter whose values go through a mixing function. It is written out here,
/// because the generator of a crate may change with the crate's version.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

/// The odd constant that is added to the counter at each step: 2^64 divided by the golden ratio.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Rng {
    /// The generator of the stream `stream` of a seed. The streams of one seed are independent of each other.
    pub(crate) fn stream(seed: u64, stream: u64) -> Self {
        Rng(mix(seed.wrapping_add(STEP)) ^ mix(stream.wrapping_mul(STEP).wrapping_add(0x5851_F42D_4C95_7F2D)))
    }

    /// The generator of the stream of a seed that a name selects: the number of the stream is the FNV-1a hash of the
    /// name.
    pub(crate) fn named(seed: u64, name: &str) -> Self {
        let hash = name.bytes().fold(0xCBF2_9CE4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
        });
        Self::stream(seed, hash)
    }

    /// The next 64 random bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// A number in [0, 1) with 53 random bits.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Fills a slice with numbers that are uniform in (−limit, limit). A normal distribution would need a logarithm or
    /// a cosine, whose last bits differ between platforms.
    pub(crate) fn fill_uniform(&mut self, out: &mut [f32], limit: f64) {
        for value in out {
            *value = ((2.0 * self.unit() - 1.0) * limit) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_of_a_seed_never_changes() {
        let mut rng = Rng::stream(7, 0);
        let first = [rng.next(), rng.next()];
        assert_eq!(first, [14_121_543_688_806_888_659, 1_516_240_327_389_043_379]);
        assert_ne!(Rng::named(7, "a").next(), Rng::named(7, "b").next());
    }

    #[test]
    fn uniform_numbers_fill_their_range_evenly() {
        let mut values = vec![0.0; 20_000];
        Rng::stream(1, 2).fill_uniform(&mut values, 2.0);
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let square = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
        assert!(values.iter().all(|v| v.abs() < 2.0));
        assert!(mean.abs() < 0.05 && (square - 4.0 / 3.0).abs() < 0.05, "{mean} {square}");
    }
}
