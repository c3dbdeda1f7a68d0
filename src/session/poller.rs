//! The poller of a sampling session: one thread that polls for all its samples. So a sample in flight costs a map entry
//! and no thread (PROTOCOL §4.5).
//!
//! The server's answers announce the samples whose results are there. Each announced result is fetched by a job of the
//! pool. Later requests report the fetched samples, so that the server drops their results.
//! [`policy::poll_many`](crate::policy::poll_many) decides the requests and interprets the answers; this module does
//! the input and output.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::http::{Answer, Branch, Broken, Call, Endpoint, Lane, endpoint};
use crate::pending::Progress;
use crate::policy::poll::Times;
use crate::policy::poll_many::{Event, PollMany, Registered, Step, Turn};
use crate::policy::verdict::Verdict;
use crate::sync::cancel::{Registration, Wake};
use crate::sync::task::{Task, Turn as TaskTurn, Work};
use crate::sync::{CancelToken, Mutex, unwind};
use crate::wire::json::{Completion, FuturesTarget, RetrieveFuturesRequest};

use super::{Job, Session};

const ENDPOINT: &Endpoint = &endpoint::RETRIEVE_FUTURES;
/// Time limit of a request that only reports fetched samples.
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Minimum time between two updates of the last contact of all waiting operations.
const CONTACT_INTERVAL: Duration = Duration::from_secs(1);

/// A sample that the server has accepted.
pub(crate) trait PolledSample: Send {
    fn progress(&self) -> &Progress;
    fn cancel(&self) -> &CancelToken;
    /// Fetches the result and answers the caller. `size` is the result's size, if the server announced it. `fetching`
    /// tells the poller when the fetch has ended; `None` if no poller waits for that. Blocks; runs in the pool.
    fn fetch(self: Box<Self>, size: Option<usize>, fetching: Option<Fetching>);
    /// Checks once whether the result is there. Blocks for a few seconds at most; runs in the pool.
    fn check_once(self: Box<Self>, fetching: Fetching);
    /// Answers the caller with an error.
    fn fail(self: Box<Self>, error: Error);
}

/// Polls for one sampling session.
pub(crate) struct Poller {
    session: Arc<Session>,
    target: FuturesTarget,
    /// Token of the client. Its cancellation also ends the poller.
    cancel: CancelToken,
    /// Separate transport for the long polls. Closing the client shuts it down without affecting other requests.
    branch: Option<Branch>,
    born: Instant,
    task: Arc<Task<PollTask>>,
    state: Mutex<State>,
}

/// The pollers of a session.
#[derive(Default)]
pub(super) struct Pollers {
    all: Mutex<Vec<Weak<Poller>>>,
}

struct State {
    machine: PollMany<Entry>,
    closed: bool,
    /// Earliest deadline of the registered samples.
    nearest: Option<Instant>,
    /// Time by which the request in flight ends at the latest.
    busy_until: Option<Instant>,
    /// Time of the last update of all waiting operations.
    contact_noted: Option<Instant>,
    /// A proxy dropped the last request, so that the next one uses a new connection.
    dropped: bool,
}

struct Entry {
    sample: Box<dyn PolledSample>,
    /// Removes the entry when the sample is cancelled.
    _forget_on_cancel: Registration,
}

/// Removes a sample from its poller when the sample's token is cancelled. The caller is answered by other code.
struct ForgetOnCancel {
    poller: Weak<Poller>,
    request_id: String,
}

impl Wake for ForgetOnCancel {
    fn wake(&self) {
        if let Some(poller) = self.poller.upgrade() {
            poller.forget(&self.request_id);
        }
    }
}

/// Guard of a fetch in progress. Dropping it tells the poller that the fetch has ended.
pub(crate) struct Fetching {
    poller: Arc<Poller>,
    request_id: String,
    settled: bool,
}

impl Fetching {
    /// Ends the fetch with a final outcome: the poller then tells the server to drop the result.
    pub(crate) fn settle(mut self) {
        self.settled = true;
    }

    /// Registers the sample again, because its result is not there yet.
    pub(crate) fn requeue(mut self, sample: Box<dyn PolledSample>) {
        let poller = self.poller.clone();
        // Take the id: dropping the guard does nothing without it.
        let request_id = std::mem::take(&mut self.request_id);
        poller.register(&request_id, sample);
        poller.check_overdue();
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        let request_id = std::mem::take(&mut self.request_id);
        if request_id.is_empty() {
            return;
        }
        self.poller.state.lock().machine.fetched(request_id, self.settled);
        self.poller.start();
        self.poller.check_overdue();
    }
}

impl Poller {
    pub(crate) fn new(
        session: &Arc<Session>,
        sampling_session_id: &str,
        cloned_sampler_id: u64,
        cancel: CancelToken,
    ) -> Arc<Self> {
        let sampling_session_id = sampling_session_id.to_string();
        let machine = if session.http.offered().lock().lacks(ENDPOINT.name) {
            PollMany::without_endpoint()
        } else {
            PollMany::new(session.config.timeouts.silence)
        };
        let poller = Arc::new(Poller {
            target: FuturesTarget::SamplingSession { sampling_session_id, cloned_sampler_id },
            cancel,
            branch: session.http.branch(),
            born: session.clock.now(),
            task: Task::new(PollTask),
            state: Mutex::new(State {
                machine,
                closed: false,
                nearest: None,
                busy_until: None,
                contact_noted: None,
                dropped: false,
            }),
            session: session.clone(),
        });
        session.pollers.add(&poller);
        poller
    }

    /// Registers a sample. Its result is fetched once the server announces it.
    pub(crate) fn register(self: &Arc<Self>, request_id: &str, sample: Box<dyn PolledSample>) {
        let cancel = sample.cancel().clone();
        let forget_on_cancel = ForgetOnCancel { poller: Arc::downgrade(self), request_id: request_id.into() };
        let entry = Entry { _forget_on_cancel: cancel.on_cancel(Arc::new(forget_on_cancel)), sample };
        let now = self.clock().now;
        let registered = {
            let mut state = self.state.lock();
            let deadline = entry.sample.progress().deadline();
            match (state.closed, state.busy_until, deadline) {
                (true, ..) => Registered::Refused(entry, Error::closed("the client is closed")),
                // The request in flight may last past this sample's deadline and cannot be shortened: wait for this
                // sample on a thread.
                (_, Some(until), Some(deadline)) if deadline < until => Registered::PollAlone(entry),
                _ => {
                    state.nearest = state.nearest.into_iter().chain(deadline).min();
                    state.machine.register(request_id, entry, now)
                }
            }
        };
        let replaced = match registered {
            Registered::Waiting => None,
            Registered::Replaces(before) => Some(before),
            Registered::Ready(entry, completion) => {
                return self.fetch(request_id.into(), entry, &completion);
            }
            Registered::PollAlone(entry) => return self.session.spawn_wait(entry.sample),
            Registered::Refused(entry, error) => return entry.sample.fail(error),
        };
        if let Some(Entry { sample, _forget_on_cancel }) = replaced {
            // Drop the registration of the old sample first: otherwise a cancellation of the old sample would remove
            // the new one, which has the same id.
            drop(_forget_on_cancel);
            let text = format!("the server gave the request id {request_id} to two samples at the same time");
            sample.fail(Error::decode(text));
        }
        // If the token was cancelled after `on_cancel` and before the registration, `ForgetOnCancel` did not find the
        // entry: remove it here.
        if cancel.is_cancelled() {
            self.forget(request_id);
        }
        self.start();
    }

    /// Returns whether the server may have `retrieve_futures`: false once it is known to lack this endpoint.
    pub(crate) fn is_available(&self) -> bool {
        self.state.lock().machine.has_endpoint()
    }

    /// Refuses later samples, fails the waiting ones, interrupts the request that the server holds, and sends the last
    /// report of fetched samples.
    pub(crate) fn close(&self, within: Duration) {
        let (turn, waiting) = {
            let mut state = self.state.lock();
            let turn = (!std::mem::replace(&mut state.closed, true)).then(|| state.machine.final_report());
            (turn.flatten(), state.machine.take_waiters())
        };
        fail(waiting, &Error::closed("the client was closed while this was in progress"));
        if let Some(branch) = &self.branch {
            branch.transport().shutdown();
        }
        // If the report fails, the only consequence is that the server keeps the results for a while.
        if let Some(call) = turn.and_then(|turn| self.call(&turn, within.min(REPORT_TIMEOUT)).ok()) {
            let outcome = self.session.http.raw(&call);
            log::debug!(target: "tinkex", "last report of fetched samples: {:?}", outcome.map(|answer| answer.status));
        }
    }

    /// Starts the poller's thread, unless it runs already, if there is anything to request or to report.
    fn start(self: &Arc<Self>) {
        if self.state.lock().next().is_some() {
            // `lost` fails the samples if the system refuses the thread.
            let _ = self.task.wake(self, &self.session.pool[Job::Poll]);
        }
    }

    /// Sends one request and handles its outcome.
    fn turn(self: &Arc<Self>, turn: &Turn) {
        let timeouts = &self.session.config.timeouts;
        let sent = self.session.clock.now();
        self.expire(sent);
        let timeout = {
            let mut state = self.state.lock();
            let left = state.nearest.map(|deadline| deadline.saturating_duration_since(sent));
            let longest = if turn.holds { timeouts.poll } else { REPORT_TIMEOUT };
            let timeout = left.map_or(longest, |left| longest.min(left.max(Duration::from_millis(1))));
            state.busy_until = sent.checked_add(timeout);
            timeout
        };
        let sent = self.clock();
        let outcome = self.call(turn, timeout).map(|call| self.session.http.raw(&call));
        if let Ok(Ok(answer)) = &outcome {
            // Pass no deadline: the deadline of one sample must not end the pause for all. Only the end of the client
            // cancels the pause, and the next turn notices that.
            if self.session.http.pause_for_payment(answer, None, &self.cancel).unwrap_or(true) {
                self.state.lock().busy_until = None;
                return self.expire(self.session.clock.now());
            }
        }
        let is_dropped = |answer: &Answer| answer.facts().verdict() == Verdict::Dropped;
        self.state.lock().dropped = matches!(&outcome, Ok(Ok(answer)) if is_dropped(answer));
        let times = Times { sent: sent.now, ..self.clock() };
        let event = match &outcome {
            Ok(Ok(answer)) => {
                self.note_contact();
                Event::Answer(answer.facts())
            }
            Ok(Err(broken)) => {
                let error = broken.error(timeouts);
                match broken {
                    Broken::Token(cause) if cause.is_retryable() => Event::Broken(error),
                    Broken::Timeout(_)
                    | Broken::Connection { .. }
                    | Broken::InvalidHttp { .. }
                    | Broken::WrongPeer { .. }
                    | Broken::CircuitOpen { .. } => Event::Broken(error),
                    _ => Event::Fatal(error),
                }
            }
            Err(error) => Event::Fatal(error.clone()),
        };
        match &event {
            Event::Broken(error) => self.note_failure(error),
            Event::Answer(facts) if 500 <= facts.status || facts.status == 429 => {
                self.note_failure(&facts.error());
            }
            _ => {}
        }
        self.handle(turn, event, times);
    }

    fn handle(self: &Arc<Self>, turn: &Turn, event: Event<'_>, times: Times) {
        let (step, pause) = {
            let mut state = self.state.lock();
            state.busy_until = None;
            state.machine.on(turn, event, times)
        };
        match step {
            Step::Nothing => {}
            Step::Ready(ready) => {
                for (id, entry, completion) in ready {
                    self.fetch(id, entry, &completion);
                }
            }
            Step::PollAlone(waiting) => {
                log::info!(target: "tinkex", "the server lacks retrieve_futures: each sample now occupies a thread until its result is there");
                // Other clients of the service then do not call the endpoint.
                self.session.http.offered().lock().note_absent(ENDPOINT.name);
                waiting.into_iter().for_each(|entry| self.session.spawn_wait(entry.sample));
            }
            Step::Fail(waiting, error) => fail(waiting, &error),
        }
        if !pause.is_zero() {
            let clock = &self.session.clock;
            let nearest = self.state.lock().nearest;
            let left = nearest.map(|deadline| deadline.saturating_duration_since(clock.now()));
            // If the pause is cancelled, the next turn notices that.
            let _ = clock.pause(left.map_or(pause, |left| pause.min(left)), &self.cancel);
        }
        self.expire(self.session.clock.now());
        self.check_overdue();
    }

    /// Starts an individual check of each sample that the server has not announced for a long time.
    fn check_overdue(self: &Arc<Self>) {
        let now = self.clock().now;
        let overdue = {
            let mut state = self.state.lock();
            if state.closed { Vec::new() } else { state.machine.take_due_looks(now) }
        };
        for (request_id, entry) in overdue {
            let fetching = Fetching { poller: self.clone(), request_id, settled: false };
            self.session.fetch(move || entry.sample.check_once(fetching));
        }
    }

    /// Records the contact with the server in all waiting operations, at most once a second because there may be
    /// thousands.
    fn note_contact(&self) {
        let now = self.session.clock.now();
        let waiting: Vec<Progress> = {
            let mut state = self.state.lock();
            if state.contact_noted.is_some_and(|at| now.saturating_duration_since(at) < CONTACT_INTERVAL) {
                return;
            }
            state.contact_noted = Some(now);
            state.machine.waiters().map(|(_, entry)| entry.sample.progress().clone()).collect()
        };
        waiting.iter().for_each(|progress| progress.contact(now));
    }

    /// Records the failure of a poll in all waiting operations.
    fn note_failure(&self, error: &Error) {
        log::debug!(target: "tinkex", "polling for results failed, and is retried: {error}");
        let waiting: Vec<Progress> = {
            let state = self.state.lock();
            state.machine.waiters().map(|(_, entry)| entry.sample.progress().clone()).collect()
        };
        waiting.iter().for_each(|progress| progress.failed(error.clone()));
    }

    /// Fails samples that have passed their deadline.
    fn expire(&self, now: Instant) {
        let late = {
            let mut state = self.state.lock();
            if state.nearest.is_none_or(|deadline| now < deadline) {
                return;
            }
            let deadline = |entry: &Entry| entry.sample.progress().deadline();
            let waiters = state.machine.waiters();
            let late: Vec<String> = waiters
                .filter(|(_, entry)| deadline(entry).is_some_and(|deadline| deadline <= now))
                .map(|(id, _)| id.clone())
                .collect();
            let late: Vec<_> = late.iter().filter_map(|id| state.machine.forget(id)).collect();
            state.nearest = state.machine.waiters().filter_map(|(_, entry)| deadline(entry)).min();
            late
        };
        for entry in late {
            let error = self.session.deadline_error(entry.sample.progress());
            entry.sample.fail(error);
        }
    }

    fn forget(&self, request_id: &str) {
        let entry = self.state.lock().machine.forget(request_id);
        // Drop outside the lock: the destructor of the sample may run code of the user.
        drop(entry);
    }

    fn fetch(self: &Arc<Self>, request_id: String, entry: Entry, completion: &Completion) {
        let size = completion.size();
        let fetching = Fetching { poller: self.clone(), request_id, settled: false };
        self.session.fetch(move || entry.sample.fetch(size, Some(fetching)));
    }

    fn call(&self, turn: &Turn, timeout: Duration) -> Result<Call> {
        let request = RetrieveFuturesRequest {
            target: self.target.clone(),
            prev_cursor: turn.prev_cursor,
            timeout: (!turn.holds).then_some(0.0),
            retrieved_request_ids: turn.retrieved.clone(),
        };
        let mut call = Call::post(Lane::PollMany, ENDPOINT, &request)?.once(timeout);
        call.branch = self.branch.clone().filter(|_| turn.holds);
        call.fresh = self.state.lock().dropped;
        Ok(call)
    }

    fn clock(&self) -> Times {
        let since = |at: Instant| at.saturating_duration_since(self.born);
        let now = since(self.session.clock.now());
        Times { sent: now, now, contact: self.session.http.last_contact().map_or(Duration::ZERO, since) }
    }
}

/// The work of a poller's thread.
struct PollTask;

impl Work for PollTask {
    type Owner = Poller;

    /// Sends one request and handles its answer. Idle if there is nothing to request or to report, or if the client is
    /// closed.
    fn turn(&self, poller: &Arc<Poller>) -> TaskTurn {
        let next = {
            let mut state = poller.state.lock();
            state.closed |= poller.cancel.is_cancelled();
            match state.next() {
                Some(turn) => Ok(turn),
                None if state.closed => Err(state.machine.take_waiters()),
                None => Err(Vec::new()),
            }
        };
        match next {
            Ok(turn) => {
                if let Err(panic) = unwind::catch(|| poller.turn(&turn)) {
                    // The samples that the panic dropped are answered with the panic; the others keep waiting.
                    unwind::shield("a poller failed", || {
                        poller.handle(&turn, Event::Panicked(panic), poller.clock());
                    });
                }
                TaskTurn::Again
            }
            Err(waiting) => {
                fail(waiting, &Error::closed("the client was closed while this was in progress"));
                TaskTurn::Idle
            }
        }
    }

    fn lost(&self, poller: &Arc<Poller>, error: &Error) {
        let waiting = {
            let mut state = poller.state.lock();
            state.busy_until = None;
            state.machine.take_waiters()
        };
        fail(waiting, error);
    }
}

impl Pollers {
    fn add(&self, poller: &Arc<Poller>) {
        let mut all = self.all.lock();
        all.retain(|poller| 0 < poller.strong_count());
        all.push(Arc::downgrade(poller));
    }
}

impl Session {
    /// Waits for one sample on a thread of the class `Result`.
    pub(crate) fn spawn_wait(&self, sample: Box<dyn PolledSample>) {
        // If the pool is closed, the ticket in the dropped job answers.
        let _ = self.pool[Job::Result].spawn(move || sample.fetch(None, None));
    }

    fn fetch(&self, job: impl FnOnce() + Send + 'static) {
        // If the pool is closed, the ticket in the dropped job answers.
        let _ = self.pool[Job::Fetch].spawn(job);
    }

    /// Closes all pollers. Each one sends its last report, so that the server drops the fetched results before the
    /// session is finished.
    pub(super) fn send_final_reports(&self, within: Duration) {
        let deadline = Instant::now() + within;
        let pollers = std::mem::take(&mut *self.pollers.all.lock());
        for poller in pollers.iter().filter_map(Weak::upgrade) {
            poller.close(deadline.saturating_duration_since(Instant::now()));
        }
    }
}

impl State {
    fn next(&self) -> Option<Turn> {
        if self.closed { None } else { self.machine.next() }
    }
}

fn fail(entries: Vec<Entry>, error: &Error) {
    for entry in entries {
        entry.sample.fail(error.clone());
    }
}

#[cfg(all(test, not(shuttle)))]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::config::Settings;
    use crate::credentials::Secret;
    use crate::env::Env;
    use crate::sync::clock::Clock;
    use crate::sync::oneshot::{Reply, Slot, oneshot};
    use crate::transport::{self, Exchange, Transport};

    const LONG: Duration = Duration::from_secs(60);

    /// Never answers.
    struct SilentServer(CancelToken);

    impl Transport for SilentServer {
        fn exchange(&self, exchange: &Exchange) -> std::result::Result<transport::Answer, Broken> {
            self.0.wait_timeout(exchange.timeout);
            Err(Broken::Closed)
        }

        fn shutdown(&self) {
            self.0.cancel();
        }
    }

    fn poller() -> Arc<Poller> {
        let settings = Settings { api_key: Some(Secret::new("tml-x")), ..Default::default() };
        let config = settings.resolve(&Env::empty()).unwrap();
        let session = Session::new(config, Arc::new(SilentServer(CancelToken::new())), Clock::default());
        let cancel = session.cancel.child();
        Poller::new(&session, "s", 0, cancel)
    }

    /// A sample that reports its failure, and whether the poller's lock was held when the sample was dropped.
    struct FakeSample {
        poller: Arc<Poller>,
        progress: Progress,
        cancel: CancelToken,
        reply: Option<Reply<()>>,
        was_locked: Arc<AtomicBool>,
    }

    impl FakeSample {
        fn register(poller: &Arc<Poller>, request_id: &str) -> (Slot<()>, Arc<AtomicBool>) {
            let (reply, slot) = oneshot();
            let was_locked = Arc::new(AtomicBool::new(false));
            let sample = FakeSample {
                poller: poller.clone(),
                progress: Progress::new("SamplingClient.sample", Instant::now(), None),
                cancel: poller.session.cancel.child(),
                reply: Some(reply),
                was_locked: was_locked.clone(),
            };
            poller.register(request_id, Box::new(sample));
            (slot, was_locked)
        }
    }

    impl PolledSample for FakeSample {
        fn progress(&self) -> &Progress {
            &self.progress
        }

        fn cancel(&self) -> &CancelToken {
            &self.cancel
        }

        fn fetch(self: Box<Self>, _: Option<usize>, _: Option<Fetching>) {}

        fn check_once(self: Box<Self>, _: Fetching) {}

        fn fail(mut self: Box<Self>, error: Error) {
            self.reply.take().unwrap().send(Err(error));
        }
    }

    impl Drop for FakeSample {
        fn drop(&mut self) {
            self.was_locked.fetch_or(self.poller.state.try_lock().is_none(), Ordering::SeqCst);
        }
    }

    #[track_caller]
    fn failure(slot: &Slot<()>) -> Error {
        slot.wait(Some(Instant::now() + LONG)).expect("an answer").unwrap_err()
    }

    #[test]
    fn a_sample_fails_if_the_server_gives_its_id_to_another_one() {
        let poller = poller();
        let (first, was_locked) = FakeSample::register(&poller, "same");
        let (second, _) = FakeSample::register(&poller, "same");
        let error = failure(&first);
        assert!(error.message().contains("the request id same to two samples"), "{error}");
        assert!(!was_locked.load(Ordering::SeqCst), "the first one was dropped under the poller's lock");
        assert!(!second.is_settled());
        poller.session.end();
        assert!(failure(&second).is_closed());
    }
}
