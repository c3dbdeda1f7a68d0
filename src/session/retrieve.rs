//! Waiting for one promised result (PROTOCOL §4).

use std::time::{Duration, Instant};

use crate::error::{Error, Phase, Result};
use crate::http::{Answer, Body, Broken, Call, Lane};
use crate::pending::Progress;
use crate::policy::pause::Pauses;
use crate::policy::poll::{Event, Poll, Step, Times};
use crate::sync::{Bytes, CancelToken};
use crate::wire::json::RetrieveFutureRequest;

use super::Session;

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
}

/// A result as it came, and its share of the byte budget until it has been read.
pub(crate) struct Retrieved {
    pub(crate) answer: Answer,
    _bytes: Option<Bytes>,
}

impl Session {
    /// Asks for a result until it is there.
    pub(crate) fn retrieve(
        &self,
        promise: &Promise,
        progress: &Progress,
        cancel: &CancelToken,
    ) -> Result<Retrieved> {
        let mut poll = Poll::new(self.config.timeouts.silence);
        let mut bytes = None;
        let mut pauses = Pauses::default();
        let since = |at: Instant| at.saturating_duration_since(promise.born);
        loop {
            if cancel.is_cancelled() {
                return Err(Error::cancelled());
            }
            let sent = self.clock.now();
            let left = match progress.deadline() {
                Some(deadline) if deadline <= sent => return Err(self.too_late(progress)),
                Some(deadline) => deadline - sent,
                None => Duration::MAX,
            };
            let call = self.poll_call(promise, &poll, left)?.of(progress);
            progress.attempt();
            let outcome = self.http.raw(&call);
            let now = self.clock.now();
            let contact = self.http.last_contact().map_or(Duration::ZERO, since);
            let times = Times { sent: since(sent), now: since(now), contact };
            let step = match &outcome {
                Ok(answer) => {
                    progress.contact(now);
                    if self.http.pause_for_payment(answer, progress.deadline(), cancel)? {
                        continue;
                    }
                    poll.on(Event::Answer { facts: answer.facts(), protobuf: answer.is_protobuf() }, times)
                }
                Err(Broken::Timeout(Phase::Resolve | Phase::Connect) | Broken::Connection { .. }) => {
                    self.on_broken(&mut poll, &outcome, times)
                }
                Err(Broken::Timeout(_)) => poll.on(Event::Timeout, times),
                // What the server promised is still there when the breaker closes.
                Err(Broken::Garbage { .. } | Broken::CircuitOpen { .. }) => {
                    self.on_broken(&mut poll, &outcome, times)
                }
                // The server of tokens may be back soon.
                Err(Broken::Token(error)) if error.is_retryable() => {
                    self.on_broken(&mut poll, &outcome, times)
                }
                Err(broken) => return Err(broken.error(&self.config.timeouts)),
            };
            match (step, outcome) {
                (Step::Done, Ok(answer)) => {
                    progress.unqueue(now);
                    return Ok(Retrieved { answer, _bytes: bytes });
                }
                (Step::Done, Err(broken)) => return Err(broken.error(&self.config.timeouts)),
                (Step::Fail(error), _) => {
                    progress.unqueue(now);
                    return Err(
                        error.with(|it| it.url = Some(format!("{}{}", self.config.base_url, call.path)))
                    );
                }
                (Step::Reserve(n), _) => {
                    // The wait for a share is part of the operation, and bounded by its deadline.
                    bytes = Some(self.response_budget().acquire_deadline(n, progress.deadline(), cancel)?);
                }
                (Step::Again { after, queue }, _) => {
                    if let Some((state, reason)) = queue {
                        let refusal = pauses.on(&state, since(now), self.config.pause_policy);
                        progress.queue(state, reason, now);
                        if let Some(error) = refusal {
                            return Err(error);
                        }
                    }
                    self.clock.pause(after.min(left), cancel)?;
                }
            }
        }
    }

    fn on_broken(&self, poll: &mut Poll, outcome: &Result<Answer, Broken>, times: Times) -> Step {
        match outcome {
            Ok(_) => Step::Done,
            Err(broken) => {
                let url = format!("{}/api/v1/retrieve_future", self.config.base_url);
                let error = broken.error(&self.config.timeouts).with(|it| it.url = Some(url));
                poll.on(Event::Connection(error), times)
            }
        }
    }

    fn poll_call(&self, promise: &Promise, poll: &Poll, left: Duration) -> Result<Call> {
        let request = RetrieveFutureRequest {
            request_id: promise.request_id.clone(),
            allow_metadata_only: poll.allow_metadata_only(),
        };
        let mut call = Call::new(Lane::Poll, "POST", "/api/v1/retrieve_future", Body::json(&request)?)
            .header("X-Tinker-Request-Iteration", poll.iteration().to_string())
            .header("X-Tinker-Request-Type", promise.request_type);
        if poll.iteration() == 0 {
            let seconds = promise.roundtrip.as_secs_f64().to_string();
            call = call.header("X-Tinker-Create-Promise-Roundtrip-Time", seconds);
        }
        call.protobuf = promise.protobuf;
        call.timeout = Some(self.config.timeouts.poll.min(left));
        Ok(call)
    }

    fn too_late(&self, progress: &Progress) -> Error {
        let limit = self.config.timeouts.operation;
        let verb = progress.operation();
        Error::timeout(Phase::Total, format!("{verb} was not done within its {limit:.0?}"))
    }
}
