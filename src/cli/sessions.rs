//! The sessions of a command, which are ended with it: otherwise the server keeps them for minutes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tinkex::local::Access;
use tinkex::sync::CancelToken;
use tinkex::{CloseStatus, ServiceClient};

use super::engine::EngineMonitor;
use super::failure::Failure;
use super::signals::Stop;

/// How often a signal is looked for.
const LOOK: Duration = Duration::from_millis(50);
/// How long requests that were sent before a signal may take if the command then ends: one that the server refuses to
/// serve is repeated for minutes.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// Limit of waiting for the thread that ends the sessions, each of which has time limits of its own.
const LONGEST_END: Duration = Duration::from_secs(60);

/// The clients of a command with what they need until their sessions have ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sessions {
    open: Arc<Mutex<Vec<Session>>>,
    is_watched: Arc<AtomicBool>,
    /// Set by the thread that ends them.
    is_ending: Arc<AtomicBool>,
    /// The command is over.
    done: CancelToken,
    /// The sessions have ended.
    ended: CancelToken,
}

/// The fields are dropped in this order.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) service: ServiceClient,
    pub(crate) _monitor: Option<EngineMonitor>,
    pub(crate) _engine: Option<Arc<Access>>,
}

impl Sessions {
    /// Ends the session with the command. Also after a signal, unless the command handles signals itself.
    pub(crate) fn add(&self, session: Session, stop: &Stop) -> Result<(), Failure> {
        if !self.is_watched.swap(true, Ordering::Relaxed) {
            self.end_after_signal(stop)?;
        }
        self.open.lock().push(session);
        Ok(())
    }

    /// Ends all sessions. Waits while another thread does it.
    pub(crate) fn end(&self, status: CloseStatus) {
        self.done.cancel();
        if self.is_ending.swap(true, Ordering::Relaxed) {
            self.ended.wait_timeout(LONGEST_END);
            return;
        }
        let open = std::mem::take(&mut *self.open.lock());
        for session in open {
            // The command has its result; the server notices the end by itself.
            let _ = session.service.close(status);
        }
        self.ended.cancel();
    }

    /// Ends the sessions and the process after a signal that the command does not handle itself, and the requests of one
    /// that ends soon.
    fn end_after_signal(&self, stop: &Stop) -> Result<(), Failure> {
        stop.hold();
        let (sessions, stop) = (self.clone(), stop.clone());
        let look = move || {
            while !stop.is_asked() {
                if sessions.done.wait_timeout(LOOK) {
                    return;
                }
            }
            if let Some(signal) = stop.signal().filter(|_| !stop.is_deferred()) {
                sessions.end(CloseStatus::Interrupted);
                std::process::exit(128 + i32::from(signal));
            }
            // Meanwhile the command may have come to a part that saves something.
            if stop.is_brief() && !sessions.done.wait_timeout(LAST_ANSWERS) && stop.is_brief() {
                sessions.end(CloseStatus::Interrupted);
            }
        };
        let started = std::thread::Builder::new().name("tinkex-signals".into()).spawn(look);
        started.map(drop).map_err(|error| Failure::text(format!("cannot start a thread: {error}")))
    }
}

/// How the sessions of a command end that has ended so.
pub(crate) fn status_of(result: &Result<(), Failure>) -> CloseStatus {
    match result {
        Ok(()) | Err(Failure::PipeClosed | Failure::Negative | Failure::Budget { .. }) => {
            CloseStatus::Success
        }
        Err(Failure::Items { n_failed, n_items, .. }) if n_failed < n_items => CloseStatus::Success,
        Err(Failure::Signal { .. }) => CloseStatus::Interrupted,
        Err(_) => CloseStatus::Errored,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_of_a_command_ends_as_the_command_does() {
        for (result, expected) in [
            (Ok(()), CloseStatus::Success),
            (Err(Failure::PipeClosed), CloseStatus::Success),
            (Err(Failure::items(1, 2)), CloseStatus::Success),
            (Err(Failure::items(2, 2)), CloseStatus::Errored),
            (Err(Failure::text("x")), CloseStatus::Errored),
            (Err(Failure::usage("x")), CloseStatus::Errored),
            (Err(Failure::signal(2)), CloseStatus::Interrupted),
        ] {
            assert_eq!(status_of(&result), expected, "{result:?}");
        }
    }
}
