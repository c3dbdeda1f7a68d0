//! How a service client is set up.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{SamplerHandle, SamplingClient, ServiceClient};
use crate::config::network::ProxyChoice;
use crate::config::{CircuitBreaker, PausePolicy, Settings, Threads, Timeouts};
use crate::credentials::Secret;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::event::{Observed, Observer, TraceContext, Tracing};
use crate::http::{Transport, Ureq};
use crate::metrics::Metrics;
use crate::session::Session;
use crate::sync::clock::Clock;

/// Sets up a [`ServiceClient`]: what is set here wins over the environment, and that over the default.
///
/// | setting | environment | default |
/// |---|---|---|
/// | [`api_key`](Self::api_key) | `TINKER_API_KEY` | the stored default key, see [`credentials`](crate::credentials) |
/// | [`credential_command`](Self::credential_command) | `TINKER_CREDENTIAL_CMD` | none |
/// | [`base_url`](Self::base_url) | `TINKER_BASE_URL` | the Tinker service |
/// | [`project_id`](Self::project_id) | `TINKER_PROJECT_ID` | none |
/// | [`tags`](Self::tags) | `TINKER_TAGS`, a comma list | none |
/// | [`user_metadata`](Self::user_metadata) | | none |
/// | [`display_name`](Self::display_name) | | none |
/// | [`telemetry`](Self::telemetry) | `TINKER_TELEMETRY`: `1`, `true`, `yes` or `on` | off |
/// | [`proxy`](Self::proxy), [`no_proxy`](Self::no_proxy) | `HTTPS_PROXY` or `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY` | none |
/// | [`ca_bundle`](Self::ca_bundle) | | roots that are compiled in, or with the feature `native-roots` the system's |
/// | [`default_headers_overrides`](Self::default_headers_overrides) | | none |
/// | [`sdk_version`](Self::sdk_version) | | `0.38.0` |
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
    ///
    /// A JWT is always used. A key is used unless the server insists on the
    /// [`credential_command`](Self::credential_command). Where there is neither, in the environment neither, the default
    /// key of `~/.tinker/credentials.json` is.
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

    /// A line for the shell that prints a credential, an API key or a JWT. It is run whenever one is needed: at the start,
    /// and each time before a token is fetched. White space around what it prints is removed; its exit status and its
    /// errors do not count. It gets no input and no terminal, and is killed after `Timeouts::credential_command`, with
    /// everything that it started. A process that it leaves behind must not keep its standard output.
    ///
    /// Only servers that trade credentials for tokens take one from a command. Neither the line nor what it prints is ever
    /// shown.
    ///
    /// # Example: ask a keeper of secrets
    /// ```
    /// use tinkex::ServiceClient;
    ///
    /// let builder = ServiceClient::builder().credential_command("secret-tool lookup service tinker");
    /// # drop(builder);
    /// ```
    pub fn credential_command(mut self, line: impl Into<String>) -> Self {
        self.settings.credential_command = Some(Secret::new(line));
        self
    }

    /// Headers for every request. One that the client would send by itself, even the credential, is replaced. Their values
    /// are never shown; if the name speaks of a secret (`Authorization`, `X-Gateway-Token`), the value is also taken out
    /// of what a server repeats. All others go along with a [`SamplerHandle`](crate::SamplerHandle).
    ///
    /// # Example: a gateway that wants a word of its own
    /// ```
    /// use tinkex::ServiceClient;
    ///
    /// let builder = ServiceClient::builder()
    ///     .default_headers_overrides([("X-Gateway-Token", "open-sesame"), ("X-Team", "research")]);
    /// # drop(builder);
    /// ```
    pub fn default_headers_overrides<N, V>(mut self, headers: impl IntoIterator<Item = (N, V)>) -> Self
    where
        N: Into<String>,
        V: Into<String>,
    {
        let headers = headers.into_iter().map(|(name, value)| (name.into(), Secret::new(value)));
        self.settings.overrides.extend(headers);
        self
    }

    /// Sends everything through this proxy, even to this machine itself: `http://user:password@host:port`; `https`,
    /// `socks4`, `socks5` and `socks5h` are known as well. Special characters of user and password are written in percent
    /// encoding. A proxy of HTTP has to allow `CONNECT`, which is used for servers without TLS as well. The password is
    /// never shown.
    ///
    /// Without this the environment decides, by the scheme of the server: `HTTPS_PROXY` or `HTTP_PROXY`, then `ALL_PROXY`,
    /// unless `NO_PROXY` names the server or it is on this machine.
    pub fn proxy(mut self, url: impl Into<String>) -> Self {
        self.settings.proxy = ProxyChoice::Always(Secret::new(url));
        self
    }

    /// Uses no proxy, whatever the environment says.
    pub fn no_proxy(mut self) -> Self {
        self.settings.proxy = ProxyChoice::Never;
        self
    }

    /// Trusts the certificates in this PEM file instead of all others, for a server or a proxy with certificates of its
    /// own.
    pub fn ca_bundle(mut self, path: impl Into<PathBuf>) -> Self {
        self.settings.ca_bundle = Some(path.into());
        self
    }

    /// The version of the official SDK as which this client presents itself; servers choose flags by it. Default
    /// `0.38.0`, whose messages this crate writes.
    pub fn sdk_version(mut self, version: impl Into<String>) -> Self {
        self.settings.sdk_version = Some(version.into());
        self
    }

    /// The address of the server, with scheme: `http://…` or `https://…`. Hosts with letters other than ASCII are written as
    /// `xn--…`. An empty text leaves it to the environment. Over `http://` to another machine anybody on the way can read the
    /// credential, which is said once in the log.
    pub fn base_url(mut self, url: impl Into<String>) -> Self {
        self.settings.base_url = filled(url);
        self
    }

    /// The project that the session belongs to. An empty text leaves it to the environment.
    pub fn project_id(mut self, id: impl Into<String>) -> Self {
        self.settings.project_id = filled(id);
        self
    }

    /// Tags of the session.
    pub fn tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.settings.tags = Some(tags.into_iter().map(Into::into).collect());
        self
    }

    /// Something to find the session by. Its models have metadata of their own,
    /// [`ModelOptions::user_metadata`](crate::types::ModelOptions::user_metadata).
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

    /// What operations do while the server pauses them for lack of capacity, because of a rate limit, or until the account is
    /// settled. Default: wait.
    pub fn pause_policy(mut self, policy: PausePolicy) -> Self {
        self.settings.pause_policy = policy;
        self
    }

    /// Turns on the circuit breakers and changes their settings; see [`CircuitBreaker`] for the defaults. Default: off.
    ///
    /// # Example: three failures in a row are enough
    /// ```
    /// use tinkex::ServiceClient;
    ///
    /// let builder = ServiceClient::builder().circuit_breaker(|it| it.failures = 3);
    /// # drop(builder);
    /// ```
    pub fn circuit_breaker(mut self, change: impl FnOnce(&mut CircuitBreaker)) -> Self {
        change(self.settings.circuit_breaker.get_or_insert_default());
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
    /// A missing, malformed or expired credential, a stored key that cannot be read, a base URL whose scheme, host, port or path
    /// is none (the error names the part), a malformed proxy or header, a CA bundle without certificates, a timeout of zero, no thread.
    pub fn build(self) -> Result<ServiceClient> {
        ServiceClient::start(self.session()?)
    }

    /// Makes a client of the sampler behind a [`SamplerHandle`] instead, which somebody else made. It has the credentials and
    /// settings of this builder, and the flags and headers that the handle holds; a header of the builder's stands in the place
    /// of the handle's, and what says who is asking is never the handle's. It keeps the handle's session alive, and never finishes
    /// it. Its server is the handle's, unless [`base_url`](Self::base_url) is called: take handles only from those whom you
    /// would tell your key.
    ///
    /// # Errors
    /// What is no handle (nothing is sent); otherwise as for [`build`](Self::build).
    ///
    /// # Blocking
    /// For one request, if the server numbers the clients of a sampler itself; otherwise nothing is sent yet.
    pub fn from_sampler_handle<H>(mut self, handle: H) -> Result<SamplingClient>
    where
        H: TryInto<SamplerHandle>,
        Error: From<H::Error>,
    {
        let handle = handle.try_into()?;
        self.settings.base_url.get_or_insert_with(|| handle.base_url().into());
        // Those of this builder come later, and so stand in their place.
        self.settings.overrides.splice(..0, handle.headers()?);
        SamplingClient::of_handle(self.session()?, handle)
    }

    fn session(self) -> Result<Arc<Session>> {
        let config = self.settings.resolve(&self.env.unwrap_or_else(Env::process))?;
        let transport = match self.transport {
            Some(transport) => transport,
            None => {
                config.warn_of_plain_text();
                Arc::new(Ureq::new(&config.network)?)
            }
        };
        Ok(Session::new(config, transport, self.clock))
    }
}

/// A text, unless there is nothing in it.
fn filled(text: impl Into<String>) -> Option<String> {
    Some(text.into()).filter(|it| !it.trim().is_empty())
}

impl std::fmt::Debug for ServiceClientBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceClientBuilder").field("settings", &self.settings).finish_non_exhaustive()
    }
}
