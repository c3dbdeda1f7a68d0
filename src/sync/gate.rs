//! A gate with a queue, first come, first served. [`Semaphore`](super::Semaphore) and [`Budget`](super::Budget) are
//! built on it. A *share* is the number of permits or bytes that one request takes.
//!
//! # How waiting and waking work
//! One lock guards the whole state. No thread holds it while it waits, runs a callback or allocates an error.
//!
//! *Entering:* If the queue is empty and the share is free, the thread takes the share. Otherwise the thread takes the
//! next ticket (a number that only grows), adds an entry with this ticket and a new condition variable to the queue,
//! and waits until **its ticket is no longer in the queue**. The thread that removed the ticket has already counted the
//! share as taken.
//!
//! *Leaving:* The thread gives its share back. Then it grants shares from the head of the queue as long as the head
//! fits: it counts the head's share as taken, removes the head's ticket and notifies the head's condition variable. No
//! request overtakes the head, neither a smaller one behind it nor a new one, so that large requests do not starve. A
//! granted share is never free in between, so that no new request can take it.
//!
//! *Giving up* (cancelled, too late, closed): The thread removes its own ticket, then grants shares as above, because
//! its request may have blocked the next ones. If its share was granted at the same moment, the thread has entered
//! instead.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use super::cancel::Wake;
use super::fault::mutant;
use super::{CancelToken, Condvar, Mutex};
use crate::error::{Error, Phase, Result};

/// Condition under which the head of the queue may enter.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// The whole share of the request is free.
    Fits,
    /// The shares taken so far do not exceed the capacity. The share of the request may have any size.
    Overshoots,
}

pub(super) struct Gate {
    rule: Rule,
    /// Name of the gate in error messages.
    name: &'static str,
    capacity: usize,
    state: Mutex<State>,
}

struct State {
    /// The sum of all taken shares. The sum may exceed the capacity by one share, and thus be larger than `usize::MAX`:
    /// therefore `u128`.
    taken: u128,
    closed: bool,
    next_ticket: u64,
    queue: BTreeMap<u64, Waiter>,
}

struct Waiter {
    n: usize,
    changed: Arc<Condvar>,
}

impl Gate {
    pub(super) fn new(rule: Rule, name: &'static str, capacity: usize) -> Arc<Self> {
        let state = State { taken: 0, closed: false, next_ticket: 0, queue: BTreeMap::new() };
        Arc::new(Gate { rule, name, capacity, state: Mutex::new(state) })
    }

    /// Enters if nobody waits and the rule admits the share. Never waits.
    pub(super) fn try_enter(&self, n: usize) -> bool {
        let mut state = self.state.lock();
        !state.closed && self.take_if_first(&mut state, n)
    }

    pub(super) fn enter(
        self: &Arc<Self>,
        n: usize,
        deadline: Option<Instant>,
        cancel: &CancelToken,
    ) -> Result<()> {
        cancel.check()?;
        if self.rule == Rule::Fits && self.capacity < n {
            return Err(Error::invalid(
                "n",
                format!("{n} is more than the {} has ({})", self.name, self.capacity),
            ));
        }
        let (ticket, changed) = {
            let mut state = self.state.lock();
            if state.closed {
                drop(state);
                return Err(self.closed());
            }
            if self.take_if_first(&mut state, n) {
                return Ok(());
            }
            state.next_ticket += 1;
            let (ticket, changed) = (state.next_ticket, Arc::new(Condvar::new()));
            state.queue.insert(ticket, Waiter { n, changed: changed.clone() });
            (ticket, changed)
        };
        // The waker is registered before the lock is taken again, and unregistered after the lock is released, because
        // the waker takes the lock. Meanwhile the ticket keeps the position in the queue.
        let waker = Arc::new(Waker { gate: self.clone(), changed: changed.clone() });
        let _registration = cancel.on_cancel(waker);
        let mut state = self.state.lock();
        let mut in_time = true;
        let end = loop {
            let has_left = !state.queue.contains_key(&ticket);
            let granted = mutant!(LosesTheGrant, has_left && !cancel.is_cancelled(), has_left);
            if granted {
                return Ok(());
            }
            match (state.closed, cancel.is_cancelled(), in_time) {
                (false, false, true) => in_time = super::wait(&changed, &mut state, deadline),
                end => break end,
            }
        };
        state.queue.remove(&ticket);
        mutant!(BlocksTheNext, {}, self.grant(&mut state));
        let n_waiting = state.queue.len();
        drop(state);
        Err(match end {
            (true, ..) => self.closed(),
            (_, true, _) => Error::cancelled(),
            _ => Error::timeout(
                Phase::Admission,
                format!(
                    "no room in the {} in time for {n} of {} ({n_waiting} others wait)",
                    self.name, self.capacity
                ),
            ),
        })
    }

    /// Gives a share back.
    pub(super) fn leave(&self, n: usize) {
        let mut state = self.state.lock();
        // No underflow: only guards call this, once each, with the share that was counted for them.
        state.taken -= n as u128;
        self.grant(&mut state);
    }

    /// Refuses all requests from now on, including those that wait. Shares that are taken stay valid.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        if mem::replace(&mut state.closed, true) {
            return;
        }
        mutant!(ClosesWithoutNotify, return);
        // Leave the tickets in the queue: each waiter removes its own one. A missing ticket thus always means a granted
        // share.
        for waiter in state.queue.values() {
            waiter.changed.notify_one();
        }
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// The sum of all shares that are taken, at most `usize::MAX`.
    pub(super) fn taken(&self) -> usize {
        let taken = self.state.lock().taken;
        taken.try_into().unwrap_or(usize::MAX)
    }

    pub(super) fn available(&self) -> usize {
        self.capacity.saturating_sub(self.taken())
    }

    pub(super) fn waiting(&self) -> usize {
        self.state.lock().queue.len()
    }

    /// Takes a share if nobody waits and the rule admits it.
    fn take_if_first(&self, state: &mut State, n: usize) -> bool {
        let is_first = mutant!(Barges, true, state.queue.is_empty());
        let enters = is_first && self.admits(state.taken, n);
        if enters {
            state.taken += n as u128;
        }
        enters
    }

    /// Grants shares from the head of the queue as long as the head fits.
    fn grant(&self, state: &mut State) {
        while !state.closed {
            let head = mutant!(ServesTheLast, state.queue.last_entry(), state.queue.first_entry());
            match head {
                Some(head) if self.admits(state.taken, head.get().n) => {
                    let head = head.remove();
                    state.taken += head.n as u128;
                    // Notify under the lock, before the waiter can end its wait and drop the condition variable.
                    mutant!(GrantsWithoutNotify, {}, head.changed.notify_one());
                }
                _ => return,
            }
        }
    }

    fn admits(&self, taken: u128, n: usize) -> bool {
        let share = match self.rule {
            Rule::Fits => mutant!(IgnoresWeights, 1, n),
            Rule::Overshoots => 0,
        };
        let fits = taken + share as u128 <= self.capacity as u128;
        mutant!(OverdrawsTwice, fits || self.rule == Rule::Overshoots, fits)
    }

    #[cold]
    fn closed(&self) -> Error {
        Error::closed(format!("the {} is closed", self.name))
    }
}

struct Waker {
    gate: Arc<Gate>,
    changed: Arc<Condvar>,
}

impl Wake for Waker {
    fn wake(&self) {
        // Take the lock once before notifying. A waiter that has checked its token and does not wait yet holds the
        // lock; after this line it waits and gets the notification.
        mutant!(WakesWithoutTheLock, {}, drop(self.gate.state.lock()));
        self.changed.notify_one();
    }
}
