//! The address that the engine listens on, and the hosts that requests may name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use axum::http::uri::Authority;

/// Host names of the loopback address.
const LOOPBACK: [&str; 3] = ["127.0.0.1", "localhost", "[::1]"];

/// Shortest key of an engine that other machines can reach. A random text of this length cannot be guessed.
const MIN_KEY: usize = 20;

/// True if only programs on this machine can reach the address.
pub(super) fn is_private(listen: IpAddr) -> bool {
    // An IPv4 address can also be written as an IPv6 address.
    listen.to_canonical().is_loopback()
}

/// Refuses to listen for other machines without a key that the user has chosen and can hand out. The error text starts with
/// the name of the option.
pub(super) fn check_key(listen: IpAddr, key: Option<&str>) -> Result<(), String> {
    if is_private(listen) {
        return Ok(());
    }
    let problem = match key {
        Some(key) if MIN_KEY <= key.len() => return Ok(()),
        Some(key) => format!("it has {}", key.len()),
        None => "none is given".into(),
    };
    Err(format!(
        "api_key must be given and have at least {MIN_KEY} characters, because other machines can reach the address \
         {listen} (Options::listen); {problem}"
    ))
}

/// The base URL for clients on this machine, of a server that listens on an address.
pub(super) fn url(address: SocketAddr) -> String {
    let ip = match address.ip() {
        IpAddr::V4(it) if it.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(it) if it.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        // All addresses of IPv4, written as an IPv6 address.
        it if it.to_canonical().is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        it => it,
    };
    // Writes an IPv6 address in brackets.
    format!("http://{}", SocketAddr::new(ip, address.port()))
}

/// The hosts that requests may name in the headers `Host` and `Origin`.
///
/// The check keeps out web pages: a page in a browser that can reach the engine may have its own host name resolve to the
/// engine's address (DNS rebinding), and is then allowed to read the engine's responses. Such a request carries the name of
/// the page. Therefore a name has to be known, but an IP address needs no list: it is not resolved, so a request with an
/// address as its host was really meant for that address.
#[derive(Clone, Debug)]
pub(super) struct Hosts {
    listen: IpAddr,
    names: Vec<String>,
}

impl Hosts {
    /// The hosts of an engine that listens on an address. `names` are accepted besides those of the loopback address.
    pub(super) fn new(listen: IpAddr, names: Vec<String>) -> Self {
        Hosts { listen: listen.to_canonical(), names }
    }

    /// The host of a request, with its port, if this server accepts it.
    pub(super) fn served(&self, host: &str) -> Option<Authority> {
        let authority = host.parse::<Authority>().ok()?;
        let name = bare(&authority)?;
        let is_own = match address(name) {
            Some(it) => self.listen.is_unspecified() || it == self.listen,
            None => false,
        };
        (is_own || self.is_known(name)).then_some(authority)
    }

    /// True if pages of `origin` may use this server. `host` is the host of their request. A page may come from the same
    /// host as the engine, but not from any host that is an IP address.
    pub(super) fn serves_page(&self, origin: &str, host: &Authority) -> bool {
        let authority = origin.split_once("://").and_then(|it| it.1.parse::<Authority>().ok());
        let Some(name) = authority.as_ref().and_then(bare) else { return false };
        self.is_known(name) || bare(host).is_some_and(|it| it.eq_ignore_ascii_case(name))
    }

    fn is_known(&self, name: &str) -> bool {
        LOOPBACK
            .into_iter()
            .chain(self.names.iter().map(String::as_str))
            .any(|it| it.eq_ignore_ascii_case(name))
    }

    /// Text of the refusal of a request for another host.
    pub(super) fn refusal(&self) -> String {
        let mut served: Vec<String> = LOOPBACK.map(String::from).into();
        if self.listen.is_unspecified() {
            served.push("any IP address".into());
        } else if !is_private(self.listen) {
            served.push(self.listen.to_string());
        }
        served.extend(self.names.iter().cloned());
        let last = served.pop().unwrap_or_default();
        format!(
            "this server answers only to requests for {} and {last}; Options::allowed_hosts (of the program serve: \
             --allow-host NAME) adds names",
            served.join(", ")
        )
    }
}

/// The host of an authority without its port. `None` if there is a user name, as in `user@host`.
fn bare(authority: &Authority) -> Option<&str> {
    let host = authority.host().trim_end_matches('.');
    (!authority.as_str().contains('@') && !host.is_empty()).then_some(host)
}

/// The IP address that a host is, if it is one.
fn address(host: &str) -> Option<IpAddr> {
    let inner = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    let address: IpAddr = match inner {
        Some(it) => it.parse::<Ipv6Addr>().ok()?.into(),
        None => host.parse::<Ipv4Addr>().ok()?.into(),
    };
    Some(address.to_canonical())
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn hosts(listen: &str) -> Hosts {
        Hosts::new(ip(listen), vec!["engine.test".into()])
    }

    const OWN: [&str; 7] = [
        "127.0.0.1",
        "127.0.0.1:80",
        "LocalHost:8000",
        "localhost.",
        "[::1]:9",
        "engine.test:1",
        "Engine.Test.",
    ];

    const NEVER: [&str; 9] = [
        "evil.example",
        "127.0.0.1.evil.example",
        "192.0.2.7.evil.example:80",
        "a@localhost",
        "a@192.0.2.7",
        "",
        ":80",
        "localhost/x",
        "[::1",
    ];

    #[test]
    fn only_names_of_this_machine_allowed_names_and_the_address_of_listening_are_served() {
        for (listen, served, refused) in [
            ("127.0.0.1", &[][..], &["127.0.0.2", "192.0.2.7", "[fd00::2]"][..]),
            ("127.0.0.2", &["127.0.0.2:8402"], &["127.0.0.3"]),
            ("::1", &["[0:0:0:0:0:0:0:1]:1"], &["[::2]"]),
            (
                "192.0.2.7",
                &["192.0.2.7", "192.0.2.7:8402", "[::ffff:192.0.2.7]"],
                &["192.0.2.8", "[fd00::2]"],
            ),
            ("fd00::2", &["[fd00::2]", "[FD00:0::2]:8402"], &["192.0.2.7", "[fd00::3]", "fd00::2"]),
            ("0.0.0.0", &["192.0.2.7:8402", "[fd00::2]"], &["192.0.2", "0x7f.1", "2130706433"]),
            ("::", &["192.0.2.7:8402", "[fd00::2]"], &["[fd00::g]"]),
            ("::ffff:0.0.0.0", &["192.0.2.7"], &[]),
        ] {
            let hosts = hosts(listen);
            for host in OWN.iter().chain(served) {
                assert!(hosts.served(host).is_some(), "{listen}: {host}");
            }
            for host in NEVER.iter().chain(refused) {
                assert!(hosts.served(host).is_none(), "{listen}: {host}");
            }
        }
    }

    #[test]
    fn a_page_comes_from_a_known_name_or_from_the_host_of_the_request() {
        let hosts = hosts("0.0.0.0");
        let host = hosts.served("192.0.2.7:8402").expect("an address");
        for origin in ["http://192.0.2.7:3000", "http://localhost:3000", "https://engine.test"] {
            assert!(hosts.serves_page(origin, &host), "{origin}");
        }
        for origin in ["http://192.0.2.8", "http://evil.example", "null", "", "http://a@localhost"] {
            assert!(!hosts.serves_page(origin, &host), "{origin}");
        }
    }

    #[test]
    fn a_refusal_names_the_hosts_that_are_served() {
        let own = "this server answers only to requests for 127.0.0.1, localhost, [::1]";
        for (listen, rest) in [
            ("127.0.0.1", " and engine.test; Options::allowed_hosts"),
            ("192.0.2.7", ", 192.0.2.7 and engine.test; "),
            ("::", ", any IP address and engine.test; "),
        ] {
            let text = hosts(listen).refusal();
            assert!(text.starts_with(&format!("{own}{rest}")), "{text}");
        }
        let text = Hosts::new(ip("::1"), Vec::new()).refusal();
        assert!(
            text.starts_with("this server answers only to requests for 127.0.0.1, localhost and [::1]; ")
        );
    }

    #[test]
    fn an_address_that_other_machines_reach_needs_a_key_of_twenty_characters() {
        let key = "tml-0123456789abcdef";
        for listen in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(check_key(ip(listen), None), Ok(()), "{listen}");
        }
        for listen in ["0.0.0.0", "::", "192.0.2.7", "fd00::2", "::ffff:0.0.0.0"] {
            assert_eq!(check_key(ip(listen), Some(key)), Ok(()));
            let missing = check_key(ip(listen), None).expect_err("no key");
            assert!(missing.contains(listen) && missing.ends_with("none is given"), "{missing}");
            let short = check_key(ip(listen), Some(&key[1..])).expect_err("a short key");
            assert!(short.ends_with("it has 19"), "{short}");
        }
    }

    #[test]
    fn a_url_is_reachable_from_this_machine() {
        for (address, url) in [
            ("127.0.0.1:80", "http://127.0.0.1:80"),
            ("0.0.0.0:8402", "http://127.0.0.1:8402"),
            ("[::]:8402", "http://[::1]:8402"),
            ("[::ffff:0.0.0.0]:1", "http://127.0.0.1:1"),
            ("[fd00::2]:1", "http://[fd00::2]:1"),
            ("192.0.2.7:1", "http://192.0.2.7:1"),
        ] {
            assert_eq!(super::url(address.parse().expect("an address")), url);
        }
    }
}
