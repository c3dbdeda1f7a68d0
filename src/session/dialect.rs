//! What the server of a session was found to speak.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::policy::forms::{Form, Forms, Next, Outcome};
use crate::sync::Mutex;

/// What is known of the server's messages beyond the protocol.
#[derive(Debug, Default)]
pub(crate) struct Dialect {
    reports_loss: AtomicBool,
    forms: Mutex<Forms>,
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

    /// The server lacks an endpoint that is as old as protobuf.
    pub(crate) fn note_old(&self) {
        self.forms.lock().note_old();
    }

    /// What to do about a part of a pass that was sent in these forms with these outcomes.
    pub(crate) fn next(&self, tried: &[(Form, Outcome)]) -> Next {
        let mut forms = self.forms.lock();
        let before = forms.known();
        let next = forms.next(tried);
        let learnt = forms.known().filter(|_| before.is_none());
        drop(forms);
        if learnt == Some(Form::Json) {
            log::info!(target: "tinkex", "passes are sent as JSON, which is what this server reads");
        }
        next
    }
}
