//! Warnings in the log about long waits.
//!
//! Waits in the same state whose warnings are due within one second share one line, which tells their number. Otherwise
//! a server that stops answering would cause one identical line for each operation.

use std::time::{Duration, Instant};

use super::Status;
use crate::sync::StaticMutex;

/// Time from the opening of a warning to its log line; other waits in the same state join the warning in this time.
const WINDOW: Duration = Duration::from_secs(1);

/// The state that waits have in common: base URL of the server, and the parts of the status that
/// `Progress::warning_state` keeps.
pub(super) type State = (Option<String>, Status);

static OPEN: StaticMutex<Vec<Open>> = StaticMutex::new(Vec::new());

struct Open {
    state: State,
    due: Instant,
    n_waits: usize,
}

/// A warning that the current thread logs at `due`, for its own wait and for other waits in the same state.
#[must_use]
pub(super) struct Warning {
    state: State,
    pub(super) due: Instant,
}

impl Warning {
    /// Opens a warning. `None` if another wait in the same state has opened one, which then covers this wait too.
    pub(super) fn open(state: State, now: Instant) -> Option<Self> {
        let mut open = OPEN.lock();
        // Remove overdue entries: in a forked process, the thread that would close an entry may not exist.
        open.retain(|warning| now <= warning.due + WINDOW);
        if let Some(same) = open.iter_mut().find(|warning| warning.state == state) {
            same.n_waits += 1;
            return None;
        }
        let due = now + WINDOW;
        open.push(Open { state: state.clone(), due, n_waits: 1 });
        Some(Warning { state, due })
    }

    /// Closes the warning, and returns the number of waits that it covers, at least this one.
    pub(super) fn close(self) -> usize {
        let mut open = OPEN.lock();
        let position = open.iter().position(|warning| warning.due == self.due && warning.state == self.state);
        position.map_or(1, |i| open.swap_remove(i).n_waits)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::pending::Progress;

    #[test]
    fn waits_in_the_same_state_share_one_warning_for_a_second() {
        let now = Instant::now();
        let state = |method, url: &str| {
            let (_, status) = Progress::new(method, now, None).warning_state(now);
            (Some(url.to_string()), status)
        };
        let first = Warning::open(state("A.sample", "http://warning-test"), now).unwrap();
        let soon = now + Duration::from_millis(900);
        assert!(Warning::open(state("A.sample", "http://warning-test"), soon).is_none());
        assert!(Warning::open(state("A.sample", "http://warning-test"), soon).is_none());
        let other_operation = Warning::open(state("A.load", "http://warning-test"), soon).unwrap();
        let other_server = Warning::open(state("A.sample", "http://warning-test-2"), soon).unwrap();
        assert_eq!((first.close(), other_operation.close(), other_server.close()), (3, 1, 1));
        let next = Warning::open(state("A.sample", "http://warning-test"), now + WINDOW).unwrap();
        assert_eq!(next.close(), 1);
    }
}
