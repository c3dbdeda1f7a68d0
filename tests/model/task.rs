//! The background task ([`Task`]): at most one thread runs it, each wake is followed by a turn (a call of
//! [`Work::turn`]), and if the system refuses to start its thread, the queued items fail.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::thread;

use super::{STACK, holds, never, notices};
use crate::error::Error;
use crate::sync::Mutex;
use crate::sync::fault::Fault;
use crate::sync::oneshot::{Reply, Slot, oneshot};
use crate::sync::spawn::refuse_some;
use crate::sync::task::{Task, Turn, Work};
use crate::sync::workers::{Class, Workers};

/// Work with a queue of replies; each turn answers one of them.
#[derive(Default)]
struct Answering {
    queue: Mutex<VecDeque<Reply<()>>>,
    /// Number of threads that run a turn now.
    inside: AtomicUsize,
    /// Largest value of `inside` so far.
    most: AtomicUsize,
}

impl Answering {
    fn put(&self) -> Slot<()> {
        let (reply, slot) = oneshot();
        self.queue.lock().push_back(reply);
        slot
    }
}

impl Work for Answering {
    type Owner = ();

    fn turn(&self, _: &Arc<()>) -> Turn {
        let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(inside, Ordering::SeqCst);
        thread::yield_now();
        let reply = self.queue.lock().pop_front();
        self.inside.fetch_sub(1, Ordering::SeqCst);
        match reply {
            Some(reply) => {
                reply.send(Ok(()));
                Turn::Again
            }
            None => {
                // Let another thread queue a reply and wake the task after this check of the queue and before the turn
                // returns.
                thread::yield_now();
                Turn::Idle
            }
        }
    }

    fn lost(&self, _: &Arc<()>, error: &Error) {
        let lost = std::mem::take(&mut *self.queue.lock());
        lost.into_iter().for_each(|reply| reply.send(Err(error.clone())));
    }
}

fn workers(name: &'static str, max: usize) -> Arc<Workers> {
    Arc::new(Workers::new(Class::new(name, max, STACK, Duration::from_secs(1)), None))
}

/// Each of two threads twice queues a reply and wakes the task. Every reply is answered, and turns never overlap.
fn every_wake_gets_a_turn() {
    let (task, workers) = (Task::new(Answering::default()), workers("model", 2));
    let wakers: Vec<_> = (0..2)
        .map(|_| {
            let (task, workers) = (task.clone(), workers.clone());
            thread::spawn(move || {
                (0..2).all(|_| {
                    let slot = task.put();
                    let woken = task.wake(&Arc::new(()), &workers).is_ok();
                    woken && slot.wait(None).unwrap().is_ok()
                })
            })
        })
        .collect();
    let answered: Vec<_> = wakers.into_iter().map(|waker| waker.join().unwrap()).collect();
    let idle = task.wait_idle(never());
    let n_left = workers.end(never());
    assert_eq!((answered, idle, n_left), (vec![true; 2], true, 0));
    assert_eq!(task.most.load(Ordering::SeqCst), 1);
}

/// Two threads queue a reply each and wake the task, while threads may be refused. Every reply gets an answer or an
/// error, and the task answers further replies once threads are no longer refused.
fn a_lost_thread_fails_what_is_queued() {
    let (task, workers) = (Task::new(Answering::default()), workers("model", 2));
    refuse_some(true);
    let wakers: Vec<_> = (0..2)
        .map(|_| {
            let (task, workers) = (task.clone(), workers.clone());
            thread::spawn(move || {
                let slot = task.put();
                let _ = task.wake(&Arc::new(()), &workers);
                slot.wait(None).unwrap().is_ok()
            })
        })
        .collect();
    let _answered: Vec<_> = wakers.into_iter().map(|waker| waker.join().unwrap()).collect();
    refuse_some(false);
    let slot = task.put();
    let woken = task.wake(&Arc::new(()), &workers).is_ok();
    let answered = slot.wait(None).unwrap().is_ok();
    let n_left = workers.end(never());
    assert_eq!((woken, answered, n_left), (true, true, 0));
    assert_eq!(task.most.load(Ordering::SeqCst), 1);
}

/// The only thread of the class `growing` runs a job that waits for a job of the class `other`, and then for a second
/// job of `growing`. The first wait ends because each class has its own threads, the second because `growing` adds a
/// thread while the second job stays queued.
fn a_class_grows_while_a_job_stays_queued() {
    let growth = workers("growth", 1);
    let class = |name, max| Class::new(name, max, STACK, Duration::from_secs(1));
    let growing = Arc::new(Workers::new(Class { eager: 1, ..class("growing", 2) }, Some(growth.clone())));
    let other = workers("other", 1);
    let (reply, first) = oneshot::<()>();
    let (released, release) = oneshot::<()>();
    let beside = other.clone();
    growing
        .spawn(move || {
            let (there, here) = oneshot::<()>();
            let spawned = beside.spawn(move || there.send(Ok(()))).is_ok();
            let done = spawned && here.wait(None).unwrap().is_ok();
            // This wait ends only when the second job of the class `growing` runs.
            let grown = release.wait(None).unwrap().is_ok();
            drop(beside);
            if done && grown {
                reply.send(Ok(()));
            }
        })
        .unwrap();
    growing.spawn(move || released.send(Ok(()))).unwrap();
    let done = first.wait(None).unwrap().is_ok();
    let n_left = growing.end(never()) + other.end(never()) + growth.end(never());
    assert_eq!((done, n_left), (true, 0));
}

#[test]
fn a_task_answers_every_wake_with_one_thread_at_a_time() {
    holds(every_wake_gets_a_turn);
    notices(Fault::MissesTheWake, every_wake_gets_a_turn);
    notices(Fault::RunsTwice, every_wake_gets_a_turn);
}

#[test]
fn a_task_fails_its_queued_items_if_its_thread_is_refused() {
    holds(a_lost_thread_fails_what_is_queued);
    notices(Fault::KeepsRunning, a_lost_thread_fails_what_is_queued);
}

#[test]
fn a_class_grows_for_jobs_that_wait_for_each_other() {
    holds(a_class_grows_while_a_job_stays_queued);
    notices(Fault::NeverGrows, a_class_grows_while_a_job_stays_queued);
}
