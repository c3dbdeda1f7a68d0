//! The builder of a service client.

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

/// Builds a [`ServiceClient`]. A setting takes precedence over the environment, which takes precedence over the
/// default.
///
/// | setting | environment | default |
/// |---|---|---|
/// | [`api_key`](Self::api_key) | `TINKER_API_KEY` | the stored default key, see [`credentials`](crate::credentials) |
/// | [`credential_command`](Self::credential_command) | `TINKER_CREDENTIAL_CMD` | none |
/// | [`base_url`](Self::base_url) | `TINKER_BASE_URL` | the Tinker service |
/// | [`project_id`](Self::project_id) | `TINKER_PROJECT_ID` | none |
/// | [`tags`](Self::tags) | `TINKER_TAGS`, separated by commas | none |
/// | [`user_metadata`](Self::user_metadata) | | none |
/// | [`display_name`](Self::display_name) | | none |
/// | [`telemetry`](Self::telemetry) | `TINKER_TELEMETRY`: `1`, `true`, `yes` or `on` | off |
/// | [`proxy`](Self::proxy), [`no_proxy`](Self::no_proxy) | `HTTPS_PROXY` or `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY` | none |
/// | [`ca_bundle`](Self::ca_bundle) | | roots that are compiled in; the system's with the feature `native-roots` |
/// | [`default_headers_overrides`](Self::default_headers_overrides) | | none |
/// | [`sdk_version`](Self::sdk_version) | | `0.38.0` |
/// | [`timeouts`](Self::timeouts) | | see [`Timeouts`] |
/// | [`threads`](Self::threads) | | see [`Threads`] |
/// | [`dense_tensors`](Self::dense_tensors) | | false |
/// | [`pause_policy`](Self::pause_policy) | | wait |
/// | [`metrics`](Self::metrics) | | enabled |
/// | [`observer`](Self::observer), [`trace_context`](Self::trace_context) | | none |
///
/// If `CLOUDFLARE_ACCESS_CLIENT_ID` and `CLOUDFLARE_ACCESS_CLIENT_SECRET` are set, both are sent with every request.
///
/// # Example: explicit settings
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
    /// Replaces the environment of the process, if set.
    env: Option<Env>,
}

impl ServiceClientBuilder {
    /// Sets the credential: an API key (`tml-…`) or a JWT (`eyJ…`).
    ///
    /// A JWT is used in any case. An API key is not used if the server requires a
    /// [`credential_command`](Self::credential_command). Without a credential here or in the environment, the default
    /// key of `~/.tinker/credentials.json` is used.
    pub fn api_key(mut self, key: impl Into<String>) -> Self {
        self.settings.api_key = Some(Secret::new(key));
        self
    }

    /// Accepts an API key that begins with neither `tml-` nor `eyJ`, for servers that do not check the key. Default
    /// false.
    pub fn allow_any_key(mut self, yes: bool) -> Self {
        self.settings.any_key = yes;
        self
    }

    /// Sends dense tensors only, for servers that reject sparse ones (the self-hosted server SkyRL answers 422).
    /// Default false: two-dimensional `target_tokens` and `weights` are sent as sparse tensors if these are smaller.
    pub fn dense_tensors(mut self, yes: bool) -> Self {
        self.settings.dense_tensors = yes;
        self
    }

    /// Sets a shell command that prints a credential, an API key or a JWT. The command runs whenever the client needs
    /// the credential itself, for example for its first request and before each fetch of a token. White space around
    /// its output is removed; its exit status and its standard error are ignored. It has no input and no terminal.
    /// After `Timeouts::credential_command` it is killed with all processes that it started. A background process that
    /// the command leaves running must not keep the command's standard output open.
    ///
    /// The command is used only with servers that exchange credentials for tokens. The command and its output never
    /// appear in logs, errors or `Debug`.
    ///
    /// # Example: read the key from a secret store
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

    /// Adds headers to every request. A header replaces the client's own header of the same name, even the credential.
    /// The values never appear in logs, errors or `Debug`. If the name suggests a secret (`Authorization`,
    /// `X-Gateway-Token`), the value is also removed from texts that the server returns. Other headers become part of a
    /// [`SamplerHandle`](crate::SamplerHandle).
    ///
    /// # Example: a gateway with its own token
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

    /// Sends all requests through a proxy, even requests to this machine: `http://user:password@host:port`, or with the
    /// scheme `https`, `socks4`, `socks5` or `socks5h`. Percent-encode special characters in user and password. An HTTP
    /// proxy must allow `CONNECT`, also for servers without TLS. The password is never shown.
    ///
    /// Without this setting the proxy comes from the environment: `HTTPS_PROXY` for an `https://` server or
    /// `HTTP_PROXY` for an `http://` server, else `ALL_PROXY`. No proxy is used if `NO_PROXY` names the server or the
    /// server is on this machine.
    pub fn proxy(mut self, url: impl Into<String>) -> Self {
        self.settings.proxy = ProxyChoice::Always(Secret::new(url));
        self
    }

    /// Uses no proxy, even if the environment sets one.
    pub fn no_proxy(mut self) -> Self {
        self.settings.proxy = ProxyChoice::Never;
        self
    }

    /// Trusts only the certificates in this PEM file, for a server or a proxy with a private certificate authority.
    pub fn ca_bundle(mut self, path: impl Into<PathBuf>) -> Self {
        self.settings.ca_bundle = Some(path.into());
        self
    }

    /// Sets the version of the official Python SDK that the client reports as its own. By this version servers choose
    /// the flags (settings) that they send to a client. Default `0.38.0`, the version whose messages this crate
    /// implements.
    pub fn sdk_version(mut self, version: impl Into<String>) -> Self {
        self.settings.sdk_version = Some(version.into());
        self
    }

    /// Sets the address of the server, with its scheme: `http://…` or `https://…`. Write a host name with other letters
    /// than ASCII in its ASCII notation, `xn--…`. If `url` is blank, `TINKER_BASE_URL` or the default applies. With
    /// `http://`, others can read the credential in the network between this machine and the server; `build` then logs
    /// a warning, unless the server is on this machine.
    pub fn base_url(mut self, url: impl Into<String>) -> Self {
        self.settings.base_url = filled(url);
        self
    }

    /// Sets the project of the session. If `id` is blank, `TINKER_PROJECT_ID` applies.
    pub fn project_id(mut self, id: impl Into<String>) -> Self {
        self.settings.project_id = filled(id);
        self
    }

    /// Sets the tags of the session.
    pub fn tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.settings.tags = Some(tags.into_iter().map(Into::into).collect());
        self
    }

    /// Adds metadata to the session. Models have separate metadata:
    /// [`ModelOptions::user_metadata`](crate::types::ModelOptions::user_metadata).
    pub fn user_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.user_metadata.insert(key.into(), value.into());
        self
    }

    /// Sets the display name of the session.
    pub fn display_name(mut self, name: impl Into<String>) -> Self {
        self.settings.display_name = Some(name.into());
        self
    }

    /// Changes time limits; see [`Timeouts`] for the defaults.
    pub fn timeouts(mut self, change: impl FnOnce(&mut Timeouts)) -> Self {
        change(&mut self.settings.timeouts);
        self
    }

    /// Removes the deadline of operations. Waits then end only with a result, an error, `cancel` or `close`.
    pub fn unbounded_operations(self) -> Self {
        self.timeouts(|timeouts| timeouts.operation = Duration::MAX)
    }

    /// Changes number, stack size and idle time of threads; see [`Threads`] for the defaults.
    pub fn threads(mut self, change: impl FnOnce(&mut Threads)) -> Self {
        change(&mut self.settings.threads);
        self
    }

    /// Sets the reaction of an operation when the server pauses it: for lack of capacity, because of a rate limit, or
    /// because the account is unpaid. Default: wait.
    pub fn pause_policy(mut self, policy: PausePolicy) -> Self {
        self.settings.pause_policy = policy;
        self
    }

    /// Enables the circuit breakers and changes their settings; see [`CircuitBreaker`] for the defaults. Default: off.
    ///
    /// # Example: open after three failures in a row
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

    /// Sets an observer, which is called for events inside the client.
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.settings.seeing.observed = Observed::by(observer);
        self
    }

    /// Records metrics in `metrics`, which several clients may share; [`Metrics::disabled`] records nothing. Default:
    /// new metrics for this client, see [`ServiceClient::metrics`].
    pub fn metrics(mut self, metrics: Metrics) -> Self {
        self.settings.seeing.metrics = metrics;
        self
    }

    /// Sets a function that returns the trace context of an operation. It is called on the thread that submits the
    /// operation; the context is sent as `traceparent` and `tracestate` with every request of the operation.
    pub fn trace_context(
        mut self,
        current: impl Fn() -> Option<TraceContext> + Send + Sync + 'static,
    ) -> Self {
        self.settings.seeing.trace = Tracing::by(Arc::new(current));
        self
    }

    /// Enables telemetry: the client reports the start and the end of its session to the server, and each failed
    /// operation with the text of its error. It never reports credentials, requests or answers. Default off.
    /// [`ServiceClient::telemetry`] counts the events.
    pub fn telemetry(mut self, yes: bool) -> Self {
        self.settings.telemetry = Some(yes);
        self
    }

    /// Replaces the HTTP connections of this crate by another transport. Give each client its own transport: when a
    /// client is closed, it shuts its transport down.
    pub fn transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.transport = Some(transport);
        self
    }

    /// Replaces the clock.
    #[cfg(any(test, feature = "testing"))]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Ignores environment variables.
    #[cfg(any(test, feature = "testing"))]
    pub fn without_environment(mut self) -> Self {
        self.env = Some(Env::empty());
        self
    }

    /// Checks the settings and makes the client. Nothing is sent: the first call that needs a session opens the
    /// session.
    ///
    /// # Errors
    /// A missing, malformed or expired credential, a stored key that cannot be read, a base URL with an invalid scheme,
    /// host, port or path (the error names the part), a malformed proxy or header, a CA bundle without certificates, a
    /// timeout of zero, a thread that the operating system cannot start.
    pub fn build(self) -> Result<ServiceClient> {
        ServiceClient::start(self.session()?)
    }

    /// Makes a sampling client from a [`SamplerHandle`], which may come from another process. The client uses the
    /// credentials and settings of this builder. The handle adds the flags (settings that the server sent to the first
    /// client) and its headers. Headers of the builder take precedence, and headers that authenticate are never taken
    /// from the handle. The client keeps the handle's session alive with heartbeats, and never ends that session on the
    /// server.
    ///
    /// Unless [`base_url`](Self::base_url) is set, the client sends its credential to the server that the handle names:
    /// accept handles only from sources that you trust with your key.
    ///
    /// # Errors
    /// A malformed handle (nothing is sent); otherwise as for [`build`](Self::build).
    ///
    /// # Blocking
    /// For one request, if the flags in the handle say that the server numbers the clients of a sampler; otherwise
    /// nothing is sent.
    pub fn from_sampler_handle<H>(mut self, handle: H) -> Result<SamplingClient>
    where
        H: TryInto<SamplerHandle>,
        Error: From<H::Error>,
    {
        let handle = handle.try_into()?;
        self.settings.base_url.get_or_insert_with(|| handle.base_url().into());
        // Insert the handle's headers before the builder's: later headers replace earlier ones, so the builder's take
        // precedence.
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

/// Returns `None` for a text that is empty or only white space.
fn filled(text: impl Into<String>) -> Option<String> {
    Some(text.into()).filter(|text| !text.trim().is_empty())
}

impl std::fmt::Debug for ServiceClientBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceClientBuilder").field("settings", &self.settings).finish_non_exhaustive()
    }
}
