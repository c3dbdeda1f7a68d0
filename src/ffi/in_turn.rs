//! Calls of one callback from several threads, one at a time.

use std::collections::VecDeque;

use crate::sync::{Mutex, unwind};

/// Number of values that may wait while a callback runs. Further values are dropped, so that a callback that does not
/// return does not use up the memory.
const MOST_WAITING: usize = 10_000;

/// Passes values to a callback, one at a time and in order. No thread waits for its turn, and no lock is held during a
/// call: a thread that comes while another one is in the callback leaves its value to that thread.
pub(super) struct InTurn<T>(Mutex<State<T>>);

struct State<T> {
    is_busy: bool,
    waiting: VecDeque<T>,
}

impl<T> InTurn<T> {
    pub(super) fn new() -> Self {
        InTurn(Mutex::new(State { is_busy: false, waiting: VecDeque::new() }))
    }

    /// Calls `call` with the value, and with the values that other threads leave meanwhile. Returns at once if another
    /// thread, or an outer call on this thread, is in the callback.
    pub(super) fn call(&self, value: T, call: impl Fn(T)) {
        let mut next = {
            let mut state = self.0.lock();
            if state.waiting.len() < MOST_WAITING {
                state.waiting.push_back(value);
            }
            if std::mem::replace(&mut state.is_busy, true) {
                return;
            }
            state.waiting.pop_front()
        };
        while let Some(value) = next {
            unwind::shield("a callback panicked", || call(value));
            let mut state = self.0.lock();
            next = state.waiting.pop_front();
            state.is_busy = next.is_some();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn calls_do_not_overlap_and_none_is_lost() {
        let (in_turn, running, n_calls) = (InTurn::new(), AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for i in 0..500 {
                        in_turn.call(i, |_| {
                            assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0);
                            n_calls.fetch_add(1, Ordering::SeqCst);
                            running.fetch_sub(1, Ordering::SeqCst);
                        });
                    }
                });
            }
        });
        assert_eq!(n_calls.load(Ordering::SeqCst), 2000);
    }

    #[test]
    fn a_value_from_inside_of_the_callback_comes_after_the_call_also_after_a_panic() {
        let (in_turn, seen) = (InTurn::new(), Mutex::new(Vec::new()));
        in_turn.call(1, |value| {
            if value < 3 {
                in_turn.call(value + 1, |_| unreachable!("left to the outer call"));
            }
            seen.lock().push(value);
            assert_ne!(value, 2);
        });
        assert_eq!(*seen.lock(), [1, 2, 3]);
    }
}
