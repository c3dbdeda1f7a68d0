//! What is done if a job is dropped instead of done.

use super::unwind;
use crate::error::Error;

/// Calls a function when it is dropped, unless it was disarmed. A job that others count on holds one, because whoever brought
/// the job may have gone away believing that it will be done: its pool may be closed, the system may refuse the thread, or the
/// job may panic half-way.
///
/// The function gets the reason: the panic, or the cause of the [`drop_because`](unwind::drop_because) in which the job died.
pub(crate) struct Undo {
    undo: Option<Box<dyn FnOnce(Error) + Send>>,
}

impl Undo {
    pub(crate) fn new(undo: impl FnOnce(Error) + Send + 'static) -> Self {
        Undo { undo: Some(Box::new(undo)) }
    }

    /// There is nothing to undo any more.
    pub(crate) fn disarm(mut self) {
        let undo = self.undo.take();
        drop(undo);
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some(undo) = self.undo.take() {
            unwind::abandon(undo);
        }
    }
}

#[cfg(all(test, not(shuttle)))]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn told() -> (Undo, mpsc::Receiver<Error>) {
        let (sender, receiver) = mpsc::channel();
        (Undo::new(move |error| sender.send(error).unwrap()), receiver)
    }

    #[test]
    fn it_is_told_why_the_job_was_not_done() {
        let (undo, reason) = told();
        unwind::drop_because(move || undo.disarm(), &Error::closed("the pool is closed"));
        assert_eq!(reason.recv().unwrap().message(), "the pool is closed");

        let (undo, reason) = told();
        let panicked = unwind::catch(move || {
            let _undo = undo;
            panic!("half-way");
        });
        assert!(panicked.is_err());
        assert!(reason.recv().unwrap().to_string().contains("half-way"));
    }

    #[test]
    fn it_does_nothing_once_it_is_disarmed() {
        let (undo, reason) = told();
        undo.disarm();
        assert!(reason.recv().is_err());
    }
}
