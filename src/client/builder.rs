//! How a service client is set up.

use std::sync::Arc;
use std::time::Duration;

use super::ServiceClient;
use crate::config::{Settings, Timeouts};
use crate::env::Env;
use crate::error::Result;
use crate::http::{Transport, Ureq};
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

    /// How many operations may wait for their results at the same time; more of them queue. Default 2048.
    pub fn max_in_flight(mut self, n: usize) -> Self {
        self.settings.max_in_flight = Some(n);
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
