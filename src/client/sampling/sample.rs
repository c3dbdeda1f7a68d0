//! One sample, from its admission to its result. It occupies a thread while it is sent and while its result is fetched, and also
//! in between if the server has no `retrieve_futures`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::client::Submitted;
use crate::config::{PausePolicy, Timeouts};
use crate::error::{Error, ErrorKind, Result};
use crate::http::{Answer, Body, Call, Lane, Room, endpoint};
use crate::pending::Progress;
use crate::policy::admission::estimate;
use crate::policy::backoff::pause_after;
use crate::policy::billing;
use crate::policy::pause::Pauses;
use crate::policy::resubmit::{is_lost, may_be_accepted_later, pause_before_resubmission};
use crate::session::{
    Admission, CancelOnDrop, Fetching, Job, Poller, Promise, Retrieved, Session, Ticket, Waiter,
};
use crate::sync::cancel::Registration;
use crate::sync::{CancelToken, Permit};
use crate::types::{ModelInput, QueueState, SampleOptions, SampleResponse, SamplingParams};
use crate::wire::json::ResultBody;
use crate::wire::sample;

/// What the server calls a sample.
const REQUEST_TYPE: &str = "Sample";

/// What a caller wants.
pub(super) struct Request<T: Send + 'static> {
    pub(super) ticket: Ticket<T>,
    pub(super) prompt: ModelInput,
    pub(super) num_samples: u32,
    pub(super) params: SamplingParams,
    pub(super) options: SampleOptions,
    pub(super) record_stability_info: bool,
    /// A sample that the server lost is submitted afresh even if its flags say otherwise.
    pub(super) persistent: bool,
    /// Cancels the sample when the caller's own token is cancelled.
    pub(super) _cancelled_by: Option<Registration>,
    pub(super) read: fn(SampleResponse) -> Result<T>,
}

impl<T: Send + 'static> Request<T> {
    /// How large the result may be.
    fn room(&self) -> Room {
        /// More than any model of today reads or writes.
        const LONGEST: u32 = 1 << 20;
        let options = &self.options;
        let scored = 2 + 2 * u64::from(options.topk_sample_logprobs);
        let max_tokens = self.params.max_tokens.unwrap_or(LONGEST);
        let answers = u64::from(self.num_samples).saturating_mul(max_tokens.into()).saturating_mul(scored);
        let targets = options.target_prompt_logprobs.as_ref().map_or(0, |it| it.n_bytes() as u64 / 4);
        let scored =
            2 + 2 * u64::from(options.topk_prompt_logprobs) + 2 * u64::from(options.prompt_alt_tokens_k);
        let prompt = self.prompt.len().map_or(LONGEST.into(), |it| it as u64).saturating_mul(scored);
        Room::for_numbers(answers.saturating_add(prompt).saturating_add(targets))
    }
}

/// What the samples of a client share.
pub(super) struct Sampler {
    pub(super) session: Arc<Session>,
    /// Waits for results, if the server wants that.
    pub(super) poller: Option<Arc<Poller>>,
    sampling_session_id: Arc<str>,
    /// A sample that has to be submitted afresh takes a new number.
    seq_ids: AtomicU64,
}

impl Sampler {
    pub(super) fn new(
        session: Arc<Session>,
        sampling_session_id: Arc<str>,
        first_seq_id: u64,
        poller: Option<Arc<Poller>>,
    ) -> Self {
        Sampler { session, poller, sampling_session_id, seq_ids: first_seq_id.into() }
    }

    fn next_seq_id(&self) -> u64 {
        self.seq_ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends a request, as often as the server says that there are too many.
    fn send<T: Send + 'static>(&self, request: &Request<T>, seq_id: u64) -> Result<Answer> {
        let (session, ticket) = (&self.session, &request.ticket);
        let body = sample::encode_sample(
            &self.sampling_session_id,
            seq_id,
            &request.prompt,
            request.num_samples,
            &request.params,
            &request.options,
            request.record_stability_info,
        )?;
        let body = Body::Json(body.into());
        let deadline = ticket.progress.deadline();
        let estimate = estimate(&request.prompt);
        ticket.progress.submitting();
        let call = Call::new(Lane::Sample, &endpoint::ASAMPLE, body)
            .of(&ticket.progress)
            .answered_within(request.room())
            .header("X-Tinker-Sampling-Backpressure", "1")
            // The window below replaces the retries of a busy server, and the wait for payment: all samples wait together.
            .leaving_429();
        let mut pauses = Pauses::default();
        loop {
            let error = match session.http.send(&call, &ticket.cancel) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let (now, policy) = (session.clock.now(), session.config.pause_policy);
            let in_time = deadline.is_none_or(|it| now < it);
            let pause = match error.http_status() {
                Some(429) if in_time && policy != PausePolicy::Fail => {
                    let since = now.saturating_duration_since(ticket.progress.submitted());
                    if let Some(refusal) = pauses.on(&QueueState::PausedRateLimit, None, since, policy) {
                        return Err(refusal.caused_by(error));
                    }
                    pause_after(estimate)
                }
                Some(402) if session.http.waits_for_payment(&error, deadline) => {
                    pause_after(estimate).max(billing::PAUSE)
                }
                _ => return Err(error),
            };
            session.dispatch.back_off(&error, pause, &session.clock, &session.config.seeing.observed);
            session.dispatch.wait_out(&session.clock, deadline, &ticket.cancel)?;
        }
    }
}

/// A sample that is to be submitted.
pub(super) struct Sample<T: Send + 'static> {
    sampler: Arc<Sampler>,
    request: Request<T>,
    seq_id: u64,
    /// How often the server lost it.
    losses: u32,
    /// The server did not even know of one promise of it.
    unknown: bool,
    /// Why it was submitted again.
    last: Option<Error>,
}

/// What the server answers to a submission.
enum Sent {
    Done(Box<SampleResponse>),
    Promised { promise: Promise, sequence_ids: Vec<String> },
}

/// A result, or the news that there will be none, though another attempt may bring one.
enum Outcome {
    Done(Box<SampleResponse>),
    Lost(Error),
}

impl Outcome {
    fn of(result: Result<Retrieved>, sequence_ids: &[String]) -> Result<Self> {
        match result {
            Ok(it) => read(&it.body, sequence_ids).map(|it| Outcome::Done(it.into())),
            Err(error) if is_lost(&error) => Ok(Outcome::Lost(error)),
            Err(error) => Err(error),
        }
    }
}

impl<T: Send + 'static> Sample<T> {
    pub(super) fn new(sampler: Arc<Sampler>, request: Request<T>) -> Self {
        let seq_id = sampler.next_seq_id();
        Sample { sampler, request, seq_id, losses: 0, unknown: false, last: None }
    }

    /// Waits until the sample may be sent, in the order of the calls. `None` if it may not; the caller has been told why.
    pub(super) fn admitted(self) -> Option<AdmittedSample<T>> {
        if self.request.ticket.is_given_up() {
            self.answer(Err(Error::cancelled()));
            return None;
        }
        match self.admit() {
            Ok((poller, place, admission)) => Some(AdmittedSample { sample: self, poller, place, admission }),
            Err(error) => {
                self.answer(Err(error));
                None
            }
        }
    }

    fn admit(&self) -> Result<(Option<Arc<Poller>>, Option<Permit>, Admission)> {
        let (session, ticket) = (&self.sampler.session, &self.request.ticket);
        let deadline = ticket.progress.deadline();
        let poller = self.sampler.poller.clone().filter(|poller| poller.is_offered());
        // Without a poller, a thread must be free to wait for the result before the sample is sent.
        let place =
            if poller.is_none() { Some(session.dispatch.place(deadline, &ticket.cancel)?) } else { None };
        let estimate = estimate(&self.request.prompt);
        let admission = session.dispatch.admit(estimate, &session.clock, deadline, &ticket.cancel)?;
        Ok((poller, place, admission))
    }

    /// Whether the sample outlives that it was not accepted. A caller who allows less time than usual for a submission does
    /// not want it to go on for as long as the operation may take.
    fn survives(&self, error: &Error) -> bool {
        let session = &self.sampler.session;
        if session.config.timeouts.submit < Timeouts::default().submit {
            return false;
        }
        // A wrong address is told at once, and so is a server that is too busy for who does not wait.
        let waits =
            session.config.pause_policy != PausePolicy::Fail || *error.kind() != ErrorKind::RateLimited;
        may_be_accepted_later(error) && waits && session.http.last_contact().is_some()
    }

    fn send(&self) -> Result<Sent> {
        let (session, progress) = (&self.sampler.session, &self.request.ticket.progress);
        let started = session.clock.now();
        let answer = self.sampler.send(&self.request, self.seq_id)?;
        let born = session.clock.now();
        progress.contact(born);
        let promised = match Submitted::read(answer, "Sample")? {
            Submitted::Done(answer) => return read(&answer?, &[]).map(|it| Sent::Done(it.into())),
            Submitted::Promised(it) => it,
        };
        progress.accepted(&promised.request_id);
        progress.awaiting(REQUEST_TYPE);
        let promise = Promise {
            request_id: promised.request_id,
            request_type: REQUEST_TYPE,
            protobuf: true,
            born,
            roundtrip: born.saturating_duration_since(started),
            room: self.request.room(),
        };
        let sequence_ids = promised.sample_sequence_ids.unwrap_or_default();
        Ok(Sent::Promised { promise, sequence_ids })
    }

    fn fetch(&self, promise: &Promise, sequence_ids: &[String], size: Option<usize>) -> Result<Outcome> {
        let (session, ticket) = (&self.sampler.session, &self.request.ticket);
        let result = match size {
            Some(size) => session.retrieve_finished(size, promise, &ticket.progress, &ticket.cancel),
            None => session.retrieve(promise, &ticket.progress, &ticket.cancel),
        };
        Outcome::of(result, sequence_ids)
    }

    /// Waits a while and takes a new number, so that the sample can be submitted afresh (PROTOCOL §1.12).
    fn lost(&mut self, error: Error) -> Result<()> {
        let (session, ticket) = (&self.sampler.session, &self.request.ticket);
        if session.known_flags().config.sample_no_retries && !self.request.persistent {
            return Err(error);
        }
        // Each attempt is paid for, and a server that knows none of its promises will not know the next one either.
        if error.http_status() == Some(404) && std::mem::replace(&mut self.unknown, true) {
            return Err(error);
        }
        let pause = pause_before_resubmission(self.losses, fastrand::f64());
        // A pause that outlasts the operation leaves nothing to try with.
        let in_time = ticket.progress.deadline().is_none_or(|it| session.clock.now() + pause < it);
        if !in_time {
            return Err(error);
        }
        log::info!(target: "tinkex", "a sample is submitted again: {error}");
        session.clock.pause(pause, &ticket.cancel)?;
        self.losses += 1;
        self.last = Some(error);
        self.seq_id = self.sampler.next_seq_id();
        Ok(())
    }

    /// Submits the sample again after a pause. A class of its own waits for that: a thread that waits for its admission must not
    /// keep others from what they were admitted for.
    fn again(mut self, error: Error) {
        let session = self.sampler.session.clone();
        // If the pool is closed, the ticket in the dropped job answers.
        let _ = session.pool[Job::Retry].spawn(move || match self.lost(error) {
            Ok(()) => {
                if let Some(sample) = self.admitted() {
                    sample.submit();
                }
            }
            Err(error) => self.answer(Err(error)),
        });
    }

    /// Answers with what was fetched, or begins anew.
    fn settle(self, outcome: Result<Outcome>, fetching: Option<Fetching>, cancel_on_drop: CancelOnDrop) {
        match &outcome {
            // The server may be at one that nobody could ask after any more.
            Ok(Outcome::Lost(error)) | Err(error) => cancel_on_drop.ended_with(error),
            Ok(Outcome::Done(_)) => cancel_on_drop.disarm(),
        }
        // The server's own word on the sample, good or bad, is one that it need not keep any longer. This comes before
        // the answer, so that whoever closes the client upon the answer reports this one too.
        let is_final = match &outcome {
            Ok(Outcome::Done(_)) => true,
            Ok(Outcome::Lost(_)) => false,
            Err(error) => matches!(error.kind(), ErrorKind::RequestFailed { .. }),
        };
        match fetching {
            Some(fetching) if is_final => fetching.settle(),
            other => drop(other),
        }
        match outcome {
            Ok(Outcome::Done(response)) => self.answer(Ok(*response)),
            Ok(Outcome::Lost(error)) => self.again(error),
            Err(error) => self.answer(Err(error)),
        }
    }

    fn answer(self, result: Result<SampleResponse>) {
        let Request { ticket, prompt, num_samples, options, read, .. } = self.request;
        let result = result.map(|it| it.aligned(prompt.len().ok(), options.include_prompt_logprobs));
        let result = result.and_then(|it| options.check(&prompt, num_samples, &it).and(Ok(it)));
        let result = result.map_err(|it| match (it.kind(), it.cause(), self.last) {
            // The time was over while the sample waited for its next attempt. The last failure is the reason for that.
            (ErrorKind::Timeout(_), None, Some(last)) => it.caused_by(last),
            _ => it,
        });
        ticket.answer(result.and_then(read));
    }
}

/// A sample that may be sent.
pub(super) struct AdmittedSample<T: Send + 'static> {
    sample: Sample<T>,
    /// Waits for the result; without one, a thread of the sample's own does.
    poller: Option<Arc<Poller>>,
    place: Option<Permit>,
    admission: Admission,
}

impl<T: Send + 'static> AdmittedSample<T> {
    /// Sends the sample, and leaves the wait for its result to the poller or to a thread of its own.
    pub(super) fn submit(self) {
        let AdmittedSample { sample, poller, place, admission } = self;
        let sent = sample.send();
        // The server has accepted or refused it: the next one may be sent.
        drop(admission);
        match sent {
            Ok(Sent::Promised { promise, sequence_ids }) => {
                let session = sample.sampler.session.clone();
                let request_id = promise.request_id.clone();
                let cancel_on_drop = CancelOnDrop::new(&session, &request_id, &sample.request.ticket.cancel);
                let promised =
                    Box::new(Promised { sample, promise, sequence_ids, cancel_on_drop, _place: place });
                match poller {
                    Some(poller) => poller.register(&request_id, promised),
                    None => session.wait_alone(promised),
                }
            }
            Ok(Sent::Done(response)) => sample.answer(Ok(*response)),
            Err(error) if sample.survives(&error) => sample.again(error),
            Err(error) => sample.answer(Err(error)),
        }
    }
}

/// A sample that the server has accepted.
struct Promised<T: Send + 'static> {
    sample: Sample<T>,
    promise: Promise,
    sequence_ids: Vec<String>,
    cancel_on_drop: CancelOnDrop,
    /// Of a sample that has a thread of its own.
    _place: Option<Permit>,
}

impl<T: Send + 'static> Waiter for Promised<T> {
    fn progress(&self) -> &Progress {
        &self.sample.request.ticket.progress
    }

    fn cancel(&self) -> &CancelToken {
        &self.sample.request.ticket.cancel
    }

    fn fetch(self: Box<Self>, size: Option<usize>, fetching: Option<Fetching>) {
        let outcome = self.sample.fetch(&self.promise, &self.sequence_ids, size);
        let Promised { sample, cancel_on_drop, _place, .. } = *self;
        sample.settle(outcome, fetching, cancel_on_drop);
    }

    fn look(self: Box<Self>, fetching: Fetching) {
        let ticket = &self.sample.request.ticket;
        let looked = self.sample.sampler.session.look(&self.promise, &ticket.progress, &ticket.cancel);
        match looked.transpose() {
            Some(result) => {
                let outcome = Outcome::of(result, &self.sequence_ids);
                let Promised { sample, cancel_on_drop, .. } = *self;
                sample.settle(outcome, Some(fetching), cancel_on_drop);
            }
            None => fetching.unfinished(self),
        }
    }

    fn fail(self: Box<Self>, error: Error) {
        let Promised { sample, cancel_on_drop, .. } = *self;
        cancel_on_drop.ended_with(&error);
        match is_lost(&error) {
            true => sample.again(error),
            false => sample.answer(Err(error)),
        }
    }
}

/// Protobuf or JSON, as the server chose.
fn read(body: &ResultBody, sequence_ids: &[String]) -> Result<SampleResponse> {
    match body {
        ResultBody::Protobuf(bytes) => sample::decode_sample_response(bytes, sequence_ids),
        ResultBody::Json(value) => sample::sample_response_from_json(value, sequence_ids),
    }
}
