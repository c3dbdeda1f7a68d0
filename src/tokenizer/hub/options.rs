//! Settings of downloads from the hub.

use std::fs;
use std::io::ErrorKind as IoErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::address::Address;
use crate::config::network::ProxyChoice;
use crate::credentials::Secret;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::sync::Clock;
use crate::tokenizer::hf_cache::HfCache;

/// URL of the hub.
const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Limit of one whole download. A slow connection takes minutes for a tokenizer of 30 MB.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);

/// Largest limit: a time so far ahead that it can still be computed.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Settings of a download from the Hugging Face hub. A setting takes precedence over the environment, which takes
/// precedence over the default.
///
/// | setting | environment | default |
/// |---|---|---|
/// | [`token`](Self::token) | `HF_TOKEN`, else the file `HF_TOKEN_PATH`, else `HF_HOME/token` | no token |
/// | [`endpoint`](Self::endpoint) | `HF_ENDPOINT` | `https://huggingface.co` |
/// | [`cache`](Self::cache) | `HF_HUB_CACHE`, else `HF_HOME/hub` | `~/.cache/huggingface/hub` |
/// | [`offline`](Self::offline) | `HF_HUB_OFFLINE` | false |
/// | [`proxy`](Self::proxy) | `HTTPS_PROXY` or `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY` | no proxy |
/// | [`ca_bundle`](Self::ca_bundle) | | the certificates that are compiled in |
/// | [`timeout`](Self::timeout) | | 600 s |
///
/// # Example: a mirror and another folder
/// ```
/// use std::time::Duration;
/// use tinkex::tokenizer::HubOptions;
///
/// let options = HubOptions::default()
///     .endpoint("https://hub.example.com")
///     .cache("/data/huggingface/hub")
///     .token("hf_example")
///     .timeout(Duration::from_secs(60));
/// assert!(!format!("{options:?}").contains("hf_example"));
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct HubOptions {
    token: Option<Secret>,
    endpoint: Option<String>,
    cache: Option<PathBuf>,
    offline: Option<bool>,
    timeout: Option<Duration>,
    proxy: ProxyChoice,
    ca_bundle: Option<PathBuf>,
    clock: Clock,
    /// Replaces the environment of the process, if set.
    env: Option<Env>,
}

impl HubOptions {
    /// Sets the token, `hf_…`. It is sent to the endpoint only, and not to other servers to which the endpoint
    /// redirects. With an empty text no token is sent, also if the environment has one.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(Secret::new(token));
        self
    }

    /// Sets the URL of the hub or of a mirror.
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(url.into());
        self
    }

    /// Sets the folder of the cache, which contains the folders `models--ORGANISATION--NAME`.
    pub fn cache(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cache = Some(folder.into());
        self
    }

    /// Sets whether to use only the cache and never the network.
    pub fn offline(mut self, yes: bool) -> Self {
        self.offline = Some(yes);
        self
    }

    /// Sets the time limit of one whole download, over all files and attempts.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets the proxy, as for [`ServiceClientBuilder::proxy`](crate::ServiceClientBuilder::proxy).
    pub fn proxy(mut self, url: impl Into<String>) -> Self {
        self.proxy = ProxyChoice::Always(Secret::new(url));
        self
    }

    /// Uses no proxy, even if the environment sets one.
    pub fn no_proxy(mut self) -> Self {
        self.proxy = ProxyChoice::Never;
        self
    }

    /// Sets a PEM file with the certificates to trust instead of the default ones.
    pub fn ca_bundle(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_bundle = Some(path.into());
        self
    }

    /// Sets the clock of retries, for tests.
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

    #[cfg(test)]
    pub(super) fn env(mut self, env: Env) -> Self {
        self.env = Some(env);
        self
    }

    /// Resolves and checks the settings.
    pub(super) fn resolve(&self) -> Result<Settings> {
        let env = self.env.unwrap_or_else(Env::process);
        let (endpoint, name) = match (&self.endpoint, env.hf_endpoint()) {
            (Some(url), _) => (url.clone(), "the endpoint of the hub"),
            (None, Some(url)) => (url, "the endpoint in HF_ENDPOINT"),
            (None, None) => (DEFAULT_ENDPOINT.into(), "the endpoint of the hub"),
        };
        let endpoint =
            Address::parse(&endpoint).map_err(|problem| Error::config(format!("{name} {problem}")))?;
        let cache = match &self.cache {
            Some(folder) => HfCache::at(folder),
            None => HfCache::of(&env)?,
        };
        let token = match &self.token {
            Some(token) => Some(token.clone()),
            None => token(&env)?,
        };
        let token =
            token.map(|token| Secret::new(token.expose().trim())).filter(|it| !it.expose().is_empty());
        if token.as_ref().is_some_and(|token| !token.expose().chars().all(|c| c.is_ascii_graphic())) {
            // Without the token: a part of it may be right.
            return Err(Error::config(
                "the token of the hub contains a character that a header must not contain: check HF_TOKEN",
            ));
        }
        if token.is_some() && !endpoint.is_https() && !endpoint.is_loopback() {
            log::warn!(
                target: "tinkex",
                "the token of the hub is sent unencrypted to {}, where anyone on the network can read it; use https://",
                endpoint.as_str()
            );
        }
        Ok(Settings {
            endpoint,
            token,
            cache,
            is_offline: self.offline.unwrap_or_else(|| env.hf_offline()),
            timeout: self.timeout.unwrap_or(DEFAULT_TIMEOUT).min(LONGEST_TIMEOUT),
            proxy: self.proxy.clone(),
            ca_bundle: self.ca_bundle.clone(),
            clock: self.clock.clone(),
            env,
        })
    }
}

/// The token of the environment, or of the file into which `hf auth login` writes it.
fn token(env: &Env) -> Result<Option<Secret>> {
    if let Some(token) = env.hf_token() {
        return Ok(Some(Secret::new(token)));
    }
    let Some(path) = env.hf_token_file() else { return Ok(None) };
    match fs::read_to_string(&path) {
        Ok(token) => Ok(Some(Secret::new(token))),
        Err(error) if matches!(error.kind(), IoErrorKind::NotFound | IoErrorKind::NotADirectory) => Ok(None),
        Err(error) => {
            let path = path.display();
            Err(Error::config(format!("the file {path} with the token of the hub cannot be read: {error}")))
        }
    }
}

/// The checked settings.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) endpoint: Address,
    pub(super) token: Option<Secret>,
    pub(super) cache: HfCache,
    pub(super) is_offline: bool,
    /// Limit of one whole download.
    pub(super) timeout: Duration,
    pub(super) proxy: ProxyChoice,
    pub(super) ca_bundle: Option<PathBuf>,
    pub(super) clock: Clock,
    pub(super) env: Env,
}

impl Settings {
    /// The token, if it may be sent to a server.
    pub(super) fn token_for(&self, server: &Address) -> Option<&Secret> {
        self.token.as_ref().filter(|_| server.is_same_server(&self.endpoint))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn settings_take_precedence_over_the_environment_and_that_over_defaults() {
        let env = Env::of(|name| match name {
            "HF_TOKEN" => Some("hf_env\n".into()),
            "HF_ENDPOINT" => Some("https://mirror.example/".into()),
            "HF_HOME" => Some("/h".into()),
            "HF_HUB_OFFLINE" => Some("YES".into()),
            _ => None,
        });
        let from_env = HubOptions::default().env(env).resolve().unwrap();
        assert_eq!(from_env.endpoint.as_str(), "https://mirror.example");
        assert_eq!(from_env.token.as_ref().unwrap().expose(), "hf_env");
        assert_eq!((from_env.cache.folder(), from_env.is_offline), (Path::new("/h/hub"), true));
        let options = HubOptions::default().env(env).endpoint("http://own").token("hf_own").cache("/c");
        let own = options.offline(false).resolve().unwrap();
        assert_eq!((own.endpoint.as_str(), own.cache.folder()), ("http://own", Path::new("/c")));
        assert_eq!((own.token.as_ref().unwrap().expose(), own.is_offline), ("hf_own", false));
        assert!(HubOptions::default().env(env).token("").resolve().unwrap().token.is_none());
        let usual = HubOptions::default().without_environment().cache("/c").resolve().unwrap();
        assert_eq!(usual.endpoint.as_str(), "https://huggingface.co");
        assert!(usual.token.is_none() && !usual.is_offline);
        assert!(!format!("{from_env:?} {own:?}").contains("hf_"));
    }

    #[test]
    fn the_token_is_read_from_the_file_of_the_login_program() {
        let options = |get| HubOptions::default().env(Env::of(get)).cache("/c");
        let file = std::env::temp_dir().join(format!("tinkex-hf-token-{}", std::process::id()));
        std::fs::write(&file, "hf_from_file\n").unwrap();
        let from_file = options(|name| {
            let path = std::env::temp_dir().join(format!("tinkex-hf-token-{}", std::process::id()));
            (name == "HF_TOKEN_PATH").then(|| path.display().to_string())
        });
        assert_eq!(from_file.resolve().unwrap().token.unwrap().expose(), "hf_from_file");
        std::fs::remove_file(&file).unwrap();
        assert!(from_file.resolve().unwrap().token.is_none());
        // A folder instead of a file cannot be read.
        let error = options(|name| (name == "HF_TOKEN_PATH").then(|| "/".into())).resolve().unwrap_err();
        assert!(error.to_string().contains("the file / with the token"), "{error}");
    }

    #[test]
    fn an_unusable_endpoint_or_token_is_refused_without_showing_the_token() {
        let options = || HubOptions::default().without_environment().cache("/c");
        let error = options().endpoint("huggingface.co").resolve().unwrap_err().to_string();
        assert_eq!(error, "the endpoint of the hub must begin with http:// or https://");
        let error = options().token("hf_a b").resolve().unwrap_err().to_string();
        assert!(error.contains("HF_TOKEN") && !error.contains("hf_a"), "{error}");
        assert!(HubOptions::default().without_environment().resolve().is_err());
    }

    #[test]
    fn the_token_is_for_the_endpoint_alone() {
        let options = HubOptions::default().without_environment().cache("/c").token("hf_x");
        let settings = options.endpoint("https://Hub.example").resolve().unwrap();
        for (url, expected) in [
            ("https://hub.example/a/b?c", true),
            ("https://hub.example:443", true),
            ("http://hub.example", false),
            ("https://hub.example:444", false),
            ("https://cdn.hub.example/a", false),
            ("https://hub.example.evil/a", false),
        ] {
            let server = Address::of_server(url).unwrap();
            assert_eq!(settings.token_for(&server).is_some(), expected, "{url}");
        }
    }
}
