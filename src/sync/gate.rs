//! A first-come, first-served gate: the machinery of [`Semaphore`](super::Semaphore) and [`Budget`](super::Budget).
//!
//! # How waiting and waking go
//! Everything happens under one lock, which is never held while somebody waits, calls back or allocates an answer.
//!
//! *To enter:* if nobody waits and there is room, take it. Otherwise draw a ticket (a number that only grows), join
//! the queue under it with a condition variable of your own, and wait until **your ticket is not in the queue any
//! more**: whoever took it out has counted your share as taken.
//!
//! *To leave:* give your share back, then let in from the head of the queue, as long as the head fits: count its
//! share, take its ticket out, notify it alone. The head is never overtaken, neither by a smaller one behind it nor
//! by a newcomer, so that heavy ones do not starve; and the room never passes through a state in which somebody
//! quick could grab it.
//!
//! *To give up* (cancelled, too late, closed): take your own ticket out, and let in from the head as above, because
//! it may have been you who was in the way. Who was let in at the same moment is in.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use super::cancel::Wake;
use super::fault::{self, Fault};
use super::{CancelToken, Condvar, Mutex};
use crate::error::{Error, Phase, Result};

/// When the head of the queue may enter.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// When its whole share is free.
    Fits,
    /// When what is inside does not exceed the capacity, however large its own share is.
    Overshoots,
}

pub(super) struct Gate {
    rule: Rule,
    /// For messages: what this is.
    name: &'static str,
    capacity: usize,
    state: Mutex<State>,
}

struct State {
    /// May exceed the capacity by one share, so that it is wider than the shares.
    taken: u128,
    closed: bool,
    next_ticket: u64,
    queue: BTreeMap<u64, Waiter>,
}

struct Waiter {
    n: usize,
    bell: Arc<Condvar>,
}

impl Gate {
    pub(super) fn new(rule: Rule, name: &'static str, capacity: usize) -> Arc<Self> {
        let state = State { taken: 0, closed: false, next_ticket: 0, queue: BTreeMap::new() };
        Arc::new(Gate { rule, name, capacity, state: Mutex::new(state) })
    }

    /// Enters if that is possible at once and nobody waits.
    pub(super) fn try_enter(&self, n: usize) -> bool {
        let mut state = self.state.lock();
        !state.closed && self.walk_in(&mut state, n)
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
        let (ticket, bell) = {
            let mut state = self.state.lock();
            if state.closed {
                drop(state);
                return Err(self.closed());
            }
            if self.walk_in(&mut state, n) {
                return Ok(());
            }
            state.next_ticket += 1;
            let (ticket, bell) = (state.next_ticket, Arc::new(Condvar::new()));
            state.queue.insert(ticket, Waiter { n, bell: bell.clone() });
            (ticket, bell)
        };
        // Registered without our lock, which the waker takes, and dropped without it. The place in the queue is held
        // already.
        let waker = Arc::new(Waker { gate: self.clone(), bell: bell.clone() });
        let _registration = cancel.on_cancel(waker);
        let mut state = self.state.lock();
        let mut in_time = true;
        let given_up = loop {
            let let_in = !state.queue.contains_key(&ticket);
            if let_in && !(fault::is(Fault::LosesTheGrant) && cancel.is_cancelled()) {
                return Ok(());
            }
            match (state.closed, cancel.is_cancelled(), in_time) {
                (false, false, true) => in_time = super::wait(&bell, &mut state, deadline),
                reason => break reason,
            }
        };
        state.queue.remove(&ticket);
        if !fault::is(Fault::KeepsTheTurn) {
            self.let_in(&mut state);
        }
        let n_waiting = state.queue.len();
        drop(state);
        Err(match given_up {
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
        // Only guards call this, once each, with what was counted for them.
        state.taken -= n as u128;
        self.let_in(&mut state);
    }

    /// Turns everybody away, those who wait included. What is inside stays until it leaves.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        if mem::replace(&mut state.closed, true) || fault::is(Fault::ClosesSilently) {
            return;
        }
        // They take their tickets out themselves, so that a missing ticket always means having been let in.
        state.queue.values().for_each(|it| {
            it.bell.notify_one();
        });
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// How much is inside. More than a `usize` holds counts as the most it holds.
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

    fn walk_in(&self, state: &mut State, n: usize) -> bool {
        let first = state.queue.is_empty() || fault::is(Fault::Barges);
        let may = first && self.admits(state.taken, n);
        if may {
            state.taken += n as u128;
        }
        may
    }

    fn let_in(&self, state: &mut State) {
        while !state.closed {
            let head = match fault::is(Fault::ServesTheLast) {
                false => state.queue.first_entry(),
                true => state.queue.last_entry(),
            };
            match head {
                Some(head) if self.admits(state.taken, head.get().n) => {
                    let head = head.remove();
                    state.taken += head.n as u128;
                    // Under the lock, so that the waiter's condition variable is certainly still waited for.
                    if !fault::is(Fault::LetsInSilently) {
                        head.bell.notify_one();
                    }
                }
                _ => return,
            }
        }
    }

    fn admits(&self, taken: u128, n: usize) -> bool {
        let share = match self.rule {
            Rule::Fits if fault::is(Fault::IgnoresWeights) => 1,
            Rule::Fits => n,
            Rule::Overshoots if fault::is(Fault::OverdrawsTwice) => return true,
            Rule::Overshoots => 0,
        };
        taken + share as u128 <= self.capacity as u128
    }

    #[cold]
    fn closed(&self) -> Error {
        Error::closed(format!("the {} is closed", self.name))
    }
}

struct Waker {
    gate: Arc<Gate>,
    bell: Arc<Condvar>,
}

impl Wake for Waker {
    fn wake(&self) {
        // A waiter between its look at the token and its wait holds the lock; after it, it hears us.
        if !fault::is(Fault::WakesWithoutTheLock) {
            drop(self.gate.state.lock());
        }
        self.bell.notify_one();
    }
}
