//! Deliberate mistakes in the code, which show that the models find mistakes.
//!
//! A model (`tests/model`) is a test that runs code of this crate under a model checker. Where the code is error-prone,
//! it also contains a wrong variant, in a [`mutant!`]. For each [`Fault`] a test turns the wrong variant on and asserts
//! that a model fails. This shows that the model checks that code. In all other builds `mutant!` expands to the right
//! code only.

/// Chooses between the wrong and the right code of a [`Fault`].
///
/// - `mutant!(Name, wrong, right)` is `right`; it is `wrong` in a model that chose the fault;
/// - `mutant!(Name, wrong)` is a statement that only such a model runs;
/// - `mutant!(Name, keep value)` keeps a value until the end of the block, in such a model only.
#[cfg(not(all(test, shuttle)))]
macro_rules! mutant {
    ($fault:ident, keep $value:expr) => {};
    ($fault:ident, $wrong:expr) => {};
    ($fault:ident, $wrong:expr, $right:expr) => {
        $right
    };
}

#[cfg(all(test, shuttle))]
macro_rules! mutant {
    ($fault:ident, keep $value:expr) => {
        let _kept = $crate::sync::fault::is($crate::sync::fault::Fault::$fault).then(|| $value);
    };
    ($fault:ident, $wrong:expr) => {
        if $crate::sync::fault::is($crate::sync::fault::Fault::$fault) {
            $wrong;
        }
    };
    ($fault:ident, $wrong:expr, $right:expr) => {
        if $crate::sync::fault::is($crate::sync::fault::Fault::$fault) { $wrong } else { $right }
    };
}

pub(crate) use mutant;

#[cfg(all(test, shuttle))]
pub(crate) use chosen::{Fault, choose, is};

#[cfg(all(test, shuttle))]
mod chosen {
    use std::cell::Cell;

    /// One mistake.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Fault {
        /// A gate: a waiter that gets its share is not notified.
        GrantsWithoutNotify,
        /// A gate: the last waiter in the queue is served first.
        ServesTheLast,
        /// A gate: a new request takes a free share although others wait.
        Barges,
        /// A gate: if the head of the queue gives up, the next waiter is not granted its share.
        BlocksTheNext,
        /// A gate: a waiter that is cancelled after it got its share does not give the share back.
        LosesTheGrant,
        /// A gate: the waker notifies without having held the waiter's lock.
        WakesWithoutTheLock,
        /// A gate: closing does not notify the waiters.
        ClosesWithoutNotify,
        /// A semaphore: the admission check counts every request as one permit.
        IgnoresWeights,
        /// A budget: an overdrawn budget admits more.
        OverdrawsTwice,
        /// A token: a new child is not registered with its parent.
        ForgetsTheChild,
        /// A token: descendants are marked as cancelled one by one while their wakers are called, and not before.
        MarksWhileWaking,
        /// A token: a waker is called twice.
        WakesTwice,
        /// A one-shot: a dropped reply answers nothing.
        DropsWithoutAnswer,
        /// A one-shot: a later answer replaces the first one.
        ReplacesTheAnswer,
        /// A one-shot: the answer does not notify the waiter.
        SettlesWithoutNotify,
        /// An actor: a sender that waits while the mailbox is full holds the lock that closing needs.
        SendsUnderTheLock,
        /// An actor: the signal is cleared after the mailbox was checked.
        ClearsSignalLate,
        /// An actor: a send signals before it drops its sender.
        SignalsEarly,
        /// An actor: messages that are queued at its end stay in the channel.
        LeavesQueuedMessages,
        /// A pool: an idle thread ends at its time limit although it was notified at that moment.
        EndsWhenNotified,
        /// A pool: a thread ends before its handle is stored. When its place in the list of threads becomes free later,
        /// calls that wait for a place are not notified.
        FreesPlaceWithoutNotify,
        /// A pool: a place in the list of threads that is reserved for a new thread already counts as a thread.
        CountsReservedPlaces,
        /// A pool: when a thread is refused, calls that wait for this thread are not notified.
        RefusesWithoutNotify,
        /// A pool: the thread that waits for a group of jobs does none of them.
        WaitsWithoutHelping,
        /// A pool: the last job of a group does not notify the thread that waits for the group.
        FinishesWithoutNotify,
        /// A pool: a class does not add threads while jobs stay queued.
        NeverGrows,
        /// A task: a wake while the task runs starts another thread.
        RunsTwice,
        /// A task: a wake during the last turn is ignored.
        MissesTheWake,
        /// A task: the task still counts as running after its thread was lost.
        KeepsRunning,
        /// A breaker: trials are not counted when they begin.
        CountsAtTheEnd,
        /// A breaker: outcomes of an older epoch count.
        CountsOldEpochs,
        /// A breaker: a permission that is dropped without an outcome is not counted as a failure.
        IgnoresDrops,
        /// A backoff window: a later refusal may shorten the window.
        ShortensTheWindow,
    }

    std::thread_local! {
        /// A thread-local of the standard library: the checker runs all threads of a model on the thread that started
        /// the check.
        static CHOSEN: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    /// Returns whether this fault was chosen.
    pub(crate) fn is(fault: Fault) -> bool {
        CHOSEN.get() == Some(fault)
    }

    /// Makes this mistake from now on, in all checks of this thread.
    pub(crate) fn choose(fault: Fault) {
        CHOSEN.set(Some(fault));
    }
}
