//! Retries of one request, with one time budget for all attempts (PROTOCOL §1.10–1.11).

use std::time::Duration;

use crate::error::Sent;

use super::verdict::Verdict;

/// Budget for a request that meets a conflict, counted from the first attempt.
const CONFLICT_BUDGET: Duration = Duration::from_secs(5);
/// Largest number of retries, each over a new connection, of a request that a proxy drops.
const MAX_DROPPED: u32 = 16;

/// Least time that must be left for another attempt, or a tenth of the budget if that is less.
const MIN_ATTEMPT: Duration = Duration::from_secs(1);

/// Outcome of a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The server answered.
    Answer {
        /// Meaning of the answer.
        verdict: Verdict,
        /// Pause that the server asks for.
        hint: Option<Duration>,
    },
    /// The connection failed or broke.
    Connection {
        /// Tells whether the server may have received the request.
        sent: Sent,
    },
    /// The time limit of the attempt passed after the connection was made.
    Timeout,
    /// The peer is not a Tinker server: it speaks another protocol or has an untrusted certificate.
    WrongPeer {
        /// Tells whether the peer may have read the request.
        sent: Sent,
    },
    /// A retry would fail in the same way.
    Fatal,
}

/// Time limits of one logical call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Limit for all attempts and the pauses between them. Zero means one attempt.
    pub(crate) budget: Duration,
    /// Additional limits while the server has never been reached.
    pub(crate) first_contact: Option<FirstContact>,
}

/// Budgets of a call to a server that has never been reached: the address may be wrong. A wrong peer at the first
/// contact is not retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FirstContact {
    /// Budget if the connection fails or breaks; short, so that a wrong address is reported soon.
    pub(crate) connection: Duration,
    /// Budget if the connection works, but the attempt times out or gets a retryable answer, which may come from a
    /// proxy or from a server that is starting.
    pub(crate) answer: Duration,
}

/// The retries of one logical call.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Retries {
    taken: u32,
    dropped: u32,
    new_connection: bool,
}

impl Retries {
    /// Number of retries granted so far.
    pub(crate) fn taken(&self) -> u32 {
        self.taken
    }

    /// The next attempt needs a new connection.
    pub(crate) fn needs_new_connection(&self) -> bool {
        self.new_connection
    }

    /// Pause before the next attempt, or `None` to give up. `elapsed` counts from the first attempt, `unit` is a random
    /// number in `[0, 1)`.
    pub(crate) fn next(
        &mut self,
        failure: Failure,
        elapsed: Duration,
        limits: Limits,
        unit: f64,
    ) -> Option<Duration> {
        let mut budget = limits.budget;
        let mut hint = None;
        // After a broken connection, the idle connections of the pool may be dead too, so the next attempt opens a new
        // one.
        self.new_connection = matches!(
            failure,
            Failure::Answer { verdict: Verdict::Dropped, .. } | Failure::Connection { sent: Sent::Maybe }
        );
        match failure {
            Failure::Fatal => return None,
            Failure::Answer { verdict: Verdict::Success | Verdict::Fatal, .. } => return None,
            Failure::Answer { verdict: Verdict::Conflict, .. } => budget = budget.min(CONFLICT_BUDGET),
            Failure::Answer { verdict: Verdict::Dropped, .. } => {
                self.dropped += 1;
                if MAX_DROPPED < self.dropped {
                    return None;
                }
            }
            Failure::Answer { verdict: Verdict::Retry, hint: it } => {
                hint = it;
                budget = limits.first_contact.map_or(budget, |it| budget.min(it.answer));
            }
            // For example an unknown host name, or a port without a listener.
            Failure::Connection { .. } => {
                budget = limits.first_contact.map_or(budget, |it| budget.min(it.connection));
            }
            // For example an untrusted certificate, or a port of another service. If the server was reached before, the
            // cause is probably a temporary fault on the network path, and a retry may succeed.
            Failure::WrongPeer { .. } if limits.first_contact.is_some() => return None,
            Failure::WrongPeer { .. } => {}
            // The peer accepted the connection.
            Failure::Timeout => {
                budget = limits.first_contact.map_or(budget, |it| budget.min(it.answer));
            }
        }
        let left = budget.checked_sub(elapsed).filter(|it| !it.is_zero())?;
        let delay = hint.unwrap_or_else(|| delay(self.taken, unit));
        // Give up if too little time is left: the next attempt would time out and hide the current error.
        if left <= delay + MIN_ATTEMPT.min(budget / 10) {
            return None;
        }
        self.taken += 1;
        Some(delay)
    }
}

/// Pause after n retries: `min(0.5 · 2^n, 10) s`, reduced by up to a quarter. `unit` is a random number in `[0, 1)`.
fn delay(retries_taken: u32, unit: f64) -> Duration {
    let nominal = (0.5 * f64::from(1u32 << retries_taken.min(10))).min(10.0);
    Duration::from_secs_f64(nominal * (0.75 + 0.25 * unit.clamp(0.0, 1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { budget: Duration::from_secs(300), first_contact: None };
    const FIRST: Option<FirstContact> =
        Some(FirstContact { connection: Duration::from_secs(5), answer: Duration::from_secs(60) });
    const BUSY: Failure = Failure::Answer { verdict: Verdict::Retry, hint: None };

    #[test]
    fn delays_double_up_to_ten_seconds_and_jitter_only_shortens_them() {
        let mut retries = Retries::default();
        let delays: Vec<f64> = (0..7)
            .map(|_| retries.next(BUSY, Duration::ZERO, LIMITS, 1.0).expect("a retry").as_secs_f64())
            .collect();
        assert_eq!(delays, [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]);
        assert_eq!(delay(0, 0.0), Duration::from_millis(375));
        assert_eq!(delay(u32::MAX, 0.0), Duration::from_millis(7500));
    }

    #[test]
    fn the_budget_of_time_ends_the_retries() {
        let mut retries = Retries::default();
        assert!(retries.next(BUSY, Duration::from_secs(298), LIMITS, 0.0).is_some());
        assert_eq!(retries.next(BUSY, Duration::from_millis(299_900), LIMITS, 1.0), None);
        assert_eq!(retries.next(BUSY, Duration::from_secs(301), LIMITS, 0.0), None);
        let hint = Failure::Answer { verdict: Verdict::Retry, hint: Some(Duration::from_secs(7)) };
        for (elapsed, again) in [(291_900, true), (292_100, false)] {
            let next = Retries::default().next(hint, Duration::from_millis(elapsed), LIMITS, 0.0);
            assert_eq!(
                next.is_some(),
                again,
                "after {elapsed} ms, with a pause of 7 s and an attempt of 1 s"
            );
        }
        let once = Limits { budget: Duration::ZERO, ..LIMITS };
        assert_eq!(Retries::default().next(BUSY, Duration::ZERO, once, 0.0), None);
    }

    #[test]
    fn a_server_that_was_never_reached_is_given_up_within_the_connection_budget() {
        let limits = Limits { first_contact: FIRST, ..LIMITS };
        let refused = Failure::Connection { sent: Sent::No };
        let mut retries = Retries::default();
        let mut elapsed = Duration::ZERO;
        while let Some(delay) = retries.next(refused, elapsed, limits, 1.0) {
            elapsed += delay;
        }
        assert!(Duration::from_secs(3) < elapsed && elapsed <= Duration::from_secs(5), "{elapsed:?}");
        // An answer or a stable connection shows that a server is there.
        for alive in [BUSY, Failure::Timeout] {
            assert!(
                Retries::default().next(alive, Duration::from_secs(6), limits, 0.0).is_some(),
                "{alive:?}"
            );
            // The budget is still shorter than for a server that was reached before.
            let late = Duration::from_secs(61);
            assert_eq!(Retries::default().next(alive, late, limits, 0.0), None, "{alive:?}");
            assert!(Retries::default().next(alive, late, LIMITS, 0.0).is_some(), "{alive:?}");
        }
    }

    #[test]
    fn a_wrong_peer_at_the_first_contact_is_not_retried() {
        for sent in [Sent::No, Sent::Maybe] {
            let (failure, limits) = (Failure::WrongPeer { sent }, Limits { first_contact: FIRST, ..LIMITS });
            assert_eq!(Retries::default().next(failure, Duration::ZERO, limits, 0.0), None);
            assert!(Retries::default().next(failure, Duration::ZERO, LIMITS, 0.0).is_some());
        }
    }

    #[test]
    fn a_hint_replaces_the_delay() {
        let hint = Some(Duration::from_secs(7));
        let failure = Failure::Answer { verdict: Verdict::Retry, hint };
        assert_eq!(Retries::default().next(failure, Duration::ZERO, LIMITS, 0.0), hint);
    }

    #[test]
    fn conflicts_and_dropped_requests_are_given_up_early() {
        let conflict = Failure::Answer { verdict: Verdict::Conflict, hint: None };
        assert!(Retries::default().next(conflict, Duration::from_secs(1), LIMITS, 0.0).is_some());
        assert!(Retries::default().next(conflict, Duration::from_secs(6), LIMITS, 0.0).is_none());
        let dropped = Failure::Answer { verdict: Verdict::Dropped, hint: None };
        let mut retries = Retries::default();
        let n = std::iter::from_fn(|| retries.next(dropped, Duration::ZERO, LIMITS, 0.0)).count();
        assert_eq!(n, 16);
        assert!(retries.needs_new_connection());
        retries.next(BUSY, Duration::ZERO, LIMITS, 0.0);
        assert!(!retries.needs_new_connection(), "an error answer says nothing about the connection");
        for (sent, expected) in [(Sent::Maybe, true), (Sent::No, false)] {
            retries.next(Failure::Connection { sent }, Duration::ZERO, LIMITS, 0.0);
            assert_eq!(retries.needs_new_connection(), expected, "{sent:?}");
        }
        assert!(Retries::default().next(Failure::Fatal, Duration::ZERO, LIMITS, 0.0).is_none());
    }
}
