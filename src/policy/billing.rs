//! Pauses for payment (PROTOCOL §1.11): a request that the server refuses with HTTP 402 (payment required) is repeated
//! for a limited time, so that an expired card does not end a long training.

use std::time::{Duration, Instant};

use crate::config::PausePolicy;

/// Pause between two attempts.
pub(crate) const PAUSE: Duration = Duration::from_secs(5);
/// Shortest interval between two warnings.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);
/// A refusal that comes later than this after the last warning starts a new incident: see [`Billing`].
const INCIDENT_GAP: Duration = Duration::from_secs(300);

/// Decision about a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Try again after [`PAUSE`].
    Wait {
        /// Set if a warning is due: the duration of the incident so far.
        warn: Option<Duration>,
    },
    /// Report the refusal: the incident has lasted too long, or a pause would end after the deadline.
    Fail,
}

/// The current incident of a client: a series of refusals for lack of payment.
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
    /// Starts without an incident. The window is one hour: until an incident is that old, refused
    /// requests are repeated.
    pub(crate) fn new() -> Self {
        Billing { window: Duration::from_secs(3600), incident: None }
    }

    /// Sets the window to the value in the server's flags.
    pub(crate) fn set_window(&mut self, window: Duration) {
        self.window = window;
    }

    /// Decides about a refused request of an operation with this deadline.
    pub(crate) fn refused(
        &mut self,
        now: Instant,
        policy: PausePolicy,
        deadline: Option<Instant>,
    ) -> Decision {
        let since = |at: Instant| now.saturating_duration_since(at);
        let known = self.incident.filter(|incident| since(incident.warned) <= INCIDENT_GAP);
        let mut incident = known.unwrap_or(Incident { began: now, warned: now });
        let lasted = since(incident.began);
        let warn = (known.is_none() || WARNING_INTERVAL <= since(incident.warned)).then_some(lasted);
        if warn.is_some() {
            incident.warned = now;
        }
        self.incident = Some(incident);
        let window = match policy {
            PausePolicy::Wait => self.window,
            PausePolicy::WaitAtMost(limit) => self.window.min(limit),
            PausePolicy::Fail => Duration::ZERO,
        };
        // A pause that ends after the deadline leaves no time for another attempt.
        let in_time = deadline.is_none_or(|deadline| now + PAUSE < deadline);
        if lasted < window && in_time { Decision::Wait { warn } } else { Decision::Fail }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    /// Decisions about refusals at these times in seconds, one letter each: `W` wait and warn, `w` wait, `x` fail.
    fn decisions(policy: PausePolicy, window: u64, deadline: Option<u64>, at: &[u64]) -> String {
        let start = Instant::now();
        let mut billing = Billing::new();
        billing.set_window(S(window));
        let mut letter =
            |at: &u64| match billing.refused(start + S(*at), policy, deadline.map(|it| start + S(it))) {
                Decision::Wait { warn: Some(_) } => 'W',
                Decision::Wait { warn: None } => 'w',
                Decision::Fail => 'x',
            };
        at.iter().map(&mut letter).collect()
    }

    #[test]
    fn refused_requests_wait_up_to_the_window_of_their_incident() {
        use PausePolicy::*;
        let table = [
            ("warnings are a minute apart", Wait, 3600, None, vec![0, 5, 55, 60, 65, 120], "WwwWwW"),
            ("the window limits the wait", Wait, 100, None, vec![0, 95, 100, 105], "WWxx"),
            ("the limit of the caller is shorter", WaitAtMost(S(10)), 3600, None, vec![0, 5, 10], "Wwx"),
            ("without waiting the refusal is reported at once", Fail, 3600, None, vec![0], "x"),
            ("the server may set an empty window", Wait, 0, None, vec![0], "x"),
            ("no pause ends after the deadline", Wait, 3600, Some(20), vec![0, 10, 14, 15, 16], "Wwwxx"),
            ("a new incident has a new window", Wait, 100, None, vec![0, 100, 401, 402], "WxWw"),
        ];
        for (name, policy, window, deadline, at, expected) in table {
            assert_eq!(decisions(policy, window, deadline, &at), expected, "{name}");
        }
    }
}
