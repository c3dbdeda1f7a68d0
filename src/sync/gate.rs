//! A first-come, first-served gate: the machinery of [`Semaphore`](super::Semaphore) and [`Budget`](super::Budget).
//!
//! # How waiting and waking work
//! One lock guards everything. It is never held while a thread waits, calls back or allocates an error.
//!
//! *Entering:* if nobody waits and the share is free, take it. Otherwise take the next ticket (a number that only
//! grows), join the queue under it with a condition variable of your own, and wait until **your ticket has left the
//! queue**: the thread that removed it has counted your share as taken.
//!
//! *Leaving:* give the share back, then grant shares from the head of the queue as long as the head fits: count its
//! share, remove its ticket, notify its condition variable. Nobody overtakes the head, neither a smaller request behind
//! it nor a newcomer, so that large requests do not starve. A granted share is never free in between, so that no
//! newcomer can take it.
//!
//! *Giving up* (cancelled, too late, closed): remove your own ticket, then grant as above, because your request may
//! have blocked the next ones. A waiter that was granted its share at the same moment has entered.

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
    /// Its whole share is free.
    Fits,
    /// The shares taken so far do not exceed the capacity; its own share may be of any size.
    Overshoots,
}

pub(super) struct Gate {
    rule: Rule,
    /// What the gate is, for messages.
    name: &'static str,
    capacity: usize,
    state: Mutex<State>,
}

struct State {
    /// Wider than a share, because it may exceed the capacity by one share.
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

    /// Enters if that is possible at once and nobody waits.
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
        // Registered and dropped without the lock, because the waker takes it. The ticket holds the place meanwhile.
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
        // Only guards call this, once each, with the share that was counted for them.
        state.taken -= n as u128;
        self.grant(&mut state);
    }

    /// Refuses all requests from now on, those that wait included. Shares that are taken stay valid.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        if mem::replace(&mut state.closed, true) {
            return;
        }
        mutant!(ClosesWithoutNotify, return);
        // Waiters remove their own tickets, so that a missing ticket always means a granted share.
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
                    // Under the lock, so that the waiter cannot end its wait, and drop the condition variable, before.
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
        // A waiter that has checked its token and does not wait yet holds the lock. After it, the notification arrives.
        mutant!(WakesWithoutTheLock, {}, drop(self.gate.state.lock()));
        self.changed.notify_one();
    }
}
