//! Tokens per second while steps are submitted ahead.

use std::collections::VecDeque;
use std::time::Instant;

/// The mean speed of the last steps. Results of steps that were submitted ahead come together, so the time between two
/// of them alone says little.
#[derive(Debug)]
pub(super) struct Speed {
    /// The end of the step before the first of `last`.
    began: Instant,
    /// Tokens and ends of the last steps.
    last: VecDeque<(u64, Instant)>,
    n_steps: usize,
}

impl Speed {
    pub(super) fn new(now: Instant, submit_ahead: usize) -> Self {
        Speed { began: now, last: VecDeque::new(), n_steps: window(submit_ahead) }
    }

    /// Adds a step that ended `now`; returns the speed.
    pub(super) fn add(&mut self, tokens: u64, now: Instant) -> f64 {
        self.last.push_back((tokens, now));
        if self.n_steps < self.last.len()
            && let Some((_, end)) = self.last.pop_front()
        {
            self.began = end;
        }
        let sum: u64 = self.last.iter().map(|(tokens, _)| tokens).sum();
        sum as f64 / now.duration_since(self.began).as_secs_f64().max(1e-9)
    }
}

/// Number of steps of which a mean speed is a steady one.
pub(crate) fn window(submit_ahead: usize) -> usize {
    submit_ahead.saturating_add(1).saturating_mul(2).clamp(4, 256)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn results_that_come_in_pairs_have_a_steady_speed() {
        let start = Instant::now();
        let mut speed = Speed::new(start, 1);
        let at = |i: u64| start + Duration::from_secs(2 * (i / 2 + 1)) + Duration::from_millis(i % 2);
        let speeds: Vec<f64> = (0..12).map(|i| speed.add(100, at(i))).collect();
        assert!(speeds[4..].iter().all(|it| (60.0..160.0).contains(it)), "{speeds:?}");
    }
}
