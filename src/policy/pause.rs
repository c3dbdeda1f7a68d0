//! Limit on the time for which the server may pause an operation.

use std::time::Duration;

use crate::config::PausePolicy;
use crate::error::{Error, ErrorKind};
use crate::types::QueueState;

/// The current pause of one operation.
#[derive(Debug, Default)]
pub(crate) struct Pauses {
    since: Option<Duration>,
}

impl Pauses {
    /// Applies a queue state that the server reported. Returns an error if the policy forbids a longer pause.
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
            PausePolicy::WaitAtMost(limit) => format!(" for longer than the allowed {limit:.1?}"),
            PausePolicy::Fail => String::new(),
        };
        let why = if *state == QueueState::PausedCapacity { "lack of capacity" } else { "a rate limit" };
        let reason = reason.map(|text| format!(" ({text})")).unwrap_or_default();
        Some(Error::new(ErrorKind::Paused, format!("the server pauses for {why}{reason}{too_long}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use QueueState::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn each_policy_waits_up_to_its_limit() {
        let waits = |policy, at: &[u64]| {
            let mut pauses = Pauses::default();
            let waits = |seconds: &&u64| pauses.on(&PausedCapacity, None, S(**seconds), policy).is_none();
            at.iter().take_while(waits).count()
        };
        assert_eq!(waits(PausePolicy::Wait, &[0, 1000, 100_000]), 3);
        assert_eq!(waits(PausePolicy::WaitAtMost(S(10)), &[5, 10, 14, 15]), 3);
        assert_eq!(waits(PausePolicy::Fail, &[0]), 0);
    }

    #[test]
    fn the_error_contains_the_reason_of_the_server_and_the_limit() {
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
            "the server pauses for lack of capacity for longer than the allowed 0.0ns"
        );
    }

    #[test]
    fn only_the_current_pause_counts() {
        let mut pauses = Pauses::default();
        let policy = PausePolicy::WaitAtMost(S(10));
        assert!(pauses.on(&PausedRateLimit, None, S(0), policy).is_none());
        assert!(pauses.on(&Active, None, S(9), policy).is_none());
        assert!(pauses.on(&PausedCapacity, None, S(12), policy).is_none());
        assert!(pauses.on(&PausedCapacity, None, S(23), policy).is_some());
    }

    #[test]
    fn other_states_do_not_pause() {
        let mut pauses = Pauses::default();
        assert!(pauses.on(&Active, None, S(0), PausePolicy::Fail).is_none());
        assert!(pauses.on(&Other("x".into()), None, S(0), PausePolicy::Fail).is_none());
    }
}
