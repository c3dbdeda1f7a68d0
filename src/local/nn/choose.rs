//! Choice of the next token from its logits.

use super::rng::Rng;
use crate::local::kernel::{exp_sum, max, simd};

/// Number of the likeliest tokens among which the first search for those that reach `top_p` looks.
const FEW: usize = 64;

/// Sampling settings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chooser {
    /// Divisor of the logits; zero always takes the likeliest token.
    pub(super) temperature: f32,
    /// Draw only among this many of the likeliest tokens; zero or less for all.
    pub(super) top_k: i64,
    /// Draw only among the likeliest tokens that together reach this probability: as few as possible, and at least one.
    pub(super) top_p: f32,
}

impl Chooser {
    pub(super) fn check(&self) -> Result<(), String> {
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return Err(format!("temperature {} is not a finite number of at least 0", self.temperature));
        }
        if !(0.0..=1.0).contains(&self.top_p) {
            return Err(format!("top_p {} is not in 0..=1", self.top_p));
        }
        Ok(())
    }

    /// Picks a token and returns it with its log-probability under the model itself: at temperature 1, without `top_k`
    /// and `top_p`. `scratch` must be as long as `logits`.
    pub(super) fn choose(
        &self,
        logits: &[f32],
        rng: &mut Rng,
        scratch: &mut [f32],
    ) -> Result<(u32, f32), String> {
        let (top, sum) = exponentials(logits, 1.0, scratch);
        let log_sum = top + sum.ln();
        if !log_sum.is_finite() {
            return Err("the model's logits are not finite".to_owned());
        }
        // Draw a random number even if it is not used, so that the later draws of a sample do not depend on the
        // settings.
        let draw = rng.unit();
        let token = if self.temperature == 0.0 {
            argmax(logits)
        } else {
            if self.temperature != 1.0 {
                exponentials(logits, self.temperature, scratch);
            }
            if self.top_k <= 0 && self.top_p >= 1.0 {
                pick(scratch, draw)
            } else {
                self.draw_from_top(logits, scratch, draw)
            }
        };
        Ok((token as u32, logits[token] - log_sum))
    }

    /// Draws from the likeliest tokens. `weights` has the weight of every token.
    fn draw_from_top(&self, logits: &[f32], weights: &[f32], draw: f64) -> usize {
        let all = logits.len();
        let limit = usize::try_from(self.top_k).ok().filter(|it| 0 < *it).unwrap_or(all).min(all);
        // As a rule, few of all tokens reach the probability: more are taken only if these do not, since sorting all
        // takes long.
        let mut count = if self.top_p < 1.0 && limit == all { FEW.min(all) } else { limit };
        loop {
            let best = top(logits, count);
            let mut kept: Vec<f32> = best.iter().map(|(i, _)| weights[*i]).collect();
            if self.top_p < 1.0 {
                let total = if limit == all { total(weights) } else { total(&kept) };
                let enough = total * f64::from(self.top_p);
                let mut reached = 0.0;
                let last = kept.iter().position(|weight| {
                    reached += f64::from(*weight);
                    reached >= enough
                });
                if last.is_none() && count < limit {
                    count = limit.min(16 * count);
                    continue;
                }
                kept.truncate(last.map_or(kept.len(), |last| last + 1));
            }
            return best[pick(&kept, draw)].0;
        }
    }
}

/// Writes the exponentials of the logits, less the largest and divided by a temperature, to `weights`. Returns the
/// largest logit and the sum of the exponentials.
fn exponentials(logits: &[f32], temperature: f32, weights: &mut [f32]) -> (f32, f32) {
    simd(
        #[inline(always)]
        || {
            let top = max(logits);
            // Subtract the largest logit first: otherwise dividing a logit by a small temperature could give infinity.
            for (slot, &logit) in weights.iter_mut().zip(logits) {
                *slot = (logit - top) / temperature;
            }
            (top, exp_sum(weights, 0.0))
        },
    )
}

/// Number of weights in a block of [`total`] and [`pick`].
const BLOCK: usize = 64;

/// The sum of a block of weights, in partial sums, which are quicker than one.
#[inline(always)]
fn block_sum(block: &[f32]) -> f64 {
    let mut lanes = [0.0f64; 8];
    for part in block.chunks(8) {
        for (lane, weight) in lanes.iter_mut().zip(part) {
            *lane += f64::from(*weight);
        }
    }
    lanes.iter().sum()
}

/// The sum of all weights.
fn total(weights: &[f32]) -> f64 {
    simd(
        #[inline(always)]
        || weights.chunks(BLOCK).map(block_sum).sum(),
    )
}

/// The index at which the running sum of the weights exceeds the fraction `draw` (in [0, 1)) of their total.
fn pick(weights: &[f32], draw: f64) -> usize {
    let mut left = draw * total(weights);
    let mut chosen = 0;
    let mut found = false;
    for (b, block) in weights.chunks(BLOCK).enumerate() {
        let sum = block_sum(block);
        if 0.0 < sum {
            chosen = b * BLOCK;
        }
        found = left < sum;
        if found {
            break;
        }
        left -= sum;
    }
    if !found {
        // The total was rounded up: take the last of all weights.
        left = f64::INFINITY;
    }
    let mut last = chosen;
    for (i, weight) in weights.iter().enumerate().skip(chosen).take(BLOCK) {
        if *weight > 0.0 {
            last = i;
        }
        left -= f64::from(*weight);
        if left < 0.0 {
            break;
        }
    }
    last
}

/// The index of the largest logit; of several equal ones, the first.
pub(super) fn argmax(logits: &[f32]) -> usize {
    let better = |best: usize, (i, &v): (usize, &f32)| if v > logits[best] { i } else { best };
    logits.iter().enumerate().fold(0, better)
}

/// The `count` largest values with their indices: the largest first, and equal values in the order of their indices.
pub(super) fn top(values: &[f32], count: usize) -> Vec<(usize, f32)> {
    let mut all: Vec<(usize, f32)> = values.iter().copied().enumerate().collect();
    let order = |a: &(usize, f32), b: &(usize, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if count < all.len() {
        if count == 0 {
            return Vec::new();
        }
        all.select_nth_unstable_by(count - 1, order);
        all.truncate(count);
    }
    all.sort_unstable_by(order);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [0.0, 2.0, 1.0, 2.0, -5.0];

    fn seen(chooser: Chooser) -> Vec<u32> {
        let (mut rng, mut scratch) = (Rng::stream(1, 1), [0.0; 5]);
        let draws = (0..2000).map(|_| chooser.choose(&LOGITS, &mut rng, &mut scratch));
        let mut tokens: Vec<u32> = draws.flatten().map(|(token, _)| token).collect();
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    }

    #[test]
    fn temperature_zero_takes_the_first_of_the_likeliest() {
        assert_eq!(seen(Chooser { temperature: 0.0, top_k: -1, top_p: 1.0 }), [1]);
    }

    #[test]
    fn top_k_and_top_p_exclude_the_unlikely_tokens() {
        assert_eq!(seen(Chooser { temperature: 1.0, top_k: 2, top_p: 1.0 }), [1, 3]);
        assert_eq!(seen(Chooser { temperature: 1.0, top_k: -1, top_p: 0.7 }), [1, 3]);
        assert_eq!(seen(Chooser { temperature: 1.0, top_k: -1, top_p: 0.1 }), [1]);
        assert_eq!(seen(Chooser { temperature: 5.0, top_k: 0, top_p: 1.0 }), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn the_smallest_settings_take_the_likeliest_token() {
        for temperature in [f32::from_bits(1), 1e-39, f32::MIN_POSITIVE, 1e-30, 1e-3] {
            assert_eq!(seen(Chooser { temperature, top_k: -1, top_p: 1.0 }), [1, 3], "{temperature}");
            assert_eq!(seen(Chooser { temperature, top_k: 3, top_p: 0.9 }), [1, 3], "{temperature}");
        }
        for top_p in [0.0, f32::from_bits(1), 1e-30] {
            assert_eq!(seen(Chooser { temperature: 1.0, top_k: -1, top_p }), [1], "{top_p}");
        }
        // The largest temperature makes all tokens equally likely.
        assert_eq!(seen(Chooser { temperature: f32::MAX, top_k: -1, top_p: 1.0 }), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn tokens_are_drawn_with_the_frequency_of_their_probability() {
        let chooser = Chooser { temperature: 2.0, top_k: -1, top_p: 1.0 };
        let (mut rng, mut scratch) = (Rng::stream(1, 1), [0.0; 5]);
        let mut counts = [0.0; 5];
        for _ in 0..20_000 {
            if let Ok((token, _)) = chooser.choose(&LOGITS, &mut rng, &mut scratch) {
                counts[token as usize] += 1.0 / 20_000.0;
            }
        }
        let total: f64 = LOGITS.iter().map(|&l| (f64::from(l) / 2.0).exp()).sum();
        for (count, logit) in counts.iter().zip(LOGITS) {
            assert!((count - (f64::from(logit) / 2.0).exp() / total).abs() < 0.02, "{counts:?}");
        }
    }

    #[test]
    fn a_draw_finds_its_token_among_those_of_a_large_vocabulary() {
        // The same weights in plain order, added up one by one.
        let weights: Vec<f32> =
            (0..1000).map(|i| if i % 3 == 0 { 0.0 } else { 1.0 + (i % 7) as f32 }).collect();
        let all: f64 = weights.iter().map(|it| f64::from(*it)).sum();
        for draw in [0.0, 0.1, 0.499, 0.5, 0.7531, 0.999_999_9] {
            let mut reached = 0.0;
            let expected = weights.iter().position(|it| {
                reached += f64::from(*it);
                draw * all < reached
            });
            assert_eq!(Some(pick(&weights, draw)), expected, "{draw}");
        }
        // A total that was rounded up leaves the last token that may be drawn.
        assert_eq!(pick(&[1.0, 2.0, 0.0], 1.5), 1);
    }

    #[test]
    fn top_p_may_need_more_tokens_than_a_first_search_takes() {
        let logits: Vec<f32> = (0..1000).map(|i| (i % 500) as f32 * 1e-3).collect();
        let chooser = Chooser { temperature: 1.0, top_k: -1, top_p: 0.5 };
        let (mut rng, mut scratch) = (Rng::stream(1, 1), vec![0.0; 1000]);
        let draws = (0..5000).map(|_| chooser.choose(&logits, &mut rng, &mut scratch));
        let mut tokens: Vec<u32> = draws.flatten().map(|(token, _)| token).collect();
        tokens.sort_unstable();
        tokens.dedup();
        // The logits from 0.281 on have half of the probability.
        let least = tokens.iter().map(|it| it % 500).min();
        assert!((250..300).contains(&least.unwrap_or(0)), "{least:?}");
        assert!(300 < tokens.len());
    }

    #[test]
    fn the_log_probability_does_not_depend_on_the_sampling_settings() {
        let total: f64 = LOGITS.iter().map(|&l| f64::from(l).exp()).sum();
        for temperature in [0.0, 0.5, 3.0] {
            let chooser = Chooser { temperature, top_k: 1, top_p: 0.5 };
            let choice = chooser.choose(&LOGITS, &mut Rng::stream(1, 1), &mut [0.0; 5]);
            let (token, lp) = choice.unwrap_or_default();
            assert_eq!(token, 1);
            assert!((f64::from(lp) - (2.0 - total.ln())).abs() < 1e-5);
        }
    }

    #[test]
    fn logits_that_are_not_finite_are_an_error() {
        let chooser = Chooser { temperature: 1.0, top_k: -1, top_p: 1.0 };
        assert!(chooser.choose(&[0.0, f32::NAN], &mut Rng::stream(1, 1), &mut [0.0; 2]).is_err());
    }
}
