//! When to fetch the next token before anybody needs it (PROTOCOL §1.4).

use std::time::Duration;

/// After a failure the next attempt comes so much later.
pub(crate) const AFTER_FAILURE: Duration = Duration::from_secs(60);
/// A token is renewed before it is used if it lives no longer than this.
pub(crate) const RENEW_BEFORE: Duration = Duration::from_secs(60);
/// A token that hardly lives is left to those who need one: asking all the time would help nobody.
const SHORTEST: Duration = Duration::from_secs(10);

/// How long after its arrival a token of this lifetime is to be replaced: about half, so that many clients which
/// started together do not ask together. `unit` is a random number in `[0, 1)`.
pub(crate) fn pause(lifetime: Duration, unit: f64) -> Duration {
    lifetime.mul_f64(0.45 + 0.1 * unit).max(SHORTEST)
}

/// What comes of a fetch in the background that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterFailure {
    /// Another attempt, later.
    Again,
    /// None, until somebody who needed a token has got one: the server refuses the credential, and the token that there
    /// is will not last long enough to be worth asking again.
    Rest,
}

/// What to do after a failure, with a token that lives so much longer, if there is one.
pub(crate) fn after_failure(refused: bool, left: Option<Duration>) -> AfterFailure {
    let left = left.unwrap_or(Duration::ZERO);
    match refused && left.saturating_sub(RENEW_BEFORE) <= AFTER_FAILURE {
        true => AfterFailure::Rest,
        false => AfterFailure::Again,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_replaced_at_about_half_of_its_life() {
        let s = Duration::from_secs;
        assert_eq!(pause(s(1000), 0.0), s(450));
        assert!(s(549) < pause(s(1000), 0.999) && pause(s(1000), 0.999) < s(550));
        assert_eq!(pause(s(1), 0.5), SHORTEST);
    }

    #[test]
    fn a_refused_credential_is_given_up_only_when_the_token_is_nearly_over() {
        let s = Duration::from_secs;
        for (refused, left, expected) in [
            (false, None, AfterFailure::Again),
            (false, Some(s(1)), AfterFailure::Again),
            (true, Some(s(121)), AfterFailure::Again),
            (true, Some(s(120)), AfterFailure::Rest),
            (true, None, AfterFailure::Rest),
        ] {
            assert_eq!(after_failure(refused, left), expected, "{refused} {left:?}");
        }
    }
}
