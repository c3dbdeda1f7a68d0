//! Waiting for an account to be settled (PROTOCOL §1.11): a request that the server refuses for want of payment is sent
//! again for a while, so that a long training does not die of an expired card.

use std::time::{Duration, Instant};

use crate::config::PausePolicy;

/// The time between two attempts.
pub(crate) const PAUSE: Duration = Duration::from_secs(5);
/// Warnings are at least this far apart.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// A refusal so long after the last warning is the first of another incident.
const FORGET: Duration = Duration::from_secs(300);

/// What to do about a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// Try again after [`PAUSE`].
    Wait {
        /// It is time for a warning; so long has the incident lasted.
        warn: Option<Duration>,
    },
    /// It has lasted too long: the refusal is the answer.
    Final,
}

/// The refusals of a client, as far as they belong together.
#[derive(Debug)]
pub(crate) struct Billing {
    window: Duration,
    incident: Option<Incident>,
}

#[derive(Clone, Copy, Debug)]
struct Incident {
    began: Instant,
    warned: Instant,
}

impl Billing {
    /// An hour of patience, until the server says otherwise.
    pub(crate) fn new() -> Self {
        Billing { window: Duration::from_secs(3600), incident: None }
    }

    /// How long the server wants clients to be patient.
    pub(crate) fn set_window(&mut self, window: Duration) {
        self.window = window;
    }

    /// The server refused a request that may go on until `deadline`.
    pub(crate) fn refused(&mut self, now: Instant, policy: PausePolicy, deadline: Option<Instant>) -> Word {
        let since = |at: Instant| now.saturating_duration_since(at);
        let known = self.incident.filter(|it| since(it.warned) <= FORGET);
        let mut incident = known.unwrap_or(Incident { began: now, warned: now });
        let lasted = since(incident.began);
        let warn = (known.is_none() || WARN_EVERY <= since(incident.warned)).then_some(lasted);
        if warn.is_some() {
            incident.warned = now;
        }
        self.incident = Some(incident);
        let window = match policy {
            PausePolicy::Wait => self.window,
            PausePolicy::WaitAtMost(limit) => self.window.min(limit),
            PausePolicy::Fail => Duration::ZERO,
        };
        // A pause that outlasts the operation leaves nothing to try with.
        let in_time = deadline.is_none_or(|it| now + PAUSE < it);
        match lasted < window && in_time {
            true => Word::Wait { warn },
            false => Word::Final,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    /// What is said about refusals at these times, in seconds: a letter each.
    fn said(policy: PausePolicy, window: u64, deadline: Option<u64>, at: &[u64]) -> String {
        let start = Instant::now();
        let mut billing = Billing::new();
        billing.set_window(S(window));
        let mut letter =
            |it: &u64| match billing.refused(start + S(*it), policy, deadline.map(|it| start + S(it))) {
                Word::Wait { warn: Some(_) } => 'W',
                Word::Wait { warn: None } => 'w',
                Word::Final => 'x',
            };
        at.iter().map(&mut letter).collect()
    }

    #[test]
    fn refusals_are_waited_out_for_as_long_as_the_window_of_their_incident() {
        use PausePolicy::*;
        let table = [
            ("warnings are a minute apart", Wait, 3600, None, vec![0, 5, 55, 60, 65, 120], "WwwWwW"),
            ("the window ends the patience", Wait, 100, None, vec![0, 95, 100, 105], "WWxx"),
            ("a limit of the caller's is shorter", WaitAtMost(S(10)), 3600, None, vec![0, 5, 10], "Wwx"),
            ("who does not wait is told at once", Fail, 3600, None, vec![0], "x"),
            ("a server may want no patience", Wait, 0, None, vec![0], "x"),
            ("no pause outlasts the operation", Wait, 3600, Some(20), vec![0, 10, 14, 15, 16], "Wwwxx"),
            ("a new incident has a window of its own", Wait, 100, None, vec![0, 100, 401, 402], "WxWw"),
        ];
        for (name, policy, window, deadline, at, expected) in table {
            assert_eq!(said(policy, window, deadline, &at), expected, "{name}");
        }
    }
}
