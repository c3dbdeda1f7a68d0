//! The backoff window that all samples of a session share: after the refusal of a sample (429, or 402 for lack of
//! payment), no sample is submitted until the window ends (PROTOCOL §9.2).

use std::time::{Duration, Instant};

use crate::sync::fault::mutant;

/// Largest estimate, in bytes, of a prompt that counts as small (PROTOCOL §9.2).
const SMALL: usize = 131_072;
/// Submissions stay throttled for this time after the end of the window.
const THROTTLED_AFTER: Duration = Duration::from_secs(10);

/// Length of the window after a refusal of a sample whose prompt has this estimated size in bytes.
pub(crate) fn pause_after(estimate: usize) -> Duration {
    Duration::from_secs(if estimate <= SMALL { 1 } else { 5 })
}

/// The shared window. A refusal may extend the window. A success does not end it: no sample is sent while the window is
/// open, so the successful sample was sent before the refusal.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Window {
    until: Option<Instant>,
}

impl Window {
    /// Extends the window to `until`; never shortens it.
    pub(crate) fn extend(&mut self, until: Instant) {
        let later = |current: Instant| mutant!(ShortensTheWindow, until, current.max(until));
        self.until = Some(self.until.map_or(until, later));
    }

    /// Time until the window ends; `None` if it is not open.
    pub(crate) fn remaining(&self, now: Instant) -> Option<Duration> {
        self.until.and_then(|it| it.checked_duration_since(now)).filter(|it| !it.is_zero())
    }

    /// The window is open, or ended less than 10 s ago.
    pub(crate) fn is_throttled(&self, now: Instant) -> bool {
        self.until.is_some_and(|it| now < it + THROTTLED_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_extended_and_never_shortened() {
        let now = Instant::now();
        let mut window = Window::default();
        assert_eq!(window.remaining(now), None);
        window.extend(now + Duration::from_secs(5));
        window.extend(now + Duration::from_secs(1));
        assert_eq!(window.remaining(now), Some(Duration::from_secs(5)));
        assert_eq!(window.remaining(now + Duration::from_secs(5)), None);
    }

    #[test]
    fn throttling_ends_ten_seconds_after_the_window() {
        let now = Instant::now();
        let mut window = Window::default();
        assert!(!window.is_throttled(now));
        window.extend(now + Duration::from_secs(1));
        assert!(window.is_throttled(now) && window.is_throttled(now + Duration::from_secs(10)));
        assert!(!window.is_throttled(now + Duration::from_secs(11)));
    }

    #[test]
    fn large_prompts_open_a_longer_window() {
        assert_eq!(pause_after(131_072), Duration::from_secs(1));
        assert_eq!(pause_after(131_073), Duration::from_secs(5));
    }
}
