//! Waits that a signal shortens.

use std::cell::Cell;
use std::time::{Duration, Instant};

use tinkex::Pending;

use super::log::Log;
use crate::failure::Failure;
use crate::signals::Stop;

/// After a signal, what is in flight has this long to finish.
const LIMIT: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(200);

/// Waits for results of the server. Each operation has its own deadline; after a signal, all that follow share one.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    stop: Stop,
    log: &'a Log,
    deadline: Cell<Option<Instant>>,
}

impl<'a> Waiting<'a> {
    pub(super) fn new(stop: &Stop, log: &'a Log) -> Self {
        Waiting { stop: stop.clone(), log, deadline: Cell::new(None) }
    }

    /// True once a signal came. Says so the first time.
    pub(super) fn is_stopping(&self) -> bool {
        let is_asked = self.stop.is_asked();
        if is_asked && self.deadline.get().is_none() {
            self.deadline.set(Some(Instant::now() + LIMIT));
            self.log.say(
                "stopping: waits for the steps in flight and saves the state; once more to leave at once",
            );
        }
        is_asked
    }

    pub(super) fn wait<T: Send + 'static>(&self, mut pending: Pending<T>) -> Result<T, Failure> {
        loop {
            if let Some(value) = pending.wait_timeout(TICK)? {
                return Ok(value);
            }
            if self.is_stopping() && self.deadline.get().is_some_and(|deadline| deadline <= Instant::now()) {
                return Err(Failure::text("a step in flight did not finish within 60 s of the signal"));
            }
        }
    }
}
