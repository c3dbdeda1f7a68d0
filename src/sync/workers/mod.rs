//! The threads of one class of a [`Pool`](super::pool::Pool). They run jobs that block. They have names and small
//! stacks, are started when jobs come, and end when they were idle for a while.
//!
//! # How jobs find threads
//! One lock guards the queue and the list of threads. A *place* is an entry of this list; a place is reserved before
//! its thread is started.
//!
//! `spawn` puts the job into the queue. Under the same lock it then does the first of these that is possible:
//! - it notifies the thread that became idle last, so that the others reach their time limit and end;
//! - it reserves a place for a new thread, which it starts after releasing the lock;
//! - it leaves the job in the queue, which each thread checks before it becomes idle.
//!
//! An idle thread ends after `Class::idle`. It signs off (frees its place) while it still holds the lock under which it
//! found the queue empty. So no job relies on a thread that is about to end.
//!
//! # Growth
//! While the class has fewer than `Class::eager` threads, each job that finds no idle thread starts one immediately.
//! Beyond that, the class grows only while jobs stay queued: a [`Task`] checks the class every 100 ms and doubles the
//! number of threads, unless the threads took two jobs each in that time (see [`more_threads`]).
//!
//! # When the system refuses a thread
//! A reserved place has no thread yet, and the system may refuse the thread. A *certain* thread is one that was started
//! and has not signed off. Only a certain thread is sure to check the queue.
//! - If the thread for a job is refused and no other thread is certain, `spawn` takes the job out of the queue, drops
//!   it and returns the error.
//! - If all eager places are taken and none of them has a certain thread, `spawn` waits until one has, or until a place
//!   is free. That takes no longer than the system call in another `spawn`.
//! - A thread may end before the thread that started it has stored its handle. Its place stays taken until the handle
//!   is stored.
//! - After a refusal, the next thread that takes a job tries to start another thread, if more jobs are queued and an
//!   eager place is free.
//!
//! # How threads end
//! A thread that has ended must be joined for its stack to be freed. Each thread that ends joins the thread that ended
//! before it, so that at most one is left unjoined; [`Workers::join`] joins the rest.
//!
//! # Waiting inside a job
//! A job must not wait for another job of its own class, which may stay queued behind it forever. Use
//! [`Workers::fan_out`] instead: the calling thread does each part that no other thread has begun.

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fan_out::Group;
pub(crate) use super::fan_out::Part;
use super::fault::mutant;
use super::task::{Task, Turn, Work};
use super::thread::{self, JoinHandle, ThreadId};
use super::{Condvar, Mutex, spawn, unwind};
use crate::error::{Error, ErrorKind, Result};

/// Time for which dropping a class or a pool waits for its threads. Longer jobs, such as a request to a server that
/// does not answer, go on and end later.
pub(super) const DROP_GRACE: Duration = Duration::from_secs(1);
/// Interval at which a class with queued jobs reconsiders its number of threads.
const ROUND: Duration = Duration::from_millis(100);

/// One class of threads.
#[derive(Clone, Debug)]
pub(crate) struct Class {
    /// Threads are called `{name}-{n}`, with the lowest free `n`; Linux shows the first 15 bytes.
    pub(crate) name: &'static str,
    /// Upper bound of the number of threads.
    pub(crate) max: usize,
    /// Number of threads that are started as soon as jobs come. More threads are started only while jobs stay queued.
    pub(crate) eager: usize,
    /// Stack size of each thread in bytes.
    pub(crate) stack: usize,
    /// Time without a job after which a thread ends.
    pub(crate) idle: Duration,
    /// For jobs that may run forever: if the system refuses the thread for a job, the job fails. In other classes the
    /// job would stay queued behind the jobs of the running threads.
    pub(crate) dedicated: bool,
    /// The jobs of this class empty mailboxes of clients. Code on these threads must not wait while a mailbox is full.
    pub(crate) drains_mailboxes: bool,
}

impl Class {
    /// A class of up to `max` threads (at least one), all of which start as soon as jobs come.
    pub(crate) fn new(name: &'static str, max: usize, stack: usize, idle: Duration) -> Self {
        let max = max.max(1);
        Class { name, max, eager: max, stack, idle, dedicated: false, drains_mailboxes: false }
    }
}

/// Owner of the threads of one class. Dropping it closes the class and waits up to one second for the threads.
pub(crate) struct Workers {
    shared: Arc<Shared>,
}

type Job = Box<dyn FnOnce() + Send>;

struct Shared {
    class: Class,
    state: Mutex<State>,
    /// Notified when a thread signs off, becomes certain or is refused.
    changed: Condvar,
    /// Notified when the queue becomes empty and when the class is closed, for the growth task.
    drained: Condvar,
    /// For classes that may have more than their eager threads: the task that adds threads, and the workers that run
    /// this task.
    growth: Option<(Arc<Task<Growth>>, Arc<Workers>)>,
}

#[derive(Default)]
struct State {
    closed: bool,
    /// The jobs, each with a number by which `spawn` finds its own job.
    queue: VecDeque<(u64, Job)>,
    n_jobs: u64,
    /// Jobs that threads have taken from the queue so far.
    n_taken: u64,
    /// The system refused a thread, and its job stays in the queue. Reset by the next thread that takes a job.
    refused: bool,
    /// The idle threads, in the order in which they became idle.
    idle: Vec<IdleThread>,
    /// The places, by the number in the thread's name. A place is reserved before its thread is started.
    threads: BTreeMap<usize, Thread>,
    /// Threads that signed off and are not joined yet.
    ended: Vec<JoinHandle<()>>,
}

struct IdleThread {
    n: usize,
    wake: Arc<Condvar>,
}

#[derive(Default)]
struct Thread {
    /// Set once the thread runs.
    id: Option<ThreadId>,
    /// Set by the thread that started it.
    handle: Option<JoinHandle<()>>,
    /// The thread is in the idle list. A notification sets this to `false`.
    idle: bool,
    /// Signed off before its handle was stored; storing the handle then frees the place.
    left: bool,
}

impl Workers {
    /// Creates a class without threads; threads are started when jobs come. `growth` runs the task that adds threads
    /// above the eager ones. Without `growth` there are only eager threads.
    pub(crate) fn new(class: Class, growth: Option<Arc<Workers>>) -> Self {
        let growth = growth.filter(|_| class.eager < class.max).map(|workers| (Task::new(Growth), workers));
        let (max, eager) = (class.max.max(1), class.eager.max(1));
        let class = Class { max, eager: eager.min(max), ..class };
        let shared = Shared {
            class,
            state: Mutex::default(),
            changed: Condvar::new(),
            drained: Condvar::new(),
            growth,
        };
        Workers { shared: Arc::new(shared) }
    }

    /// Submits a job to the threads of the class. It is queued if all threads are busy. A panic of the job is caught
    /// and logged. Blocks only for the system calls that start threads.
    ///
    /// # Errors
    /// Closed; or a system error, if no thread runs and none can be started (in a dedicated class: if none can be
    /// started for this job). The job is then dropped, and replies in it answer with the same error. After `Ok` only
    /// closing drops the job.
    pub(crate) fn spawn(&self, job: impl FnOnce() + Send + 'static) -> Result<()> {
        self.shared.spawn(Box::new(job))
    }

    /// Runs all jobs, at most `max_parallel` at the same time, and returns their results in order. A panic fails only
    /// its own job.
    ///
    /// The calling thread runs jobs, too. If the class is busy or closed, it runs all of them. So a job of the same
    /// class may call this function, even in a class of one thread. Returns when the last job has ended.
    pub(crate) fn fan_out<T: Send + 'static>(
        &self,
        jobs: Vec<Part<T>>,
        max_parallel: usize,
    ) -> Vec<Result<T>> {
        let group = Arc::new(Group::new(jobs));
        let n_helpers = group.len().min(max_parallel).saturating_sub(1);
        for _ in 0..n_helpers {
            let helper = group.clone();
            // A helper that starts late finds no job left. If a helper cannot be submitted, the calling thread runs its
            // jobs.
            if self.spawn(move || helper.help()).is_err() {
                break;
            }
        }
        mutant!(WaitsWithoutHelping, {}, group.help());
        group.results()
    }

    /// Rejects new jobs, drops queued ones (replies in them answer that the class is closed) and wakes the idle
    /// threads, which end. Does not wait. Closing again does nothing.
    pub(crate) fn close(&self) {
        self.shared.close();
    }

    /// Waits for the threads of a closed class until the deadline. Returns the number of threads that still run,
    /// without the calling one. Such a thread ends after its current job.
    pub(crate) fn join(&self, deadline: Instant) -> usize {
        self.shared.join(deadline)
    }

    /// Name, number of threads and number of queued jobs.
    pub(crate) fn status(&self) -> (&'static str, usize, usize) {
        let state = self.shared.state.lock();
        (self.shared.class.name, state.threads.len(), state.queue.len())
    }
}

#[cfg(test)]
impl Workers {
    pub(crate) fn n_threads(&self) -> usize {
        self.status().1
    }

    pub(crate) fn n_queued(&self) -> usize {
        self.status().2
    }

    /// Closes the class and waits for its threads.
    pub(crate) fn end(&self, deadline: Instant) -> usize {
        self.close();
        self.join(deadline)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.close();
        self.join(Instant::now() + DROP_GRACE);
    }
}

/// Adds threads to a class while jobs stay queued.
struct Growth;

impl Work for Growth {
    type Owner = Shared;

    /// Waits for one round, then adds threads according to [`more_threads`]. Idle once the queue is empty or the class
    /// is full.
    fn turn(&self, workers: &Arc<Shared>) -> Turn {
        let mut state = workers.state.lock();
        let before = state.n_taken;
        let until = Instant::now() + ROUND;
        let mut in_time = true;
        while in_time && !state.closed && !state.queue.is_empty() {
            in_time = super::wait(&workers.drained, &mut state, Some(until));
        }
        mutant!(NeverGrows, return Turn::Idle);
        let (n_threads, max) = (state.threads.len(), workers.class.max);
        if state.closed || state.queue.is_empty() || max <= n_threads {
            return Turn::Idle;
        }
        let more = more_threads(n_threads, state.n_taken - before, state.queue.len()).min(max - n_threads);
        drop(state);
        for _ in 0..more {
            let place = {
                let mut state = workers.state.lock();
                (!state.closed && state.threads.len() < max).then(|| state.reserve())
            };
            // After a refusal the class keeps its threads; the next queued job tries again.
            if place.is_none_or(|n| workers.start(n, None).is_err()) {
                return Turn::Idle;
            }
        }
        Turn::Again
    }

    fn lost(&self, _: &Arc<Shared>, error: &Error) {
        log::debug!(target: "tinkex::sync", "no thread to grow a pool: {error}");
    }
}

/// Number of threads to add to a class that took `n_taken` jobs from its queue in one round. It is 0 if each thread
/// took two jobs, because more threads would only share the processor. Otherwise it is the present number of threads,
/// but at most one for each queued job.
fn more_threads(n_threads: usize, n_taken: u64, n_queued: usize) -> usize {
    if u64::try_from(n_threads).is_ok_and(|n_threads| 2 * n_threads <= n_taken) {
        0
    } else {
        n_threads.min(n_queued)
    }
}

impl Shared {
    fn spawn(self: &Arc<Self>, job: Job) -> Result<()> {
        let mut state = self.state.lock();
        if state.closed {
            drop(state);
            let error = self.closed();
            unwind::drop_because(job, &error);
            return Err(error);
        }
        let number = state.put(job);
        if let Some(thread) = state.idle.pop() {
            state.set_idle(thread.n, false);
            thread.wake.notify_one();
            return Ok(());
        }
        loop {
            if state.threads.len() < self.class.eager {
                let n = state.reserve();
                drop(state);
                return self.start(n, Some(number));
            }
            if state.has_thread() {
                let is_full = self.class.max <= state.threads.len();
                drop(state);
                if !is_full {
                    self.grow();
                }
                return Ok(());
            }
            self.changed.wait(&mut state);
            // `false`: a thread has taken the job, or the job was dropped because the class was closed.
            if !state.is_queued(number) {
                return Ok(());
            }
        }
    }

    /// Starts the growth task, if the class has one.
    fn grow(self: &Arc<Self>) {
        if let Some((task, workers)) = &self.growth {
            // A refusal is logged; the next queued job tries again.
            let _ = task.wake(self, workers);
        }
    }

    /// Starts the thread for a reserved place, for the job with this number. Called without the lock, because it is a
    /// system call.
    ///
    /// # Errors
    /// The system refused the thread, and the job, if any, was dropped.
    fn start(self: &Arc<Self>, n: usize, job: Option<u64>) -> Result<()> {
        let name = format!("{}-{n}", self.class.name);
        let shared = self.clone();
        match spawn::spawn(name, Some(self.class.stack), move || shared.work(n)) {
            Ok(handle) => {
                self.store(n, handle);
                Ok(())
            }
            Err(cause) => {
                let dropped = {
                    let mut state = self.state.lock();
                    state.threads.remove(&n);
                    match job {
                        Some(number) if self.class.dedicated || !state.has_thread() => {
                            state.take_back(number)
                        }
                        _ => {
                            state.refused = true;
                            None
                        }
                    }
                };
                mutant!(RefusesWithoutNotify, {}, self.changed.notify_all());
                let error = Error::new(ErrorKind::System, format!("no thread could be started: {cause}"));
                unwind::report("the pool cannot grow", &error);
                match (dropped, job) {
                    (Some(dropped), _) => {
                        unwind::drop_because(dropped, &error);
                        Err(error)
                    }
                    // Another thread has taken the job or will take it.
                    (None, Some(_)) => Ok(()),
                    (None, None) => Err(error),
                }
            }
        }
    }

    /// Stores the handle of a thread that was started; frees its place if the thread has left already.
    fn store(&self, n: usize, handle: JoinHandle<()>) {
        let mut state = self.state.lock();
        match state.threads.get_mut(&n) {
            Some(thread) if !thread.left => {
                thread.handle = Some(handle);
                self.changed.notify_all();
            }
            // The thread has left already: it found the queue empty, so the job for which it was started is not left
            // behind.
            _ => {
                state.threads.remove(&n);
                state.ended.push(handle);
                mutant!(FreesPlaceWithoutNotify, {}, self.changed.notify_all());
            }
        }
    }

    /// Body of a thread.
    fn work(self: Arc<Self>, n: usize) {
        let mut presence = Presence { shared: &self, n, signed_off: false };
        spawn::set_drains_mailboxes(self.class.drains_mailboxes);
        let wake = Arc::new(Condvar::new());
        if let Some(thread) = self.state.lock().threads.get_mut(&n) {
            thread.id = Some(thread::current().id());
        }
        loop {
            match self.next(n, &wake) {
                Next::Job(job, another) => {
                    if let Some(n) = another {
                        // If this fails, the queued jobs wait for this thread.
                        let _ = self.start(n, None);
                    }
                    unwind::shield("a job failed", job);
                }
                Next::Leave(before) => {
                    presence.signed_off = true;
                    return join_all(before);
                }
            }
        }
    }

    /// Waits for a job, or signs off.
    fn next(&self, n: usize, wake: &Arc<Condvar>) -> Next {
        let mut state = self.state.lock();
        loop {
            if let Some((_, job)) = state.queue.pop_front() {
                state.n_taken += 1;
                let has_place = state.threads.len() < self.class.eager;
                let wanted = mem::take(&mut state.refused) && !state.queue.is_empty() && has_place;
                let another = wanted.then(|| state.reserve());
                if state.queue.is_empty() {
                    self.drained.notify_all();
                }
                return Next::Job(job, another);
            }
            if state.closed {
                return Next::Leave(self.sign_off(&mut state, n));
            }
            state.set_idle(n, true);
            state.idle.push(IdleThread { n, wake: wake.clone() });
            // `None` if the time is too long for the clock: the thread then stays until the class is closed.
            let until = Instant::now().checked_add(self.class.idle);
            while state.is_idle(n) {
                let in_time = super::wait(wake, &mut state, until);
                let is_idle = mutant!(EndsWhenNotified, true, state.is_idle(n));
                if !in_time && is_idle {
                    state.idle.retain(|thread| thread.n != n);
                    return Next::Leave(self.sign_off(&mut state, n));
                }
            }
        }
    }

    /// Removes a thread from the list, and returns the threads that it has to join.
    fn sign_off(&self, state: &mut State, n: usize) -> Vec<JoinHandle<()>> {
        self.changed.notify_all();
        let Some(thread) = state.threads.get_mut(&n) else { return Vec::new() };
        let Some(handle) = thread.handle.take() else {
            thread.left = true;
            return Vec::new();
        };
        state.threads.remove(&n);
        // In a closed class `join` joins all threads.
        let before = if state.closed { Vec::new() } else { mem::take(&mut state.ended) };
        state.ended.push(handle);
        before
    }

    fn close(&self) {
        let (jobs, idle) = {
            let mut state = self.state.lock();
            state.closed = true;
            state.threads.values_mut().for_each(|thread| thread.idle = false);
            (mem::take(&mut state.queue), mem::take(&mut state.idle))
        };
        for thread in &idle {
            thread.wake.notify_one();
        }
        self.drained.notify_all();
        if !jobs.is_empty() {
            unwind::drop_because(jobs, &self.closed());
        }
    }

    fn join(&self, deadline: Instant) -> usize {
        // The calling thread may belong to this class, if its job dropped the last handle of the pool. It cannot join
        // itself and ends after the job.
        let me = thread::current().id();
        let mut state = self.state.lock();
        let mut in_time = true;
        let n_running = loop {
            match state.threads.values().filter(|thread| thread.id != Some(me)).count() {
                n if 0 < n && in_time => in_time = super::wait(&self.changed, &mut state, Some(deadline)),
                n => break n,
            }
        };
        let ended = mem::take(&mut state.ended);
        drop(state);
        join_all(ended);
        n_running
    }

    #[cold]
    fn closed(&self) -> Error {
        Error::closed(format!("the pool {} is closed", self.class.name))
    }
}

enum Next {
    /// A job, and the reserved place of one more thread, if a thread was refused before. That thread is started before
    /// the job runs.
    Job(Job, Option<usize>),
    Leave(Vec<JoinHandle<()>>),
}

impl State {
    /// Reserves the place with the lowest free number.
    fn reserve(&mut self) -> usize {
        let gap = self.threads.keys().zip(0..).find(|(taken, n)| *taken != n).map(|(_, n)| n);
        let n = gap.unwrap_or(self.threads.len());
        self.threads.insert(n, Thread::default());
        n
    }

    /// Puts a job into the queue.
    fn put(&mut self, job: Job) -> u64 {
        self.n_jobs += 1;
        self.queue.push_back((self.n_jobs, job));
        self.n_jobs
    }

    fn is_queued(&self, number: u64) -> bool {
        self.queue.iter().any(|queued| queued.0 == number)
    }

    fn take_back(&mut self, number: u64) -> Option<Job> {
        let place = self.queue.iter().position(|queued| queued.0 == number)?;
        self.queue.remove(place).map(|queued| queued.1)
    }

    /// Returns whether some thread is certain: it was started, and it will check the queue before it leaves.
    fn has_thread(&self) -> bool {
        mutant!(CountsReservedPlaces, return !self.threads.is_empty());
        let is_certain = |thread: &Thread| !thread.left && (thread.id.is_some() || thread.handle.is_some());
        self.threads.values().any(is_certain)
    }

    fn is_idle(&self, n: usize) -> bool {
        self.threads.get(&n).is_some_and(|thread| thread.idle)
    }

    fn set_idle(&mut self, n: usize, idle: bool) {
        if let Some(thread) = self.threads.get_mut(&n) {
            thread.idle = idle;
        }
    }

    /// Takes the queued jobs if no thread is left to do them.
    fn take_unserved(&mut self) -> VecDeque<(u64, Job)> {
        if self.has_thread() { VecDeque::new() } else { mem::take(&mut self.queue) }
    }
}

/// Guard of a thread. If a panic outside of any job ends the thread, the guard signs it off, so that no job waits for
/// it.
struct Presence<'a> {
    shared: &'a Shared,
    n: usize,
    signed_off: bool,
}

impl Drop for Presence<'_> {
    fn drop(&mut self) {
        if self.signed_off {
            return;
        }
        let jobs = {
            let mut state = self.shared.state.lock();
            let before = self.shared.sign_off(&mut state, self.n);
            state.ended.extend(before);
            state.take_unserved()
        };
        let error = Error::new(ErrorKind::System, "the last thread of the pool ended abnormally");
        unwind::drop_because(jobs, &error);
    }
}

fn join_all(threads: Vec<JoinHandle<()>>) {
    let me = thread::current().id();
    for thread in threads.into_iter().filter(|handle| handle.thread().id() != me) {
        // The thread has signed off and is about to end. Its panics were caught and logged.
        let _ = thread.join();
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests;
