//! A function that is called if a job is dropped instead of run.

use super::unwind;
use crate::error::Error;

/// Calls a function when it is dropped, unless [`disarm`](Undo::disarm) was called before. A job that must not get lost
/// unnoticed holds an `Undo`. The thread that submitted the job does not wait for it, and the job may be dropped
/// without being done: its pool is closed, the system refuses a thread for it, or it panics half-way.
///
/// The function gets the reason of the drop: the panic, or the cause of the [`drop_because`](unwind::drop_because) that
/// dropped the job.
pub(crate) struct Undo {
    undo: Option<Box<dyn FnOnce(Error) + Send>>,
}

impl Undo {
    pub(crate) fn new(undo: impl FnOnce(Error) + Send + 'static) -> Self {
        Undo { undo: Some(Box::new(undo)) }
    }

    /// Drops the function without calling it.
    pub(crate) fn disarm(mut self) {
        let undo = self.undo.take();
        drop(undo);
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some(undo) = self.undo.take() {
            unwind::answer_dropped(undo);
        }
    }
}

#[cfg(all(test, not(shuttle)))]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn undo_into_channel() -> (Undo, mpsc::Receiver<Error>) {
        let (sender, receiver) = mpsc::channel();
        (Undo::new(move |error| sender.send(error).unwrap()), receiver)
    }

    #[test]
    fn the_function_gets_the_reason_why_the_job_was_not_done() {
        let (undo, reason) = undo_into_channel();
        unwind::drop_because(move || undo.disarm(), &Error::closed("the pool is closed"));
        assert_eq!(reason.recv().unwrap().message(), "the pool is closed");

        let (undo, reason) = undo_into_channel();
        let panicked = unwind::catch(move || {
            let _undo = undo;
            panic!("half-way");
        });
        assert!(panicked.is_err());
        assert!(reason.recv().unwrap().to_string().contains("half-way"));
    }

    #[test]
    fn a_disarmed_undo_does_nothing() {
        let (undo, reason) = undo_into_channel();
        undo.disarm();
        assert!(reason.recv().is_err());
    }
}
