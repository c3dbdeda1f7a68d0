//! Ctrl-C and SIGTERM. By default the first one ends the process, with status 130 or 143; if the command is connected, its
//! sessions are ended first. A command that has something to save defers a [`Stop`]: then the first one only sets a flag,
//! and the second ends the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use super::failure::Failure;

/// Whether and by which signal the process was asked to stop.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    /// If set, the next signal ends the process.
    armed: Arc<AtomicBool>,
    /// Set if the command itself handles the signal.
    is_deferred: Arc<AtomicBool>,
    /// Set if the command handles the signal by ending soon.
    is_brief: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
}

impl Stop {
    /// Lets signals end the process at once, until [`defer`](Self::defer).
    pub(crate) fn register() -> Result<Self, Failure> {
        let stop = Stop {
            armed: Arc::new(AtomicBool::new(true)),
            is_deferred: Arc::default(),
            is_brief: Arc::default(),
            signal: Arc::default(),
        };
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let number = usize::try_from(signal).unwrap_or_default();
            // In this order: the first signal sets what the second finds.
            flag::register_conditional_shutdown(signal, 128 + signal, stop.armed.clone())
                .and_then(|_| flag::register(signal, stop.armed.clone()))
                .and_then(|_| flag::register_usize(signal, stop.signal.clone(), number))
                .map_err(|error| Failure::text(format!("cannot handle signals: {error}")))?;
        }
        Ok(stop)
    }

    /// From now on the first signal only sets a flag, which the command looks at.
    pub(crate) fn defer(&self) {
        self.is_brief.store(false, Ordering::Relaxed);
        self.is_deferred.store(true, Ordering::Relaxed);
        self.hold();
    }

    /// As [`defer`](Self::defer), for a command that then begins nothing new and ends with the requests that it has sent.
    /// These have only a short time left.
    pub(crate) fn defer_briefly(&self) {
        self.defer();
        self.is_brief.store(true, Ordering::Relaxed);
    }

    /// From now on the first signal only sets a flag, which a thread looks at that ends the process.
    pub(crate) fn hold(&self) {
        self.armed.store(false, Ordering::Relaxed);
    }

    /// From now on the first signal ends the process.
    pub(crate) fn end_at_once(&self) {
        self.armed.store(true, Ordering::Relaxed);
    }

    /// True if the command itself handles the signal.
    pub(crate) fn is_deferred(&self) -> bool {
        self.is_deferred.load(Ordering::Relaxed)
    }

    /// True if the command ends soon after the signal.
    pub(crate) fn is_brief(&self) -> bool {
        self.is_brief.load(Ordering::Relaxed)
    }

    /// The signal that asks the process to stop.
    pub(crate) fn signal(&self) -> Option<u8> {
        let signal = self.signal.load(Ordering::Relaxed);
        u8::try_from(signal).ok().filter(|it| *it != 0)
    }

    /// How the process is ended at once, once it was asked to stop: by the same means as before.
    pub(crate) fn again(&self) -> Option<&'static str> {
        self.signal().map(|_| if self.is_interrupt() { "Ctrl-C again" } else { "a second signal" })
    }

    /// True if the signal is Ctrl-C, which a person sends.
    pub(crate) fn is_interrupt(&self) -> bool {
        self.signal().map(i32::from) == Some(SIGINT)
    }

    pub(crate) fn is_asked(&self) -> bool {
        self.signal().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_end_at_once_is_the_one_by_which_the_process_was_asked_to_stop() {
        for (signal, again) in [
            (0, None),
            (SIGINT, Some("Ctrl-C again")),
            (SIGTERM, Some("a second signal")),
            (SIGHUP, Some("a second signal")),
        ] {
            let signal = Arc::new(AtomicUsize::new(signal.try_into().unwrap()));
            let [armed, is_deferred, is_brief] = Default::default();
            assert_eq!(Stop { armed, is_deferred, is_brief, signal }.again(), again);
        }
    }
}
