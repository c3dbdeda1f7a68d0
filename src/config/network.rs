//! Settings of the connections to the server: proxy and trusted certificates.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::config::address::{Address, Place};
use crate::credentials::Secret;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::percent;

/// The proxy that the caller chose in the builder.
#[derive(Clone, Debug, Default)]
pub(crate) enum ProxyChoice {
    /// The proxy of the environment, if any.
    #[default]
    Environment,
    /// No proxy.
    Never,
    /// This proxy: a URL that may contain a password.
    Always(Secret),
}

/// The settings of connections before it is known to which server they lead.
#[derive(Clone, Debug)]
pub(crate) struct NetworkSettings {
    pub(crate) proxy: ProxyChoice,
    pub(crate) ca_bundle: Option<PathBuf>,
    pub(crate) env: Env,
}

impl NetworkSettings {
    /// The settings of connections to this server.
    pub(crate) fn to(&self, server: &Address) -> Result<Network> {
        Network::resolve(&self.proxy, self.ca_bundle.as_deref(), server, &self.env)
    }
}

/// The checked settings of connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Network {
    pub(crate) proxy: Option<Proxy>,
    /// Content of the PEM file with the certificates to trust instead of the default ones.
    pub(crate) ca_bundle: Option<Arc<[u8]>>,
    /// True if the server is on this machine and is reached without TLS and without a proxy.
    pub(crate) is_plain: bool,
}

/// A proxy.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Proxy {
    pub(crate) scheme: Scheme,
    /// Host name or IP address. IPv6 addresses have no brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// User and password after percent decoding.
    pub(crate) login: Option<(Secret, Secret)>,
    /// The password as written in the URL, with percent encoding.
    written: Option<Secret>,
}

/// The protocol of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
    Socks4,
    Socks5,
    Socks5h,
}

impl Network {
    pub(crate) fn resolve(
        choice: &ProxyChoice,
        ca_bundle: Option<&Path>,
        server: &Address,
        env: &Env,
    ) -> Result<Self> {
        let proxy = match choice {
            ProxyChoice::Never => None,
            ProxyChoice::Always(url) => Some(Proxy::parse(url.expose(), "the proxy")?),
            // Use no proxy for a server on this machine: a proxy elsewhere cannot reach the loopback interface.
            ProxyChoice::Environment
                if server.is_loopback() || is_excepted(server.host(), &env.no_proxy()) =>
            {
                None
            }
            ProxyChoice::Environment => {
                let found = env.proxy(server.is_https());
                let parsed = found.map(|(name, url)| Proxy::parse(&url, &format!("the proxy in {name}")));
                parsed.transpose()?
            }
        };
        let ca_bundle = ca_bundle.map(|path| {
            let pem = std::fs::read(path);
            pem.map_err(|error| {
                Error::config(format!("the CA bundle {} cannot be read: {error}", path.display()))
            })
        });
        let is_plain = proxy.is_none() && server.is_loopback() && !server.is_https();
        Ok(Network { proxy, ca_bundle: ca_bundle.transpose()?.map(Into::into), is_plain })
    }

    /// The proxy's password in each encoding in which it is sent or may be quoted: plain, with the percent encoding of
    /// the URL, and in a `Basic` credential.
    pub(crate) fn secrets(&self) -> Vec<Secret> {
        let Some((user, password)) = self.proxy.as_ref().and_then(|it| it.login.as_ref()) else {
            return Vec::new();
        };
        let basic = STANDARD.encode(format!("{}:{}", user.expose(), password.expose()));
        let written = self.proxy.as_ref().and_then(|it| it.written.clone());
        [password.clone(), Secret::new(basic)].into_iter().chain(written).collect()
    }
}

impl Proxy {
    /// Parses the URL of a proxy. `name` names the proxy in errors.
    fn parse(url: &str, name: &str) -> Result<Self> {
        // Errors do not show the URL: in a malformed URL any part may contain the password.
        let fail = |problem: &str| Err(Error::config(format!("{name} {problem}")));
        let (scheme, rest) = match url.trim().split_once("://") {
            Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
            None => ("http".into(), url.trim()),
        };
        let scheme = match scheme.as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "socks4" => Scheme::Socks4,
            "socks5" | "socks" => Scheme::Socks5,
            "socks5h" => Scheme::Socks5h,
            _ => return fail("has an unknown scheme: use http, https, socks4, socks5 or socks5h"),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (login, place) = match authority.rsplit_once('@') {
            Some((login, place)) => (Some(login), place),
            None => (None, authority),
        };
        let login = login.map(|it| it.split_once(':').unwrap_or((it, "")));
        let written = login.map(|it| Secret::new(it.1));
        let login = match login {
            Some((user, password)) => match (percent::decode(user), percent::decode(password)) {
                (Some(user), Some(password)) => Some((Secret::new(user), Secret::new(password))),
                _ => {
                    return fail(
                        "has a user or password with a percent sign that is not followed by two hex digits",
                    );
                }
            },
            None => None,
        };
        let place = match Place::parse(place) {
            Ok(it) => it,
            // Errors do not show host and port: if the `@` is missing in the URL, they may be user and password.
            Err(problem) if problem.starts_with("has the port") => {
                return fail("has a port that is not a number from 1 to 65535");
            }
            Err(problem) if problem == "has no host" => return fail(&problem),
            Err(_) => return fail("has an invalid host"),
        };
        let port = place.port.unwrap_or(scheme.default_port());
        Ok(Proxy { scheme, host: place.host, port, login, written })
    }
}

impl Scheme {
    fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
            Scheme::Socks4 | Scheme::Socks5 | Scheme::Socks5h => 1080,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Socks4 => "socks4",
            Scheme::Socks5 => "socks5",
            Scheme::Socks5h => "socks5h",
        }
    }
}

impl fmt::Display for Proxy {
    /// Writes the URL without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        write!(f, "{}://{host}:{}", self.scheme.name(), self.port)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Returns whether a `NO_PROXY` list contains the server: its host, a parent domain of its host (with or without a
/// leading dot or star), or a star for all hosts. Ports in the list are ignored.
fn is_excepted(host: &str, list: &[String]) -> bool {
    list.iter().any(|entry| {
        let entry = entry.to_ascii_lowercase();
        let bare = match entry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, _port)) => address,
            None if entry.parse::<std::net::IpAddr>().is_ok() => entry.as_str(),
            None => entry.split(':').next().unwrap_or_default(),
        };
        let domain = bare.trim_start_matches('*').trim_start_matches('.');
        let below = host.strip_suffix(domain).is_some_and(|above| above.ends_with('.'));
        bare == "*" || !domain.is_empty() && (host == domain || below)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Address {
        Address::parse("https://x").expect("good")
    }

    fn proxy(url: &str) -> Result<Proxy> {
        Proxy::parse(url, "the proxy")
    }

    #[test]
    fn every_usual_form_of_a_proxy_url_is_parsed() {
        for (url, shown, login) in [
            ("http://proxy:3128", "http://proxy:3128", None),
            ("proxy:3128", "http://proxy:3128", None),
            (" HTTPS://Proxy.example/ ", "https://proxy.example:443", None),
            ("http://[::1]:3128", "http://[::1]:3128", None),
            ("socks5://u@h", "socks5://h:1080", Some(("u", ""))),
            ("http://u%40x:p%3a%25@h:1", "http://h:1", Some(("u@x", "p:%"))),
        ] {
            let proxy = proxy(url).expect("good");
            assert_eq!(proxy.to_string(), shown);
            assert_eq!(format!("{proxy:?}"), shown);
            let found = proxy.login.as_ref().map(|(user, password)| (user.expose(), password.expose()));
            assert_eq!(found, login, "{url}");
        }
    }

    #[test]
    fn a_malformed_proxy_is_refused_without_showing_its_password() {
        for url in [
            "ftp://u:hunter2@h",
            "http://",
            "http://u:hunter2@",
            "http://u:hunter2@:80",
            "http://u:hunter2@h:0",
            "http://u:hunter2@h:99999",
            "http://u:hunter2@h:80x",
            "http://u:hunter2@[::1",
            "http://u:hunter2@bücher",
            "http://u:hun@ter2@h:80:80",
            "http://u:hunter2@h:x",
            "http://u:hunter2%zz@h",
            "http://u:hunter2@h h",
        ] {
            let error = proxy(url).expect_err("bad");
            assert!(error.message().starts_with("the proxy has "), "{error}");
            assert!(!format!("{error:?} {error}").contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn the_environment_sets_the_proxy_by_the_scheme_of_the_server_and_never_for_loopback() {
        let env = Env::of(|name| match name {
            "HTTPS_PROXY" => Some("http://for-https:1".into()),
            "all_proxy" => Some("http://for-all:2".into()),
            "NO_PROXY" => Some("a.example, .b.example,*.c.example, [fd00::1],10.0.0.1:80".into()),
            _ => None,
        });
        let through = |url: &str| {
            let server = Address::parse(url).expect("good");
            let network = Network::resolve(&ProxyChoice::Environment, None, &server, &env).expect("good");
            network.proxy.map(|it| it.to_string())
        };
        for url in ["https://x", "HTTPS://nota.example", "https://example", "https://10.0.0.10"] {
            assert_eq!(through(url).as_deref(), Some("http://for-https:1"), "{url}");
        }
        assert_eq!(through("http://x").as_deref(), Some("http://for-all:2"));
        for url in [
            "https://localhost:1/p",
            "http://127.0.0.9",
            "http://[::1]:8000",
            "https://a.example/p",
            "https://sub.A.example:8443",
            "https://sub.b.example",
            "https://c.example",
            "https://[fd00::1]:1/",
            "http://10.0.0.1",
        ] {
            assert_eq!(through(url), None, "{url}");
        }
        let resolve = |choice| Network::resolve(&choice, None, &server(), &env).expect("good").proxy;
        assert_eq!(resolve(ProxyChoice::Never), None);
        let given = resolve(ProxyChoice::Always(Secret::new("http://given:3"))).expect("a proxy");
        assert_eq!(given.to_string(), "http://given:3");
    }

    #[test]
    fn the_variable_of_an_invalid_proxy_is_named_and_a_ca_bundle_must_exist() {
        let env = Env::of(|name| (name == "https_proxy").then(|| "gopher://h".into()));
        let resolve = |choice, path| Network::resolve(&choice, path, &server(), &env);
        let error = resolve(ProxyChoice::Environment, None).expect_err("bad");
        assert!(error.message().contains("https_proxy"), "{error}");
        let error = resolve(ProxyChoice::Never, Some(Path::new("/nonexistent/ca.pem"))).expect_err("no file");
        assert!(error.message().contains("/nonexistent/ca.pem"), "{error}");
    }
}
