//! Decisions after all retries of one request have failed: whether to submit a sample again, and whether to start a
//! session without the flags (settings that the server sends).

use std::time::Duration;

use crate::error::{Error, ErrorKind, Phase, Sent};

/// Returns true if the submission failed for a temporary reason, so that a later submission may be accepted.
fn may_be_accepted_later(error: &Error) -> bool {
    match error.kind() {
        _ if error.is_vetoed() => false,
        ErrorKind::Connection { .. } | ErrorKind::Conflict | ErrorKind::RateLimited => true,
        ErrorKind::Timeout(phase) => !matches!(phase, Phase::Admission | Phase::Total),
        ErrorKind::Status { code } => matches!(code, 408 | 425) || 500 <= *code,
        _ => false,
    }
}

/// Returns true if the server accepted the sample and then lost it: only a new submission can give a result.
pub(crate) fn is_lost(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::PromiseExpired | ErrorKind::Stuck { .. })
}

/// Settings and facts that decide whether a sample is submitted again after a failed submission.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FailedSubmission {
    /// The caller set `Timeouts::submit` below its default.
    pub(crate) is_time_shortened: bool,
    /// `PausePolicy::Fail`.
    pub(crate) fails_on_pause: bool,
    /// The server has answered some request before.
    pub(crate) has_contact: bool,
}

/// Returns true if the sample is submitted again after a failed submission. Returns false, so that the failure is
/// reported, if the caller shortened the time limit of submissions, if the failure is a rate limit and the policy is
/// `PausePolicy::Fail`, or if the server has never answered, because its address may be wrong.
pub(crate) fn outlives_failed_submission(error: &Error, facts: FailedSubmission) -> bool {
    let is_refused = facts.fails_on_pause && *error.kind() == ErrorKind::RateLimited;
    may_be_accepted_later(error) && facts.has_contact && !facts.is_time_shortened && !is_refused
}

/// Facts that decide whether a lost sample is submitted again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LostSample {
    /// The server's flags forbid resubmission, and the call does not override the flags.
    pub(crate) is_final: bool,
    /// The server has already answered 404 for an earlier promise of this sample.
    pub(crate) was_unknown: bool,
    pub(crate) n_resubmissions: u32,
    /// Time until the operation's deadline.
    pub(crate) left: Option<Duration>,
    /// A random number in `[0, 1)`.
    pub(crate) unit: f64,
}

/// The pause before a lost sample is submitted again. `None`: the sample is not submitted again. That is so in three
/// cases: the loss is final (`is_final`); this is the second 404, because a server that forgets its promises will
/// forget the next one, and each submission costs money; or the pause would last until the deadline.
pub(crate) fn pause_after_loss(error: &Error, sample: LostSample) -> Option<Duration> {
    if sample.is_final || (error.http_status() == Some(404) && sample.was_unknown) {
        return None;
    }
    let pause = pause_before_resubmission(sample.n_resubmissions, sample.unit);
    sample.left.is_none_or(|left| pause < left).then_some(pause)
}

/// Pause before a sample is submitted again: `min(0.5 · 2^n, 10) s`, randomly shortened or lengthened by up to a
/// quarter, at most 10 s (PROTOCOL §1.12). n is `n_resubmissions`, the number of earlier resubmissions; `unit` is a
/// random number in `[0, 1)`.
fn pause_before_resubmission(n_resubmissions: u32, unit: f64) -> Duration {
    let nominal = (0.5 * f64::from(1u32 << n_resubmissions.min(10))).min(10.0);
    Duration::from_secs_f64((nominal * (0.75 + 0.5 * unit)).min(10.0))
}

/// Returns true if the session may start with the documented defaults of the flags after the fetch of the flags failed:
/// the server was reached and may answer later. A wrong address and a refused credential are errors of the caller, so
/// they are reported.
pub(crate) fn may_assume_flags(error: &Error) -> bool {
    let never_arrived = matches!(
        error.kind(),
        ErrorKind::Connection { sent: Sent::No } | ErrorKind::Timeout(Phase::Resolve | Phase::Connect)
    );
    // The caller has enabled the circuit breaker: report that it is open.
    error.is_retryable() && !never_arrived && *error.kind() != ErrorKind::CircuitOpen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Category;

    fn error(kind: ErrorKind) -> Error {
        Error::new(kind, "x")
    }

    #[test]
    fn a_sample_is_submitted_again_after_a_temporary_failure_unless_the_facts_forbid_it() {
        let usual = FailedSubmission { is_time_shortened: false, fails_on_pause: false, has_contact: true };
        let (busy, broken) =
            (error(ErrorKind::RateLimited), error(ErrorKind::Connection { sent: Sent::Maybe }));
        for (failure, facts, expected) in [
            (&busy, usual, true),
            (&broken, usual, true),
            (&busy, FailedSubmission { fails_on_pause: true, ..usual }, false),
            (&broken, FailedSubmission { fails_on_pause: true, ..usual }, true),
            (&broken, FailedSubmission { has_contact: false, ..usual }, false),
            (&broken, FailedSubmission { is_time_shortened: true, ..usual }, false),
            (&error(ErrorKind::Auth), usual, false),
        ] {
            assert_eq!(outlives_failed_submission(failure, facts), expected, "{failure} {facts:?}");
        }
    }

    #[test]
    fn a_lost_sample_is_submitted_again_until_its_deadline_or_a_second_404() {
        let unknown = error(ErrorKind::PromiseExpired).with(|facts| facts.status = Some(404));
        let gone = error(ErrorKind::PromiseExpired).with(|facts| facts.status = Some(410));
        let usual =
            LostSample { is_final: false, was_unknown: false, n_resubmissions: 0, left: None, unit: 0.5 };
        let pause = Some(Duration::from_millis(500));
        for (failure, sample, expected) in [
            (&gone, usual, pause),
            (&unknown, usual, pause),
            (&unknown, LostSample { was_unknown: true, ..usual }, None),
            (&gone, LostSample { was_unknown: true, ..usual }, pause),
            (&gone, LostSample { is_final: true, ..usual }, None),
            (&gone, LostSample { left: Some(Duration::from_millis(500)), ..usual }, None),
            (&gone, LostSample { left: Some(Duration::from_millis(501)), ..usual }, pause),
        ] {
            assert_eq!(pause_after_loss(failure, sample), expected, "{sample:?}");
        }
    }

    #[test]
    fn each_failure_of_a_sample_is_final_or_may_pass_or_means_that_the_sample_is_lost() {
        let status = |code| ErrorKind::Status { code };
        // Kind of the error; a later submission may be accepted; the sample is lost.
        let table = [
            (ErrorKind::Connection { sent: Sent::No }, true, false),
            (ErrorKind::Connection { sent: Sent::Maybe }, true, false),
            (ErrorKind::Conflict, true, false),
            (ErrorKind::RateLimited, true, false),
            (ErrorKind::Timeout(Phase::Connect), true, false),
            (ErrorKind::Timeout(Phase::Exchange), true, false),
            (ErrorKind::Timeout(Phase::Admission), false, false),
            (ErrorKind::Timeout(Phase::Total), false, false),
            (status(408), true, false),
            (status(425), true, false),
            (status(500), true, false),
            (status(503), true, false),
            (status(422), false, false),
            (ErrorKind::Auth, false, false),
            (ErrorKind::Billing, false, false),
            (ErrorKind::NotFound, false, false),
            (ErrorKind::CircuitOpen, false, false),
            (ErrorKind::RequestFailed { category: Category::Server }, false, false),
            (ErrorKind::PromiseExpired, false, true),
            (ErrorKind::Stuck { idle: Duration::ZERO }, false, true),
        ];
        for (kind, later, lost) in table {
            let error = error(kind.clone());
            assert_eq!((may_be_accepted_later(&error), is_lost(&error)), (later, lost), "{kind:?}");
        }
        let vetoed = error(status(503)).with(|it| it.vetoed = Some(true));
        assert!(!may_be_accepted_later(&vetoed));
    }

    #[test]
    fn pauses_double_up_to_ten_seconds_and_vary_by_a_quarter() {
        let seconds = |n, unit| pause_before_resubmission(n, unit).as_secs_f64();
        let nominal: Vec<f64> = (0..7).map(|n| seconds(n, 0.5)).collect();
        assert_eq!(nominal, [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]);
        assert_eq!((seconds(1, 0.0), seconds(1, 1.0)), (0.75, 1.25));
        assert_eq!((seconds(u32::MAX, 0.0), seconds(u32::MAX, 1.0)), (7.5, 10.0));
    }

    #[test]
    fn flags_are_assumed_only_if_the_server_was_reached_and_may_answer_later() {
        let table = [
            (ErrorKind::Connection { sent: Sent::No }, false),
            (ErrorKind::Connection { sent: Sent::Maybe }, true),
            (ErrorKind::Timeout(Phase::Resolve), false),
            (ErrorKind::Timeout(Phase::Connect), false),
            (ErrorKind::Timeout(Phase::Exchange), true),
            (ErrorKind::Status { code: 503 }, true),
            (ErrorKind::RateLimited, true),
            (ErrorKind::CircuitOpen, false),
            (ErrorKind::Auth, false),
            (ErrorKind::Decode, false),
        ];
        for (kind, expected) in table {
            assert_eq!(may_assume_flags(&error(kind.clone())), expected, "{kind:?}");
        }
    }
}
