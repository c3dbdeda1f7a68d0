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
    /// Takes note of what the server says, and why. An error if the operation should not wait any longer.
    pub(crate) fn on(
        &mut self,
        state: &QueueState,
        reason: Option<&str>,
        now: Duration,
        policy: PausePolicy,
    ) -> Option<Error> {
        if !matches!(state, QueueState::PausedCapacity | QueueState::PausedRateLimit) {
            self.since = None;
            return None;
        }
        let paused = now.saturating_sub(*self.since.get_or_insert(now));
        let too_long = match policy {
            PausePolicy::Wait => return None,
            PausePolicy::WaitAtMost(limit) if paused < limit => return None,
            PausePolicy::WaitAtMost(limit) => format!(", for longer than the {limit:.1?} that were allowed"),
            PausePolicy::Fail => String::new(),
        };
        let why = if *state == QueueState::PausedCapacity { "lack of capacity" } else { "a rate limit" };
        let reason = reason.map(|it| format!(" ({it})")).unwrap_or_default();
        Some(Error::new(ErrorKind::Paused, format!("the server pauses for {why}{reason}{too_long}")))
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
            at.iter().take_while(|it| pauses.on(&PausedCapacity, None, S(**it), policy).is_none()).count()
        };
        assert_eq!(waits(PausePolicy::Wait, &[0, 1000, 100_000]), 3);
        assert_eq!(waits(PausePolicy::WaitAtMost(S(10)), &[5, 10, 14, 15]), 3);
        assert_eq!(waits(PausePolicy::Fail, &[0]), 0);
    }

    #[test]
    fn a_refusal_repeats_the_reason_of_the_server_and_the_limit_if_there_was_one() {
        let said = |state, reason, policy| {
            let refusal = Pauses::default().on(&state, reason, S(0), policy).expect("a refusal");
            refusal.message().to_string()
        };
        assert_eq!(
            said(PausedRateLimit, Some("8 models at most"), PausePolicy::Fail),
            "the server pauses for a rate limit (8 models at most)"
        );
        assert_eq!(
            said(PausedCapacity, None, PausePolicy::WaitAtMost(Duration::ZERO)),
            "the server pauses for lack of capacity, for longer than the 0.0ns that were allowed"
        );
    }

    #[test]
    fn a_pause_that_ended_does_not_count() {
        let mut pauses = Pauses::default();
        let policy = PausePolicy::WaitAtMost(S(10));
        assert!(pauses.on(&PausedRateLimit, None, S(0), policy).is_none());
        assert!(pauses.on(&Active, None, S(9), policy).is_none());
        assert!(pauses.on(&PausedCapacity, None, S(12), policy).is_none());
        assert!(pauses.on(&PausedCapacity, None, S(23), policy).is_some());
    }

    #[test]
    fn other_states_are_no_pause() {
        let mut pauses = Pauses::default();
        assert!(pauses.on(&Active, None, S(0), PausePolicy::Fail).is_none());
        assert!(pauses.on(&Other("x".into()), None, S(0), PausePolicy::Fail).is_none());
    }
}
