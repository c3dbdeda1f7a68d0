//! Mistakes that the models must notice.
//!
//! A model that never fails might not be looking. So each place where a line is easily left out asks here whether to
//! leave it out, and for each of these mistakes a test asserts that the model checker finds what comes of it. Outside
//! of the models the answer is a constant no, which costs nothing.

/// One mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A gate: whoever is let in is not told.
    LetsInSilently,
    /// A gate: a head that gives up does not let in the next one.
    KeepsTheTurn,
    /// A gate: the waker notifies without having held the waiter's lock.
    WakesWithoutTheLock,
    /// A gate: closing does not wake those who wait.
    ClosesSilently,
    /// A gate: a newcomer takes what is free though others wait.
    Barges,
    /// A semaphore: every request counts as one for whether it fits.
    IgnoresWeights,
    /// A budget: an item larger than the whole waits until it fits.
    NeverOverdraws,
    /// A budget: an item larger than the whole need not wait until it is balanced.
    OverdrawsTwice,
    /// A one-shot: a reply that is dropped answers nothing.
    DropsSilently,
    /// A one-shot: a later answer replaces the first one.
    AnswersTwice,
    /// A one-shot: the answer does not wake who waits.
    SettlesSilently,
    /// An actor: at its end, looks only once whether a message is left.
    DrainsInHaste,
    /// An actor: leaves what is queued to the channel.
    LeavesTheQueue,
    /// A pool: an idle thread that is called when its time is up ends all the same.
    LeavesWhenCalled,
    /// A pool: who waits for a group of jobs does none of them.
    WaitsIdly,
    /// A breaker: trials are counted when they end.
    CountsAtTheEnd,
    /// A breaker: outcomes of an older epoch count.
    HearsOldEpochs,
    /// A breaker: a permit that is dropped without an outcome says nothing.
    ForgetsTheDropped,
    /// A window: a success clears also what it did not know of.
    ClearsUnconditionally,
    /// A window: a later refusal may shorten it.
    Shortens,
}

/// Whether to make this mistake.
#[cfg(not(all(test, shuttle)))]
#[inline(always)]
pub(crate) const fn is(_: Fault) -> bool {
    false
}

#[cfg(all(test, shuttle))]
pub(crate) use chosen::{is, with};

#[cfg(all(test, shuttle))]
mod chosen {
    use std::cell::Cell;

    use super::Fault;

    std::thread_local! {
        /// The checker runs all threads of a model on the one that asked for the check.
        static CHOSEN: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    /// Whether to make this mistake.
    pub(crate) fn is(fault: Fault) -> bool {
        CHOSEN.get() == Some(fault)
    }

    /// Makes a mistake while a function runs, which must not panic.
    pub(crate) fn with<T>(fault: Fault, f: impl FnOnce() -> T) -> T {
        CHOSEN.set(Some(fault));
        let value = f();
        CHOSEN.set(None);
        value
    }
}
