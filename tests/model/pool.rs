//! A class of pool threads ([`Workers`]).

use std::sync::Arc;
use std::time::Duration;

use shuttle::thread;

use super::{STACK, holds, never, notice, notices};
use crate::sync::fault::Fault;
use crate::sync::oneshot::oneshot;
use crate::sync::workers::{Class, Part, Workers};

/// A pool whose idle threads may end at any moment, because their idle time limit is short enough to pass in a model.
fn pool(max_threads: usize) -> Arc<Workers> {
    Arc::new(Workers::new(Class::new("model", max_threads, STACK, Duration::from_secs(1)), None))
}

fn parts() -> Vec<Part<u32>> {
    (1..=3u32).map(|n| Box::new(move || Ok(n)) as Part<u32>).collect()
}

/// In a pool of one thread, a job fans out further jobs to the same pool and waits for their results.
fn a_job_may_wait_for_jobs() {
    let pool = pool(1);
    let (reply, slot) = oneshot::<u32>();
    let inner = pool.clone();
    pool.spawn(move || {
        let sum = inner.fan_out(parts(), 2).into_iter().map(|it| it.unwrap_or(0)).sum();
        drop(inner);
        reply.send(Ok(sum));
    })
    .unwrap();
    let sum = slot.wait(None).unwrap().unwrap_or(0);
    let n_left = pool.end(never());
    assert_eq!((sum, n_left, pool.n_threads()), (6, 0, 0));
}

/// `fan_out` returns all results in the order of the jobs, although other threads do some of the jobs.
fn all_results_come_back() {
    let pool = pool(2);
    let results: Vec<_> = pool.fan_out(parts(), 3).into_iter().map(|it| it.unwrap_or(0)).collect();
    let n_left = pool.end(never());
    assert_eq!((results, n_left, pool.n_threads()), (vec![1, 2, 3], 0, 0));
}

/// A job that is queued at the moment at which the only thread reaches its idle time limit is done.
fn no_job_is_left_behind() {
    let pool = pool(1);
    let bringers: Vec<_> = (0..2)
        .map(|n| {
            let pool = pool.clone();
            thread::spawn(move || {
                let (reply, slot) = oneshot::<u32>();
                pool.spawn(move || reply.send(Ok(n))).unwrap();
                slot.wait(None).is_some_and(|it| it.is_ok_and(|it| it == n))
            })
        })
        .collect();
    let done: Vec<_> = bringers.into_iter().map(|it| it.join().unwrap()).collect();
    let n_left = pool.end(never());
    assert_eq!((done, n_left, pool.n_threads()), (vec![true; 2], 0, 0));
}

/// The only thread of the pool ends before the thread that started it has stored its join handle. Until the handle is
/// stored, the pool still counts the ended thread and may start no other. `spawn` waits for that, and then starts a new
/// thread for its job.
fn an_ended_thread_frees_its_place() {
    let pool = pool(1);
    let (reply, first) = oneshot::<()>();
    let starter = thread::spawn({
        let pool = pool.clone();
        move || pool.spawn(move || reply.send(Ok(()))).is_ok()
    });
    let done = first.wait(None).unwrap().is_ok();
    // Give the pool's thread the chance to end.
    (0..6).for_each(|_| thread::yield_now());
    let (reply, second) = oneshot::<()>();
    let accepted = pool.spawn(move || reply.send(Ok(()))).is_ok();
    let done = done && second.wait(None).unwrap().is_ok();
    let started = starter.join().unwrap();
    let n_left = pool.end(never());
    assert_eq!((started, accepted, done, n_left, pool.n_threads()), (true, true, true, 0, 0));
}

/// A job that is submitted while the pool closes is done, or dropped with the error that the pool is closed. Its reply
/// answers in both cases.
fn closing_answers_every_job() {
    let pool = pool(1);
    let bringers: Vec<_> = (0..2)
        .map(|_| {
            let pool = pool.clone();
            thread::spawn(move || {
                let (reply, slot) = oneshot::<()>();
                let accepted = pool.spawn(move || reply.send(Ok(()))).is_ok();
                (accepted, slot.wait(None).unwrap().err().map(|it| it.message().to_owned()))
            })
        })
        .collect();
    let n_left = pool.end(never());
    let answers: Vec<_> = bringers.into_iter().map(|it| it.join().unwrap()).collect();
    assert_eq!((n_left, pool.n_threads()), (0, 0));
    for answer in answers {
        match answer {
            (true, None) => {}
            (_, Some(message)) if message == "the pool model is closed" => {}
            other => panic!("accepted, and the error: {other:?}"),
        }
    }
}

#[test]
fn a_pool_of_one_thread_does_not_wait_for_itself() {
    holds(a_job_may_wait_for_jobs);
    notices(Fault::WaitsWithoutHelping, a_job_may_wait_for_jobs);
}

#[test]
fn a_pool_returns_all_results() {
    holds(all_results_come_back);
    notices(Fault::FinishesWithoutNotify, all_results_come_back);
}

#[test]
fn a_pool_leaves_no_job_behind() {
    holds(no_job_is_left_behind);
    notices(Fault::EndsWhenNotified, no_job_is_left_behind);
}

#[test]
fn a_pool_reuses_the_place_of_a_thread_that_ended() {
    holds(an_ended_thread_frees_its_place);
    notice(Fault::FreesPlaceWithoutNotify, an_ended_thread_frees_its_place, no_job_is_left_behind);
}

#[test]
fn a_pool_that_closes_answers_every_job() {
    holds(closing_answers_every_job);
    notices(Fault::DropsWithoutAnswer, closing_answers_every_job);
}
