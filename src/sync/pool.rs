//! An elastic pool of named threads with small stacks, for jobs that block.
//!
//! # How jobs find threads
//! One lock guards everything. Whoever brings a job puts it into the queue and then, under the same lock, either
//! calls the thread that went idle last (so that the others may age and end), or reserves a place for a new thread,
//! or, if all places are taken, leaves it at that: every thread looks at the queue before it goes idle. An idle
//! thread ends after a while. It signs off under the lock under which it saw the empty queue, so that no job can
//! count on a thread that is about to leave. A thread that leaves before whoever started it has noted its handle keeps
//! its place until then; whoever clears that place looks at the queue once more.
//!
//! # How threads end
//! A thread that has ended must be joined for its stack to be freed. Each one that ends joins the one that ended
//! before it, so that no more than one is ever left over; [`Pool::close`] joins the rest.
//!
//! # Waiting inside a job
//! A job must not wait for another job of its own pool, which may be queued behind it for ever. [`Pool::fan_out`]
//! is the way to do so all the same: the waiter does the work itself as far as nobody else does.

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fault::{self, Fault};
use super::thread::{self, JoinHandle, ThreadId};
use super::{Condvar, Mutex, unwind};
use crate::error::{Error, ErrorKind, Result};

/// How long dropping a pool waits for its threads. What still runs then, such as a request to a server that does
/// not answer, ends on its own.
const DROP_GRACE: Duration = Duration::from_secs(1);

/// What a pool is like.
#[derive(Clone, Debug)]
pub(crate) struct PoolConfig {
    /// Threads are called `{name}-{n}`, with the lowest free `n`; Linux shows 15 bytes of that.
    pub(crate) name: &'static str,
    /// At least one.
    pub(crate) max_threads: usize,
    /// Of each thread, in bytes.
    pub(crate) stack_size: usize,
    /// After how long without a job a thread ends.
    pub(crate) idle: Duration,
}

/// The owner of the threads. Dropping it closes it, with a grace of one second.
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

type Job = Box<dyn FnOnce() + Send>;

/// One of several jobs of which every result is wanted.
pub(crate) type Part<T> = Box<dyn FnOnce() -> Result<T> + Send>;

struct Shared {
    config: PoolConfig,
    state: Mutex<State>,
    /// Notified whenever a thread signs off.
    left: Condvar,
}

#[derive(Default)]
struct State {
    closed: bool,
    queue: VecDeque<Job>,
    /// The last one went idle last.
    idle: Vec<Seat>,
    /// By the number in their name. A place is reserved here before its thread is started.
    threads: BTreeMap<usize, Thread>,
    /// Threads that signed off and were not joined yet.
    ended: Vec<JoinHandle<()>>,
}

struct Seat {
    n: usize,
    bell: Arc<Condvar>,
}

#[derive(Default)]
struct Thread {
    /// Known once it runs.
    id: Option<ThreadId>,
    /// Known once whoever started it has got it.
    handle: Option<JoinHandle<()>>,
    /// Sits in the idle list and has not been called.
    idle: bool,
    /// Signed off before its handle was known; whoever started it clears the place.
    left: bool,
}

impl Pool {
    /// A pool without threads. They come with the jobs.
    pub(crate) fn new(config: PoolConfig) -> Self {
        let config = PoolConfig { max_threads: config.max_threads.max(1), ..config };
        Pool { shared: Arc::new(Shared { config, state: Mutex::default(), left: Condvar::new() }) }
    }

    /// Has a job done by a thread of the pool. Never blocks: if all threads are busy, the job is queued. Its panic
    /// is caught and logged.
    ///
    /// # Errors
    /// Closed; or a system error, if there is no thread and none can be started. The job is dropped then, and
    /// replies in it answer with the same error.
    pub(crate) fn spawn(&self, job: impl FnOnce() + Send + 'static) -> Result<()> {
        self.shared.spawn(Box::new(job))
    }

    /// Does all the jobs, no more than `max_parallel` at once, and returns their results in their order. A panic is
    /// the result of its job alone.
    ///
    /// The calling thread works too, and does everything itself if the pool is busy or closed. So this may be called
    /// from a job of the same pool, even if that has one thread only. It returns when the last job has ended.
    pub(crate) fn fan_out<T: Send + 'static>(
        &self,
        jobs: Vec<Part<T>>,
        max_parallel: usize,
    ) -> Vec<Result<T>> {
        let group = Arc::new(Group::new(jobs));
        let n_helpers = group.len().min(max_parallel).saturating_sub(1);
        for _ in 0..n_helpers {
            let helper = group.clone();
            // A helper that comes late finds nothing to do. One that cannot come is not needed.
            if self.spawn(move || helper.help()).is_err() {
                break;
            }
        }
        if !fault::is(Fault::WaitsIdly) {
            group.help();
        }
        group.results()
    }

    /// Ends the pool: rejects new jobs, drops queued ones (replies in them answer that the pool is closed), and
    /// waits for the threads until the deadline. Returns how many other threads still run; those end with their
    /// current job. May be called again, and from a job of this pool.
    pub(crate) fn close(&self, deadline: Instant) -> usize {
        self.shared.close(deadline)
    }

    /// How many threads there are.
    pub(crate) fn n_threads(&self) -> usize {
        self.shared.state.lock().threads.len()
    }

    /// How many jobs wait for a thread.
    pub(crate) fn n_queued(&self) -> usize {
        self.shared.state.lock().queue.len()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.close(Instant::now() + DROP_GRACE);
    }
}

impl Shared {
    fn spawn(self: &Arc<Self>, job: Job) -> Result<()> {
        let mut state = self.state.lock();
        if state.closed {
            drop(state);
            let error = self.closed();
            unwind::bury(job, &error);
            return Err(error);
        }
        state.queue.push_back(job);
        if let Some(seat) = state.idle.pop() {
            if let Some(thread) = state.threads.get_mut(&seat.n) {
                thread.idle = false;
            }
            seat.bell.notify_one();
            return Ok(());
        }
        if self.config.max_threads <= state.threads.len() {
            return Ok(());
        }
        let n = state.reserve();
        drop(state);
        self.start(n)
    }

    /// Starts the thread for a reserved place. Not under the lock: it is a system call.
    fn start(self: &Arc<Self>, n: usize) -> Result<()> {
        let builder = thread::Builder::new()
            .name(format!("{}-{n}", self.config.name))
            .stack_size(self.config.stack_size);
        let shared = self.clone();
        match builder.spawn(move || shared.work(n)) {
            Ok(handle) => {
                let successor = {
                    let mut state = self.state.lock();
                    match state.threads.get_mut(&n) {
                        Some(thread) if !thread.left => {
                            thread.handle = Some(handle);
                            None
                        }
                        _ => state.clear(n, handle),
                    }
                };
                self.left.notify_all();
                if let Some(n) = successor {
                    // If it fails, the jobs in question are told; the one that was brought here is done.
                    let _ = self.start(n);
                }
                Ok(())
            }
            Err(cause) => {
                let (alone, jobs) = {
                    let mut state = self.state.lock();
                    state.threads.remove(&n);
                    self.left.notify_all();
                    (state.threads.is_empty(), state.take_stranded())
                };
                let error = Error::new(ErrorKind::System, format!("no thread could be started: {cause}"));
                unwind::report("the pool cannot grow", &error);
                // With other threads around the job is queued like any other. Without, somebody may still have done
                // it and ended since.
                if !alone || jobs.is_empty() {
                    return Ok(());
                }
                unwind::bury(jobs, &error);
                Err(error)
            }
        }
    }

    /// The life of a thread.
    fn work(self: Arc<Self>, n: usize) {
        let mut presence = Presence { shared: &self, n, signed_off: false };
        let bell = Arc::new(Condvar::new());
        if let Some(thread) = self.state.lock().threads.get_mut(&n) {
            thread.id = Some(thread::current().id());
        }
        loop {
            match self.next(n, &bell) {
                Next::Job(job) => unwind::shield("a job failed", job),
                Next::Leave(before) => {
                    presence.signed_off = true;
                    return join_all(before);
                }
            }
        }
    }

    /// Waits for a job, or signs off.
    fn next(&self, n: usize, bell: &Arc<Condvar>) -> Next {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                return Next::Job(job);
            }
            if state.closed {
                return Next::Leave(self.sign_off(&mut state, n));
            }
            state.set_idle(n, true);
            state.idle.push(Seat { n, bell: bell.clone() });
            // An idle time that no clock can hold is no bound.
            let until = Instant::now().checked_add(self.config.idle);
            let mut in_time = true;
            while state.is_idle(n) || (!in_time && fault::is(Fault::LeavesWhenCalled)) {
                if !in_time {
                    state.idle.retain(|it| it.n != n);
                    return Next::Leave(self.sign_off(&mut state, n));
                }
                in_time = super::wait(bell, &mut state, until);
            }
        }
    }

    /// Takes a thread off the list, and returns those that it has to join.
    fn sign_off(&self, state: &mut State, n: usize) -> Vec<JoinHandle<()>> {
        self.left.notify_all();
        let Some(thread) = state.threads.get_mut(&n) else { return Vec::new() };
        let Some(handle) = thread.handle.take() else {
            thread.left = true;
            return Vec::new();
        };
        state.threads.remove(&n);
        // Once the pool is closed, whoever closes it joins everybody.
        let before = if state.closed { Vec::new() } else { mem::take(&mut state.ended) };
        state.ended.push(handle);
        before
    }

    fn close(&self, deadline: Instant) -> usize {
        let (jobs, idle) = {
            let mut state = self.state.lock();
            state.closed = true;
            state.threads.values_mut().for_each(|it| it.idle = false);
            (mem::take(&mut state.queue), mem::take(&mut state.idle))
        };
        idle.iter().for_each(|it| {
            it.bell.notify_one();
        });
        if !jobs.is_empty() {
            unwind::bury(jobs, &self.closed());
        }
        // A job that drops the last handle of its pool closes it from inside. That thread cannot join itself; it ends
        // after the job.
        let me = thread::current().id();
        let mut state = self.state.lock();
        let mut in_time = true;
        let n_running = loop {
            match state.threads.values().filter(|it| it.id != Some(me)).count() {
                n if 0 < n && in_time => in_time = super::wait(&self.left, &mut state, Some(deadline)),
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
        Error::closed(format!("the pool {} is closed", self.config.name))
    }
}

enum Next {
    Job(Job),
    Leave(Vec<JoinHandle<()>>),
}

impl State {
    fn reserve(&mut self) -> usize {
        let gap = self.threads.keys().zip(0..).find(|(taken, n)| *taken != n).map(|(_, n)| n);
        let n = gap.unwrap_or(self.threads.len());
        self.threads.insert(n, Thread::default());
        n
    }

    /// Clears the place of a thread that has left already. A job that came since may have counted on the place, because
    /// it was taken; then it is reserved anew.
    fn clear(&mut self, n: usize, handle: JoinHandle<()>) -> Option<usize> {
        self.threads.remove(&n);
        self.ended.push(handle);
        let wanted = !self.closed && !self.queue.is_empty() && !fault::is(Fault::ClearsBlindly);
        wanted.then(|| self.reserve())
    }

    fn is_idle(&self, n: usize) -> bool {
        self.threads.get(&n).is_some_and(|it| it.idle)
    }

    fn set_idle(&mut self, n: usize, idle: bool) {
        if let Some(thread) = self.threads.get_mut(&n) {
            thread.idle = idle;
        }
    }

    /// Queued jobs that no thread is left to do.
    fn take_stranded(&mut self) -> VecDeque<Job> {
        match self.threads.is_empty() {
            true => mem::take(&mut self.queue),
            false => VecDeque::new(),
        }
    }
}

/// Signs a thread off that unwinds, which would take a panic outside of any job: nobody waits for a thread that is
/// gone.
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
            state.take_stranded()
        };
        let error = Error::new(ErrorKind::System, "the last thread of the pool ended abnormally");
        unwind::bury(jobs, &error);
    }
}

fn join_all(threads: Vec<JoinHandle<()>>) {
    let me = thread::current().id();
    for thread in threads.into_iter().filter(|it| it.thread().id() != me) {
        // It has signed off and is about to end. Its panics were caught and logged.
        let _ = thread.join();
    }
}

/// The jobs of one `fan_out`.
struct Group<T> {
    state: Mutex<Progress<T>>,
    /// Notified when the last job has ended.
    done: Condvar,
}

struct Progress<T> {
    waiting: VecDeque<(usize, Part<T>)>,
    n_running: usize,
    results: Vec<Option<Result<T>>>,
}

impl<T> Group<T> {
    fn new(jobs: Vec<Part<T>>) -> Self {
        let results = jobs.iter().map(|_| None).collect();
        let waiting = jobs.into_iter().enumerate().collect();
        Group { state: Mutex::new(Progress { waiting, n_running: 0, results }), done: Condvar::new() }
    }

    fn len(&self) -> usize {
        self.state.lock().results.len()
    }

    /// Does jobs as long as there are any that nobody has begun.
    fn help(&self) {
        while let Some((place, job)) = self.begin() {
            // Captures are dropped inside of the `catch` too, so that nothing can unwind past the count.
            let result = unwind::catch(job).and_then(|it| it);
            let mut state = self.state.lock();
            state.results[place] = Some(result);
            state.n_running -= 1;
            let last = state.n_running == 0 && state.waiting.is_empty();
            drop(state);
            if last && !fault::is(Fault::FinishesSilently) {
                self.done.notify_all();
            }
        }
    }

    fn begin(&self) -> Option<(usize, Part<T>)> {
        let mut state = self.state.lock();
        let next = state.waiting.pop_front();
        state.n_running += usize::from(next.is_some());
        next
    }

    /// Waits for jobs that others have begun, and takes all results.
    fn results(&self) -> Vec<Result<T>> {
        let mut state = self.state.lock();
        while 0 < state.n_running || !state.waiting.is_empty() {
            self.done.wait(&mut state);
        }
        let results = mem::take(&mut state.results);
        drop(state);
        // Every job has ended, and each leaves a result.
        results
            .into_iter()
            .map(|it| it.unwrap_or_else(|| Err(Error::closed("the job was not done"))))
            .collect()
    }
}

#[cfg(all(test, not(shuttle)))]
#[path = "pool_tests.rs"]
mod tests;
