//! What the server of a session was found to speak.

use std::sync::atomic::{AtomicBool, Ordering};

/// What is known of the server's messages beyond the protocol.
#[derive(Debug, Default)]
pub(crate) struct Dialect {
    reports_loss: AtomicBool,
}

impl Dialect {
    /// Whether the server is known to report the sum of a loss, so that nothing has to be kept to compute it.
    pub(crate) fn reports_loss(&self) -> bool {
        self.reports_loss.load(Ordering::Relaxed)
    }

    /// The server reported the sum of a loss.
    pub(crate) fn note_loss(&self) {
        self.reports_loss.store(true, Ordering::Relaxed);
    }
}
