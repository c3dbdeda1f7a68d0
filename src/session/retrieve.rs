//! Waiting for one promised result (PROTOCOL §4).

use std::time::{Duration, Instant};

use crate::error::{Error, Phase, Result};
use crate::http::{Broken, Call, Lane, Room, endpoint};
use crate::pending::Progress;
use crate::policy::pause::Pauses;
use crate::policy::poll::{Event, Poll, Step, Times};
use crate::sync::{BudgetShare, CancelToken};
use crate::wire::json::{ResultBody, RetrieveFutureRequest};

use super::Session;

/// How long a server may take to say whether a result is there, if nobody wants to wait for it.
const LOOK: Duration = Duration::from_secs(5);

/// A result that the server promised.
#[derive(Clone, Debug)]
pub(crate) struct Promise {
    pub(crate) request_id: String,
    /// What the server calls this kind of request, such as `ForwardBackward`.
    pub(crate) request_type: &'static str,
    /// The result may come as protobuf.
    pub(crate) protobuf: bool,
    /// When the promise was made.
    pub(crate) born: Instant,
    /// How long it took from the call to the promise.
    pub(crate) roundtrip: Duration,
    /// How large the result may be, by what was asked for.
    pub(crate) room: Room,
}

/// A result as it came, and its share of the byte budget until it has been read.
pub(crate) struct Retrieved {
    pub(crate) body: ResultBody,
    _bytes: Option<BudgetShare>,
}

impl Session {
    /// Asks for a result until it is there.
    pub(crate) fn retrieve(
        &self,
        promise: &Promise,
        progress: &Progress,
        cancel: &CancelToken,
    ) -> Result<Retrieved> {
        self.asking(promise, progress, cancel).until_done()
    }

    /// Fetches a result that is known to be there, and how large it is.
    pub(crate) fn retrieve_finished(
        &self,
        size: usize,
        promise: &Promise,
        progress: &Progress,
        cancel: &CancelToken,
    ) -> Result<Retrieved> {
        let bytes = self.response_budget().acquire_deadline(size, progress.deadline(), cancel)?;
        let poll = Poll::finished(self.config.timeouts.silence);
        Asking { poll, bytes: Some(bytes), ..self.asking(promise, progress, cancel) }.until_done()
    }

    /// Asks once for a result; `None` if it is not there.
    pub(crate) fn look(
        &self,
        promise: &Promise,
        progress: &Progress,
        cancel: &CancelToken,
    ) -> Result<Option<Retrieved>> {
        let mut asking = self.asking(promise, progress, cancel);
        loop {
            match asking.once(LOOK)? {
                Round::Done(it) => return Ok(Some(it)),
                Round::Again(_) => return Ok(None),
                Round::Reserved => {}
            }
        }
    }

    fn asking<'a>(
        &'a self,
        promise: &'a Promise,
        progress: &'a Progress,
        cancel: &'a CancelToken,
    ) -> Asking<'a> {
        progress.awaiting(promise.request_type);
        Asking {
            session: self,
            promise,
            progress,
            cancel,
            poll: Poll::new(self.config.timeouts.silence),
            pauses: Pauses::default(),
            bytes: None,
            failing: Failing::default(),
        }
    }

    /// The end of an operation whose time is over, with how its last request failed as the cause.
    pub(super) fn too_late(&self, progress: &Progress) -> Error {
        let limit = self.config.timeouts.operation;
        let verb = progress.operation();
        let error = Error::timeout(Phase::Total, format!("{verb} was not done within its {limit:.0?}"));
        match progress.last_failure() {
            Some(cause) => error.caused_by(cause),
            None => error,
        }
    }
}

/// One promise that is being asked for.
struct Asking<'a> {
    session: &'a Session,
    promise: &'a Promise,
    progress: &'a Progress,
    cancel: &'a CancelToken,
    poll: Poll,
    pauses: Pauses,
    bytes: Option<BudgetShare>,
    failing: Failing,
}

/// What one request brought.
enum Round {
    Done(Retrieved),
    /// Nothing: ask again after a pause.
    Again(Duration),
    /// The news that the result is large, for which there is room now.
    Reserved,
}

impl Asking<'_> {
    fn until_done(mut self) -> Result<Retrieved> {
        loop {
            match self.once(self.session.config.timeouts.poll)? {
                Round::Done(it) => return Ok(it),
                Round::Again(after) => self.session.clock.pause(after, self.cancel)?,
                Round::Reserved => {}
            }
        }
    }

    /// One request, that may take so long.
    fn once(&mut self, longest: Duration) -> Result<Round> {
        let (session, progress, promise) = (self.session, self.progress, self.promise);
        let since = |at: Instant| at.saturating_duration_since(promise.born);
        if self.cancel.is_cancelled() {
            return Err(Error::cancelled());
        }
        let sent = session.clock.now();
        let left = match progress.deadline() {
            Some(deadline) if deadline <= sent => return Err(session.too_late(progress)),
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
            // 408 is how some servers say that the result is not there yet.
            Ok(answer) if answer.is_success() || answer.status == 408 => None,
            Ok(answer) => Some(answer.facts().error()),
            // The server holds the request for longer than we wait, or cannot be waited for.
            Err(Broken::Timeout(Phase::FirstByte | Phase::Exchange) | Broken::Closed) => None,
            Err(broken) => Some(broken.error(&session.config.timeouts)),
        };
        self.failing.note(failure, progress, now);
        let step = match &outcome {
            Ok(answer) => {
                progress.contact(now);
                if session.http.pause_for_payment(answer, progress.deadline(), self.cancel)? {
                    return Ok(Round::Again(Duration::ZERO));
                }
                self.poll.on(Event::Answer { facts: answer.facts(), protobuf: answer.is_protobuf() }, times)
            }
            // Not so of an answer that began: the server is done, but the line is not good enough.
            Err(Broken::Timeout(Phase::FirstByte | Phase::Exchange)) => self.poll.on(Event::Timeout, times),
            // What the server promised is still there when the breaker closes.
            Err(
                broken @ (Broken::Timeout(_)
                | Broken::Connection { .. }
                | Broken::InvalidHttp { .. }
                | Broken::WrongPeer { .. }
                | Broken::CircuitOpen { .. }),
            ) => {
                let error = broken.error(&session.config.timeouts).with(|it| it.url = Some(url()));
                self.poll.on(Event::Connection(error), times)
            }
            // The server of tokens may be back soon.
            Err(broken @ Broken::Token(error)) if error.is_retryable() => {
                self.poll.on(Event::Connection(broken.error(&session.config.timeouts)), times)
            }
            Err(broken) => return Err(broken.error(&session.config.timeouts)),
        };
        match (step, outcome) {
            (Step::Done(json), Ok(answer)) => {
                progress.unqueue(now);
                let body = json.map_or(ResultBody::Protobuf(answer.body), ResultBody::Json);
                Ok(Round::Done(Retrieved { body, _bytes: self.bytes.take() }))
            }
            (Step::Done(_), Err(broken)) => Err(broken.error(&session.config.timeouts)),
            (Step::Fail(error), _) => {
                progress.unqueue(now);
                Err(session.http.without_secrets(error).with(|it| it.url = Some(url())))
            }
            (Step::Reserve(n), _) if promise.room.bytes < n as u64 => {
                let broken = Broken::TooLarge { limit: promise.room.bytes, announced: Some(n as u64) };
                Err(broken.error(&session.config.timeouts).with(|it| it.url = Some(url())))
            }
            (Step::Reserve(n), _) => {
                // The wait for a share is part of the operation, and bounded by its deadline.
                let budget = session.response_budget();
                self.bytes = Some(budget.acquire_deadline(n, progress.deadline(), self.cancel)?);
                Ok(Round::Reserved)
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
                Ok(Round::Again(after.min(left)))
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

/// Failures are said quietly until they have lasted so long.
const FIRST_WARNING: Duration = Duration::from_secs(5);
/// How often they are said aloud.
const NEXT_WARNING: Duration = Duration::from_secs(60);

/// Failures in a row.
#[derive(Debug, Default)]
struct Failing {
    since: Option<Instant>,
    count: u32,
    warned: Option<Instant>,
}

impl Failing {
    /// Takes note of how a request ended.
    fn note(&mut self, failure: Option<Error>, progress: &Progress, now: Instant) {
        let Some(error) = failure else {
            *self = Failing::default();
            return progress.recovered();
        };
        self.count += 1;
        let lasted = now.saturating_duration_since(*self.since.get_or_insert(now));
        let said = self.warned.is_some_and(|it| now.saturating_duration_since(it) < NEXT_WARNING);
        let level = if lasted < FIRST_WARNING || said { log::Level::Debug } else { log::Level::Warn };
        if level == log::Level::Warn {
            self.warned = Some(now);
        }
        log::log!(
            target: "tinkex", level,
            "{}: asking for the result has failed {} times in a row, for {lasted:.0?}; it is asked for again: {error}",
            progress.operation(), self.count
        );
        progress.failed(error);
    }
}
