//! An elastic pool of named threads with small stacks, for jobs that block.
//!
//! # How jobs find threads
//! One lock guards everything. Whoever brings a job puts it into the queue and then, under the same lock, either
//! calls the thread that went idle last (so that the others may age and end), or reserves a place for a new thread,
//! or, if all places are taken, leaves it at that: every thread looks at the queue before it goes idle. An idle
//! thread ends after a while. It signs off under the lock under which it saw the empty queue, so that no job can
//! count on a thread that is about to leave.
//!
//! # When the system refuses a thread
//! A reserved place is no thread yet: the system may refuse it. So a job counts only on a thread that is certain, one that
//! was started and has not signed off. If its bringer gets no thread for it and no other thread is certain, the bringer takes
//! the job back, drops it, and says so. If all places are taken and none of them holds a certain thread, the bringer waits
//! until one does or a place is free; that takes no longer than the system call of somebody else. A thread that leaves before
//! whoever started it has noted its handle keeps its place until then. After a refusal each thread that takes a job tries to
//! start another one, as long as jobs are queued and there is a place.
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
use super::{Condvar, Mutex, spawn, unwind};
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
    /// Notified whenever a thread signs off, becomes certain or is refused.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    closed: bool,
    /// With numbers, so that whoever brought a job can take it back.
    queue: VecDeque<(u64, Job)>,
    n_jobs: u64,
    /// The system refused a thread whose job is queued behind others.
    refused: bool,
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
        Pool { shared: Arc::new(Shared { config, state: Mutex::default(), changed: Condvar::new() }) }
    }

    /// Has a job done by a thread of the pool. If all threads are busy, the job is queued. Its panic is caught and logged.
    /// Waits for nothing but the system calls that start threads.
    ///
    /// # Errors
    /// Closed; or a system error, if there is no thread and none can be started. The job is dropped then, and
    /// replies in it answer with the same error. After `Ok` only closing the pool drops it.
    pub(crate) fn spawn(&self, job: impl FnOnce() + Send + 'static) -> Result<()> {
        self.shared.spawn(Box::new(job), Want::AnyThread)
    }

    /// As [`spawn`](Pool::spawn), for a pool whose jobs may go on for ever: while there is a place for another thread, the job
    /// is not queued behind others.
    ///
    /// # Errors
    /// As there; also if other threads run but none can be started for this job.
    pub(crate) fn spawn_apart(&self, job: impl FnOnce() + Send + 'static) -> Result<()> {
        self.shared.spawn(Box::new(job), Want::OwnThread)
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
    fn spawn(self: &Arc<Self>, job: Job, want: Want) -> Result<()> {
        let mut state = self.state.lock();
        if state.closed {
            drop(state);
            let error = self.closed();
            unwind::bury(job, &error);
            return Err(error);
        }
        let number = state.put(job);
        if let Some(seat) = state.idle.pop() {
            if let Some(thread) = state.threads.get_mut(&seat.n) {
                thread.idle = false;
            }
            seat.bell.notify_one();
            return Ok(());
        }
        loop {
            if state.threads.len() < self.config.max_threads {
                let n = state.reserve();
                drop(state);
                return self.start(n, Some((number, want)));
            }
            if state.has_thread() {
                return Ok(());
            }
            self.changed.wait(&mut state);
            // Somebody did it, or closed the pool.
            if !state.is_queued(number) {
                return Ok(());
            }
        }
    }

    /// Starts the thread for a reserved place, on behalf of a job if there is a number. Not under the lock: it is a system
    /// call.
    fn start(self: &Arc<Self>, n: usize, bringer: Option<(u64, Want)>) -> Result<()> {
        let name = format!("{}-{n}", self.config.name);
        let shared = self.clone();
        match spawn::spawn(name, Some(self.config.stack_size), move || shared.work(n)) {
            Ok(handle) => {
                let has_left = {
                    let mut state = self.state.lock();
                    match state.threads.get_mut(&n) {
                        Some(thread) if !thread.left => {
                            thread.handle = Some(handle);
                            false
                        }
                        // It found the queue empty, so that the job is done.
                        _ => {
                            state.threads.remove(&n);
                            state.ended.push(handle);
                            true
                        }
                    }
                };
                if !has_left || !fault::is(Fault::ClearsSilently) {
                    self.changed.notify_all();
                }
                Ok(())
            }
            Err(cause) => {
                let job = {
                    let mut state = self.state.lock();
                    state.threads.remove(&n);
                    match bringer {
                        Some((number, want)) if want == Want::OwnThread || !state.has_thread() => {
                            state.take_back(number)
                        }
                        _ => {
                            state.refused = true;
                            None
                        }
                    }
                };
                if !fault::is(Fault::RefusesSilently) {
                    self.changed.notify_all();
                }
                let error = Error::new(ErrorKind::System, format!("no thread could be started: {cause}"));
                unwind::report("the pool cannot grow", &error);
                // Without the job, another thread has it, or will.
                let Some(job) = job else { return Ok(()) };
                unwind::bury(job, &error);
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
                Next::Job(job, another) => {
                    if let Some(n) = another {
                        // If it fails, the jobs in question wait for this thread.
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
    fn next(&self, n: usize, bell: &Arc<Condvar>) -> Next {
        let mut state = self.state.lock();
        loop {
            if let Some((_, job)) = state.queue.pop_front() {
                let has_place = state.threads.len() < self.config.max_threads;
                let wanted = mem::take(&mut state.refused) && !state.queue.is_empty() && has_place;
                let another = wanted.then(|| state.reserve());
                return Next::Job(job, another);
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
        self.changed.notify_all();
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
        Error::closed(format!("the pool {} is closed", self.config.name))
    }
}

/// What a job needs to be done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    /// It may wait for other jobs to end.
    AnyThread,
    /// It may not, as long as there is a place for another thread.
    OwnThread,
}

enum Next {
    /// A job; and the place for one more thread, which was refused before, to be started first.
    Job(Job, Option<usize>),
    Leave(Vec<JoinHandle<()>>),
}

impl State {
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
        self.queue.iter().any(|it| it.0 == number)
    }

    fn take_back(&mut self, number: u64) -> Option<Job> {
        let place = self.queue.iter().position(|it| it.0 == number)?;
        self.queue.remove(place).map(|it| it.1)
    }

    /// A thread is certain to look at the queue before it leaves.
    fn has_thread(&self) -> bool {
        let is_certain = |it: &Thread| !it.left && (it.id.is_some() || it.handle.is_some());
        self.threads.values().any(|it| is_certain(it) || fault::is(Fault::CountsPlaces))
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
    fn take_stranded(&mut self) -> VecDeque<(u64, Job)> {
        match self.has_thread() {
            false => mem::take(&mut self.queue),
            true => VecDeque::new(),
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
