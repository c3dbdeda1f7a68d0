//! The things that are examined: the folder of the engine, the address, the source of the credential, and the proxy between.

use std::net::IpAddr;
use std::path::Path;

use tinkex::credentials::CredentialStore;
use tinkex::local::is_data_folder;

use super::super::args::Global;
use super::super::engine;
use super::super::shell_word::quoted;
use super::finding::{Finding, Mark};

/// The parts of the server's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The address without a user and a password.
    pub(super) url: String,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) is_https: bool,
}

impl Target {
    pub(super) fn parse(url: &str) -> Option<Self> {
        let uri: http::Uri = url.parse().ok()?;
        let is_https = uri.scheme_str()? == "https";
        let host = uri.host()?.trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        let authority = uri.authority()?.as_str();
        let authority = authority.rsplit('@').next().unwrap_or_default();
        let path = uri.path().trim_end_matches('/');
        let url = format!("{}://{authority}{path}", uri.scheme_str()?);
        Some(Target { url, host, port, is_https })
    }

    pub(super) fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|it| it.is_loopback())
    }

    pub(super) fn finding(&self) -> Finding {
        if !self.is_https && !self.is_loopback() {
            return Finding::new("address", Mark::Warn, format!("{}, not encrypted", self.url))
                .with_remedy("use https:// or a tunnel: the key and the data can be read on the way");
        }
        Finding::ok("address", &self.url)
    }
}

/// A credential that can be read without running a command.
pub(super) struct Credential {
    pub(super) finding: Finding,
    /// Not shown anywhere.
    pub(super) key: Option<String>,
}

/// Looks where the client looks, in its order.
pub(super) fn credential(global: &Global) -> Credential {
    const CHECK: &str = "credential";
    let variable = |name: &str| std::env::var(name).ok().filter(|it| !it.trim().is_empty());
    let found = |source: &str, key: String| Credential {
        finding: Finding::ok(CHECK, format!("{source}, {}", kind(&key))),
        key: Some(key),
    };
    if let Some(key) = variable("TINKER_API_KEY") {
        return found("TINKER_API_KEY", key.trim().to_owned());
    }
    if global.credential_command.is_some() {
        return Credential { finding: Finding::ok(CHECK, "the command of --credential-command"), key: None };
    }
    if variable("TINKER_CREDENTIAL_CMD").is_some() {
        return Credential { finding: Finding::ok(CHECK, "the command of TINKER_CREDENTIAL_CMD"), key: None };
    }
    let none = |text: String| Credential {
        finding: Finding::fail(CHECK, text, "`tinkex auth login`, or set TINKER_API_KEY"),
        key: None,
    };
    let Ok(store) = CredentialStore::of_user() else { return none("none".into()) };
    match store.load() {
        Ok(stored) => match stored.default_key() {
            Some(key) => found(&store.path().display().to_string(), key.key().to_owned()),
            None => none("none: no variable, no command, no stored key".into()),
        },
        Err(error) => none(error.to_string()),
    }
}

/// The kind of a credential, which tells nothing of its value.
fn kind(key: &str) -> &'static str {
    if key.starts_with("eyJ") {
        "a token"
    } else if key.starts_with("tml-") {
        "an API key"
    } else {
        "not of the form tml-… or eyJ…"
    }
}

/// The names of the variables of proxies that are set.
pub(super) fn proxy_variables() -> Vec<&'static str> {
    const NAMES: [&str; 8] = [
        "HTTPS_PROXY",
        "https_proxy",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
        "all_proxy",
        "NO_PROXY",
        "no_proxy",
    ];
    NAMES.into_iter().filter(|name| std::env::var_os(name).is_some_and(|it| !it.is_empty())).collect()
}

/// True if the variables send requests to this host through a proxy, as far as a name says.
pub(super) fn is_proxied(target: &Target, set: &[&str]) -> bool {
    let has_proxy = set.iter().any(|it| !it.eq_ignore_ascii_case("NO_PROXY"));
    let exceptions =
        ["NO_PROXY", "no_proxy"].into_iter().find_map(|it| std::env::var(it).ok()).unwrap_or_default();
    has_proxy && !target.is_loopback() && !is_excepted(&target.host, &exceptions)
}

/// True if `NO_PROXY` names the host, a domain above it, or everything.
fn is_excepted(host: &str, exceptions: &str) -> bool {
    exceptions.split(',').map(|it| it.trim().trim_start_matches('*').trim_start_matches('.')).any(|it| {
        let is_everything = it.is_empty() && exceptions.contains('*');
        let is_below = host.strip_suffix(it).is_some_and(|rest| rest.ends_with('.'));
        is_everything || (!it.is_empty() && (host == it || is_below))
    })
}

/// Finding about the folder of `--local` if no engine is in it: the examination makes none.
pub(super) fn engine_folder(dir: Option<&Path>) -> Option<Finding> {
    const CHECK: &str = "folder";
    let dir = dir.map_or_else(engine::default_folder, |dir| Ok(dir.to_owned())).ok()?;
    if is_data_folder(&dir) {
        return None;
    }
    let text = format!("{}: no engine is in it yet; the first training makes one", dir.display());
    Some(match engine::similar(&dir) {
        Some(similar) => Finding::new(CHECK, Mark::Warn, text)
            .with_remedy(format!("did you mean --local={}?", quoted(&similar.display().to_string()))),
        None => Finding::ok(CHECK, text),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_apart_and_loses_its_password() {
        let target = Target::parse("https://user:secret@example.com/services/x/").unwrap();
        assert_eq!((target.url.as_str(), target.port), ("https://example.com/services/x", 443));
        let target = Target::parse("http://[::1]:8000").unwrap();
        assert_eq!((target.host.as_str(), target.port, target.is_loopback()), ("::1", 8000, true));
        assert_eq!(Target::parse("nonsense"), None);
    }

    #[test]
    fn exceptions_of_the_proxy_are_names_and_domains() {
        assert!(is_excepted("a.example.com", "localhost, .example.com"));
        assert!(is_excepted("a.example.com", "*"));
        assert!(!is_excepted("badexample.com", "example.com"));
        assert!(!is_excepted("a.example.com", ""));
    }
}
