//! The settings of a client, checked once and then fixed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::address::Address;
use crate::credential::{Credentials, Source};
use crate::credentials::CredentialStore;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::event::Seeing;
use crate::network::{Network, ProxyChoice};
use crate::overrides;
use crate::secret::Secret;

/// The address of the Tinker service.
pub(crate) const DEFAULT_BASE_URL: &str = "https://tinker.thinkingmachines.dev/services/tinker-prod";

/// The version of the official SDK whose protocol this crate speaks; servers choose flags by it.
pub(crate) const SDK_VERSION: &str = "0.38.0";

/// How long things may take. Every wait of the crate is bounded by one of these.
///
/// | field | default | bounds |
/// |---|---|---|
/// | `connect` | 5 s | connecting, TLS included; also all attempts at a first connection to a server |
/// | `first_contact` | 60 s | all attempts at one request to a server that has never answered, or only with 5xx; `submit`, if that is shorter |
/// | `exchange` | 60 s | one HTTP exchange without progress, except those below |
/// | `poll` | 45 s | the same for one that waits for a result |
/// | `heartbeat` | 10 s | one heartbeat; one request for the flags that may change |
/// | `submit` | 300 s | all attempts at one request together |
/// | `silence` | 300 s | waiting for a result without any sign of life from the server |
/// | `operation` | 2 h | a whole operation, from its submission to its result |
/// | `close` | 2 s | `close` of one client, and dropping the last handle |
/// | `finish` | 10 s | `ServiceClient::close`, which tells the server of the end |
/// | `credential_command` | 60 s | one run of the credential command |
///
/// Progress is each piece of a body that is written or read, so that large data and results may take as long as their
/// operation: what is bounded is the time without a byte. While the server reads what the system has taken of a body
/// nothing is seen of its progress; the wait for its answer is longer by a second for each 32 KiB of the body.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// Connecting, TLS included; also all attempts at a first connection to a server.
    pub connect: Duration,
    /// All attempts at one request to a server that takes connections but has never answered, or only as a proxy does whose
    /// server is not there (5xx). `submit`, if that is shorter.
    pub first_contact: Duration,
    /// One HTTP exchange without progress, unless it is of another class below.
    pub exchange: Duration,
    /// One HTTP exchange that waits for a result, without progress.
    pub poll: Duration,
    /// One heartbeat; one request for the flags that may change.
    pub heartbeat: Duration,
    /// All attempts at one request together. A sample that is not accepted in this time is submitted again until `operation`,
    /// unless this is shorter than its default.
    pub submit: Duration,
    /// Waiting for a result without any sign of life from the server.
    pub silence: Duration,
    /// A whole operation, from its submission to its result.
    pub operation: Duration,
    /// `close` of one client, and dropping the last handle.
    pub close: Duration,
    /// `ServiceClient::close`: all attempts at telling the server of the end, what is left of telemetry, and then the end of the
    /// threads, for which a part of `close` is kept. `close`, if that is longer.
    pub finish: Duration,
    /// One run of the credential command, which is killed then.
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

/// What an operation does while the server pauses it for lack of capacity, because of a rate limit, or until the account
/// is settled (HTTP 402, for which it waits an hour at most, unless the server says otherwise).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PausePolicy {
    /// Waits, until its own deadline.
    #[default]
    Wait,
    /// Waits no longer than this for one pause.
    WaitAtMost(Duration),
    /// Fails at once. What the server accepted it may still do.
    Fail,
}

/// When requests are no longer sent because too many failed in a row.
///
/// Each class of requests ([`Lane`](crate::transport::Lane)) has a breaker of its own. After `failures` failures in a row
/// it opens: requests fail at once with [`ErrorKind::CircuitOpen`](crate::ErrorKind::CircuitOpen). After `reset` it lets
/// `trials` requests pass; the first that succeeds closes it, one that fails opens it again. A failure is an answer of
/// 5xx, a broken connection or a timeout; any other answer shows that the server is there. Waiting for results of
/// requests that the server accepted is not given up: it asks again later.
///
/// | field | default | |
/// |---|---|---|
/// | `failures` | 5 | so many failures in a row open it |
/// | `reset` | 30 s | how long it stays open |
/// | `trials` | 1 | how many requests at once try whether the server is back |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CircuitBreaker {
    /// So many failures in a row open it. At least 1.
    pub failures: u32,
    /// How long it stays open.
    pub reset: Duration,
    /// How many requests at once try whether the server is back. At least 1.
    pub trials: u32,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        CircuitBreaker { failures: 5, reset: Duration::from_secs(30), trials: 1 }
    }
}

impl CircuitBreaker {
    fn check(&self) -> Result<()> {
        match self.failures == 0 || self.trials == 0 || self.reset.is_zero() {
            true => Err(Error::config(
                "circuit_breaker.failures and .trials must be at least 1, and .reset above zero",
            )),
            false => Ok(()),
        }
    }
}

/// The threads of a client: how many, how large, for how long. They start when there is work for them.
///
/// | field | default | what it limits |
/// |---|---|---|
/// | `max_in_flight` | 2048 | operations that wait for their results at the same time; more of them queue |
/// | `mailbox` | 1024 | operations of one client that wait to be submitted; who submits more waits for room |
/// | `stack_size` | 512 KiB | the stack of each thread of a pool, of which only what is used takes memory |
/// | `idle` | 10 s | after so long without work a thread of a pool ends |
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Threads {
    /// Operations that wait for their results at the same time; more of them queue.
    pub max_in_flight: usize,
    /// Operations of one client that wait to be submitted; who submits more waits for room.
    pub mailbox: usize,
    /// The stack of each thread of a pool, in bytes, of which only what is used takes memory.
    pub stack_size: usize,
    /// After so long without work a thread of a pool ends.
    pub idle: Duration,
}

impl Default for Threads {
    fn default() -> Self {
        Threads { max_in_flight: 2048, mailbox: 1024, stack_size: 512 * 1024, idle: Duration::from_secs(10) }
    }
}

impl Threads {
    fn check(&self) -> Result<()> {
        // TLS, the deepest thing on such a stack, does not fit into less.
        const LEAST_STACK: usize = 128 * 1024;
        if self.max_in_flight == 0 || self.mailbox == 0 {
            return Err(Error::config("threads.max_in_flight and threads.mailbox must be at least 1"));
        }
        match self.stack_size < LEAST_STACK {
            true => Err(Error::config(format!("threads.stack_size must be at least {LEAST_STACK} bytes"))),
            false => Ok(()),
        }
    }
}

/// The settings of a service client.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) credentials: Credentials,
    /// What the credential comes from, unless the server wants it otherwise.
    pub(crate) source: Source,
    /// Without a slash at its end.
    pub(crate) base_url: String,
    /// The same, as it was read.
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
    /// Sparse tensors are written out.
    pub(crate) dense_tensors: bool,
    pub(crate) network: Network,
    /// Headers that stand in the place of the client's own, or beside them.
    pub(crate) overrides: Vec<(String, Secret)>,
    /// The version as which the client presents itself.
    pub(crate) sdk_version: String,
}

impl Config {
    /// Says in the log that anybody on the way can read the credential, if that is so.
    pub(crate) fn warn_of_plain_text(&self) {
        if !self.server.is_https() && !self.server.is_loopback() {
            log::warn!(
                target: "tinkex",
                "the credential and all data go unencrypted to {}: anybody on the way can read them; use https://",
                self.base_url
            );
        }
    }

    /// What must not be seen, whoever says it.
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

/// What a caller set; the rest comes from the environment or a default.
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
    /// Explicit before environment before default.
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

/// The address of the server, and where it comes from if it cannot be used.
fn address(url: &str, whose: &str) -> Result<Address> {
    Address::parse(url).map_err(|problem| match url.contains('@') {
        // Such an address may hold a password.
        true => Error::config(format!("the {whose} must not contain a user name or password")),
        false => Error::config(format!("the {whose} {url:?} {problem}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings { api_key: Some(Secret::new("tml-x")), ..Default::default() }
    }

    #[test]
    fn what_is_set_explicitly_wins_over_the_environment_and_that_over_the_default() {
        let env = Env::of(|name| match name.contains("PROXY") || name.contains("proxy") {
            true => None,
            false => Some(format!("{}-env", name.to_lowercase())),
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
    fn a_key_without_its_prefix_is_refused_unless_any_is_allowed() {
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
