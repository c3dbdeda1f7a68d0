//! When to send the same request again: one budget of time for all attempts (PROTOCOL §1.10–1.11, flattened).

use std::time::Duration;

use crate::error::Sent;

use super::verdict::Verdict;

/// A conflict is worth this long, counted from the first attempt.
const CONFLICT_BUDGET: Duration = Duration::from_secs(5);
/// How often a request that a proxy dropped is sent again, each time over a new connection.
const MOST_DROPPED: u32 = 16;

/// An attempt that has less time than this, or a tenth of a small budget, is not worth making.
const LEAST: Duration = Duration::from_secs(1);

/// What happened to an attempt that did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The server answered.
    Answer {
        /// What its answer means.
        verdict: Verdict,
        /// How long it asks to wait.
        hint: Option<Duration>,
    },
    /// No connection, or it broke.
    Connection {
        /// Whether the server may have seen the request.
        sent: Sent,
    },
    /// The attempt's own time ran out, after it was connected.
    Timeout,
    /// Somebody answered who is no such server: another protocol, or a certificate that is not trusted.
    WrongPeer {
        /// Whether the request may have been read.
        sent: Sent,
    },
    /// Something that would happen again.
    Fatal,
}

/// How long one logical call may go on trying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// All attempts and the waits between them. Zero means one attempt.
    pub(crate) budget: Duration,
    /// While the server has never been reached.
    pub(crate) first_contact: Option<FirstContact>,
}

/// The budgets of a call to a server that has never been reached, which may be the wrong one. Who is a stranger at the first
/// contact stays one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FirstContact {
    /// For having no connection, or none that holds, so that a wrong address is told at once.
    pub(crate) connection: Duration,
    /// For having no answer but those of a proxy or of a server that is about to start.
    pub(crate) answer: Duration,
}

/// The retries of one logical call.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Retries {
    taken: u32,
    dropped: u32,
    fresh: bool,
}

impl Retries {
    /// How many retries were granted so far.
    pub(crate) fn taken(&self) -> u32 {
        self.taken
    }

    /// The next attempt should not use a connection that was used before.
    pub(crate) fn wants_fresh(&self) -> bool {
        self.fresh
    }

    /// How long to wait before the next attempt, or `None` to give up. `elapsed` counts from the first attempt,
    /// `unit` is a random number in `[0, 1)`.
    pub(crate) fn next(
        &mut self,
        failure: Failure,
        elapsed: Duration,
        limits: Limits,
        unit: f64,
    ) -> Option<Duration> {
        let mut budget = limits.budget;
        let mut hint = None;
        // After a connection that broke, those that are kept may be as dead as it was.
        self.fresh = matches!(
            failure,
            Failure::Answer { verdict: Verdict::Dropped, .. } | Failure::Connection { sent: Sent::Maybe }
        );
        match failure {
            Failure::Fatal => return None,
            Failure::Answer { verdict: Verdict::Success | Verdict::Fatal, .. } => return None,
            Failure::Answer { verdict: Verdict::Conflict, .. } => budget = budget.min(CONFLICT_BUDGET),
            Failure::Answer { verdict: Verdict::Dropped, .. } => {
                self.dropped += 1;
                if MOST_DROPPED < self.dropped {
                    return None;
                }
            }
            Failure::Answer { verdict: Verdict::Retry, hint: it } => {
                hint = it;
                budget = limits.first_contact.map_or(budget, |it| budget.min(it.answer));
            }
            // A name that is not known and a port that nobody listens on end here.
            Failure::Connection { .. } => {
                budget = limits.first_contact.map_or(budget, |it| budget.min(it.connection));
            }
            // A certificate that is not trusted and a port of something else end here. Of a server that was reached before it
            // is a passing fault on the way.
            Failure::WrongPeer { .. } if limits.first_contact.is_some() => return None,
            Failure::WrongPeer { .. } => {}
            // Somebody is there, who took the connection.
            Failure::Timeout => {
                budget = limits.first_contact.map_or(budget, |it| budget.min(it.answer));
            }
        }
        let left = budget.checked_sub(elapsed).filter(|it| !it.is_zero())?;
        let delay = hint.unwrap_or_else(|| delay(self.taken, unit));
        // What little time a long wait leaves would only turn a telling error into a timeout.
        if left <= delay + LEAST.min(budget / 10) {
            return None;
        }
        self.taken += 1;
        Some(delay)
    }
}

/// `min(0.5 · 2^n, 10) s`, shortened by up to a quarter.
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
            assert_eq!(next.is_some(), again, "after {elapsed} ms, with 7 s to wait and one to try");
        }
        let once = Limits { budget: Duration::ZERO, ..LIMITS };
        assert_eq!(Retries::default().next(BUSY, Duration::ZERO, once, 0.0), None);
    }

    #[test]
    fn a_server_never_reached_is_given_up_within_the_connect_timeout() {
        let limits = Limits { first_contact: FIRST, ..LIMITS };
        let refused = Failure::Connection { sent: Sent::No };
        let mut retries = Retries::default();
        let mut elapsed = Duration::ZERO;
        while let Some(delay) = retries.next(refused, elapsed, limits, 1.0) {
            elapsed += delay;
        }
        assert!(Duration::from_secs(3) < elapsed && elapsed <= Duration::from_secs(5), "{elapsed:?}");
        // An answer is a sign of life, and so is a connection that holds.
        for alive in [BUSY, Failure::Timeout] {
            assert!(
                Retries::default().next(alive, Duration::from_secs(6), limits, 0.0).is_some(),
                "{alive:?}"
            );
            // But not for as long as one that was reached before.
            let late = Duration::from_secs(61);
            assert_eq!(Retries::default().next(alive, late, limits, 0.0), None, "{alive:?}");
            assert!(Retries::default().next(alive, late, LIMITS, 0.0).is_some(), "{alive:?}");
        }
    }

    #[test]
    fn a_stranger_at_the_first_contact_is_not_asked_again() {
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
        assert!(retries.wants_fresh());
        retries.next(BUSY, Duration::ZERO, LIMITS, 0.0);
        assert!(!retries.wants_fresh(), "an answer that is no success says nothing of the connection");
        for (sent, fresh) in [(Sent::Maybe, true), (Sent::No, false)] {
            retries.next(Failure::Connection { sent }, Duration::ZERO, LIMITS, 0.0);
            assert_eq!(retries.wants_fresh(), fresh, "only one that broke was open");
        }
        assert!(Retries::default().next(Failure::Fatal, Duration::ZERO, LIMITS, 0.0).is_none());
    }
}
