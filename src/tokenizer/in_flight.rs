//! Work that one thread does for all threads that ask for it at the same time.

use std::sync::Arc;
use std::time::Instant;

use crate::error::{Error, Phase, Result};
use crate::sync::{Condvar, Mutex, StaticMutex, wait};

/// The work in progress, by its key. Outcomes are not kept: after the work has ended, the next call starts it again.
pub(super) struct InFlight<K, V> {
    open: StaticMutex<Vec<(K, Arc<Flight<V>>)>>,
}

struct Flight<V> {
    outcome: Mutex<Option<Result<V>>>,
    done: Condvar,
}

impl<K: Clone + PartialEq, V: Clone> InFlight<K, V> {
    pub(super) const fn new() -> Self {
        InFlight { open: StaticMutex::new(Vec::new()) }
    }

    /// Runs `work`, unless another thread runs it for the same key: then waits for that thread's outcome. No lock is
    /// held while `work` runs.
    ///
    /// # Errors
    /// Those of `work`, also if another thread ran it; a timeout if the other thread has not finished at `deadline`.
    pub(super) fn run(&self, key: K, deadline: Instant, work: impl FnOnce() -> Result<V>) -> Result<V> {
        match self.join(&key) {
            Ok(flight) => flight.wait(deadline),
            Err(flight) => {
                // Answers the waiting threads also if `work` panics.
                let mut leading = Leading { table: self, key, flight, outcome: None };
                let outcome = work();
                leading.outcome = Some(outcome.clone());
                outcome
            }
        }
    }

    /// The work in progress for a key, or as `Err` new work that the caller has to do.
    fn join(&self, key: &K) -> Result<Arc<Flight<V>>, Arc<Flight<V>>> {
        let mut open = self.open.lock();
        if let Some((_, flight)) = open.iter().find(|(other, _)| other == key) {
            return Ok(flight.clone());
        }
        let flight = Arc::new(Flight { outcome: Mutex::new(None), done: Condvar::new() });
        open.push((key.clone(), flight.clone()));
        Err(flight)
    }
}

impl<V: Clone> Flight<V> {
    fn wait(&self, deadline: Instant) -> Result<V> {
        let mut outcome = self.outcome.lock();
        loop {
            if let Some(outcome) = &*outcome {
                return outcome.clone();
            }
            if !wait(&self.done, &mut outcome, Some(deadline)) && outcome.is_none() {
                let text = "another thread loads the same tokenizer and did not finish in time";
                return Err(Error::timeout(Phase::Total, text));
            }
        }
    }
}

/// The thread that does the work. Its end, also by a panic, answers the waiting threads.
struct Leading<'a, K: PartialEq, V> {
    table: &'a InFlight<K, V>,
    key: K,
    flight: Arc<Flight<V>>,
    outcome: Option<Result<V>>,
}

impl<K: PartialEq, V> Drop for Leading<'_, K, V> {
    fn drop(&mut self) {
        let outcome = self.outcome.take().unwrap_or_else(|| {
            let thread = std::thread::current().name().unwrap_or("unnamed").to_string();
            Err(Error::panicked(thread, "while it loaded a tokenizer for several threads"))
        });
        *self.flight.outcome.lock() = Some(outcome);
        self.flight.done.notify_all();
        self.table.open.lock().retain(|(key, _)| *key != self.key);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    fn in_a_minute() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn threads_that_ask_for_the_same_key_share_one_run_and_others_run_beside_it() {
        let (table, runs) = (InFlight::new(), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            let (started, is_started) = mpsc::channel();
            let (release, released) = mpsc::channel::<()>();
            let leader = scope.spawn(|| {
                table.run("a", in_a_minute(), move || {
                    started.send(()).unwrap();
                    released.recv().unwrap();
                    Ok(1)
                })
            });
            is_started.recv().unwrap();
            let followers: Vec<_> = (0..19)
                .map(|_| {
                    scope.spawn(|| {
                        table.run("a", in_a_minute(), || {
                            runs.fetch_add(1, Ordering::Relaxed);
                            Ok(2)
                        })
                    })
                })
                .collect();
            assert_eq!(table.run("b", in_a_minute(), || Ok(3)).unwrap(), 3);
            // Those that have not asked yet would run the work themselves: release the leader only when all wait.
            let flight = table.join(&"a").unwrap_or_else(|_| panic!("the work is in progress"));
            let deadline = in_a_minute();
            // The table, this thread and the leader have one reference each.
            while Arc::strong_count(&flight) < 3 + 19 {
                assert!(Instant::now() < deadline, "the threads did not start");
                std::thread::yield_now();
            }
            release.send(()).unwrap();
            assert_eq!(leader.join().unwrap().unwrap(), 1);
            assert!(followers.into_iter().all(|follower| follower.join().unwrap().unwrap() == 1));
        });
        assert_eq!(runs.load(Ordering::Relaxed), 0);
        // Nothing is kept: the next call works again.
        assert_eq!(table.run("a", in_a_minute(), || Ok(4)).unwrap(), 4);
    }

    #[test]
    fn a_panic_and_a_deadline_end_the_wait_with_an_error() {
        let table = InFlight::<&str, u32>::new();
        std::thread::scope(|scope| {
            let (started, is_started) = mpsc::channel();
            let (release, released) = mpsc::channel::<()>();
            let leader = scope.spawn(|| {
                table.run("a", in_a_minute(), move || {
                    started.send(()).unwrap();
                    released.recv().unwrap();
                    panic!("a fault")
                })
            });
            is_started.recv().unwrap();
            let error = table.run("a", Instant::now(), || Ok(1)).unwrap_err();
            assert!(error.is_timeout(), "{error}");
            let flight = table.join(&"a").unwrap_or_else(|_| panic!("the work is in progress"));
            release.send(()).unwrap();
            assert!(flight.wait(in_a_minute()).unwrap_err().is_panic());
            assert!(leader.join().is_err());
        });
        assert_eq!(table.run("a", in_a_minute(), || Ok(2)).unwrap(), 2);
    }
}
