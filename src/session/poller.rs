//! One poller for all samples of a sampling session, so that a sample in flight is an entry in a map and not a thread
//! (PROTOCOL §4.5). What to ask and what an answer means is decided in [`policy::poll_many`](crate::policy::poll_many).

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
/// How long a request may take that only reports.
const REPORT: Duration = Duration::from_secs(5);
/// How often those who wait are told that the server still answers.
const TELL: Duration = Duration::from_secs(1);

/// A sample that the server has accepted.
pub(crate) trait Waiter: Send {
    fn progress(&self) -> &Progress;
    fn cancel(&self) -> &CancelToken;
    /// Fetches the result, of a size if that is known, and answers. Blocks; runs on a thread of a pool.
    fn fetch(self: Box<Self>, size: Option<usize>, fetching: Option<Fetching>);
    /// Asks once for the result, which may not be there. Blocks, but not for long; runs on a thread of a pool.
    fn look(self: Box<Self>, fetching: Fetching);
    /// Answers with an error.
    fn fail(self: Box<Self>, error: Error);
}

/// Polls for one sampling session.
pub(crate) struct Poller {
    session: Arc<Session>,
    target: FuturesTarget,
    /// Of the client: its end is this one's.
    cancel: CancelToken,
    /// Carries the requests that the server may hold, so that they can be interrupted without those of others.
    branch: Option<Branch>,
    born: Instant,
    task: Arc<Task<Polling>>,
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
    /// No waiter has a deadline before this.
    nearest: Option<Instant>,
    /// A request is under way that may last until then.
    busy_until: Option<Instant>,
    /// When those who wait were last told that the server answers.
    told: Option<Instant>,
    /// A proxy dropped the last request: the next one goes over a new connection.
    dropped: bool,
}

struct Entry {
    waiter: Box<dyn Waiter>,
    /// Takes the entry out when the sample is given up.
    _given_up: Registration,
}

/// Takes a sample out of its poller when it is given up: its answer is there already, and its memory is free at once.
struct GiveUp {
    poller: Weak<Poller>,
    request_id: String,
}

impl Wake for GiveUp {
    fn wake(&self) {
        if let Some(poller) = self.poller.upgrade() {
            poller.forget(&self.request_id);
        }
    }
}

/// The result of a sample is being fetched. Dropping this ends it.
pub(crate) struct Fetching {
    poller: Arc<Poller>,
    request_id: String,
    settled: bool,
}

impl Fetching {
    /// The server need not keep the result.
    pub(crate) fn settle(mut self) {
        self.settled = true;
    }

    /// The result is not there yet: the sample goes on waiting.
    pub(crate) fn unfinished(mut self, waiter: Box<dyn Waiter>) {
        let poller = self.poller.clone();
        // Not over, which is what dropping this would say.
        let request_id = std::mem::take(&mut self.request_id);
        poller.register(&request_id, waiter);
        poller.look_up();
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
        self.poller.look_up();
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
        let machine = match session.http.offered().lock().lacks(ENDPOINT.name) {
            true => PollMany::without_endpoint(),
            false => PollMany::new(session.config.timeouts.silence),
        };
        let poller = Arc::new(Poller {
            target: FuturesTarget::SamplingSession { sampling_session_id, cloned_sampler_id },
            cancel,
            branch: session.http.branch(),
            born: session.clock.now(),
            task: Task::new(Polling),
            state: Mutex::new(State {
                machine,
                closed: false,
                nearest: None,
                busy_until: None,
                told: None,
                dropped: false,
            }),
            session: session.clone(),
        });
        session.pollers.add(&poller);
        poller
    }

    /// Has a sample fetched when it is finished.
    pub(crate) fn register(self: &Arc<Self>, request_id: &str, waiter: Box<dyn Waiter>) {
        let cancel = waiter.cancel().clone();
        let give_up = GiveUp { poller: Arc::downgrade(self), request_id: request_id.into() };
        let entry = Entry { _given_up: cancel.on_cancel(Arc::new(give_up)), waiter };
        let now = self.clock().now;
        let registered = {
            let mut state = self.state.lock();
            let deadline = entry.waiter.progress().deadline();
            match (state.closed, state.busy_until, deadline) {
                (true, ..) => Registered::Refused(entry, Error::closed("the client is closed")),
                // The request under way cannot be shortened, and would outlast this sample's time.
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
            Registered::PollAlone(entry) => return self.session.wait_alone(entry.waiter),
            Registered::Refused(entry, error) => return entry.waiter.fail(error),
        };
        if let Some(Entry { waiter, _given_up }) = replaced {
            // Cancelling it must not take out the other one.
            drop(_given_up);
            let text = format!("the server gave the request id {request_id} to two samples at the same time");
            waiter.fail(Error::decode(text));
        }
        // Given up between the registration and the entry, of which the waker knew nothing.
        if cancel.is_cancelled() {
            self.forget(request_id);
        }
        self.start();
    }

    /// Whether the server offers news of many samples, as far as is known.
    pub(crate) fn is_offered(&self) -> bool {
        self.state.lock().machine.has_endpoint()
    }

    /// Sends the last report and refuses later samples. Interrupts a request that the server holds.
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
        // Not sent under a lock, and of no consequence if it fails: the server then keeps the results for a while.
        if let Some(call) = turn.and_then(|it| self.call(&it, within.min(REPORT)).ok()) {
            let outcome = self.session.http.raw(&call);
            log::debug!(target: "tinkex", "a last report: {:?}", outcome.map(|it| it.status));
        }
    }

    /// Makes sure that a thread polls, if there is anything to request or to report.
    fn start(self: &Arc<Self>) {
        if self.state.lock().next().is_some() {
            // A refusal fails those who wait, see `lost`.
            let _ = self.task.wake(self, &self.session.pool[Job::Poll]);
        }
    }

    /// One request and what follows from it.
    fn turn(self: &Arc<Self>, turn: &Turn) {
        let timeouts = &self.session.config.timeouts;
        let sent = self.session.clock.now();
        self.expire(sent);
        let timeout = {
            let mut state = self.state.lock();
            let left = state.nearest.map(|it| it.saturating_duration_since(sent));
            let longest = if turn.holds { timeouts.poll } else { REPORT };
            let timeout = left.map_or(longest, |it| longest.min(it.max(Duration::from_millis(1))));
            state.busy_until = sent.checked_add(timeout);
            timeout
        };
        let sent = self.clock();
        let outcome = self.call(turn, timeout).map(|it| self.session.http.raw(&it));
        if let Ok(Ok(answer)) = &outcome {
            // The deadline of one sample, which the short pause may outlast, must not end the patience for all. Only the end of
            // the client cancels the pause, and the loop notices that.
            if self.session.http.pause_for_payment(answer, None, &self.cancel).unwrap_or(true) {
                self.state.lock().busy_until = None;
                return self.expire(self.session.clock.now());
            }
        }
        let is_dropped = |it: &Answer| it.facts().verdict() == Verdict::Dropped;
        self.state.lock().dropped = matches!(&outcome, Ok(Ok(answer)) if is_dropped(answer));
        let times = Times { sent: sent.now, ..self.clock() };
        let event = match &outcome {
            Ok(Ok(answer)) => {
                self.tell();
                Event::Answer(answer.facts())
            }
            Ok(Err(broken)) => {
                let error = broken.error(timeouts);
                match broken {
                    Broken::Token(it) if it.is_retryable() => Event::Broken(error),
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
            Event::Broken(error) => self.tell_failure(error),
            Event::Answer(facts) if 500 <= facts.status || facts.status == 429 => {
                self.tell_failure(&facts.error());
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
                log::info!(target: "tinkex", "the server has no retrieve_futures: samples are waited for one by one");
                // Nobody of this service need ask again.
                self.session.http.offered().lock().note_absent(ENDPOINT.name);
                waiting.into_iter().for_each(|it| self.session.wait_alone(it.waiter));
            }
            Step::Fail(waiting, error) => fail(waiting, &error),
        }
        if !pause.is_zero() {
            let left =
                self.state.lock().nearest.map(|it| it.saturating_duration_since(self.session.clock.now()));
            // Cancelling ends the pause, and is noticed by the loop.
            let _ended = self.session.clock.pause(left.map_or(pause, |it| pause.min(it)), &self.cancel);
        }
        self.expire(self.session.clock.now());
        self.look_up();
    }

    /// Has those looked up by themselves who have waited long without news.
    fn look_up(self: &Arc<Self>) {
        let now = self.clock().now;
        let due_looks = {
            let mut state = self.state.lock();
            if state.closed { Vec::new() } else { state.machine.take_due_looks(now) }
        };
        for (request_id, entry) in due_looks {
            let fetching = Fetching { poller: self.clone(), request_id, settled: false };
            self.session.fetch(move || entry.waiter.look(fetching));
        }
    }

    /// Tells those who wait that the server still answers, which costs a look at each of them.
    fn tell(&self) {
        let now = self.session.clock.now();
        let waiting: Vec<Progress> = {
            let mut state = self.state.lock();
            if state.told.is_some_and(|it| now.saturating_duration_since(it) < TELL) {
                return;
            }
            state.told = Some(now);
            state.machine.waiters().map(|it| it.1.waiter.progress().clone()).collect()
        };
        waiting.iter().for_each(|it| it.contact(now));
    }

    /// Tells those who wait how asking for their results failed.
    fn tell_failure(&self, error: &Error) {
        log::debug!(target: "tinkex", "asking for results failed, and is tried again: {error}");
        let waiting: Vec<Progress> = {
            let state = self.state.lock();
            state.machine.waiters().map(|it| it.1.waiter.progress().clone()).collect()
        };
        waiting.iter().for_each(|it| it.failed(error.clone()));
    }

    /// Fails those whose time is over.
    fn expire(&self, now: Instant) {
        let late = {
            let mut state = self.state.lock();
            if state.nearest.is_none_or(|it| now < it) {
                return;
            }
            let deadline = |it: &Entry| it.waiter.progress().deadline();
            let waiters = state.machine.waiters();
            let late: Vec<String> = waiters
                .filter(|it| deadline(it.1).is_some_and(|it| it <= now))
                .map(|it| it.0.clone())
                .collect();
            let late: Vec<_> = late.iter().filter_map(|it| state.machine.forget(it)).collect();
            state.nearest = state.machine.waiters().filter_map(|it| deadline(it.1)).min();
            late
        };
        for entry in late {
            let error = self.session.too_late(entry.waiter.progress());
            entry.waiter.fail(error);
        }
    }

    fn forget(&self, request_id: &str) {
        let entry = self.state.lock().machine.forget(request_id);
        // Without the lock: the waiter's destructor is not ours.
        drop(entry);
    }

    fn fetch(self: &Arc<Self>, request_id: String, entry: Entry, completion: &Completion) {
        let size = completion.size();
        let fetching = Fetching { poller: self.clone(), request_id, settled: false };
        self.session.fetch(move || entry.waiter.fetch(size, Some(fetching)));
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
struct Polling;

impl Work for Polling {
    type Owner = Poller;

    /// Sends one request and handles its answer. Idle when there is nothing to request or to report, or the client is closed.
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
                    // The waiters that the panic dropped are answered with it; the others go on waiting.
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
    /// Waits for one sample on a thread of its own.
    pub(crate) fn wait_alone(&self, waiter: Box<dyn Waiter>) {
        // If the pool is closed, the ticket in the dropped job answers.
        let _ = self.pool[Job::Result].spawn(move || waiter.fetch(None, None));
    }

    fn fetch(&self, job: impl FnOnce() + Send + 'static) {
        // As above.
        let _ = self.pool[Job::Fetch].spawn(job);
    }

    /// Reports to the server which results it need not keep, because the session is about to be finished.
    pub(super) fn report_finally(&self, within: Duration) {
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
        entry.waiter.fail(error.clone());
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
    use crate::sync::spawn::RefusedThreads;
    use crate::transport::{self, Exchange, Transport};

    const LONG: Duration = Duration::from_secs(60);

    /// Never answers.
    struct Silent(CancelToken);

    impl Transport for Silent {
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
        let session = Session::new(config, Arc::new(Silent(CancelToken::new())), Clock::default());
        let cancel = session.cancel.child();
        Poller::new(&session, "s", 0, cancel)
    }

    /// Says how it ends, and whether the poller's lock was held when it was dropped.
    struct Someone {
        poller: Arc<Poller>,
        progress: Progress,
        cancel: CancelToken,
        reply: Option<Reply<()>>,
        was_locked: Arc<AtomicBool>,
    }

    impl Someone {
        fn waits(poller: &Arc<Poller>, request_id: &str) -> (Slot<()>, Arc<AtomicBool>) {
            let (reply, slot) = oneshot();
            let was_locked = Arc::new(AtomicBool::new(false));
            let someone = Someone {
                poller: poller.clone(),
                progress: Progress::new("SamplingClient.sample", Instant::now(), None),
                cancel: poller.session.cancel.child(),
                reply: Some(reply),
                was_locked: was_locked.clone(),
            };
            poller.register(request_id, Box::new(someone));
            (slot, was_locked)
        }
    }

    impl Waiter for Someone {
        fn progress(&self) -> &Progress {
            &self.progress
        }

        fn cancel(&self) -> &CancelToken {
            &self.cancel
        }

        fn fetch(self: Box<Self>, _: Option<usize>, _: Option<Fetching>) {}

        fn look(self: Box<Self>, _: Fetching) {}

        fn fail(mut self: Box<Self>, error: Error) {
            self.reply.take().unwrap().send(Err(error));
        }
    }

    impl Drop for Someone {
        fn drop(&mut self) {
            self.was_locked.fetch_or(self.poller.state.try_lock().is_none(), Ordering::SeqCst);
        }
    }

    #[track_caller]
    fn failure(slot: &Slot<()>) -> Error {
        slot.wait(Some(Instant::now() + LONG)).expect("an answer").unwrap_err()
    }

    #[test]
    fn samples_whose_poller_gets_no_thread_fail_and_the_next_one_tries_again() {
        let poller = poller();
        let refused = RefusedThreads::named("tk-poll");
        for id in ["a", "b"] {
            let error = failure(&Someone::waits(&poller, id).0);
            assert!(error.message().starts_with("no thread could be started"), "{error}");
            assert!(poller.task.wait_idle(Instant::now() + LONG));
        }
        drop(refused);
        let (slot, _) = Someone::waits(&poller, "c");
        assert!(!poller.task.wait_idle(Instant::now()));
        poller.session.end();
        assert!(failure(&slot).is_closed());
    }

    #[test]
    fn a_sample_whose_id_the_server_gives_to_another_one_is_told_so() {
        let poller = poller();
        let (first, was_locked) = Someone::waits(&poller, "same");
        let (second, _) = Someone::waits(&poller, "same");
        let error = failure(&first);
        assert!(error.message().contains("the request id same to two samples"), "{error}");
        assert!(!was_locked.load(Ordering::SeqCst), "the first one was dropped under the poller's lock");
        assert!(!second.is_settled());
        poller.session.end();
        assert!(failure(&second).is_closed());
    }
}
