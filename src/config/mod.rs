//! The settings of a client. `Settings` has what the caller set in the builder. When the client is built,
//! `Settings::resolve` fills in the environment and the defaults, checks all values and returns a `Config`. Submodules:
//! `address` (URLs), `network` (proxy and certificates), `overrides` (headers of the caller).

pub(crate) mod address;
pub(crate) mod network;
pub(crate) mod overrides;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::credentials::source::{Credentials, Source};
use crate::credentials::{CredentialStore, Secret};
use crate::env::Env;
use crate::error::{Error, Result};
use crate::event::Seeing;
use address::Address;
use network::{Network, NetworkSettings, ProxyChoice};

/// URL of the Tinker service.
pub(crate) const DEFAULT_BASE_URL: &str = "https://tinker.thinkingmachines.dev/services/tinker-prod";

/// The version of the official Python SDK whose protocol this crate implements. The client reports this version, and
/// servers choose by it which flags (settings) they send to the client.
pub(crate) const SDK_VERSION: &str = "0.38.0";

/// Time limits. Each wait of the crate ends at one of these limits at the latest.
///
/// | field | default | bounds |
/// |---|---|---|
/// | `connect` | 5 s | one connection attempt with TLS; also all first attempts to connect to a server |
/// | `first_contact` | 60 s | all attempts of one request to a server that has never answered, or only with 5xx; at most `submit` |
/// | `exchange` | 60 s | time without progress in one HTTP exchange, unless a row below applies |
/// | `poll` | 45 s | time without progress in one HTTP exchange that waits for a result |
/// | `heartbeat` | 10 s | one heartbeat; one request for the flags (settings of the server) that can change |
/// | `submit` | 300 s | all attempts of one request together |
/// | `silence` | 300 s | time without contact with the server while waiting for a result |
/// | `operation` | 2 h | a whole operation, from its submission to its result |
/// | `close` | 2 s | `close` of one client, and dropping the last handle |
/// | `finish` | 10 s | `ServiceClient::close`, including telling the server |
/// | `credential_command` | 60 s | one run of the credential command |
///
/// Each piece of a body that is written or read counts as progress: `exchange` and `poll` limit only the time in which
/// no byte moves. The transfer of large data and results may therefore take as long as their operation. The client
/// cannot see how much of an uploaded body is still in the buffers of the operating system. The limit of the wait for
/// the answer is therefore one second longer for each 32 KiB of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// Limit of one connection attempt, TLS included; also of all attempts to connect to a server for the first time.
    pub connect: Duration,
    /// Limit of all attempts of one request to a server that accepts connections but has never sent an answer other
    /// than 5xx. A proxy whose server is down behaves like this. At most `submit`.
    pub first_contact: Duration,
    /// Limit of the time without progress in one HTTP exchange, unless a field below applies.
    pub exchange: Duration,
    /// Limit of the time without progress in one HTTP exchange that waits for a result.
    pub poll: Duration,
    /// Limit of one heartbeat, and of one request for those flags (settings that the server sends) that can change
    /// during a session.
    pub heartbeat: Duration,
    /// Limit of all attempts of one request together. A sample that is not accepted in this time is submitted again
    /// until `operation`, unless this limit is below its default.
    pub submit: Duration,
    /// Limit of the time without contact with the server while waiting for a result.
    pub silence: Duration,
    /// Limit of a whole operation, from its submission to its result.
    pub operation: Duration,
    /// Limit of `close` of one client, and of dropping the last handle.
    pub close: Duration,
    /// Limit of `ServiceClient::close`. It covers all attempts to tell the server, sending the remaining telemetry, and
    /// waiting for the threads to end. For the threads, one quarter of the time `close` is reserved. If `finish` is
    /// less than `close`, the limit is `close`.
    pub finish: Duration,
    /// Limit of one run of the credential command. A command that takes longer is killed.
    pub credential_command: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let s = Duration::from_secs;
        Timeouts {
            connect: s(5),
            first_contact: s(60),
            exchange: s(60),
            poll: s(45),
            heartbeat: s(10),
            submit: s(300),
            silence: s(300),
            operation: s(2 * 3600),
            close: s(2),
            finish: s(10),
            credential_command: s(60),
        }
    }
}

/// The reaction of an operation when the server pauses it: for lack of capacity, because of a rate limit, or because
/// the account is unpaid (HTTP 402). The wait for payment lasts one hour at most, unless the server sets another limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PausePolicy {
    /// Waits until the deadline of the operation.
    #[default]
    Wait,
    /// Fails if one pause lasts longer than this.
    WaitAtMost(Duration),
    /// Fails immediately. The server may still carry out requests that it has accepted.
    Fail,
}

/// Settings of the circuit breakers, which stop sending requests after too many failures in a row. Set them with
/// [`ServiceClientBuilder::circuit_breaker`](crate::ServiceClientBuilder::circuit_breaker).
///
/// Each class of requests ([`Lane`](crate::transport::Lane)) has its own breaker. After `failures` failures in a row
/// the breaker opens: requests fail immediately with [`ErrorKind::CircuitOpen`](crate::ErrorKind::CircuitOpen). After
/// `reset` the breaker lets `trials` requests pass. The first success closes the breaker; a failure opens it again for
/// the time `reset`. A failure is a 5xx answer, a broken connection or a timeout; any other answer shows that the
/// server is up. An open breaker does not end the wait for results of accepted requests: the client polls for them
/// again later.
///
/// | field | default | meaning |
/// |---|---|---|
/// | `failures` | 5 | number of failures in a row that opens the breaker |
/// | `reset` | 30 s | time for which the breaker stays open |
/// | `trials` | 1 | number of concurrent requests that test whether the server is back |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CircuitBreaker {
    /// Number of failures in a row that opens the breaker. At least 1.
    pub failures: u32,
    /// Time for which the breaker stays open.
    pub reset: Duration,
    /// Number of concurrent requests that test whether the server is back. At least 1.
    pub trials: u32,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        CircuitBreaker { failures: 5, reset: Duration::from_secs(30), trials: 1 }
    }
}

impl CircuitBreaker {
    fn check(&self) -> Result<()> {
        if self.failures == 0 || self.trials == 0 || self.reset.is_zero() {
            return Err(Error::config(
                "circuit_breaker.failures and .trials must be at least 1, and .reset above zero",
            ));
        }
        Ok(())
    }
}

/// Limits of the threads of a client. Threads start when there is work for them.
///
/// | field | default | meaning |
/// |---|---|---|
/// | `max_in_flight` | 2048 | maximum number of operations that wait for results; further operations queue |
/// | `mailbox` | 1024 | maximum number of operations of one client that wait to be submitted; then submitting blocks |
/// | `stack_size` | 512 KiB | stack of each pool thread; only the used part takes memory |
/// | `idle` | 10 s | idle time after which a pool thread ends |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Threads {
    /// Maximum number of operations that wait for their results at the same time. Further operations queue.
    pub max_in_flight: usize,
    /// Maximum number of operations of one client that wait to be submitted. While it is reached, submitting blocks.
    pub mailbox: usize,
    /// Stack of each pool thread in bytes. Only the used part takes memory.
    pub stack_size: usize,
    /// Idle time after which a pool thread ends.
    pub idle: Duration,
}

impl Default for Threads {
    fn default() -> Self {
        Threads { max_in_flight: 2048, mailbox: 1024, stack_size: 512 * 1024, idle: Duration::from_secs(10) }
    }
}

impl Threads {
    fn check(&self) -> Result<()> {
        // TLS needs more stack than all other code, and overflows a smaller stack.
        const LEAST_STACK: usize = 128 * 1024;
        // The mailbox of a client is allocated at its full size when the client is created.
        const LARGEST_MAILBOX: usize = 1 << 20;
        if self.max_in_flight == 0 || self.mailbox == 0 {
            return Err(Error::config("threads.max_in_flight and threads.mailbox must be at least 1"));
        }
        if LARGEST_MAILBOX < self.mailbox {
            let text = format!("threads.mailbox is {}; it must be at most {LARGEST_MAILBOX}", self.mailbox);
            return Err(Error::config(text));
        }
        if self.stack_size < LEAST_STACK {
            return Err(Error::config(format!("threads.stack_size must be at least {LEAST_STACK} bytes")));
        }
        Ok(())
    }
}

/// The settings of a service client.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) credentials: Credentials,
    /// Source of the credential. The server's flags can require another source later.
    pub(crate) source: Source,
    /// The base URL without a trailing slash.
    pub(crate) base_url: String,
    /// The parsed base URL.
    pub(crate) server: Address,
    pub(crate) project_id: Option<String>,
    pub(crate) tags: Vec<String>,
    pub(crate) user_metadata: BTreeMap<String, String>,
    pub(crate) display_name: Option<String>,
    pub(crate) timeouts: Timeouts,
    pub(crate) cloudflare: Option<(Secret, Secret)>,
    pub(crate) threads: Threads,
    pub(crate) pause_policy: PausePolicy,
    pub(crate) circuit_breaker: Option<CircuitBreaker>,
    pub(crate) seeing: Seeing,
    pub(crate) telemetry: bool,
    /// True to make sparse tensors dense before they are sent.
    pub(crate) dense_tensors: bool,
    pub(crate) network: Network,
    /// The settings from which the connections to other servers are made, such as those of downloads.
    pub(crate) other_servers: NetworkSettings,
    /// Headers that replace or extend the client's own.
    pub(crate) overrides: Vec<(String, Secret)>,
    /// SDK version that the client reports to the server.
    pub(crate) sdk_version: String,
}

impl Config {
    /// Logs a warning if the credential is sent unencrypted to another machine.
    pub(crate) fn warn_of_plain_text(&self) {
        if !self.server.is_https() && !self.server.is_loopback() {
            log::warn!(
                target: "tinkex",
                "the credential and all data are sent unencrypted to {}, where anyone on the network can read them; use https://",
                self.base_url
            );
        }
    }

    /// The secrets of the configuration that requests or proxies get. They are removed from texts that the server
    /// returns.
    pub(crate) fn secrets(&self) -> Vec<Secret> {
        let credentials = [&self.credentials.candidate, &self.credentials.stored];
        let credentials = credentials.into_iter().flatten();
        let cloudflare = self.cloudflare.iter().flat_map(|(id, secret)| [id, secret]);
        let overrides = overrides::secrets(&self.overrides);
        let mut secrets: Vec<_> = credentials.chain(cloudflare).chain(overrides).cloned().collect();
        secrets.extend(self.network.secrets());
        secrets
    }
}

/// The settings that the caller set in the builder. Missing ones come from the environment or a default.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    pub(crate) api_key: Option<Secret>,
    pub(crate) any_key: bool,
    pub(crate) base_url: Option<String>,
    pub(crate) project_id: Option<String>,
    pub(crate) tags: Option<Vec<String>>,
    pub(crate) user_metadata: BTreeMap<String, String>,
    pub(crate) display_name: Option<String>,
    pub(crate) timeouts: Timeouts,
    pub(crate) threads: Threads,
    pub(crate) pause_policy: PausePolicy,
    pub(crate) circuit_breaker: Option<CircuitBreaker>,
    pub(crate) seeing: Seeing,
    pub(crate) telemetry: Option<bool>,
    pub(crate) credential_command: Option<Secret>,
    pub(crate) proxy: ProxyChoice,
    pub(crate) ca_bundle: Option<PathBuf>,
    pub(crate) overrides: Vec<(String, Secret)>,
    pub(crate) sdk_version: Option<String>,
    pub(crate) dense_tensors: bool,
}

impl Settings {
    /// Resolves each setting: explicit value, then environment, then default.
    pub(crate) fn resolve(self, env: &Env) -> Result<Config> {
        let mut credentials = Credentials {
            candidate: self.api_key.or_else(|| env.api_key().map(Secret::new)),
            any_key: self.any_key,
            command: self.credential_command.or_else(|| env.credential_command().map(Secret::new)),
            stored: None,
        };
        if let (None, None, Some(home)) = (&credentials.candidate, &credentials.command, env.home()) {
            let stored = CredentialStore::in_home(&home).load()?;
            credentials.stored = stored.default_key().map(|it| Secret::new(it.key()));
        }
        let source = credentials.source(false)?;
        let server = match (self.base_url, env.base_url()) {
            (Some(url), _) => address(&url, "base URL")?,
            (None, Some(url)) => address(&url, "base URL in TINKER_BASE_URL")?,
            (None, None) => address(DEFAULT_BASE_URL, "base URL")?,
        };
        self.timeouts.check()?;
        self.threads.check()?;
        self.circuit_breaker.as_ref().map_or(Ok(()), CircuitBreaker::check)?;
        self.overrides.iter().try_for_each(|(name, value)| overrides::check(name, value.expose()))?;
        let sdk_version = self.sdk_version.unwrap_or_else(|| SDK_VERSION.into());
        overrides::check("sdk-version", &sdk_version)
            .map_err(|_| Error::config(format!("sdk_version {sdk_version:?} is not printable ASCII")))?;
        let network = Network::resolve(&self.proxy, self.ca_bundle.as_deref(), &server, env)?;
        Ok(Config {
            credentials,
            source,
            base_url: server.as_str().into(),
            server,
            project_id: self.project_id.or_else(|| env.project_id()),
            tags: self.tags.or_else(|| env.tags()).unwrap_or_default(),
            user_metadata: self.user_metadata,
            display_name: self.display_name,
            timeouts: self.timeouts,
            cloudflare: env.cloudflare().map(|(id, secret)| (Secret::new(id), Secret::new(secret))),
            threads: self.threads,
            pause_policy: self.pause_policy,
            circuit_breaker: self.circuit_breaker,
            seeing: self.seeing,
            telemetry: self.telemetry.or_else(|| env.telemetry()).unwrap_or(false),
            network,
            other_servers: NetworkSettings { proxy: self.proxy, ca_bundle: self.ca_bundle, env: *env },
            overrides: self.overrides,
            sdk_version,
            dense_tensors: self.dense_tensors,
        })
    }
}

impl Timeouts {
    fn check(&self) -> Result<()> {
        let all = [
            ("connect", self.connect),
            ("first_contact", self.first_contact),
            ("exchange", self.exchange),
            ("poll", self.poll),
            ("heartbeat", self.heartbeat),
            ("submit", self.submit),
            ("silence", self.silence),
            ("operation", self.operation),
            ("close", self.close),
            ("finish", self.finish),
            ("credential_command", self.credential_command),
        ];
        match all.iter().find(|it| it.1.is_zero()) {
            Some((name, _)) => Err(Error::config(format!("timeouts.{name} must be above zero"))),
            None => Ok(()),
        }
    }
}

/// Parses the URL of the server. `name` is the name of the setting in errors.
fn address(url: &str, name: &str) -> Result<Address> {
    Address::parse(url).map_err(|problem| {
        if url.contains('@') {
            // The URL may contain a password and must not be shown.
            Error::config(format!("the {name} must not contain a user name or password"))
        } else {
            Error::config(format!("the {name} {url:?} {problem}"))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings { api_key: Some(Secret::new("tml-x")), ..Default::default() }
    }

    #[test]
    fn an_explicit_setting_wins_over_the_environment_and_the_environment_over_the_default() {
        let env = Env::of(|name| {
            let is_proxy = name.to_lowercase().contains("proxy");
            (!is_proxy).then(|| format!("{}-env", name.to_lowercase()))
        });
        let config =
            Settings { base_url: Some("http://h/p/".into()), ..settings() }.resolve(&env).expect("good");
        assert_eq!(config.source, Source::Fixed(Secret::new("tml-x")));
        assert_eq!(config.base_url, "http://h/p");
        assert_eq!(config.project_id.as_deref(), Some("tinker_project_id-env"));
        assert_eq!(config.tags, ["tinker_tags-env"]);
        let config = settings().resolve(&Env::empty()).expect("good");
        assert_eq!((config.base_url.as_str(), config.tags.len()), (DEFAULT_BASE_URL, 0));
    }

    #[test]
    fn a_key_without_its_prefix_is_refused_unless_any_key_is_allowed() {
        let with = |key: &str, any_key| Settings { api_key: Some(Secret::new(key)), any_key, ..settings() };
        assert!(with("sk-1", false).resolve(&Env::empty()).is_err());
        assert!(with("eyJx", false).resolve(&Env::empty()).is_ok());
        assert!(with("sk-1", true).resolve(&Env::empty()).is_ok());
        assert!(with("tml-a b", true).resolve(&Env::empty()).is_err());
        let error = Settings::default().resolve(&Env::empty()).expect_err("no key");
        assert!(error.to_string().contains("TINKER_API_KEY"));
    }

    #[test]
    fn a_base_url_must_be_absolute() {
        for url in
            ["localhost:8000", "ftp://x", "http://", "http:///x", "http://:80", "http://h?q", "http://u:p@h"]
        {
            let settings = Settings { base_url: Some(url.into()), ..settings() };
            assert!(settings.resolve(&Env::empty()).is_err(), "{url}");
        }
        let env = Env::of(|name| (name == "TINKER_BASE_URL").then(|| "http://h:8402abc".into()));
        let error = settings().resolve(&env).expect_err("no port");
        assert!(
            error.message().contains("8402abc") && error.message().contains("TINKER_BASE_URL"),
            "{error}"
        );
        let secret = Settings { base_url: Some("http://u:hunter2@h".into()), ..settings() };
        assert!(!secret.resolve(&Env::empty()).expect_err("a password").to_string().contains("hunter2"));
    }

    #[test]
    fn neither_debug_nor_an_error_shows_a_key() {
        let config = settings().resolve(&Env::empty()).expect("good");
        assert!(!format!("{config:?}").contains("tml-x"));
        let overrides = vec![("X-Team".to_string(), Secret::new("hunter2"))];
        let proxy = ProxyChoice::Always(Secret::new("http://u:hunter2@h"));
        let command = Some(Secret::new("echo hunter2"));
        let all = Settings { overrides, proxy, credential_command: command, ..settings() };
        assert!(!format!("{all:?}").contains("hunter2"));
        assert!(!format!("{:?}", all.resolve(&Env::empty()).expect("good")).contains("hunter2"));
        let bad = Settings { api_key: Some(Secret::new("hunter2")), ..settings() };
        assert!(!format!("{:?}", bad.resolve(&Env::empty()).expect_err("bad")).contains("hunter2"));
    }
}
