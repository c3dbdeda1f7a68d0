//! One sample, from its admission to its result; a sample that the server lost is submitted again.
//!
//! A sample occupies a pool thread while it is sent and while its result is fetched. Between these two steps a poller
//! waits for the results of all samples together, with the endpoint `retrieve_futures`. Without a poller (the server's
//! flags decide), a thread waits for each sample.

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
use crate::policy::resubmit::{
    FailedSubmission, LostSample, is_lost, outlives_failed_submission, pause_after_loss,
};
use crate::session::{
    Admission, CancelOnDrop, Fetching, Job, PolledSample, Poller, Promise, Retrieved, Session, Ticket,
};
use crate::sync::cancel::Registration;
use crate::sync::{CancelToken, Permit};
use crate::types::{ModelInput, QueueState, SampleOptions, SampleResponse, SamplingParams};
use crate::wire::json::ResultBody;
use crate::wire::sample;

/// The protocol's name of a sample request.
const REQUEST_TYPE: &str = "Sample";

/// A sample as the caller requested it.
pub(super) struct Request<T: Send + 'static> {
    pub(super) ticket: Ticket<T>,
    pub(super) prompt: ModelInput,
    pub(super) num_samples: u32,
    pub(super) params: SamplingParams,
    pub(super) options: SampleOptions,
    pub(super) record_stability_info: bool,
    /// Submits a lost sample again even if the server's flag `sample_no_retries` is set.
    pub(super) persistent: bool,
    /// Cancels the sample when the caller's token is cancelled.
    pub(super) _cancelled_by: Option<Registration>,
    pub(super) read: fn(SampleResponse) -> Result<T>,
}

impl<T: Send + 'static> Request<T> {
    /// Size limit of the result.
    fn room(&self) -> Room {
        /// Assumed number of tokens if the real number is unknown: more than any current model reads or writes.
        const LONGEST: u32 = 1 << 20;
        let options = &self.options;
        let scored = 2 + 2 * u64::from(options.topk_sample_logprobs);
        let max_tokens = self.params.max_tokens.unwrap_or(LONGEST);
        let answers = u64::from(self.num_samples).saturating_mul(max_tokens.into()).saturating_mul(scored);
        let targets = options.target_prompt_logprobs.as_ref().map_or(0, |tensor| tensor.n_bytes() as u64 / 4);
        let scored =
            2 + 2 * u64::from(options.topk_prompt_logprobs) + 2 * u64::from(options.prompt_alt_tokens_k);
        let prompt = self.prompt.len().map_or(LONGEST.into(), |n| n as u64).saturating_mul(scored);
        Room::for_numbers(answers.saturating_add(prompt).saturating_add(targets))
    }
}

/// State that the samples of a client share.
pub(super) struct Sampler {
    pub(super) session: Arc<Session>,
    /// Polls for the results of all samples; `None` if the server's flags do not enable that.
    pub(super) poller: Option<Arc<Poller>>,
    sampling_session_id: Arc<str>,
    /// Next sequence id. A sample that is submitted again takes a new one.
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

    /// Sends a request. After 429 or 402 pauses and sends it again, until the deadline passes or the pause policy
    /// forbids more pauses.
    fn send_request<T: Send + 'static>(&self, request: &Request<T>, seq_id: u64) -> Result<Answer> {
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
            // Let `send` return the errors 429 and 402 instead of retrying: the loop below pauses all samples of the
            // session together.
            .leaving_429();
        let mut pauses = Pauses::default();
        loop {
            let error = match session.http.send(&call, &ticket.cancel) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let (now, policy) = (session.clock.now(), session.config.pause_policy);
            let in_time = deadline.is_none_or(|deadline| now < deadline);
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
            session.dispatch.wait_for_window(&session.clock, deadline, &ticket.cancel)?;
        }
    }
}

/// A sample: the caller's request, and the facts about its attempts so far.
pub(super) struct Sample<T: Send + 'static> {
    sampler: Arc<Sampler>,
    request: Request<T>,
    seq_id: u64,
    /// Number of attempts that failed or were lost.
    n_lost: u32,
    /// True if the server answered 404 for an earlier attempt.
    was_unknown: bool,
    /// Failure of the last attempt.
    last: Option<Error>,
}

/// Result of a submission.
enum Sent {
    Done(Box<SampleResponse>),
    Promised { promise: Promise, sequence_ids: Vec<String> },
}

/// Outcome of an accepted sample: its response, or the error by which the server lost the sample. After a loss another
/// attempt may succeed.
enum Outcome {
    Done(Box<SampleResponse>),
    Lost(Error),
}

impl Outcome {
    fn of(result: Result<Retrieved>, sequence_ids: &[String]) -> Result<Self> {
        match result {
            Ok(retrieved) => read(&retrieved.body, sequence_ids).map(|it| Outcome::Done(it.into())),
            Err(error) if is_lost(&error) => Ok(Outcome::Lost(error)),
            Err(error) => Err(error),
        }
    }
}

impl<T: Send + 'static> Sample<T> {
    pub(super) fn new(sampler: Arc<Sampler>, request: Request<T>) -> Self {
        let seq_id = sampler.next_seq_id();
        Sample { sampler, request, seq_id, n_lost: 0, was_unknown: false, last: None }
    }

    /// Waits until the sample is admitted. After a failure answers the caller and returns `None`.
    pub(super) fn admitted(self) -> Option<AdmittedSample<T>> {
        if self.request.ticket.is_given_up() {
            self.answer(Err(Error::cancelled()));
            return None;
        }
        match self.admit() {
            Ok((poller, slot, admission)) => Some(AdmittedSample { sample: self, poller, slot, admission }),
            Err(error) => {
                self.answer(Err(error));
                None
            }
        }
    }

    fn admit(&self) -> Result<(Option<Arc<Poller>>, Option<Permit>, Admission)> {
        let (session, ticket) = (&self.sampler.session, &self.request.ticket);
        let deadline = ticket.progress.deadline();
        let poller = self.sampler.poller.clone().filter(|poller| poller.is_available());
        // Without a poller, a thread waits for the result. Do not send the sample before a slot for this thread is
        // free.
        let slot = if poller.is_none() {
            Some(session.dispatch.result_slot(deadline, &ticket.cancel)?)
        } else {
            None
        };
        let estimate = estimate(&self.request.prompt);
        let admission = session.dispatch.admit(estimate, &session.clock, deadline, &ticket.cancel)?;
        Ok((poller, slot, admission))
    }

    /// Returns whether to submit the sample again after a failed submission.
    fn survives(&self, error: &Error) -> bool {
        let session = &self.sampler.session;
        let facts = FailedSubmission {
            is_time_shortened: session.config.timeouts.submit < Timeouts::default().submit,
            fails_on_pause: session.config.pause_policy == PausePolicy::Fail,
            has_contact: session.http.last_contact().is_some(),
        };
        outlives_failed_submission(error, facts)
    }

    fn send(&self) -> Result<Sent> {
        let (session, progress) = (&self.sampler.session, &self.request.ticket.progress);
        let started = session.clock.now();
        let answer = self.sampler.send_request(&self.request, self.seq_id)?;
        let born = session.clock.now();
        progress.contact(born);
        let promised = match Submitted::read(answer, "Sample")? {
            Submitted::Done(answer) => return read(&answer?, &[]).map(|it| Sent::Done(it.into())),
            Submitted::Promised(promised) => promised,
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

    /// Pauses and takes a new sequence id, so that the sample can be submitted again (PROTOCOL §1.12).
    fn prepare_retry(&mut self, error: Error) -> Result<()> {
        let (session, ticket) = (&self.sampler.session, &self.request.ticket);
        let deadline = ticket.progress.deadline();
        let sample = LostSample {
            is_final: session.known_flags().config.sample_no_retries && !self.request.persistent,
            was_unknown: self.was_unknown,
            n_resubmissions: self.n_lost,
            left: deadline.map(|deadline| deadline.saturating_duration_since(session.clock.now())),
            unit: fastrand::f64(),
        };
        let Some(pause) = pause_after_loss(&error, sample) else { return Err(error) };
        self.was_unknown |= error.http_status() == Some(404);
        log::info!(target: "tinkex", "a sample is submitted again: {error}");
        session.clock.pause(pause, &ticket.cancel)?;
        self.n_lost += 1;
        self.last = Some(error);
        self.seq_id = self.sampler.next_seq_id();
        Ok(())
    }

    /// Submits the sample again after a pause. Runs on the separate thread class `Job::Retry`, because a retry may wait
    /// for admission: it must not occupy the threads that send admitted samples.
    fn retry(mut self, error: Error) {
        let session = self.sampler.session.clone();
        // A closed pool drops the job. Dropping the ticket in it answers the caller with an error.
        let _ = session.pool[Job::Retry].spawn(move || match self.prepare_retry(error) {
            Ok(()) => {
                if let Some(sample) = self.admitted() {
                    sample.submit();
                }
            }
            Err(error) => self.answer(Err(error)),
        });
    }

    /// Answers the caller with the outcome, or submits a lost sample again.
    fn settle(self, outcome: Result<Outcome>, fetching: Option<Fetching>, cancel_on_drop: CancelOnDrop) {
        match &outcome {
            // After a timeout or a cancellation the server may still work on the sample: `cancel_on_drop` then cancels
            // it on the server.
            Ok(Outcome::Lost(error)) | Err(error) => cancel_on_drop.ended_with(error),
            Ok(Outcome::Done(_)) => cancel_on_drop.disarm(),
        }
        // Tell the poller that the result is final (a success or a failure); the poller then reports to the server that
        // it can delete the result. Do this before answering the caller: if the caller closes the client after the
        // answer, this result is reported too.
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
            Ok(Outcome::Lost(error)) => self.retry(error),
            Err(error) => self.answer(Err(error)),
        }
    }

    fn answer(self, result: Result<SampleResponse>) {
        let Request { ticket, prompt, num_samples, options, read, .. } = self.request;
        let result = result.and_then(|response| {
            let response = response.aligned(prompt.len().ok(), options.include_prompt_logprobs);
            options.check(&prompt, num_samples, &response).and(Ok(response))
        });
        let result = result.map_err(|error| match (error.kind(), error.cause(), self.last) {
            // The deadline passed while the sample waited for its next attempt: the failure of the last attempt becomes
            // the cause.
            (ErrorKind::Timeout(_), None, Some(last)) => error.caused_by(last),
            _ => error,
        });
        ticket.answer(result.and_then(read));
    }
}

/// An admitted sample, which may be sent.
pub(super) struct AdmittedSample<T: Send + 'static> {
    sample: Sample<T>,
    /// Polls for the result. Without a poller, a thread of the class `Job::Result` waits for the result.
    poller: Option<Arc<Poller>>,
    /// Permit for the thread that waits; `None` with a poller.
    slot: Option<Permit>,
    admission: Admission,
}

impl<T: Send + 'static> AdmittedSample<T> {
    /// Sends the sample, and leaves the wait for its result to the poller or to another thread.
    pub(super) fn submit(self) {
        let AdmittedSample { sample, poller, slot, admission } = self;
        let sent = sample.send();
        // The server has accepted or refused the sample. Dropping the admission admits the next sample.
        drop(admission);
        match sent {
            Ok(Sent::Promised { promise, sequence_ids }) => {
                let session = sample.sampler.session.clone();
                let request_id = promise.request_id.clone();
                let cancel_on_drop = CancelOnDrop::new(&session, &request_id, &sample.request.ticket.cancel);
                let promised =
                    Box::new(Promised { sample, promise, sequence_ids, cancel_on_drop, _slot: slot });
                match poller {
                    Some(poller) => poller.register(&request_id, promised),
                    None => session.spawn_wait(promised),
                }
            }
            Ok(Sent::Done(response)) => sample.answer(Ok(*response)),
            Err(error) if sample.survives(&error) => sample.retry(error),
            Err(error) => sample.answer(Err(error)),
        }
    }
}

/// An accepted sample, whose result the server promised.
struct Promised<T: Send + 'static> {
    sample: Sample<T>,
    promise: Promise,
    sequence_ids: Vec<String>,
    cancel_on_drop: CancelOnDrop,
    /// Permit for the thread that waits; `None` with a poller.
    _slot: Option<Permit>,
}

impl<T: Send + 'static> PolledSample for Promised<T> {
    fn progress(&self) -> &Progress {
        &self.sample.request.ticket.progress
    }

    fn cancel(&self) -> &CancelToken {
        &self.sample.request.ticket.cancel
    }

    fn fetch(self: Box<Self>, size: Option<usize>, fetching: Option<Fetching>) {
        let outcome = self.sample.fetch(&self.promise, &self.sequence_ids, size);
        let Promised { sample, cancel_on_drop, _slot, .. } = *self;
        sample.settle(outcome, fetching, cancel_on_drop);
    }

    fn check_once(self: Box<Self>, fetching: Fetching) {
        let ticket = &self.sample.request.ticket;
        let checked =
            self.sample.sampler.session.retrieve_once(&self.promise, &ticket.progress, &ticket.cancel);
        match checked.transpose() {
            Some(result) => {
                let outcome = Outcome::of(result, &self.sequence_ids);
                let Promised { sample, cancel_on_drop, .. } = *self;
                sample.settle(outcome, Some(fetching), cancel_on_drop);
            }
            None => fetching.requeue(self),
        }
    }

    fn fail(self: Box<Self>, error: Error) {
        let Promised { sample, cancel_on_drop, .. } = *self;
        cancel_on_drop.ended_with(&error);
        if is_lost(&error) {
            sample.retry(error);
        } else {
            sample.answer(Err(error));
        }
    }
}

/// Decodes a response, in protobuf or JSON.
fn read(body: &ResultBody, sequence_ids: &[String]) -> Result<SampleResponse> {
    match body {
        ResultBody::Protobuf(bytes) => sample::decode_sample_response(bytes, sequence_ids),
        ResultBody::Json(value) => sample::sample_response_from_json(value, sequence_ids),
    }
}
