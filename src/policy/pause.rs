//! How long an operation lets the server pause it.

use std::time::Duration;

use crate::config::PausePolicy;
use crate::error::{Error, ErrorKind};
use crate::types::QueueState;

/// The pauses of one operation.
#[derive(Debug, Default)]
pub(crate) struct Pauses {
    since: Option<Duration>,
}

impl Pauses {
    /// Takes note of what the server says. An error if the operation should not wait any longer.
    pub(crate) fn on(&mut self, state: &QueueState, now: Duration, policy: PausePolicy) -> Option<Error> {
        if !matches!(state, QueueState::PausedCapacity | QueueState::PausedRateLimit) {
            self.since = None;
            return None;
        }
        let paused = now.saturating_sub(*self.since.get_or_insert(now));
        let limit = match policy {
            PausePolicy::Wait => return None,
            PausePolicy::WaitAtMost(limit) => limit,
            PausePolicy::Fail => Duration::ZERO,
        };
        if paused < limit {
            return None;
        }
        let why = if *state == QueueState::PausedCapacity { "lack of capacity" } else { "a rate limit" };
        let message =
            format!("the server pauses for {why}, for longer than the {limit:.1?} that were allowed");
        Some(Error::new(ErrorKind::Paused, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use QueueState::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn each_policy_waits_as_long_as_it_says() {
        let waits = |policy, at: &[u64]| {
            let mut pauses = Pauses::default();
            at.iter().take_while(|it| pauses.on(&PausedCapacity, S(**it), policy).is_none()).count()
        };
        assert_eq!(waits(PausePolicy::Wait, &[0, 1000, 100_000]), 3);
        assert_eq!(waits(PausePolicy::WaitAtMost(S(10)), &[5, 10, 14, 15]), 3);
        assert_eq!(waits(PausePolicy::Fail, &[0]), 0);
    }

    #[test]
    fn a_pause_that_ended_does_not_count() {
        let mut pauses = Pauses::default();
        let policy = PausePolicy::WaitAtMost(S(10));
        assert!(pauses.on(&PausedRateLimit, S(0), policy).is_none());
        assert!(pauses.on(&Active, S(9), policy).is_none());
        assert!(pauses.on(&PausedCapacity, S(12), policy).is_none());
        assert!(pauses.on(&PausedCapacity, S(23), policy).is_some());
    }

    #[test]
    fn other_states_are_no_pause() {
        let mut pauses = Pauses::default();
        assert!(pauses.on(&Active, S(0), PausePolicy::Fail).is_none());
        assert!(pauses.on(&Other("x".into()), S(0), PausePolicy::Fail).is_none());
    }
}
