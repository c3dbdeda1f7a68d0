//! Retrieves the result of one request. The server accepts a request with a promise (an id), and the client polls with
//! this id until the result is there (PROTOCOL §4).

use std::time::{Duration, Instant};

use crate::error::{Error, Phase, Result};
use crate::http::{Broken, Call, Lane, Room, endpoint};
use crate::pending::Progress;
use crate::policy::pause::Pauses;
use crate::policy::poll::{Event, Poll, Step, Times};
use crate::sync::{BudgetShare, CancelToken};
use crate::wire::json::{ResultBody, RetrieveFutureRequest};

use super::Session;

/// Time limit of a request that only checks once whether a result is there.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// A result that the server promised when it accepted a request.
#[derive(Clone, Debug)]
pub(crate) struct Promise {
    pub(crate) request_id: String,
    /// The protocol's name of this kind of request, such as `ForwardBackward`.
    pub(crate) request_type: &'static str,
    /// The result may come as protobuf.
    pub(crate) protobuf: bool,
    /// Time at which the promise arrived.
    pub(crate) born: Instant,
    /// Time from the call to the promise.
    pub(crate) roundtrip: Duration,
    /// Size limit of the result, derived from the request.
    pub(crate) room: Room,
}

/// A result before decoding, with the bytes that it takes from the byte budget.
pub(crate) struct Retrieved {
    pub(crate) body: ResultBody,
    _bytes: Option<BudgetShare>,
}

impl Session {
    /// Polls for a result until it is there.
    pub(crate) fn retrieve(
        &self,
        promise: &Promise,
        progress: &Progress,
        cancel: &CancelToken,
    ) -> Result<Retrieved> {
        self.retrieval(promise, progress, cancel).run()
    }

    /// Fetches a result that is known to be there, with a known size.
    pub(crate) fn retrieve_finished(
        &self,
        size: usize,
        promise: &Promise,
        progress: &Progress,
        cancel: &CancelToken,
    ) -> Result<Retrieved> {
        let bytes = self.response_budget().acquire_deadline(size, progress.deadline(), cancel)?;
        let poll = Poll::finished(self.config.timeouts.silence);
        Retrieval { poll, bytes: Some(bytes), ..self.retrieval(promise, progress, cancel) }.run()
    }

    /// Checks once for a result; `None` if it is not there.
    pub(crate) fn retrieve_once(
        &self,
        promise: &Promise,
        progress: &Progress,
        cancel: &CancelToken,
    ) -> Result<Option<Retrieved>> {
        let mut retrieval = self.retrieval(promise, progress, cancel);
        loop {
            match retrieval.poll_once(CHECK_TIMEOUT)? {
                PollOutcome::Done(it) => return Ok(Some(it)),
                PollOutcome::RetryAfter(_) => return Ok(None),
                PollOutcome::Reserved => {}
            }
        }
    }

    fn retrieval<'a>(
        &'a self,
        promise: &'a Promise,
        progress: &'a Progress,
        cancel: &'a CancelToken,
    ) -> Retrieval<'a> {
        progress.awaiting(promise.request_type);
        Retrieval {
            session: self,
            promise,
            progress,
            cancel,
            poll: Poll::new(self.config.timeouts.silence),
            pauses: Pauses::default(),
            bytes: None,
            failures: FailureStreak::default(),
        }
    }

    pub(super) fn deadline_error(&self, progress: &Progress) -> Error {
        progress.deadline_error(self.config.timeouts.operation, progress.last_failure())
    }
}

/// A retrieval in progress.
struct Retrieval<'a> {
    session: &'a Session,
    promise: &'a Promise,
    progress: &'a Progress,
    cancel: &'a CancelToken,
    poll: Poll,
    pauses: Pauses,
    bytes: Option<BudgetShare>,
    failures: FailureStreak,
}

/// Outcome of one request.
enum PollOutcome {
    Done(Retrieved),
    /// No result: request it again after a pause.
    RetryAfter(Duration),
    /// The result is large, and its share of the byte budget is now reserved.
    Reserved,
}

impl Retrieval<'_> {
    fn run(mut self) -> Result<Retrieved> {
        loop {
            match self.poll_once(self.session.config.timeouts.poll)? {
                PollOutcome::Done(it) => return Ok(it),
                PollOutcome::RetryAfter(after) => self.session.clock.pause(after, self.cancel)?,
                PollOutcome::Reserved => {}
            }
        }
    }

    /// Sends one request. Its time limit is `longest`, or the time until the deadline if that is shorter.
    fn poll_once(&mut self, longest: Duration) -> Result<PollOutcome> {
        let (session, progress, promise) = (self.session, self.progress, self.promise);
        let since = |at: Instant| at.saturating_duration_since(promise.born);
        if self.cancel.is_cancelled() {
            return Err(Error::cancelled());
        }
        let sent = session.clock.now();
        let left = match progress.deadline() {
            Some(deadline) if deadline <= sent => return Err(session.deadline_error(progress)),
            Some(deadline) => deadline - sent,
            None => Duration::MAX,
        };
        let call = self.call(longest.min(left))?.of(progress);
        let outcome = session.http.raw(&call);
        let now = session.clock.now();
        let contact = session.http.last_contact().map_or(Duration::ZERO, since);
        let times = Times { sent: since(sent), now: since(now), contact };
        let url = || format!("{}{}", session.config.base_url, call.path);
        let failure = match &outcome {
            // Some servers answer 408 when the result is not there yet.
            Ok(answer) if answer.is_success() || answer.status == 408 => None,
            Ok(answer) => Some(answer.facts().error()),
            // The server held the request longer than the time limit, or the session is closed.
            Err(Broken::Timeout(Phase::FirstByte | Phase::Exchange) | Broken::Closed) => None,
            Err(broken) => Some(broken.error(&session.config.timeouts)),
        };
        self.failures.note(failure, progress, now);
        let step = match &outcome {
            Ok(answer) => {
                progress.contact(now);
                if session.http.pause_for_payment(answer, progress.deadline(), self.cancel)? {
                    return Ok(PollOutcome::RetryAfter(Duration::ZERO));
                }
                self.poll.on(Event::Answer { facts: answer.facts(), protobuf: answer.is_protobuf() }, times)
            }
            // The time limit passed before the answer began: the result is not there yet. A timeout while the answer
            // arrives counts as a broken connection, see the next arm.
            Err(Broken::Timeout(Phase::FirstByte | Phase::Exchange)) => self.poll.on(Event::Timeout, times),
            // Request the result once more: the server keeps it, and an open breaker does not change that.
            Err(
                broken @ (Broken::Timeout(_)
                | Broken::Connection { .. }
                | Broken::InvalidHttp { .. }
                | Broken::WrongPeer { .. }
                | Broken::CircuitOpen { .. }),
            ) => {
                let error = broken.error(&session.config.timeouts).with(|context| context.url = Some(url()));
                self.poll.on(Event::Connection(error), times)
            }
            // No token could be fetched, which may be temporary.
            Err(broken @ Broken::Token(error)) if error.is_retryable() => {
                self.poll.on(Event::Connection(broken.error(&session.config.timeouts)), times)
            }
            Err(broken) => return Err(broken.error(&session.config.timeouts)),
        };
        match (step, outcome) {
            (Step::Done(json), Ok(answer)) => {
                progress.unqueue(now);
                let body = json.map_or(ResultBody::Protobuf(answer.body), ResultBody::Json);
                Ok(PollOutcome::Done(Retrieved { body, _bytes: self.bytes.take() }))
            }
            (Step::Done(_), Err(broken)) => Err(broken.error(&session.config.timeouts)),
            (Step::Fail(error), _) => {
                progress.unqueue(now);
                Err(session.http.without_secrets(error).with(|context| context.url = Some(url())))
            }
            (Step::Reserve(n), _) if promise.room.bytes < n as u64 => {
                let broken = Broken::TooLarge { limit: promise.room.bytes, announced: Some(n as u64) };
                Err(broken.error(&session.config.timeouts).with(|context| context.url = Some(url())))
            }
            (Step::Reserve(n), _) => {
                // The operation's deadline limits the wait for the bytes.
                let budget = session.response_budget();
                self.bytes = Some(budget.acquire_deadline(n, progress.deadline(), self.cancel)?);
                Ok(PollOutcome::Reserved)
            }
            (Step::Again { after, queue }, _) => {
                if let Some((state, reason)) = queue {
                    let policy = session.config.pause_policy;
                    let refusal = self.pauses.on(&state, reason.as_deref(), since(now), policy);
                    progress.queue(state, reason, now);
                    if let Some(error) = refusal {
                        return Err(error);
                    }
                }
                Ok(PollOutcome::RetryAfter(after.min(left)))
            }
        }
    }

    fn call(&self, timeout: Duration) -> Result<Call> {
        let (promise, poll) = (self.promise, &self.poll);
        let request = RetrieveFutureRequest {
            request_id: promise.request_id.clone(),
            allow_metadata_only: poll.allow_metadata_only(),
        };
        let mut call = Call::post(Lane::Poll, &endpoint::RETRIEVE_FUTURE, &request)?
            .header("X-Tinker-Request-Iteration", poll.iteration().to_string())
            .header("X-Tinker-Request-Type", promise.request_type);
        if poll.iteration() == 0 {
            let seconds = promise.roundtrip.as_secs_f64().to_string();
            call = call.header("X-Tinker-Create-Promise-Roundtrip-Time", seconds);
        }
        call.protobuf = promise.protobuf;
        call.timeout = Some(timeout);
        call.fresh = poll.needs_new_connection();
        Ok(call.answered_within(promise.room))
    }
}

/// Time of continuous failures after which they are logged as warnings.
const FIRST_WARNING: Duration = Duration::from_secs(5);
/// Minimum time between two such warnings.
const NEXT_WARNING: Duration = Duration::from_secs(60);

/// Consecutive failures of requests for one result.
#[derive(Debug, Default)]
struct FailureStreak {
    since: Option<Instant>,
    count: u32,
    warned: Option<Instant>,
}

impl FailureStreak {
    /// Records the outcome of a request, and logs a failure.
    fn note(&mut self, failure: Option<Error>, progress: &Progress, now: Instant) {
        let Some(error) = failure else {
            *self = FailureStreak::default();
            return progress.recovered();
        };
        self.count += 1;
        let lasted = now.saturating_duration_since(*self.since.get_or_insert(now));
        let warned = self.warned.is_some_and(|at| now.saturating_duration_since(at) < NEXT_WARNING);
        let level = if lasted < FIRST_WARNING || warned { log::Level::Debug } else { log::Level::Warn };
        if level == log::Level::Warn {
            self.warned = Some(now);
        }
        log::log!(
            target: "tinkex", level,
            "{}: {} requests for the result have failed in a row, for {lasted:.0?}; the next attempt follows: {error}",
            progress.operation(), self.count
        );
        progress.failed(error);
    }
}
