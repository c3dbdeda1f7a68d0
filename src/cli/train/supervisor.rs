//! Runs the training on a thread of its own, so that a signal ends the command in time although the server may never
//! answer.

use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tinkex::{CloseStatus, ServiceClient};

use super::log::Log;
use super::{ending, saved};
use crate::failure::Failure;
use crate::signals::Stop;

/// Time between looks for a signal.
const TICK: Duration = Duration::from_millis(50);
/// Part of the limit that is kept for closing the session, which takes up to 10 s, and for writing the files.
const FOR_CLOSING: Duration = Duration::from_secs(12);
/// The training thread has this long to end after its session was closed.
const FOR_FILES: Duration = Duration::from_secs(2);
/// As that of the main thread.
const STACK_BYTES: usize = 8 << 20;

type Outcome = Result<(), Failure>;

/// Watches over the training thread.
#[derive(Debug)]
pub(super) struct Supervisor<'a> {
    pub(super) stop: &'a Stop,
    pub(super) log: &'a Log,
    pub(super) folder: &'a Path,
    pub(super) service: &'a ServiceClient,
    /// Time from the first signal to the end of the command.
    pub(super) limit: Duration,
}

impl Supervisor<'_> {
    /// Runs `work` on its own thread and waits for it. After a signal, `work` is expected to end by itself; if it does
    /// not in time, its session is closed, which ends all waits for the server.
    pub(super) fn run(&self, work: impl FnOnce() -> Outcome + Send + 'static) -> Outcome {
        let (sender, outcome) = mpsc::channel();
        let run = move || {
            // The receiver is gone only if this thread was given up.
            let _ = sender.send(work());
        };
        let builder = thread::Builder::new().name("train".into()).stack_size(STACK_BYTES);
        let thread = builder
            .spawn(run)
            .map_err(|error| Failure::text(format!("cannot start a thread for the training: {error}")))?;
        let mut deadline = None;
        loop {
            match outcome.recv_timeout(TICK) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Disconnected) => return broken(thread),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let Some(signal) = self.stop.signal() else { continue };
            let deadline = *deadline.get_or_insert_with(|| {
                self.announce();
                Instant::now() + time_to_work(self.limit)
            });
            if deadline <= Instant::now() {
                return self.cut_short(signal, &outcome);
            }
        }
    }

    /// The second signal ends the process in its handler, where nothing can be written: so the command to resume is told
    /// with the first one.
    fn announce(&self) {
        self.log.say(&format!(
            "stopping: waits up to {:.0} s for the steps in flight, and saves the state",
            self.limit.as_secs_f64()
        ));
        let resume = ending::resume_command(self.folder);
        let again = self.stop.again().unwrap_or("a second signal");
        crate::notes::write(&format!("{again} leaves at once; then resume with: {resume}"));
    }

    /// Ends the waits for the server.
    fn cut_short(&self, signal: u8, outcome: &Receiver<Outcome>) -> Outcome {
        self.log.say("warning: the server has not finished in time, so what is in flight is given up");
        if let Err(error) = self.service.close(CloseStatus::Interrupted) {
            self.log.write(&format!("warning: the session could not be closed: {error}"));
        }
        if let Ok(result) = outcome.recv_timeout(FOR_FILES) {
            return result;
        }
        self.log.say(&saved::last(self.folder));
        let resume = ending::resume_command(self.folder);
        crate::notes::write(&format!("resume with: {resume}"));
        Err(Failure::signal(signal).with_remedy(format!("`{resume}`")))
    }
}

/// The training thread ended without a result: it panicked.
fn broken(thread: JoinHandle<()>) -> Outcome {
    match thread.join() {
        Err(panic) => std::panic::resume_unwind(panic),
        Ok(()) => Err(Failure::text("the training ended without a result")),
    }
}

/// The part of the limit in which the server may finish.
fn time_to_work(limit: Duration) -> Duration {
    limit.saturating_sub(FOR_CLOSING).max(limit / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_limit_is_left_for_the_end() {
        let seconds = |limit| time_to_work(Duration::from_secs(limit)).as_secs_f64();
        assert_eq!([60, 20, 1].map(seconds), [48.0, 10.0, 0.5]);
    }
}
