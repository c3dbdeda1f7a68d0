//! The client that samples from a model.

mod handle;
mod sample;

use std::sync::Arc;
use std::time::Instant;

use crate::client::create::{self, CreatedSampler};
use crate::client::{Client, Hold, ServiceClientBuilder};
use crate::error::{Error, Result};
use crate::http::Call;
use crate::pending::{Canceller, Pending};
use crate::session::{Child, Job, Owner, Poller, Ticket, incomplete};
use crate::sync::CancelToken;
use crate::sync::actor::Actor;
use crate::sync::cancel::{Registration, Wake};
use crate::sync::process::forked;
use crate::sync::spawn;
use crate::types::{ModelInput, SampleOptions, SampleResponse, SamplingParams};

pub use handle::SamplerHandle;
use sample::{Request, Sample, Sampler};

/// The samples of a client have so many numbers before those of its next clone begin (PROTOCOL §4.5).
const SEQ_IDS_PER_CLONE: u64 = 1_000_000_000;

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
    /// Cancels the samples of this handle.
    cancelled_by: Option<CancelToken>,
    record_stability_info: bool,
}

struct Inner {
    sampling_session_id: Arc<str>,
    base_model: Option<String>,
    actor: Hold<Msg>,
    poller: Option<Arc<Poller>>,
    /// The poller's token.
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
            Msg::Sample(request) => self.begin(*request),
            Msg::Logprobs(request) => self.begin(*request),
        }
    }
}

impl SamplingActor {
    /// Numbers a sample, waits until it may be sent, and passes it to a thread that sends it. The samples behind it wait in the
    /// mailbox meanwhile, whose bound is therefore that of the samples that wait.
    fn begin<T: Send + 'static>(&self, request: Request<T>) {
        if let Some(sample) = Sample::new(self.sampler.clone(), request).admitted() {
            // If the pool is closed, the ticket in the dropped job answers.
            let _ = self.sampler.session.pool[Job::Post].spawn(move || sample.submit());
        }
    }
}

impl SamplingClient {
    /// A client of a sampling session, which is asked for its base model if that is not known yet.
    pub(super) fn start_asking(owner: Arc<Owner>, mut created: CreatedSampler) -> Result<Self> {
        let session = owner.session();
        if created.base_model.is_none() {
            let once = |it: Call| it.once(session.config.timeouts.exchange);
            let known = create::base_model_of(session, &created.sampling_session_id, once, &session.cancel);
            // The server need not be able to say it.
            created.base_model = known.ok().flatten();
        }
        Self::start_at(owner, created, 0)
    }

    /// A client of the sampler behind a handle, with everything else from the environment: see
    /// [`ServiceClientBuilder::from_sampler_handle`](crate::ServiceClientBuilder::from_sampler_handle).
    ///
    /// # Errors
    /// As there.
    ///
    /// # Blocking
    /// As there.
    pub fn from_sampler_handle<H>(handle: H) -> Result<Self>
    where
        H: TryInto<SamplerHandle>,
        Error: From<H::Error>,
    {
        ServiceClientBuilder::default().from_sampler_handle(handle)
    }

    /// A handle by which other processes can make clients of the same sampler, as many as they like. It is valid as long as
    /// the session lives, which any of them keeps alive. It holds no credentials. Nothing is sent.
    pub fn get_sampler_handle(&self) -> SamplerHandle {
        SamplerHandle::of(self)
    }

    /// A client whose first sample has a number.
    pub(super) fn start_at(owner: Arc<Owner>, created: CreatedSampler, first_seq_id: u64) -> Result<Self> {
        let session = owner.session();
        let sampling_session_id: Arc<str> = created.sampling_session_id.into();
        // Cancelled with the client, whose token is made before its actor.
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
        let actor = Client::start(session, "samp", SamplingActor { sampler })?;
        let base_model = created.base_model;
        Ok(SamplingClient {
            inner: Arc::new(Inner { sampling_session_id, base_model, actor, poller, cancel, owner }),
            cancelled_by: None,
            record_stability_info: false,
        })
    }

    /// This client with a token that cancels the samples that are submitted through the returned handle, all at once.
    /// Other handles of the client are not concerned, and the client stays open.
    ///
    /// # Example: a round of samples that can be abandoned
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

    /// This client, with samples that have the server keep what it needs to judge numerical stability (PROTOCOL §3.4 #23), or
    /// not. Default not.
    #[must_use]
    pub fn record_stability_info(self, yes: bool) -> Self {
        SamplingClient { record_stability_info: yes, ..self }
    }

    /// The server's id of this client's sampling session.
    pub fn sampling_session_id(&self) -> &str {
        &self.inner.sampling_session_id
    }

    /// The base model's name, where the server says it: it was asked when this client was made, if the name was not known. Nothing
    /// is sent.
    pub fn get_base_model(&self) -> Option<&str> {
        self.inner.base_model.as_deref()
    }

    /// Draws answers to a prompt (PROTOCOL §3.4 #23). Dropping the [`Pending`] cancels it.
    ///
    /// A server that has too many samples (HTTP 429) holds up all samples of the session together: for one second, or five if the
    /// prompt is larger than about 13 000 tokens. Its `retry-after` is not used then. That of any other answer that is worth
    /// another attempt (408, 425, 5xx) is, up to a minute.
    ///
    /// A sample outlives an outage of the server: it is submitted again until `Timeouts::operation`. Where `Timeouts::submit` is
    /// shorter than its default, that ends the attempts at one submission, and the sample with them.
    ///
    /// # Errors
    /// Through the [`Pending`]: an empty prompt, no samples or parameters out of their range (nothing is sent), or
    /// what the server says; [`Decode`](crate::ErrorKind::Decode) if it sent another number of sequences, or of anything else that was
    /// asked for. An error at the operation's deadline has the last failure as its cause.
    ///
    /// # Blocking
    /// While the mailbox is full, that is, while 1024 samples of this client wait for their turn to be sent (see
    /// [`Threads::mailbox`](crate::Threads)): submitting is then as fast as the server accepts. At most until the operation's
    /// deadline. A callback that runs on a thread of the client gets an error instead, because nobody could make room.
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
    /// As for [`sample`](Self::sample); options that do not fit the prompt (nothing is sent);
    /// [`Incompatible`](crate::ErrorKind::Incompatible) if the server took no notice of an option, as older ones do.
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
        if let Err(error) = check(prompt, num_samples, params, options) {
            return Pending::failed(VERB, error);
        }
        self.submit(VERB, |ticket, cancelled_by| {
            Msg::Sample(Box::new(Request {
                ticket,
                prompt: prompt.clone(),
                num_samples,
                params: params.clone(),
                options: options.clone(),
                record_stability_info: self.record_stability_info,
                persistent: false,
                _cancelled_by: cancelled_by,
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
        self.logprobs(prompt, None)
    }

    /// As [`compute_logprobs`](Self::compute_logprobs), of the last `n` tokens of the prompt alone, 1 to `len(prompt) - 1`;
    /// the list has `None` before them. A server that has the beginning in its cache need not compute it again, so that
    /// this costs about as much as the last tokens.
    ///
    /// # Errors
    /// As for [`sample`](Self::sample); [`Incompatible`](crate::ErrorKind::Incompatible) if the server scored more than that,
    /// as older ones do.
    ///
    /// # Blocking
    /// As for [`sample`](Self::sample).
    ///
    /// # Example: the answer, given the question
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
        let session = self.inner.owner.session();
        // It is the parent's to close.
        if session.is_foreign() {
            return;
        }
        let deadline = Instant::now() + session.closing();
        // First of all callers are answered.
        self.inner.actor.stop();
        if let Some(poller) = &self.inner.poller {
            poller.close(session.closing() / 2);
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
        if owner.session().is_foreign() {
            return Pending::failed(verb, forked());
        }
        let cancelled = self.cancelled_by.as_ref().is_some_and(CancelToken::is_cancelled);
        if cancelled {
            return Pending::failed(verb, Error::cancelled());
        }
        let (ticket, pending) = owner.session().ticket(verb, &actor.cancel);
        let cancel = |it: &CancelToken| it.on_cancel(Arc::new(CancelSample(pending.canceller())));
        let message = message(ticket, self.cancelled_by.as_ref().map(cancel));
        // Such a thread is one of those that make room in the mailbox.
        let sent = if spawn::drains_mailboxes() {
            actor.mailbox.try_send(message)
        } else {
            actor.mailbox.send(message, pending.deadline())
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

/// Cancels a sample when the caller's own token is cancelled.
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
