//! The time during which nobody should submit samples, because the server said that there are too many.

use std::time::{Duration, Instant};

use crate::sync::fault::{self, Fault};

/// A small prompt's submission waits this long after a refusal, a large one's longer (PROTOCOL §9.2).
const SMALL: usize = 131_072;
/// Submissions are throttled for this long after the window has passed.
const TAIL: Duration = Duration::from_secs(10);

/// How long a refused submission of an estimated size asks everybody to wait.
pub(crate) fn pause_after(estimate: usize) -> Duration {
    Duration::from_secs(if estimate <= SMALL { 1 } else { 5 })
}

/// The shared window. Refusals only ever extend it, and no success ends it: one that was sent before the refusal says
/// nothing about it, and none is sent while it lasts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Window {
    until: Option<Instant>,
}

impl Window {
    /// Extends the window to `until`; never shortens it.
    pub(crate) fn extend(&mut self, until: Instant) {
        let shortens = fault::is(Fault::Shortens);
        self.until = Some(self.until.map_or(until, |it| if shortens { until } else { it.max(until) }));
    }

    /// How long the window is still open.
    pub(crate) fn remaining(&self, now: Instant) -> Option<Duration> {
        self.until.and_then(|it| it.checked_duration_since(now)).filter(|it| !it.is_zero())
    }

    /// The window is open, or was until recently.
    pub(crate) fn is_recent(&self, now: Instant) -> bool {
        self.until.is_some_and(|it| now < it + TAIL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_only_extends() {
        let now = Instant::now();
        let mut window = Window::default();
        assert_eq!(window.remaining(now), None);
        window.extend(now + Duration::from_secs(5));
        window.extend(now + Duration::from_secs(1));
        assert_eq!(window.remaining(now), Some(Duration::from_secs(5)));
        assert_eq!(window.remaining(now + Duration::from_secs(5)), None);
    }

    #[test]
    fn throttling_lasts_ten_seconds_longer_than_the_window() {
        let now = Instant::now();
        let mut window = Window::default();
        assert!(!window.is_recent(now));
        window.extend(now + Duration::from_secs(1));
        assert!(window.is_recent(now) && window.is_recent(now + Duration::from_secs(10)));
        assert!(!window.is_recent(now + Duration::from_secs(11)));
    }

    #[test]
    fn large_prompts_pause_longer() {
        assert_eq!(pause_after(131_072), Duration::from_secs(1));
        assert_eq!(pause_after(131_073), Duration::from_secs(5));
    }
}
