//! The client that samples from one set of weights.
//!
//! [`SamplingClient`] puts requests into the mailbox of an actor. The actor waits until the session's limits admit a
//! sample, then passes it to a pool thread. Module `sample` sends samples and fetches their results. Module `handle`
//! makes the text that identifies a sampler, from which other processes can make clients.

mod handle;
mod sample;

use std::sync::Arc;
use std::time::Instant;

use crate::client::create::{self, CreatedSampler};
use crate::client::{Client, ClientOwner, Kind, ServiceClientBuilder};
use crate::error::{Error, Result};
use crate::http::Call;
use crate::pending::{Canceller, Pending};
use crate::session::{Child, Job, Owner, Poller, Ticket, missing_in_answer};
use crate::sync::CancelToken;
use crate::sync::actor::Actor;
use crate::sync::cancel::{Registration, Wake};
use crate::sync::process::forked;
use crate::sync::spawn;
use crate::tokenizer::{Tokenizer, tokenizer_of};
use crate::types::{ModelInput, SampleOptions, SampleResponse, SamplingParams};

pub use handle::SamplerHandle;
use sample::{Request, Sample, Sampler};

/// Number of sequence ids of one client. Each client of a sampling session has a clone number `n`; its sequence ids
/// start at `n` times this constant (PROTOCOL §4.5).
const SEQ_IDS_PER_CLONE: u64 = 1_000_000_000;

/// Samples from one set of weights. Thousands of samples may be in flight at the same time.
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
    /// The token of `with_cancel`, which cancels the samples of this handle.
    cancelled_by: Option<CancelToken>,
    record_stability_info: bool,
}

struct Inner {
    sampling_session_id: Arc<str>,
    base_model: Option<String>,
    actor: ClientOwner<Msg>,
    poller: Option<Arc<Poller>>,
    /// Cancels the poller.
    cancel: CancelToken,
    owner: Arc<Owner>,
}

enum Msg {
    Sample(Box<Request<SampleResponse>>),
    Logprobs(Box<Request<Vec<Option<f32>>>>),
}

struct SamplingActor {
    sampler: Arc<Sampler>,
}

impl Actor for SamplingActor {
    type Msg = Msg;

    fn turn(&mut self, msg: Msg) {
        match msg {
            Msg::Sample(request) => self.admit(*request),
            Msg::Logprobs(request) => self.admit(*request),
        }
    }
}

impl SamplingActor {
    /// Gives the sample a sequence id, waits until it is admitted, and passes it to a pool thread that sends it. Later
    /// samples wait in the mailbox during this time, so the size of the mailbox limits the number of waiting samples.
    fn admit<T: Send + 'static>(&self, request: Request<T>) {
        if let Some(sample) = Sample::new(self.sampler.clone(), request).admitted() {
            // A closed pool drops the job. Dropping the ticket in it answers the caller with an error.
            let _ = self.sampler.session.pool[Job::Post].spawn(move || sample.submit());
        }
    }
}

impl SamplingClient {
    /// Starts a client of a sampling session. If the name of the base model is not known, fetches the name from the
    /// server.
    pub(super) fn start_with_base_model(owner: Arc<Owner>, mut created: CreatedSampler) -> Result<Self> {
        let session = owner.session();
        if created.base_model.is_none() {
            let once = |call: Call| call.once(session.config.timeouts.exchange);
            let known = create::base_model_of(session, &created.sampling_session_id, once, &session.cancel);
            // Ignore an error, after which the name stays unknown: some servers lack the endpoint.
            created.base_model = known.ok().flatten();
        }
        Self::start_at(owner, created, 0)
    }

    /// Makes a client from a sampler handle, with all other settings from the environment: see
    /// [`ServiceClientBuilder::from_sampler_handle`](crate::ServiceClientBuilder::from_sampler_handle).
    ///
    /// # Errors
    /// As for `ServiceClientBuilder::from_sampler_handle`.
    ///
    /// # Blocking
    /// As for `ServiceClientBuilder::from_sampler_handle`.
    pub fn from_sampler_handle<H>(handle: H) -> Result<Self>
    where
        H: TryInto<SamplerHandle>,
        Error: From<H::Error>,
    {
        ServiceClientBuilder::default().from_sampler_handle(handle)
    }

    /// Returns a handle from which other processes can make clients of the same sampler. The handle is valid until the
    /// session ends; each client made from the handle keeps the session alive. The handle contains no credentials.
    /// Nothing is sent.
    pub fn get_sampler_handle(&self) -> SamplerHandle {
        SamplerHandle::of(self)
    }

    /// Starts a client whose first sample gets the sequence id `first_seq_id`.
    pub(super) fn start_at(owner: Arc<Owner>, created: CreatedSampler, first_seq_id: u64) -> Result<Self> {
        let session = owner.session();
        let sampling_session_id: Arc<str> = created.sampling_session_id.into();
        // The poller cannot use the actor's token, because the actor is created later. `close` cancels both tokens.
        let cancel = session.cancel.child();
        let poller = session.known_flags().config.sample_use_retrieve_futures.then(|| {
            Poller::new(session, &sampling_session_id, first_seq_id / SEQ_IDS_PER_CLONE, cancel.clone())
        });
        let sampler = Arc::new(Sampler::new(
            session.clone(),
            sampling_session_id.clone(),
            first_seq_id,
            poller.clone(),
        ));
        let actor = Client::start(session, Kind::Sampling, SamplingActor { sampler })?;
        let base_model = created.base_model;
        Ok(SamplingClient {
            inner: Arc::new(Inner { sampling_session_id, base_model, actor, poller, cancel, owner }),
            cancelled_by: None,
            record_stability_info: false,
        })
    }

    /// Returns another handle of this client. Cancelling `token` cancels all samples of the new handle. Samples of
    /// other handles are not affected, and the client stays open.
    ///
    /// # Example: cancel a group of samples
    /// ```
    /// # #[cfg(feature = "local")] {
    /// # let server = tinkex::local::Server::start(Default::default())?;
    /// # let service = tinkex::ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build()?;
    /// # let sampler = service.create_sampling_client("tinkex/nano")?;
    /// use tinkex::sync::CancelToken;
    /// use tinkex::types::{ModelInput, SamplingParams};
    ///
    /// let round = CancelToken::new();
    /// let rollouts = sampler.with_cancel(&round);
    /// let pending = rollouts.sample(&ModelInput::from_ints([72]), 4, &SamplingParams::default());
    /// round.cancel();
    /// assert!(pending.wait().unwrap_err().is_cancelled());
    /// # }
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    #[must_use]
    pub fn with_cancel(&self, token: &CancelToken) -> Self {
        SamplingClient { cancelled_by: Some(token.clone()), ..self.clone() }
    }

    /// Sets whether the server records data about numerical stability for samples of this handle (PROTOCOL §3.4 #23).
    /// Default false.
    #[must_use]
    pub fn record_stability_info(self, yes: bool) -> Self {
        SamplingClient { record_stability_info: yes, ..self }
    }

    /// Id of this client's sampling session.
    pub fn sampling_session_id(&self) -> &str {
        &self.inner.sampling_session_id
    }

    /// Name of the base model; `None` if the server did not report it when the client was created. Nothing is sent.
    pub fn get_base_model(&self) -> Option<&str> {
        self.inner.base_model.as_deref()
    }

    /// The tokenizer of the base model, as for [`TrainingClient::tokenizer`](crate::TrainingClient::tokenizer). Servers
    /// do not report the tokenizer of a sampler, so that the name of its base model decides: use the tokenizer of the
    /// training client for a model that a server gives another name, as the embedded engine does with its aliases.
    ///
    /// # Errors
    /// As for `TrainingClient::tokenizer`.
    ///
    /// # Blocking
    /// As for `TrainingClient::tokenizer`.
    pub fn tokenizer(&self) -> Result<Arc<dyn Tokenizer>> {
        tokenizer_of(self.get_base_model(), None)
    }

    /// Samples answers to a prompt (PROTOCOL §3.4 #23). Dropping the [`Pending`] cancels the operation.
    ///
    /// After HTTP 429 all samples of the session pause together: for 1 s, or for 5 s if the prompt has more than about
    /// 13000 tokens. The `retry-after` of the answer is ignored. After other answers that are retried (408, 425, 5xx)
    /// only this sample pauses, for the time of their `retry-after`, at most one minute.
    ///
    /// During an outage of the server the sample is submitted again and again, until `Timeouts::operation` has passed.
    /// There are two exceptions. If `Timeouts::submit` is set below its default, the sample fails when one submission
    /// has taken that time. If the server has never answered any request, the sample fails with its first submission,
    /// because the address may be wrong.
    ///
    /// # Errors
    /// Through the [`Pending`]: an empty prompt, zero samples or parameters out of range (nothing is sent), or an error
    /// of the server; [`Decode`](crate::ErrorKind::Decode) if the number of sequences, log-probabilities or tokens in
    /// the answer is not the requested one. If the operation's deadline passes, the cause of the error is the last
    /// failure.
    ///
    /// # Blocking
    /// While the mailbox is full, at most until the operation's deadline. The mailbox holds 1024 samples that wait to
    /// be sent (see [`Threads::mailbox`](crate::Threads)); a loop that submits samples therefore runs as fast as the
    /// server accepts them. On a thread of the crate that empties mailboxes, for example in a callback, the call
    /// returns an error instead of blocking.
    pub fn sample(
        &self,
        prompt: &ModelInput,
        num_samples: u32,
        params: &SamplingParams,
    ) -> Pending<SampleResponse> {
        self.sample_with(prompt, num_samples, params, &SampleOptions::default())
    }

    /// As [`sample`](Self::sample), with additional results.
    ///
    /// # Errors
    /// As for [`sample`](Self::sample); options that do not fit the prompt (nothing is sent);
    /// [`Incompatible`](crate::ErrorKind::Incompatible) if the server ignored an option, as older servers do.
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
        self.sample_owned(prompt.clone(), num_samples, params.clone(), options.clone())
    }

    /// As [`sample_with`](Self::sample_with), without copying the prompt.
    pub(crate) fn sample_owned(
        &self,
        prompt: ModelInput,
        num_samples: u32,
        params: SamplingParams,
        options: SampleOptions,
    ) -> Pending<SampleResponse> {
        const VERB: &str = "SamplingClient.sample";
        if let Err(error) = check(&prompt, num_samples, &params, &options) {
            return Pending::failed(VERB, error);
        }
        self.submit(VERB, |ticket, cancelled_by| {
            Msg::Sample(Box::new(Request {
                ticket,
                prompt,
                num_samples,
                params,
                options,
                record_stability_info: self.record_stability_info,
                persistent: false,
                _cancelled_by: cancelled_by,
                read: Ok,
            }))
        })
    }

    /// Computes the log-probability of each token of a prompt, given the tokens before it; `None` for the first token.
    /// The list is as long as the prompt.
    ///
    /// # Errors
    /// As for [`sample`](Self::sample).
    ///
    /// # Blocking
    /// As for [`sample`](Self::sample).
    ///
    /// # Example: score each byte
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
        self.logprobs(prompt, None)
    }

    /// As [`compute_logprobs`](Self::compute_logprobs), but only for the last `n` tokens of the prompt; the entries of
    /// all tokens before these are `None`. `n` is at least 1 and less than the length of the prompt. If the server has
    /// the start of the prompt in its cache, the call costs about as much as the last `n` tokens.
    ///
    /// # Errors
    /// As for [`sample`](Self::sample); [`Incompatible`](crate::ErrorKind::Incompatible) if the server scored more
    /// tokens, as older servers do.
    ///
    /// # Blocking
    /// As for [`sample`](Self::sample).
    ///
    /// # Example: score an answer, given the question
    /// ```
    /// # #[cfg(feature = "local")] {
    /// # let server = tinkex::local::Server::start(Default::default())?;
    /// # let service = tinkex::ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build()?;
    /// # let sampler = service.create_sampling_client("tinkex/nano")?;
    /// use tinkex::types::ModelInput;
    ///
    /// let logprobs = sampler.compute_logprobs_last(&ModelInput::from_ints([72, 105, 33]), 1).wait()?;
    /// assert!(logprobs[1].is_none() && logprobs[2].is_some());
    /// # }
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub fn compute_logprobs_last(&self, prompt: &ModelInput, n: u32) -> Pending<Vec<Option<f32>>> {
        self.logprobs(prompt, Some(n))
    }

    fn logprobs(&self, prompt: &ModelInput, last_n: Option<u32>) -> Pending<Vec<Option<f32>>> {
        const VERB: &str = "SamplingClient.compute_logprobs";
        let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
        let options = SampleOptions {
            include_prompt_logprobs: true,
            prompt_logprobs_last_n: last_n,
            ..Default::default()
        };
        if let Err(error) = check(prompt, 1, &params, &options) {
            return Pending::failed(VERB, error);
        }
        self.submit(VERB, |ticket, cancelled_by| {
            Msg::Logprobs(Box::new(Request {
                ticket,
                prompt: prompt.clone(),
                num_samples: 1,
                params,
                options,
                record_stability_info: self.record_stability_info,
                persistent: true,
                _cancelled_by: cancelled_by,
                read: |response| {
                    response
                        .prompt_logprobs
                        .ok_or_else(|| missing_in_answer("the prompt's log-probabilities"))
                },
            }))
        })
    }

    /// Ends this client: its queued and running samples and all later calls return an error. The session and its other
    /// clients continue. A second call does nothing.
    ///
    /// # Blocking
    /// Until the client's thread has ended, at most `Timeouts::close`.
    pub fn close(&self) {
        let session = self.inner.owner.session();
        // Do nothing in a forked child process: the client's thread runs in the parent process.
        if session.is_forked_child() {
            return;
        }
        let deadline = Instant::now() + session.close_limit();
        // Stop the actor first, which answers all callers, because closing the poller can take time.
        self.inner.actor.stop();
        if let Some(poller) = &self.inner.poller {
            poller.close(session.close_limit() / 2);
        }
        self.inner.cancel.cancel();
        self.inner.actor.join(deadline);
    }

    fn submit<T: Send + 'static>(
        &self,
        verb: &'static str,
        message: impl FnOnce(Ticket<T>, Option<Registration>) -> Msg,
    ) -> Pending<T> {
        let (actor, owner) = (&self.inner.actor, &self.inner.owner);
        if owner.session().is_forked_child() {
            return Pending::failed(verb, forked());
        }
        let cancelled = self.cancelled_by.as_ref().is_some_and(CancelToken::is_cancelled);
        if cancelled {
            return Pending::failed(verb, Error::cancelled());
        }
        let (ticket, pending) = owner.session().ticket(verb, &actor.cancel);
        let cancel = |token: &CancelToken| token.on_cancel(Arc::new(CancelSample(pending.canceller())));
        let message = message(ticket, self.cancelled_by.as_ref().map(cancel));
        // A thread that empties mailboxes must not wait until a mailbox has been emptied: it could wait for itself.
        let sent = if spawn::drains_mailboxes() {
            actor.try_send(owner.session(), message)
        } else {
            actor.send(owner.session(), message, pending.deadline())
        };
        match sent {
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

/// Cancels a sample when the caller's token is cancelled.
struct CancelSample(Canceller);

impl Wake for CancelSample {
    fn wake(&self) {
        self.0.cancel();
    }
}

fn check(
    prompt: &ModelInput,
    num_samples: u32,
    params: &SamplingParams,
    options: &SampleOptions,
) -> Result<()> {
    prompt.validate("prompt")?;
    if num_samples == 0 {
        return Err(Error::invalid("num_samples", "must be at least 1"));
    }
    params.validate()?;
    options.validate(prompt)
}
