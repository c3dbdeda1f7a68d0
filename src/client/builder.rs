//! How a service client is set up.

use std::sync::Arc;
use std::time::Duration;

use super::ServiceClient;
use crate::config::{CircuitBreaker, PausePolicy, Settings, Threads, Timeouts};
use crate::env::Env;
use crate::error::Result;
use crate::event::{Observed, Observer, TraceContext, Tracing};
use crate::http::{Transport, Ureq};
use crate::metrics::Metrics;
use crate::secret::Secret;
use crate::session::Session;
use crate::sync::clock::Clock;

/// Sets up a [`ServiceClient`]: what is set here wins over the environment, and that over the default.
///
/// | setting | environment | default |
/// |---|---|---|
/// | [`api_key`](Self::api_key) | `TINKER_API_KEY` | none: required |
/// | [`base_url`](Self::base_url) | `TINKER_BASE_URL` | the Tinker service |
/// | [`project_id`](Self::project_id) | `TINKER_PROJECT_ID` | none |
/// | [`tags`](Self::tags) | `TINKER_TAGS`, a comma list | none |
/// | [`user_metadata`](Self::user_metadata) | | none |
/// | [`display_name`](Self::display_name) | | none |
/// | [`telemetry`](Self::telemetry) | `TINKER_TELEMETRY`: `1`, `true`, `yes` or `on` | off |
/// | [`timeouts`](Self::timeouts) | | see [`Timeouts`] |
/// | [`threads`](Self::threads) | | see [`Threads`] |
/// | [`dense_tensors`](Self::dense_tensors) | | false |
/// | [`pause_policy`](Self::pause_policy) | | wait |
/// | [`metrics`](Self::metrics) | | kept |
/// | [`observer`](Self::observer), [`trace_context`](Self::trace_context) | | none |
///
/// With `CLOUDFLARE_ACCESS_CLIENT_ID` and `CLOUDFLARE_ACCESS_CLIENT_SECRET` set, both go along with every request.
///
/// # Example: everything explicit
/// ```
/// use std::time::Duration;
/// use tinkex::ServiceClient;
///
/// let service = ServiceClient::builder()
///     .api_key("tml-example")
///     .base_url("http://127.0.0.1:8000")
///     .project_id("p-1")
///     .tags(["nightly"])
///     .timeouts(|it| it.operation = Duration::from_secs(600))
///     .build()?;
/// # drop(service);
/// # Ok::<(), tinkex::Error>(())
/// ```
#[must_use]
#[derive(Default)]
pub struct ServiceClientBuilder {
    settings: Settings,
    transport: Option<Arc<dyn Transport>>,
    clock: Clock,
    /// `None` stands for the environment of the process.
    env: Option<Env>,
}

impl ServiceClientBuilder {
    /// The credential: an API key (`tml-…`) or a JWT (`eyJ…`).
    pub fn api_key(mut self, key: impl Into<String>) -> Self {
        self.settings.api_key = Some(Secret::new(key));
        self
    }

    /// Accepts a key of any form, for servers that do not check it. Default false.
    pub fn allow_any_key(mut self, yes: bool) -> Self {
        self.settings.any_key = yes;
        self
    }

    /// Sends only dense tensors, for servers that take no others (SkyRL answers sparse ones with 422). Default false: matrices
    /// of `target_tokens` and `weights` are sent sparse where that is smaller.
    pub fn dense_tensors(mut self, yes: bool) -> Self {
        self.settings.dense_tensors = yes;
        self
    }

    /// The address of the server, with scheme: `http://…` or `https://…`.
    pub fn base_url(mut self, url: impl Into<String>) -> Self {
        self.settings.base_url = Some(url.into());
        self
    }

    /// The project that the session belongs to.
    pub fn project_id(mut self, id: impl Into<String>) -> Self {
        self.settings.project_id = Some(id.into());
        self
    }

    /// Tags of the session.
    pub fn tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.settings.tags = Some(tags.into_iter().map(Into::into).collect());
        self
    }

    /// Something to find the session and its models by.
    pub fn user_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.user_metadata.insert(key.into(), value.into());
        self
    }

    /// A name of the session for people.
    pub fn display_name(mut self, name: impl Into<String>) -> Self {
        self.settings.display_name = Some(name.into());
        self
    }

    /// Changes how long things may take; see [`Timeouts`] for the defaults.
    pub fn timeouts(mut self, change: impl FnOnce(&mut Timeouts)) -> Self {
        change(&mut self.settings.timeouts);
        self
    }

    /// Lets operations take as long as they need. Waits then end only with a result, an error, `cancel` or `close`.
    pub fn unbounded_operations(self) -> Self {
        self.timeouts(|it| it.operation = Duration::MAX)
    }

    /// Changes how many threads there may be, how large and for how long; see [`Threads`] for the defaults.
    pub fn threads(mut self, change: impl FnOnce(&mut Threads)) -> Self {
        change(&mut self.settings.threads);
        self
    }

    /// What operations do while the server pauses them for lack of capacity or because of a rate limit. Default: wait.
    pub fn pause_policy(mut self, policy: PausePolicy) -> Self {
        self.settings.pause_policy = policy;
        self
    }

    /// Stops sending requests of a class for a while after too many failures in a row. Default: it never does.
    ///
    /// # Example: three failures in a row are enough
    /// ```
    /// use tinkex::{CircuitBreaker, ServiceClient};
    ///
    /// let builder = ServiceClient::builder()
    ///     .circuit_breaker(CircuitBreaker { failures: 3, ..CircuitBreaker::default() });
    /// # drop(builder);
    /// ```
    pub fn circuit_breaker(mut self, breaker: CircuitBreaker) -> Self {
        self.settings.circuit_breaker = Some(breaker);
        self
    }

    /// Is told what happens inside of the client.
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.settings.seeing.observed = Observed::by(observer);
        self
    }

    /// Keeps the numbers of the client here, so that several clients can share them; [`Metrics::disabled`] keeps none.
    /// Default: numbers of the client's own, see [`ServiceClient::metrics`].
    pub fn metrics(mut self, metrics: Metrics) -> Self {
        self.settings.seeing.metrics = metrics;
        self
    }

    /// Asks for the place in a distributed trace of each operation, on the thread that submits it, and sends it along as
    /// `traceparent` and `tracestate` with every request of the operation.
    pub fn trace_context(
        mut self,
        current: impl Fn() -> Option<TraceContext> + Send + Sync + 'static,
    ) -> Self {
        self.settings.seeing.trace = Tracing::by(Arc::new(current));
        self
    }

    /// Reports to the server how this client is used: that its session began and ended, and which operations failed,
    /// with the text of the error. Never credentials, requests or answers. Default off;
    /// [`ServiceClient::telemetry`] counts what was reported.
    pub fn telemetry(mut self, yes: bool) -> Self {
        self.settings.telemetry = Some(yes);
        self
    }

    /// Carries requests by something else than this crate's own sockets. A transport belongs to one client, which shuts
    /// it down at its end.
    pub fn transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.transport = Some(transport);
        self
    }

    /// Tells time by another clock.
    #[cfg(any(test, feature = "testing"))]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Ignores the environment's variables.
    #[cfg(any(test, feature = "testing"))]
    pub fn without_environment(mut self) -> Self {
        self.env = Some(Env::empty());
        self
    }

    /// Checks the settings and makes the client. Nothing is sent yet: the session is opened by the first call that
    /// needs it.
    ///
    /// # Errors
    /// A missing or malformed key, a base URL without scheme, a timeout of zero, no thread.
    pub fn build(self) -> Result<ServiceClient> {
        let config = self.settings.resolve(&self.env.unwrap_or_else(Env::process))?;
        let transport = self.transport.unwrap_or_else(|| Arc::new(Ureq::new(&config.base_url)));
        ServiceClient::start(Session::new(config, transport, self.clock))
    }
}

impl std::fmt::Debug for ServiceClientBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceClientBuilder").field("settings", &self.settings).finish_non_exhaustive()
    }
}
