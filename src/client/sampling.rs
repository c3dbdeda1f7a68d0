//! The client that samples from a model.

use std::sync::Arc;
use std::time::Duration;

use crate::client::create::CreatedSampler;
use crate::client::{Client, Hold, Submitted};
use crate::config::PausePolicy;
use crate::error::{Error, ErrorKind, Result};
use crate::http::{Answer, Body, Call, Lane};
use crate::pending::Pending;
use crate::policy::admission::estimate;
use crate::session::{Owner, Promise, Session, Ticket, incomplete};
use crate::sync::actor::Actor;
use crate::types::{ModelInput, SampleOptions, SampleResponse, SamplingParams};
use crate::wire::{json, sample};

/// Samples from one set of weights. Thousands of samples may be in flight at once.
///
/// Cheap to clone; all clones are the same client.
///
/// # Example: the most likely continuation
/// ```
/// # #[cfg(feature = "local")] {
/// # let server = tinkex::local::Server::start(Default::default())?;
/// # let service = tinkex::ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build()?;
/// use tinkex::types::{ModelInput, SamplingParams};
///
/// let sampler = service.create_sampling_client("tinkex/nano")?;
/// let params = SamplingParams { max_tokens: Some(8), temperature: 0.0, ..Default::default() };
/// let answer = sampler.sample(&ModelInput::from_ints([72, 105]), 1, &params).wait()?;
/// assert!(answer.sequences[0].tokens.len() <= 8);
/// # }
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone)]
pub struct SamplingClient {
    inner: Arc<Inner>,
}

struct Inner {
    sampling_session_id: Arc<str>,
    base_model: Option<String>,
    actor: Hold<Msg>,
    owner: Arc<Owner>,
}

enum Msg {
    Sample(Box<Request<SampleResponse>>),
    Logprobs(Box<Request<Vec<Option<f32>>>>),
}

struct Request<T: Send + 'static> {
    ticket: Ticket<T>,
    prompt: ModelInput,
    num_samples: u32,
    params: SamplingParams,
    options: SampleOptions,
    read: fn(SampleResponse) -> Result<T>,
}

struct SamplingActor {
    session: Arc<Session>,
    sampling_session_id: Arc<str>,
    seq_ids: Arc<SeqIds>,
}

/// The numbers of a client's samples. A sample that has to be submitted afresh takes a new one.
struct SeqIds(std::sync::atomic::AtomicU64);

impl SeqIds {
    fn next(&self) -> u64 {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    }
}

impl Actor for SamplingActor {
    type Msg = Msg;

    fn turn(&mut self, msg: Msg) {
        match msg {
            Msg::Sample(request) => self.begin(*request),
            Msg::Logprobs(request) => self.begin(*request),
        }
    }
}

impl SamplingActor {
    /// Numbers a sample and hands it to the pool.
    fn begin<T: Send + 'static>(&self, request: Request<T>) {
        let sampler = Sampler {
            session: self.session.clone(),
            sampling_session_id: self.sampling_session_id.clone(),
            seq_ids: self.seq_ids.clone(),
        };
        let first_seq_id = self.seq_ids.next();
        // A pool that is closed drops the job, and with it the ticket, which then answers by itself.
        let _answered_by_its_ticket = self.session.samplers.spawn(move || {
            let result = sampler.run(&request, first_seq_id).and_then(request.read);
            request.ticket.answer(result);
        });
    }
}

/// What became of a sample that was submitted.
enum Outcome {
    Done(SampleResponse),
    /// The server no longer knows of it.
    Lost(Error),
}

/// Carries out samples, on threads of the pool.
struct Sampler {
    session: Arc<Session>,
    sampling_session_id: Arc<str>,
    seq_ids: Arc<SeqIds>,
}

impl Sampler {
    /// One sample, submitted afresh when the server lost it (PROTOCOL §1.12).
    fn run<T: Send + 'static>(&self, request: &Request<T>, first_seq_id: u64) -> Result<SampleResponse> {
        let ticket = &request.ticket;
        let mut seq_id = first_seq_id;
        let mut losses = 0;
        loop {
            let error = match self.once(request, seq_id)? {
                Outcome::Done(response) => return Ok(response),
                Outcome::Lost(error) => error,
            };
            let pause = after_loss(losses);
            // A pause that outlasts the operation leaves nothing to try with.
            let in_time = ticket.progress.deadline().is_none_or(|it| self.session.clock.now() + pause < it);
            if !in_time {
                return Err(error);
            }
            log::info!(target: "tinkex", "the server lost a sample, which is submitted again: {error}");
            self.session.clock.pause(pause, &ticket.cancel)?;
            losses += 1;
            seq_id = self.seq_ids.next();
        }
    }

    fn once<T: Send + 'static>(&self, request: &Request<T>, seq_id: u64) -> Result<Outcome> {
        let ticket = &request.ticket;
        let started = self.session.clock.now();
        let answer = self.submit(request, seq_id)?;
        let born = self.session.clock.now();
        ticket.progress.contact(born);
        let promised = match Submitted::read(answer)? {
            Submitted::Done(answer) => return read(&answer, &[]).map(Outcome::Done),
            Submitted::Promised(it) => it,
        };
        ticket.progress.accepted(&promised.request_id);
        let promise = Promise {
            request_id: promised.request_id,
            request_type: "Sample",
            protobuf: true,
            born,
            roundtrip: born.saturating_duration_since(started),
        };
        match self.session.retrieve(&promise, &ticket.progress, &ticket.cancel) {
            Ok(it) => read(&it.answer, &promised.sample_sequence_ids.unwrap_or_default()).map(Outcome::Done),
            Err(error) if *error.kind() == ErrorKind::PromiseExpired => Ok(Outcome::Lost(error)),
            Err(error) => Err(error),
        }
    }

    /// Sends the request, as often as the server says that there are too many.
    fn submit<T: Send + 'static>(&self, request: &Request<T>, seq_id: u64) -> Result<Answer> {
        let (session, ticket) = (&self.session, &request.ticket);
        let estimate = estimate(&request.prompt);
        let body = sample::encode_sample(
            &self.sampling_session_id,
            seq_id,
            &request.prompt,
            request.num_samples,
            &request.params,
            &request.options,
        )?;
        let body = Body::Json(body.into());
        let deadline = ticket.progress.deadline();
        let _admitted = session.dispatch.admit(estimate, &session.clock, deadline, &ticket.cancel)?;
        ticket.progress.submitting();
        let call = Call::new(Lane::Sample, "POST", "/api/v1/asample", body)
            .of(&ticket.progress)
            .waiting_for_payment()
            .header("X-Tinker-Sampling-Backpressure", "1")
            // The window below replaces the retries of a busy server: all samples wait together.
            .leaving_429();
        loop {
            ticket.progress.attempt();
            let error = match session.http.send(&call, &ticket.cancel) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let in_time = deadline.is_none_or(|it| session.clock.now() < it);
            if error.http_status() != Some(429) || !in_time {
                return Err(error);
            }
            if session.config.pause_policy == PausePolicy::Fail {
                return Err(error);
            }
            session.dispatch.back_off(estimate, &session.clock, &session.config.seeing.observed);
            session.dispatch.wait_out(&session.clock, deadline, &ticket.cancel)?;
        }
    }
}

impl SamplingClient {
    pub(super) fn start(owner: Arc<Owner>, created: CreatedSampler) -> Result<Self> {
        Self::start_at(owner, created, 0)
    }

    /// A client whose first sample has a number.
    pub(super) fn start_at(owner: Arc<Owner>, created: CreatedSampler, first_seq_id: u64) -> Result<Self> {
        let session = owner.session();
        let sampling_session_id: Arc<str> = created.sampling_session_id.into();
        let actor = SamplingActor {
            session: session.clone(),
            sampling_session_id: sampling_session_id.clone(),
            seq_ids: Arc::new(SeqIds(first_seq_id.into())),
        };
        let actor = Client::start(session, "samp", actor)?;
        let base_model = created.base_model;
        Ok(SamplingClient { inner: Arc::new(Inner { sampling_session_id, base_model, actor, owner }) })
    }

    /// The server's id of this client's sampling session.
    pub fn sampling_session_id(&self) -> &str {
        &self.inner.sampling_session_id
    }

    /// The base model's name, where the server says it. Nothing is sent.
    pub fn get_base_model(&self) -> Option<&str> {
        self.inner.base_model.as_deref()
    }

    /// Draws answers to a prompt (PROTOCOL §3.4 #23). Dropping the [`Pending`] cancels it.
    ///
    /// # Errors
    /// Through the [`Pending`]: an empty prompt, no samples or parameters out of their range (nothing is sent), or
    /// what the server says.
    ///
    /// # Blocking
    /// Only while the mailbox is full, that is, while 1024 samples wait to be numbered.
    pub fn sample(
        &self,
        prompt: &ModelInput,
        num_samples: u32,
        params: &SamplingParams,
    ) -> Pending<SampleResponse> {
        self.sample_with(prompt, num_samples, params, &SampleOptions::default())
    }

    /// As [`sample`](Self::sample), with more to be reported.
    ///
    /// # Errors
    /// As for [`sample`](Self::sample).
    ///
    /// # Blocking
    /// As for [`sample`](Self::sample).
    pub fn sample_with(
        &self,
        prompt: &ModelInput,
        num_samples: u32,
        params: &SamplingParams,
        options: &SampleOptions,
    ) -> Pending<SampleResponse> {
        const VERB: &str = "SamplingClient.sample";
        if let Err(error) = check(prompt, num_samples, params) {
            return Pending::failed(VERB, error);
        }
        self.submit(VERB, |ticket| {
            Msg::Sample(Box::new(Request {
                ticket,
                prompt: prompt.clone(),
                num_samples,
                params: params.clone(),
                options: options.clone(),
                read: Ok,
            }))
        })
    }

    /// The log-probability of each token of a prompt, given those before it; `None` for the first, which nothing
    /// predicts. The list is as long as the prompt.
    ///
    /// # Errors
    /// As for [`sample`](Self::sample).
    ///
    /// # Blocking
    /// As for [`sample`](Self::sample).
    ///
    /// # Example: how surprising is each byte?
    /// ```
    /// # #[cfg(feature = "local")] {
    /// # let server = tinkex::local::Server::start(Default::default())?;
    /// # let service = tinkex::ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build()?;
    /// # let sampler = service.create_sampling_client("tinkex/nano")?;
    /// use tinkex::types::ModelInput;
    ///
    /// let logprobs = sampler.compute_logprobs(&ModelInput::from_ints([72, 105, 33])).wait()?;
    /// assert_eq!(logprobs.len(), 3);
    /// assert!(logprobs[0].is_none() && logprobs[1].is_some_and(|it| it < 0.0));
    /// # }
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub fn compute_logprobs(&self, prompt: &ModelInput) -> Pending<Vec<Option<f32>>> {
        const VERB: &str = "SamplingClient.compute_logprobs";
        let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
        if let Err(error) = check(prompt, 1, &params) {
            return Pending::failed(VERB, error);
        }
        self.submit(VERB, |ticket| {
            Msg::Logprobs(Box::new(Request {
                ticket,
                prompt: prompt.clone(),
                num_samples: 1,
                params,
                options: SampleOptions { include_prompt_logprobs: true, ..Default::default() },
                read: |it| it.prompt_logprobs.ok_or_else(|| incomplete("the prompt's log-probabilities")),
            }))
        })
    }

    /// Ends this client and nothing else: samples that are queued or in flight return an error, later calls return
    /// one at once. Closing again does nothing.
    ///
    /// # Blocking
    /// Until the client's thread ended, at most `Timeouts::close`.
    pub fn close(&self) {
        self.inner.actor.close(self.inner.owner.session());
    }

    fn submit<T: Send + 'static>(
        &self,
        verb: &'static str,
        message: impl FnOnce(Ticket<T>) -> Msg,
    ) -> Pending<T> {
        let (actor, owner) = (&self.inner.actor, &self.inner.owner);
        let (ticket, pending) = owner.session().ticket(verb, &actor.cancel);
        match actor.mailbox.send(message(ticket), pending.deadline()) {
            Ok(()) => pending.cancelled_by_drop().keeping(owner.clone()),
            Err(error) => Pending::failed(verb, error),
        }
    }
}

impl std::fmt::Debug for SamplingClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SamplingClient")
            .field("sampling_session_id", &self.inner.sampling_session_id)
            .field("base_model", &self.inner.base_model)
            .finish_non_exhaustive()
    }
}

fn check(prompt: &ModelInput, num_samples: u32, params: &SamplingParams) -> Result<()> {
    prompt.validate("prompt")?;
    if num_samples == 0 {
        return Err(Error::invalid("num_samples", "must be at least 1"));
    }
    params.validate()
}

/// Protobuf or JSON, as the server chose.
fn read(answer: &Answer, sequence_ids: &[String]) -> Result<SampleResponse> {
    match answer.is_protobuf() {
        true => sample::decode_sample_response(&answer.body, sequence_ids),
        false => sample::sample_response_from_json(&json::response(&answer.body)?, sequence_ids),
    }
}

/// `min(0.5 · 2^n, 10) s`, within a quarter (PROTOCOL §1.12).
fn after_loss(losses: u32) -> Duration {
    let nominal = (0.5 * f64::from(1u32 << losses.min(10))).min(10.0);
    Duration::from_secs_f64((nominal * (0.75 + 0.5 * fastrand::f64())).min(10.0))
}
