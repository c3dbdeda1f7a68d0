//! Tests of the queue with a pool of threads: an engine thread whose jobs only report that they ran.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use rayon::ThreadPool;
use rayon::prelude::*;

use super::super::job::Work;
use super::super::nn::TimeSlice;
use super::*;

/// Bound of everything that a test waits for.
const LONG: Duration = Duration::from_secs(120);

struct Harness {
    queue: Arc<Queue>,
    pool: Arc<ThreadPool>,
    /// The texts of the exclusive jobs that ran.
    ran: Receiver<String>,
    panics: Receiver<()>,
    engine: Option<JoinHandle<()>>,
}

impl Harness {
    fn new(threads: usize) -> Self {
        let queue = Arc::new(Queue::new(32, threads));
        let (panicked, panics) = unbounded();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        let pool = pool.panic_handler(move |_| panicked.send(()).unwrap_or_default()).build();
        let pool = Arc::new(pool.expect("a pool"));
        let (send, ran) = unbounded();
        let (jobs, compute) = (queue.clone(), pool.clone());
        let engine = Some(std::thread::spawn(move || engine(&jobs, &compute, &send)));
        Harness { queue, pool, ran, panics, engine }
    }

    /// Queues an exclusive job of a session.
    fn push(&self, session: &str, name: &str) {
        let work = Work::Refused { error: name.into() };
        self.queue.push(session, [Job { ticket: None, work }]);
    }

    fn start(&self, task: Rest) {
        self.queue.start_task(task);
        let queue = self.queue.clone();
        self.pool.spawn(move || queue.run_tasks());
    }

    /// Waits for the next exclusive job that ran.
    fn next(&self) -> String {
        self.ran.recv_timeout(LONG).expect("an exclusive job")
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(engine) = self.engine.take() {
            assert!(engine.join().is_ok() || std::thread::panicking());
        }
        self.queue.end();
    }
}

/// The engine thread. Each exclusive job runs on the whole pool.
fn engine(queue: &Arc<Queue>, pool: &Arc<ThreadPool>, ran: &Sender<String>) {
    loop {
        match queue.next() {
            Next::Run(job) => {
                let Work::Refused { error } = job.work else { continue };
                assert_eq!(queue.inner.lock().tasks.running, 0, "an exclusive job runs alone");
                pool.install(|| (0..64).into_par_iter().for_each(|_| std::hint::black_box(())));
                let _ = ran.send(error);
            }
            Next::Resume(runners) => (0..runners).for_each(|_| {
                let queue = queue.clone();
                pool.spawn(move || queue.run_tasks());
            }),
            Next::SamplePanicked(_) => {}
            Next::End => return,
        }
    }
}

/// A task that takes steps until it is told to stop.
#[derive(Clone, Default)]
struct Endless {
    steps: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Endless {
    fn task(&self) -> Rest {
        let it = self.clone();
        Box::new(move |slice| it.run(slice))
    }

    fn run(self, slice: &dyn TimeSlice) {
        while !self.stop.load(Ordering::Relaxed) {
            // Steps wait for other threads, as those of samples do.
            (0..8).into_par_iter().for_each(|_| std::hint::black_box(()));
            self.steps.fetch_add(1, Ordering::Relaxed);
            if slice.is_over() {
                return slice.pause(Box::new(move |slice| self.run(slice)));
            }
        }
    }

    fn steps(&self) -> usize {
        self.steps.load(Ordering::Relaxed)
    }

    /// Waits until the task has taken one more step.
    fn moves(&self) {
        let (before, deadline) = (self.steps(), Instant::now() + LONG);
        while self.steps() == before {
            assert!(Instant::now() < deadline, "the task does not move");
            std::thread::yield_now();
        }
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        // The copy of the test ends the task.
        if Arc::strong_count(&self.stop) == 2 {
            self.stop.store(true, Ordering::Relaxed);
        }
    }
}

#[test]
fn exclusive_jobs_run_while_samples_are_unfinished_and_all_samples_move_after_them() {
    for threads in [1, 2, 5] {
        let harness = Harness::new(threads);
        let tasks: Vec<Endless> = (0..3).map(|_| Endless::default()).collect();
        tasks.iter().for_each(|it| harness.start(it.task()));
        tasks.iter().for_each(Endless::moves);
        for round in 0..20 {
            let names = [format!("a{round}"), format!("b{round}"), format!("c{round}")];
            names.iter().for_each(|it| harness.push(&it[..1], it));
            let ran: HashSet<String> = names.iter().map(|_| harness.next()).collect();
            assert_eq!(ran, names.into_iter().collect());
            tasks.iter().for_each(Endless::moves);
        }
        tasks.iter().for_each(|it| it.stop.store(true, Ordering::Relaxed));
    }
}

#[test]
fn all_tasks_move_although_there_are_more_than_threads() {
    let harness = Harness::new(1);
    let tasks: Vec<Endless> = (0..4).map(|_| Endless::default()).collect();
    tasks.iter().for_each(|it| harness.start(it.task()));
    for _ in 0..3 {
        tasks.iter().for_each(Endless::moves);
    }
    tasks.iter().for_each(|it| it.stop.store(true, Ordering::Relaxed));
}

#[test]
fn a_thread_that_takes_up_another_task_within_a_part_of_a_task_returns_to_the_part() {
    let harness = Harness::new(2);
    let (other, stop) = (Endless::default(), Arc::new(AtomicBool::new(false)));
    let (steps, task, stopped) = (other.clone(), other.task(), stop.clone());
    let (queue, (send, done)) = (harness.queue.clone(), unbounded());
    harness.start(Box::new(move |_| {
        let wait = |until: &(dyn Fn() -> bool + Sync)| {
            while !until() && !stopped.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
        };
        let [second, inner] = [AtomicBool::new(false), AtomicBool::new(false)];
        let begun = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        // The second thread computes a part, and waits for a part of it that the first thread has taken. Meanwhile it
        // begins the other task, which never ends.
        let part_of_the_part = || {
            inner.store(true, Ordering::Relaxed);
            queue.start_task(task);
            let queue = queue.clone();
            rayon::spawn(move || queue.run_tasks());
            wait(&|| 0 < steps.steps());
        };
        let part = || {
            second.store(true, Ordering::Relaxed);
            rayon::join(|| wait(&|| begun(&inner)), part_of_the_part)
        };
        rayon::join(|| wait(&|| begun(&second)), part);
        let _ = send.send(());
    }));
    let ended = done.recv_timeout(LONG);
    stop.store(true, Ordering::Relaxed);
    other.stop.store(true, Ordering::Relaxed);
    ended.expect("the end of the task");
}

#[test]
fn after_a_panic_of_a_task_other_tasks_and_jobs_go_on() {
    for threads in [1, 2] {
        let harness = Harness::new(threads);
        let task = Endless::default();
        harness.start(task.task());
        for round in 0..3 {
            harness.start(Box::new(|_| panic!("a broken kernel")));
            harness.panics.recv_timeout(LONG).expect("a panic");
            task.moves();
            harness.push("a", "job");
            assert_eq!(harness.next(), "job", "{round}");
            task.moves();
        }
        task.stop.store(true, Ordering::Relaxed);
    }
}

/// Reports that it was dropped.
struct Reports(Sender<()>);

impl Drop for Reports {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

#[test]
fn tasks_that_are_paused_when_the_engine_ends_are_dropped() {
    let queue = Arc::new(Queue::new(32, 1));
    let (send, dropped) = unbounded();
    let task = || {
        let (reports, again) = (Reports(send.clone()), Reports(send.clone()));
        queue.start_task(Box::new(move |slice| {
            let _reports = reports;
            slice.pause(Box::new(move |_| drop(again)));
        }));
    };
    task();
    queue.end();
    assert_eq!(dropped.try_iter().count(), 2);
    // This one begins after the end.
    task();
    queue.run_tasks();
    queue.run_tasks();
    assert_eq!(dropped.try_iter().count(), 2);
    assert!(queue.inner.lock().tasks.ready.is_empty());
}
