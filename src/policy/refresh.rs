//! Times at which the authentication token is renewed in the background (PROTOCOL §1.4).

use std::time::Duration;

/// Pause after a failed fetch.
pub(crate) const AFTER_FAILURE: Duration = Duration::from_secs(60);
/// Remaining lifetime below which a token is renewed before it is used.
pub(crate) const RENEW_BEFORE: Duration = Duration::from_secs(60);
/// Shortest interval between two fetches in the background, even if the tokens expire sooner.
const MIN_PAUSE: Duration = Duration::from_secs(10);

/// Time from the arrival of a token to its replacement: 45 to 55 % of its lifetime, so that clients which started
/// together spread their requests. `unit` is a random number in `[0, 1)`.
pub(crate) fn pause(lifetime: Duration, unit: f64) -> Duration {
    lifetime.mul_f64(0.45 + 0.1 * unit).max(MIN_PAUSE)
}

/// Decision after a failed fetch in the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterFailure {
    /// Fetch again after a pause.
    Again,
    /// Stop fetching in the background until a request has fetched a token itself: the server refuses the credential,
    /// and the current token has to be renewed before the next attempt is due.
    Stop,
}

/// Decides after a failed fetch. `refused`: the server refused the credential. `left` is the remaining lifetime of the
/// current token.
pub(crate) fn after_failure(refused: bool, left: Option<Duration>) -> AfterFailure {
    let left = left.unwrap_or(Duration::ZERO);
    if refused && left.saturating_sub(RENEW_BEFORE) <= AFTER_FAILURE {
        AfterFailure::Stop
    } else {
        AfterFailure::Again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_replaced_at_about_half_of_its_lifetime() {
        let s = Duration::from_secs;
        assert_eq!(pause(s(1000), 0.0), s(450));
        assert!(s(549) < pause(s(1000), 0.999) && pause(s(1000), 0.999) < s(550));
        assert_eq!(pause(s(1), 0.5), MIN_PAUSE);
    }

    #[test]
    fn fetching_stops_after_a_refusal_only_if_the_token_is_about_to_expire() {
        let s = Duration::from_secs;
        for (refused, left, expected) in [
            (false, None, AfterFailure::Again),
            (false, Some(s(1)), AfterFailure::Again),
            (true, Some(s(121)), AfterFailure::Again),
            (true, Some(s(120)), AfterFailure::Stop),
            (true, None, AfterFailure::Stop),
        ] {
            assert_eq!(after_failure(refused, left), expected, "{refused} {left:?}");
        }
    }
}
