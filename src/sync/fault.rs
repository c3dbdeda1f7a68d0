//! Mistakes that the models must notice.
//!
//! A model that never fails might not be looking. So each place where something is easily got wrong asks here whether
//! to get it wrong, and for each of these mistakes a test asserts that a model of `tests/model` fails with it. Outside
//! of the models the answer is a constant no, which costs nothing.

/// One mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A gate: whoever is let in is not told.
    LetsInSilently,
    /// A gate: the last one in the queue is served first.
    ServesTheLast,
    /// A gate: a newcomer takes what is free though others wait.
    Barges,
    /// A gate: a head that gives up does not let in the next one.
    KeepsTheTurn,
    /// A gate: whoever is cancelled when it has been let in goes away with its share.
    LosesTheGrant,
    /// A gate: the waker notifies without having held the waiter's lock.
    WakesWithoutTheLock,
    /// A gate: closing does not wake those who wait.
    ClosesSilently,
    /// A semaphore: every request counts as one for whether it fits.
    IgnoresWeights,
    /// A budget: it is overdrawn further though it is overdrawn.
    OverdrawsTwice,
    /// A token: a child that is made is not noted by its parent.
    ForgetsTheChild,
    /// A token: descendants are marked while their wakers are called.
    MarksAsItGoes,
    /// A token: a waker is called twice.
    WakesAgain,
    /// A one-shot: a reply that is dropped answers nothing.
    DropsSilently,
    /// A one-shot: a later answer replaces the first one.
    AnswersTwice,
    /// A one-shot: the answer does not wake who waits.
    SettlesSilently,
    /// An actor: whoever waits for room in the mailbox keeps others from closing it.
    SendsUnderTheLock,
    /// An actor: silences the bell after it has looked.
    SilencesLate,
    /// An actor: a sender rings the bell before it is gone.
    RingsEarly,
    /// An actor: leaves what is queued at its end to the channel.
    LeavesTheQueue,
    /// A pool: an idle thread that is called when its time is up ends all the same.
    LeavesWhenCalled,
    /// A pool: whoever clears the place of a thread that left early does not tell those who wait for a place.
    ClearsSilently,
    /// A pool: a place that is reserved for a thread counts as one.
    CountsPlaces,
    /// A pool: those who wait for a thread are not told that it was refused.
    RefusesSilently,
    /// A pool: who waits for a group of jobs does none of them.
    WaitsIdly,
    /// A pool: the last job of a group does not wake who waits for it.
    FinishesSilently,
    /// A pool: a class does not add threads while jobs stay queued.
    NeverGrows,
    /// A task: a wake while it runs starts another thread.
    RunsTwice,
    /// A task: a wake during the last turn is forgotten.
    MissesTheWake,
    /// A task: one whose thread is lost still counts as running.
    KeepsRunning,
    /// A breaker: trials are not counted when they begin.
    CountsAtTheEnd,
    /// A breaker: outcomes of an older epoch count.
    HearsOldEpochs,
    /// A breaker: a permission that is dropped without an outcome says nothing.
    ForgetsTheDropped,
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
pub(crate) use chosen::{choose, is};

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

    /// Makes this mistake from now on, in all checks of this thread.
    pub(crate) fn choose(fault: Fault) {
        CHOSEN.set(Some(fault));
    }
}
