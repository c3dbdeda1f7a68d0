//! What to do next for one run, and when. Pure: the monitor's thread carries it out and reports the outcome.

use std::time::{Duration, Instant};

use super::policy::RecoveryPolicy;
use crate::error::Error;

/// The next step for a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask the server if the run is corrupted.
    Check,
    /// Make the attempt of this number, from 1.
    Attempt(u32),
}

/// The consequence of a failed step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterFailure {
    /// The step is repeated after a pause.
    Repeat(Duration),
    /// The run is followed no longer.
    GiveUp,
}

/// The state of a run.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Time of the next step. `None`: beyond the range of the clock.
    due: Option<Instant>,
    is_corrupted: bool,
    /// Attempts since a check last found the run healthy. A recovery does not reset the number: a new run that is
    /// corrupted at once must not start an endless series of recoveries.
    n_attempts: u32,
    /// The caller asked for a check that has not begun yet.
    is_check_requested: bool,
}

impl Plan {
    /// A healthy run, to be checked after the interval.
    pub(super) fn new(now: Instant, policy: &RecoveryPolicy) -> Self {
        let due = now.checked_add(policy.poll_interval);
        Plan { due, is_corrupted: false, n_attempts: 0, is_check_requested: false }
    }

    /// Time of the next step.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Attempts of the recovery in progress that have begun, if the run is corrupted.
    pub(super) fn attempts_in_progress(&self) -> Option<u32> {
        self.is_corrupted.then_some(self.n_attempts)
    }

    /// Makes a check due now. Has no effect on a run that is being recovered.
    pub(super) fn request_check(&mut self, now: Instant) {
        if !self.is_corrupted {
            self.is_check_requested = true;
            self.due = Some(now);
        }
    }

    /// Begins the next step, which is due. The caller reports its outcome.
    pub(super) fn begin(&mut self) -> Step {
        if self.is_corrupted {
            self.n_attempts += 1;
            return Step::Attempt(self.n_attempts);
        }
        self.is_check_requested = false;
        Step::Check
    }

    /// A check found the run healthy.
    pub(super) fn healthy(&mut self, now: Instant, policy: &RecoveryPolicy) {
        self.n_attempts = 0;
        self.check_later(now, policy);
    }

    /// A check found the run corrupted. Gives up if no attempt is left.
    pub(super) fn corrupted(&mut self, now: Instant, policy: &RecoveryPolicy) -> AfterFailure {
        self.is_corrupted = true;
        self.due = Some(now);
        if policy.max_attempts <= self.n_attempts {
            return AfterFailure::GiveUp;
        }
        AfterFailure::Repeat(Duration::ZERO)
    }

    /// A check failed. Only an error that every later check would repeat ends the monitoring.
    pub(super) fn check_failed(
        &mut self,
        now: Instant,
        policy: &RecoveryPolicy,
        error: &Error,
    ) -> AfterFailure {
        if error.is_not_found() || error.is_incompatible() || error.is_closed() || error.is_panic() {
            return AfterFailure::GiveUp;
        }
        self.check_later(now, policy);
        AfterFailure::Repeat(policy.poll_interval)
    }

    /// An attempt succeeded: the new run is followed from now on.
    pub(super) fn recovered(&mut self, now: Instant, policy: &RecoveryPolicy) {
        self.is_corrupted = false;
        self.check_later(now, policy);
    }

    /// An attempt failed.
    pub(super) fn attempt_failed(
        &mut self,
        now: Instant,
        policy: &RecoveryPolicy,
        error: &Error,
    ) -> AfterFailure {
        let is_final = error.is_user_error() || error.is_closed() || error.is_panic();
        if is_final || policy.max_attempts <= self.n_attempts {
            return AfterFailure::GiveUp;
        }
        let pause = policy.pause_after(self.n_attempts);
        self.due = now.checked_add(pause);
        AfterFailure::Repeat(pause)
    }

    fn check_later(&mut self, now: Instant, policy: &RecoveryPolicy) {
        // A request that came during the step asks for a later state of the run than the step has seen.
        self.due = if self.is_check_requested { Some(now) } else { now.checked_add(policy.poll_interval) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{ErrorKind, Phase};

    fn plan(policy: &RecoveryPolicy) -> (Instant, Plan) {
        let now = Instant::now();
        (now, Plan::new(now, policy))
    }

    fn retryable() -> Error {
        Error::timeout(Phase::Connect, "no connection")
    }

    #[test]
    fn a_healthy_run_is_checked_once_in_each_interval() {
        let policy = RecoveryPolicy::default();
        let (now, mut plan) = plan(&policy);
        for n in 1..4 {
            let due = now + n * policy.poll_interval;
            assert_eq!((plan.due(), plan.begin()), (Some(due), Step::Check));
            plan.healthy(due, &policy);
        }
    }

    #[test]
    fn attempts_have_growing_pauses_and_an_end() {
        let policy = RecoveryPolicy::default();
        let (now, mut plan) = plan(&policy);
        plan.begin();
        assert_eq!(plan.corrupted(now, &policy), AfterFailure::Repeat(Duration::ZERO));
        for (number, pause) in [(1, 5), (2, 10)] {
            assert_eq!(plan.begin(), Step::Attempt(number));
            let pause = Duration::from_secs(pause);
            assert_eq!(plan.attempt_failed(now, &policy, &retryable()), AfterFailure::Repeat(pause));
            assert_eq!(plan.due(), Some(now + pause));
        }
        assert_eq!(plan.begin(), Step::Attempt(3));
        assert_eq!(plan.attempt_failed(now, &policy, &retryable()), AfterFailure::GiveUp);
    }

    #[test]
    fn new_runs_that_are_corrupted_at_once_share_the_attempts_until_a_check_finds_one_healthy() {
        let policy = RecoveryPolicy { max_attempts: 2, ..Default::default() };
        let (now, mut plan) = plan(&policy);
        for number in [1, 2] {
            plan.begin();
            assert_eq!(plan.corrupted(now, &policy), AfterFailure::Repeat(Duration::ZERO));
            assert_eq!(plan.begin(), Step::Attempt(number));
            plan.recovered(now, &policy);
        }
        let mut healthy = plan.clone();
        plan.begin();
        assert_eq!(plan.corrupted(now, &policy), AfterFailure::GiveUp);
        healthy.healthy(now, &policy);
        assert_eq!(healthy.corrupted(now, &policy), AfterFailure::Repeat(Duration::ZERO));
        assert_eq!(healthy.begin(), Step::Attempt(1));
    }

    #[test]
    fn only_errors_that_would_come_again_end_the_monitoring() {
        let policy = RecoveryPolicy::default();
        let check_again = AfterFailure::Repeat(policy.poll_interval);
        let attempt_again = AfterFailure::Repeat(policy.backoff);
        let cases = [
            (retryable(), check_again, attempt_again),
            (Error::new(ErrorKind::Auth, "401"), check_again, AfterFailure::GiveUp),
            (Error::new(ErrorKind::RateLimited, "429"), check_again, attempt_again),
            (Error::new(ErrorKind::NotFound, "404"), AfterFailure::GiveUp, AfterFailure::GiveUp),
            (Error::closed("closed"), AfterFailure::GiveUp, AfterFailure::GiveUp),
            (Error::panicked("t", "p"), AfterFailure::GiveUp, AfterFailure::GiveUp),
        ];
        for (error, of_check, of_attempt) in cases {
            let (now, mut plan) = plan(&policy);
            plan.begin();
            assert_eq!(plan.check_failed(now, &policy, &error), of_check, "{error}");
            plan.corrupted(now, &policy);
            plan.begin();
            assert_eq!(plan.attempt_failed(now, &policy, &error), of_attempt, "{error}");
        }
    }

    #[test]
    fn a_check_that_is_requested_during_another_one_is_made_as_well() {
        let policy = RecoveryPolicy::default();
        let (now, mut plan) = plan(&policy);
        plan.request_check(now);
        assert_eq!((plan.due(), plan.begin()), (Some(now), Step::Check));
        plan.request_check(now);
        plan.healthy(now, &policy);
        assert_eq!((plan.due(), plan.begin()), (Some(now), Step::Check));
        plan.healthy(now, &policy);
        assert_eq!(plan.due(), Some(now + policy.poll_interval));
    }

    #[test]
    fn a_request_for_a_check_does_not_shorten_the_pause_between_attempts() {
        let policy = RecoveryPolicy::default();
        let (now, mut plan) = plan(&policy);
        plan.begin();
        plan.corrupted(now, &policy);
        plan.begin();
        plan.attempt_failed(now, &policy, &retryable());
        plan.request_check(now);
        assert_eq!(plan.due(), Some(now + policy.backoff));
        assert_eq!(plan.attempts_in_progress(), Some(1));
    }
}
