//! Polling for one result: a state machine that takes events and decides the next request (PROTOCOL §4).
//!
//! The server answers a submission with a promise, which is a request id. The client then polls: it requests the result
//! of this id until the server has the result.

use std::time::Duration;

use serde_json::Value;

use crate::error::words::{excerpt, presentable};
use crate::error::{Category, Error, ErrorKind};
use crate::types::QueueState;

use super::verdict::Facts;
use crate::wire::json::FutureReply;

/// Shortest interval between two requests for the same promise.
const FLOOR: Duration = Duration::from_millis(50);
/// Largest number of repetitions of a request that the server refuses as malformed (400).
const MAX_BAD_REQUESTS: u32 = 3;
/// Time after the submission during which a 404 is retried: it may come from a replica of the server that does not know
/// the promise yet. The official Python SDK fails at the first 404 (PROTOCOL §4.3) and may lose a result that the
/// caller has paid for.
const REPLICATION_TIME: Duration = Duration::from_secs(10);

/// Outcome of one request for the result.
pub(crate) enum Event<'a> {
    /// The server answered.
    Answer {
        facts: Facts<'a>,
        /// The content type of the answer is protobuf.
        protobuf: bool,
    },
    /// The time limit of the request passed without an answer. The server may hold a request until it has the result.
    Timeout,
    /// The connection failed or broke.
    Connection(Error),
}

/// The next action.
#[derive(Debug)]
pub(crate) enum Step {
    /// The answer is the result: this JSON, or the protobuf message in the body.
    Done(Option<Value>),
    /// Poll again after a pause.
    Again {
        /// Length of the pause.
        after: Duration,
        /// State of the server's queue and its reason, if the server reported them.
        queue: Option<(QueueState, Option<String>)>,
    },
    /// The result is available and has this size in bytes: reserve as many bytes of the response budget, which limits
    /// the memory for results, then request the whole result.
    Reserve(usize),
    /// The result cannot be obtained.
    Fail(Error),
}

/// Times of one request, counted from the creation of the promise. For a request about many promises
/// ([`poll_many`](super::poll_many)), they are counted from the creation of its poller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// Time at which the request was sent.
    pub(crate) sent: Duration,
    /// Time at which it was answered or failed.
    pub(crate) now: Duration,
    /// Time of the last answer to any request of this client, heartbeats included.
    pub(crate) contact: Duration,
}

/// Polling state of one promise.
#[derive(Debug)]
pub(crate) struct Poll {
    metadata_only: bool,
    iteration: u32,
    backoffs: u32,
    server_errors: u32,
    bad_requests: u32,
    dropped: bool,
    last_contact: Duration,
    silence: Duration,
}

impl Poll {
    /// Starts polling. Fails after `silence` without any answer of the server.
    pub(crate) fn new(silence: Duration) -> Self {
        Poll {
            metadata_only: true,
            iteration: 0,
            backoffs: 0,
            server_errors: 0,
            bad_requests: 0,
            dropped: false,
            last_contact: Duration::ZERO,
            silence,
        }
    }

    /// Starts polling for a result that is known to be available and whose bytes are reserved.
    pub(crate) fn finished(silence: Duration) -> Self {
        Poll { metadata_only: false, ..Poll::new(silence) }
    }

    /// Number of the next request, counted from 0.
    pub(crate) fn iteration(&self) -> u32 {
        self.iteration
    }

    /// The next request allows the server to answer with the size of the result only.
    pub(crate) fn allow_metadata_only(&self) -> bool {
        self.metadata_only
    }

    /// The next request needs a new connection, because a proxy dropped the last request.
    pub(crate) fn needs_new_connection(&self) -> bool {
        self.dropped
    }

    /// Applies an event and decides the next action.
    pub(crate) fn on(&mut self, event: Event<'_>, times: Times) -> Step {
        self.iteration += 1;
        self.dropped =
            matches!(&event, Event::Answer { facts, .. } if facts.status == 400 && facts.body.is_empty());
        match event {
            Event::Answer { facts, protobuf } => {
                self.last_contact = times.now;
                self.answer(facts, protobuf, times)
            }
            // Some servers hold a request for longer than its time limit. Poll again immediately, unless the server has
            // not answered any request, heartbeats included, for `silence`.
            Event::Timeout => {
                let error = Error::timeout(crate::Phase::Exchange, "no answer in time");
                self.fail_if_stuck(times, error).unwrap_or_else(|| self.poll_again(times, None))
            }
            Event::Connection(error) => match self.fail_if_stuck(times, error) {
                Some(fail) => fail,
                None => self.back_off_within(times),
            },
        }
    }

    fn idle(&self, times: Times) -> Duration {
        times.now.saturating_sub(self.last_contact.max(times.contact))
    }

    /// Fails if the server has not answered anything for `silence`.
    fn fail_if_stuck(&mut self, times: Times, error: Error) -> Option<Step> {
        let idle = self.idle(times);
        if idle < self.silence {
            return None;
        }
        let message = format!("no answer from the server for {:.1} s", idle.as_secs_f64());
        Some(Step::Fail(Error::new(ErrorKind::Stuck { idle }, message).caused_by(error)))
    }

    /// Backs off. The pause ends no later than the time at which `silence` is reached.
    fn back_off_within(&mut self, times: Times) -> Step {
        let left = self.silence.saturating_sub(self.idle(times));
        match self.back_off() {
            Step::Again { after, queue } => Step::Again { after: after.min(left), queue },
            other => other,
        }
    }

    fn answer(&mut self, facts: Facts<'_>, protobuf: bool, times: Times) -> Step {
        match facts.status {
            200..300 => {
                (self.backoffs, self.server_errors, self.bad_requests) = (0, 0, 0);
                if protobuf { Step::Done(None) } else { self.success(facts.body, times) }
            }
            408 => {
                self.backoffs = 0;
                let queue = serde_json::from_slice(facts.body).ok().and_then(|it| queue(&it));
                if queue.is_some() {
                    self.bad_requests = 0;
                }
                self.poll_again(times, queue)
            }
            429 => match facts.hint() {
                Some(after) => Step::Again { after, queue: None },
                None => self.back_off(),
            },
            400 if facts.body.is_empty() => self.back_off(),
            400 => {
                self.bad_requests += 1;
                if self.bad_requests <= MAX_BAD_REQUESTS {
                    self.poll_again(times, None)
                } else {
                    let error = facts.error();
                    let kind = ErrorKind::RequestFailed { category: Category::User };
                    let status = facts.status;
                    Step::Fail(Error::new(kind, error.message()).with(|it| it.status = Some(status)))
                }
            }
            404 if times.now < REPLICATION_TIME => self.back_off(),
            // Keep the status in the error, because the caller distinguishes the two: a lost sample is submitted again
            // after each 410, but only after the first 404.
            404 | 410 => {
                let (error, status) = (facts.error(), facts.status);
                let expired = Error::new(ErrorKind::PromiseExpired, error.message());
                Step::Fail(expired.with(|it| it.status = Some(status)))
            }
            500.. => {
                self.backoffs = 0;
                let after = FLOOR * (1 << self.server_errors.min(6));
                self.server_errors += 1;
                Step::Again { after, queue: None }
            }
            _ => Step::Fail(facts.error()),
        }
    }

    /// Handles a JSON answer with a success status: the result, its size, a failure, or "not yet".
    fn success(&mut self, body: &[u8], times: Times) -> Step {
        let Ok(reply) = FutureReply::read(body) else {
            let text = format!("the result is neither JSON nor protobuf; it begins with {}", excerpt(body));
            return Step::Fail(Error::decode(text));
        };
        match reply {
            FutureReply::Done(value) => Step::Done(Some(value)),
            FutureReply::Pending { queue_state, reason } => {
                let reason = reason.filter(|text| !text.is_empty());
                self.poll_again(times, queue_state.map(|state| (state, reason)))
            }
            FutureReply::Metadata { payload_size } => {
                if std::mem::replace(&mut self.metadata_only, false) {
                    Step::Reserve(usize::try_from(payload_size).unwrap_or(usize::MAX))
                } else {
                    Step::Fail(Error::decode(
                        "the server sent only the size of the result, which was not allowed",
                    ))
                }
            }
            FutureReply::Failed { message, category } => {
                let category = Category::parse(&category);
                Step::Fail(Error::new(ErrorKind::RequestFailed { category }, message))
            }
        }
    }

    /// Polls again immediately, but at least [`FLOOR`] after the last request was sent.
    fn poll_again(&mut self, times: Times, queue: Option<(QueueState, Option<String>)>) -> Step {
        let took = times.now.saturating_sub(times.sent);
        Step::Again { after: FLOOR.saturating_sub(took), queue }
    }

    fn back_off(&mut self) -> Step {
        let after = Duration::from_secs(1 << self.backoffs.min(5)).min(Duration::from_secs(30));
        self.backoffs += 1;
        Step::Again { after, queue: None }
    }
}

fn queue(json: &Value) -> Option<(QueueState, Option<String>)> {
    let state = json.get("queue_state")?.as_str()?;
    let reason = json.get("queue_state_reason").and_then(Value::as_str).filter(|it| !it.is_empty());
    Some((QueueState::parse(state), reason.map(presentable)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Duration = Duration::from_secs(300);

    fn at(now_ms: u64) -> Times {
        let now = Duration::from_millis(now_ms);
        Times { sent: now, now, contact: Duration::ZERO }
    }

    fn on(poll: &mut Poll, status: u16, body: &str, times: Times) -> Step {
        let facts = Facts {
            status,
            body: body.as_bytes(),
            retry_after_ms: None,
            retry_after: None,
            at: None,
            should_retry: None,
            location: None,
        };
        poll.on(Event::Answer { facts, protobuf: false }, times)
    }

    fn after(step: Step) -> Duration {
        match step {
            Step::Again { after, .. } => after,
            other => panic!("{other:?}"),
        }
    }

    fn kind(step: Step) -> ErrorKind {
        match step {
            Step::Fail(error) => error.kind().clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_json_answer_is_classified_as_documented() {
        let mut poll = Poll::new(SILENCE);
        let step = on(
            &mut poll,
            200,
            r#"{"type":"try_again","queue_state":"paused_capacity","queue_state_reason":"busy"}"#,
            at(0),
        );
        assert!(matches!(step, Step::Again { queue: Some((QueueState::PausedCapacity, Some(_))), .. }));
        assert!(matches!(on(&mut poll, 200, r#"{"metrics":{}}"#, at(0)), Step::Done(Some(_))));
        assert!(matches!(on(&mut poll, 200, r#"{"path":"p","error":null}"#, at(0)), Step::Done(Some(_))));
        let failed = on(&mut poll, 200, r#"{"error":"too long","category":"user"}"#, at(0));
        assert_eq!(kind(failed), ErrorKind::RequestFailed { category: Category::User });
        assert_eq!(kind(on(&mut poll, 200, "<html>", at(0))), ErrorKind::Decode);
    }

    #[test]
    fn memory_for_a_large_result_is_reserved_once_before_it_is_fetched() {
        let mut poll = Poll::new(SILENCE);
        let metadata = r#"{"status":"complete_metadata","response_payload_size":48213377}"#;
        assert!(poll.allow_metadata_only());
        assert!(matches!(on(&mut poll, 200, metadata, at(0)), Step::Reserve(48_213_377)));
        assert!(!poll.allow_metadata_only());
        assert_eq!(kind(on(&mut poll, 200, metadata, at(0))), ErrorKind::Decode);
    }

    #[test]
    fn a_pending_result_is_polled_again_at_once_but_not_faster_than_the_floor() {
        let mut poll = Poll::new(SILENCE);
        assert_eq!(after(on(&mut poll, 408, "", at(0))), FLOOR);
        let slow = Times { now: Duration::from_secs(30), ..at(0) };
        assert_eq!(after(on(&mut poll, 408, "", slow)), Duration::ZERO);
        assert_eq!(after(on(&mut poll, 200, r#"{"type":"try_again"}"#, slow)), Duration::ZERO);
    }

    #[test]
    fn pauses_after_server_errors_double_and_any_success_resets_them() {
        let mut poll = Poll::new(SILENCE);
        let waits: Vec<u128> = (0..8).map(|_| after(on(&mut poll, 503, "x", at(0))).as_millis()).collect();
        assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 3200, 3200]);
        on(&mut poll, 200, r#"{"type":"try_again"}"#, at(0));
        assert_eq!(after(on(&mut poll, 500, "x", at(0))), FLOOR);
    }

    #[test]
    fn broken_connections_back_off_until_the_silence_is_too_long() {
        let mut poll = Poll::new(Duration::from_secs(10));
        let broken = || Event::Connection(Error::closed("reset"));
        let waits: Vec<u64> =
            [0, 1000, 3000, 7000].into_iter().map(|ms| after(poll.on(broken(), at(ms))).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 3]);
        assert!(matches!(kind(poll.on(broken(), at(10_000))), ErrorKind::Stuck { .. }));
    }

    #[test]
    fn a_server_that_holds_requests_counts_as_alive_while_it_answers_heartbeats() {
        let mut poll = Poll::new(Duration::from_secs(60));
        let held = |minutes: u64, beat: u64| Times {
            sent: Duration::from_secs(60 * minutes - 45),
            now: Duration::from_secs(60 * minutes),
            contact: Duration::from_secs(beat),
        };
        assert_eq!(after(poll.on(Event::Timeout, held(20, 1195))), Duration::ZERO);
        assert!(matches!(kind(poll.on(Event::Timeout, held(21, 1195))), ErrorKind::Stuck { .. }));
    }

    #[test]
    fn a_request_that_a_proxy_dropped_is_repeated_over_a_new_connection() {
        let mut poll = Poll::new(SILENCE);
        assert!(!poll.needs_new_connection());
        assert_eq!(after(on(&mut poll, 400, "", at(0))), Duration::from_secs(1));
        assert!(poll.needs_new_connection());
        on(&mut poll, 408, "", at(0));
        assert!(!poll.needs_new_connection());
    }

    #[test]
    fn a_malformed_request_is_repeated_three_times() {
        let mut poll = Poll::new(SILENCE);
        for _ in 0..3 {
            assert_eq!(after(on(&mut poll, 400, r#"{"detail":"bad"}"#, at(0))), FLOOR);
        }
        match on(&mut poll, 400, r#"{"detail":"LoRA rank 64"}"#, at(0)) {
            Step::Fail(error) => assert!(error.is_user_error() && error.to_string().contains("LoRA rank 64")),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_unknown_promise_is_polled_again_during_its_first_ten_seconds() {
        let mut poll = Poll::new(SILENCE);
        assert_eq!(after(on(&mut poll, 404, "x", at(0))), Duration::from_secs(1));
        match on(&mut poll, 404, "x", at(10_000)) {
            Step::Fail(error) => {
                assert_eq!((error.kind(), error.http_status()), (&ErrorKind::PromiseExpired, Some(404)));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_final_status_ends_polling_with_its_error_kind() {
        let table = [
            (401, ErrorKind::Auth),
            (402, ErrorKind::Billing),
            (403, ErrorKind::Permission),
            (409, ErrorKind::Conflict),
            (410, ErrorKind::PromiseExpired),
            (413, ErrorKind::Status { code: 413 }),
            (422, ErrorKind::Status { code: 422 }),
        ];
        for (status, expected) in table {
            assert_eq!(kind(on(&mut Poll::new(SILENCE), status, "x", at(0))), expected);
        }
    }
}
