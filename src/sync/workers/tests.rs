//! Tests of the pool.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use super::super::testing::{
    LONG, Latch, eventually, far_deadline, no_threads_named, threads_named, with_time_limit,
};
use super::*;
use crate::sync::oneshot::{Slot, oneshot};
use crate::sync::spawn::RefusedThreads;

impl Workers {
    /// Submits a job. The slot always gets an answer: the job's result, its panic, or the reason why it did not begin.
    fn submit<T: Send + 'static>(&self, job: impl FnOnce() -> Result<T> + Send + 'static) -> Slot<T> {
        let (reply, slot) = oneshot();
        // If the job is refused, the reply that is dropped with it answers.
        let _ = self.spawn(move || reply.send(unwind::catch(job).flatten()));
        slot
    }

    /// Submits a job that blocks its thread until the latch is opened.
    fn submit_blocked(&self, latch: &Latch) -> Slot<()> {
        let latch = latch.clone();
        self.submit(move || {
            latch.wait();
            Ok(())
        })
    }
}

fn pool(name: &'static str, max: usize) -> Arc<Workers> {
    Arc::new(Workers::new(Class::new(name, max, 128 << 10, LONG), None))
}

/// Checks that the pool lists no thread, and waits until the system lists none. The system's list may lag behind.
#[track_caller]
fn assert_all_joined(pool: &Workers) {
    let state = pool.shared.state.lock();
    assert_eq!((state.threads.len(), state.ended.len()), (0, 0));
    drop(state);
    no_threads_named(pool.shared.class.name);
}

fn parts<T>(n: usize, job: impl Fn(usize) -> Result<T> + Clone + Send + 'static) -> Vec<Part<T>> {
    let part = |i| -> Part<T> {
        let job = job.clone();
        Box::new(move || job(i))
    };
    (0..n).map(part).collect()
}

#[test]
fn jobs_run_on_named_threads_up_to_the_maximum() {
    let pool = pool("tkp-named", 3);
    let latch = Latch::new();
    let slots: Vec<_> = (0..10)
        .map(|_| {
            let latch = latch.clone();
            pool.submit(move || {
                latch.wait();
                Ok(thread::current().name().unwrap().to_string())
            })
        })
        .collect();
    assert_eq!((pool.n_threads(), threads_named("tkp-named") <= 3), (3, true));
    eventually("all threads are busy", || pool.n_queued() == 7);
    latch.open();
    for slot in slots {
        let name = slot.wait(Some(far_deadline())).unwrap().unwrap();
        assert!(["tkp-named-0", "tkp-named-1", "tkp-named-2"].contains(&name.as_str()), "{name}");
    }
    assert_eq!(pool.n_threads(), 3);
}

#[test]
fn an_idle_thread_is_used_again() {
    let pool = pool("tkp-again", 50);
    let ids: Vec<_> = (0..20)
        .map(|_| {
            let id = pool.submit(|| Ok(thread::current().id())).wait(Some(far_deadline())).unwrap().unwrap();
            eventually("the thread is idle", || pool.shared.state.lock().idle.len() == 1);
            id
        })
        .collect();
    assert!(ids.iter().all(|it| *it == ids[0]));
    assert_eq!(pool.n_threads(), 1);
}

#[test]
fn a_job_that_panics_is_answered_and_its_thread_survives() {
    let pool = pool("tkp-panic", 1);
    let slot = pool.submit::<()>(|| panic!("job {}", 1));
    let error = slot.wait(Some(far_deadline())).unwrap().unwrap_err();
    let expected = ErrorKind::Panicked { thread: "tkp-panic-0".into(), message: "job 1".into() };
    assert_eq!(error.kind(), &expected);
    let (reply, slot) = oneshot::<()>();
    pool.spawn(move || {
        let _reply = reply;
        panic!("job 2");
    })
    .unwrap();
    assert!(slot.wait(Some(far_deadline())).unwrap().unwrap_err().to_string().contains("job 2"));
    assert_eq!(pool.submit(|| Ok(3)).wait(Some(far_deadline())).unwrap().unwrap(), 3);
    assert_eq!(pool.n_threads(), 1);
}

#[test]
fn idle_threads_end_and_the_next_job_starts_new_ones() {
    let pool = Workers::new(Class::new("tkp-idle", 8, 128 << 10, Duration::from_millis(5)), None);
    for _ in 0..3 {
        let latch = Latch::new();
        let slots: Vec<_> = (0..8)
            .map(|i| {
                let latch = latch.clone();
                pool.submit(move || {
                    latch.wait();
                    Ok(i)
                })
            })
            .collect();
        latch.open();
        let results: Vec<_> =
            slots.iter().map(|it| it.wait(Some(far_deadline())).unwrap().unwrap()).collect();
        assert_eq!(results, [0, 1, 2, 3, 4, 5, 6, 7]);
        eventually("all threads ended", || pool.n_threads() == 0 && threads_named("tkp-idle") == 0);
        assert!(pool.shared.state.lock().ended.len() <= 1, "others were joined");
    }
}

#[test]
fn no_job_is_lost_while_threads_end() {
    let n_done = with_time_limit(|| {
        let pool = Workers::new(Class::new("tkp-edge", 2, 128 << 10, Duration::ZERO), None);
        let mut n_done = 0;
        for i in 0..2_000 {
            n_done += pool.submit(|| Ok(1)).wait(None).unwrap().unwrap();
            if i % 3 == 0 {
                thread::yield_now();
            }
        }
        n_done
    });
    assert_eq!(n_done, 2_000);
}

#[test]
fn closing_answers_queued_jobs_and_joins_all_threads() {
    let pool = pool("tkp-close", 2);
    let latch = Latch::new();
    let running: Vec<_> = (0..2).map(|_| pool.submit_blocked(&latch)).collect();
    eventually("both are busy", || pool.n_queued() == 0);
    let queued: Vec<_> = (0..5).map(|_| pool.submit(|| Ok(()))).collect();
    assert_eq!(pool.end(Instant::now()), 2);
    for slot in queued {
        let error = slot.try_take().unwrap().unwrap_err();
        assert_eq!((error.is_closed(), error.message()), (true, "the pool tkp-close is closed"));
    }
    assert!(pool.spawn(|| ()).unwrap_err().is_closed());
    assert!(pool.submit(|| Ok(())).try_take().unwrap().unwrap_err().is_closed());
    latch.open();
    assert_eq!(pool.end(far_deadline()), 0);
    assert!(running.iter().all(|it| it.try_take().unwrap().is_ok()));
    assert_all_joined(&pool);
    assert_eq!(pool.end(Instant::now()), 0);
}

#[test]
fn closing_ends_idle_threads_at_once() {
    let pool = pool("tkp-rest", 4);
    let results = pool.fan_out(parts(4, Ok), 4);
    assert_eq!(results.len(), 4);
    let shared = pool.shared.clone();
    drop(Arc::into_inner(pool).unwrap());
    let state = shared.state.lock();
    assert!(state.threads.is_empty() && state.ended.is_empty());
    no_threads_named("tkp-rest");
}

#[test]
fn a_job_may_drop_the_last_handle_of_its_own_pool() {
    let pool = pool("tkp-self", 2);
    let (latch, dropped) = (Latch::new(), Arc::new(AtomicBool::new(false)));
    let (inner, inner_latch, inner_dropped) = (pool.clone(), latch.clone(), dropped.clone());
    pool.spawn(move || {
        inner_latch.wait();
        drop(inner);
        inner_dropped.store(true, Ordering::SeqCst);
    })
    .unwrap();
    drop(pool);
    latch.open();
    eventually("the job went on and the thread ended", || {
        dropped.load(Ordering::SeqCst) && threads_named("tkp-self") == 0
    });
}

#[test]
fn a_destructor_of_a_queued_job_may_panic_and_use_the_pool() {
    struct PanicsOnDrop(Arc<Workers>);
    impl Drop for PanicsOnDrop {
        fn drop(&mut self) {
            assert!(self.0.spawn(|| ()).is_err());
            panic!("loud");
        }
    }
    let pool = pool("tkp-loud", 1);
    let latch = Latch::new();
    let busy = pool.submit_blocked(&latch);
    eventually("the job has begun", || pool.n_queued() == 0);
    let loud = PanicsOnDrop(pool.clone());
    pool.spawn(move || drop(loud)).unwrap();
    let behind = pool.submit(|| Ok(()));
    pool.end(Instant::now());
    assert!(behind.try_take().unwrap().is_err());
    latch.open();
    assert!(busy.wait(Some(far_deadline())).unwrap().is_ok());
}

#[test]
fn a_thread_that_cannot_be_started_is_an_error_of_the_job() {
    let pool = Workers::new(Class::new("tkp-none", 2, usize::MAX / 4, LONG), None);
    let error = pool.submit(|| Ok(())).try_take().unwrap().unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::System);
    assert_eq!(pool.spawn(|| ()).unwrap_err().kind(), &ErrorKind::System);
    assert_eq!((pool.n_threads(), pool.n_queued()), (0, 0));
    let results = pool.fan_out(parts(3, Ok), 3);
    assert_eq!(results.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn results_are_in_order_whichever_thread_does_the_work() {
    let pool = pool("tkp-fan", 4);
    let results = pool.fan_out(
        parts(100, |i| {
            if i % 7 == 0 {
                thread::yield_now();
            }
            Ok(i)
        }),
        4,
    );
    assert_eq!(results.into_iter().map(Result::unwrap).collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
    assert!(pool.fan_out(parts(0, Ok), 4).is_empty());
}

#[test]
fn no_more_jobs_run_at_once_than_max_parallel() {
    let pool = pool("tkp-par", 16);
    let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let job = {
        let (inside, most) = (inside.clone(), most.clone());
        move |_| {
            most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            thread::yield_now();
            inside.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        }
    };
    assert_eq!(pool.fan_out(parts(200, job.clone()), 3).len(), 200);
    assert!(most.load(Ordering::SeqCst) <= 3);
    most.store(0, Ordering::SeqCst);
    pool.fan_out(parts(20, job), 0);
    assert_eq!(most.load(Ordering::SeqCst), 1);
}

#[test]
fn jobs_of_a_group_run_at_the_same_time() {
    let pool = pool("tkp-meet", 2);
    let (sender, receiver) = crossbeam_channel::bounded(0);
    // A rendezvous: neither job can end without the other.
    let jobs: Vec<Part<()>> = vec![
        Box::new(move || sender.send_timeout((), LONG).map_err(|_| Error::cancelled())),
        Box::new(move || receiver.recv_timeout(LONG).map_err(|_| Error::cancelled())),
    ];
    assert!(with_time_limit(move || pool.fan_out(jobs, 2)).iter().all(Result::is_ok));
}

#[test]
fn a_pool_of_one_thread_can_fan_out_from_inside_its_own_job() {
    let pool = pool("tkp-nest", 1);
    let slot = pool.submit({
        let pool = pool.clone();
        move || {
            let inner = pool.clone();
            let results =
                pool.fan_out(parts(3, move |i| Ok(inner.fan_out(parts(3, move |k| Ok(10 * i + k)), 3))), 3);
            Ok(results.into_iter().flat_map(Result::unwrap).map(Result::unwrap).collect::<Vec<_>>())
        }
    });
    let results = slot.wait(Some(far_deadline())).expect("the job does not wait for itself").unwrap();
    assert_eq!(results, [0, 1, 2, 10, 11, 12, 20, 21, 22]);
}

#[test]
fn a_panic_in_a_group_is_the_result_of_its_job_alone() {
    let pool = pool("tkp-oops", 2);
    let results = pool.fan_out(
        parts(6, |i| match i % 3 {
            0 => Ok(i),
            1 => Err(Error::cancelled()),
            _ => panic!("part {i}"),
        }),
        2,
    );
    let text = |result: &Result<usize>| match result {
        Ok(value) => value.to_string(),
        Err(error) => match error.kind() {
            ErrorKind::Panicked { message, .. } => message.clone(),
            _ => error.message().into(),
        },
    };
    let cancelled = "cancelled by the caller";
    let texts: Vec<_> = results.iter().map(text).collect();
    assert_eq!(texts, ["0", cancelled, "part 2", "3", cancelled, "part 5"]);
}

#[test]
fn the_caller_does_all_jobs_if_the_pool_is_closed_or_busy() {
    let full = pool("tkp-full", 1);
    let (latch, (sender, receiver)) = (Latch::new(), mpsc::channel());
    full.spawn({
        let latch = latch.clone();
        move || {
            sender.send(()).unwrap();
            latch.wait();
        }
    })
    .unwrap();
    receiver.recv().unwrap();
    let me = thread::current().id();
    let on_this_thread = move |_| Ok(thread::current().id() == me);
    assert!(full.fan_out(parts(5, on_this_thread), 5).into_iter().all(Result::unwrap));
    let closed = pool("tkp-shut", 1);
    closed.end(far_deadline());
    assert!(closed.fan_out(parts(5, on_this_thread), 5).into_iter().all(Result::unwrap));
    latch.open();
}

#[test]
fn closing_while_other_threads_submit_jobs_loses_no_answer() {
    with_time_limit(|| {
        for _ in 0..50 {
            let pool = pool("tkp-race", 4);
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    let pool = pool.clone();
                    thread::spawn(move || (0..50).map(|i| pool.submit(move || Ok(i))).collect::<Vec<_>>())
                })
                .collect();
            thread::yield_now();
            assert_eq!(pool.end(far_deadline()), 0);
            for slot in threads.into_iter().flat_map(|it| it.join().unwrap()) {
                let outcome = slot.wait(Some(far_deadline())).expect("every job is answered");
                assert!(outcome.is_ok() || outcome.unwrap_err().is_closed());
            }
            assert_eq!(pool.end(far_deadline()), 0);
            assert_all_joined(&pool);
        }
    });
}

/// All four attempts to start a thread fail at the same moment, each while the others still have a reserved place.
#[test]
fn jobs_whose_threads_are_refused_at_the_same_moment_are_all_refused() {
    with_time_limit(|| {
        let pool = pool("tkp-both", 8);
        let refused = RefusedThreads::together("tkp-both", 4);
        let submitters: Vec<_> = (0..4)
            .map(|_| {
                let pool = pool.clone();
                thread::spawn(move || {
                    let (reply, slot) = oneshot::<()>();
                    (pool.spawn(move || reply.send(Ok(()))), slot)
                })
            })
            .collect();
        for submitter in submitters {
            let (accepted, slot) = submitter.join().unwrap();
            assert_eq!(*accepted.unwrap_err().kind(), ErrorKind::System);
            let answer = slot.wait(Some(far_deadline())).unwrap().unwrap_err();
            assert!(answer.message().starts_with("no thread could be started"), "{answer}");
        }
        assert_eq!((pool.n_threads(), pool.n_queued()), (0, 0));
        drop(refused);
        assert_eq!(pool.submit(|| Ok(1)).wait(Some(far_deadline())).unwrap().unwrap(), 1);
    });
}

#[test]
fn refused_threads_are_started_when_the_next_job_is_taken() {
    let pool = pool("tkp-again2", 3);
    let (first, second) = (Latch::new(), Latch::new());
    let busy = pool.submit_blocked(&first);
    eventually("a thread has the job", || pool.n_queued() == 0);
    let refused = RefusedThreads::named("tkp-again2");
    let (long, short) = (pool.submit_blocked(&second), pool.submit(|| Ok(())));
    assert_eq!((pool.n_threads(), pool.n_queued(), refused.count()), (1, 2, 2));
    drop(refused);
    first.open();
    // The only thread runs the long job now. The short job needs a second thread.
    short.wait(Some(far_deadline())).unwrap().unwrap();
    second.open();
    busy.wait(Some(far_deadline())).unwrap().unwrap();
    long.wait(Some(far_deadline())).unwrap().unwrap();
}

#[test]
fn a_job_of_a_dedicated_class_fails_if_its_thread_is_refused() {
    let class = Class { dedicated: true, ..Class::new("tkp-apart", 2, 128 << 10, LONG) };
    let pool = Workers::new(class, None);
    let latch = Latch::new();
    let busy = pool.submit_blocked(&latch);
    eventually("a thread has the job", || pool.n_queued() == 0);
    let refused = RefusedThreads::named("tkp-apart");
    assert_eq!(*pool.spawn(|| {}).unwrap_err().kind(), ErrorKind::System);
    assert_eq!(pool.n_queued(), 0);
    drop(refused);
    let (reply, slot) = oneshot::<()>();
    pool.spawn(move || reply.send(Ok(()))).unwrap();
    slot.wait(Some(far_deadline())).unwrap().unwrap();
    latch.open();
    busy.wait(Some(far_deadline())).unwrap().unwrap();
}

#[test]
fn threads_double_unless_each_took_two_jobs_in_the_round() {
    let table = [((48, 96, 900), 0), ((48, 95, 900), 48), ((48, 0, 7), 7), ((192, 10, 900), 192)];
    for ((n_threads, n_taken, n_queued), more) in table {
        assert_eq!(more_threads(n_threads, n_taken, n_queued), more, "{n_threads} {n_taken} {n_queued}");
    }
}

/// A class of up to `max` threads, two of them eager.
fn growing(name: &'static str, growth_name: &'static str, max: usize) -> Workers {
    let growth = Workers::new(Class::new(growth_name, 1, 128 << 10, LONG), None);
    Workers::new(Class { eager: 2, ..Class::new(name, max, 128 << 10, LONG) }, Some(Arc::new(growth)))
}

#[test]
fn a_class_grows_only_while_its_jobs_stay_queued() {
    let pool = growing("tkp-grow", "tkp-grower", 8);
    let latch = Latch::new();
    let slots: Vec<_> = (0..8).map(|_| pool.submit_blocked(&latch)).collect();
    // Each job blocks its thread, so that eight jobs need eight threads.
    eventually("all threads are there", || pool.n_threads() == 8 && pool.n_queued() == 0);
    latch.open();
    for slot in slots {
        slot.wait(Some(far_deadline())).unwrap().unwrap();
    }
    assert_eq!(pool.end(far_deadline()), 0);
}

#[test]
fn a_refusal_while_a_class_grows_loses_no_job() {
    let pool = growing("tkp-regrow", "tkp-regrower", 4);
    let latch = Latch::new();
    let first: Vec<_> = (0..2).map(|_| pool.submit_blocked(&latch)).collect();
    eventually("both eager threads work", || pool.n_queued() == 0);
    let refused = RefusedThreads::named("tkp-regrow-");
    let queued = pool.submit_blocked(&latch);
    eventually("growth was refused", || 0 < refused.count());
    drop(refused);
    let last = pool.submit_blocked(&latch);
    eventually("the class grows afterwards", || pool.n_threads() == 4);
    latch.open();
    for slot in first.into_iter().chain([queued, last]) {
        slot.wait(Some(far_deadline())).unwrap().unwrap();
    }
}
