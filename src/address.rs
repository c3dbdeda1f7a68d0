//! Addresses of servers and proxies. They are read once, by the parser whose result is connected to, and what that parser
//! lets pass without meaning anything (a port that is no port, half an address of IPv6) is refused here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::Uri;
use http::uri::Authority;

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// Without the slashes at its end.
    text: String,
    is_https: bool,
    place: Place,
}

/// Who is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// In lower case, without brackets.
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
}

impl Address {
    /// An absolute address of a server.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let fail = |problem: &str| Err(problem.to_string());
        let Some((is_https, rest)) = scheme(text) else {
            return fail("its scheme must be http:// or https://");
        };
        if let Some(it) = text.chars().find(|it| it.is_whitespace() || it.is_control()) {
            return Err(format!("must not contain white space or control characters: it has {it:?}"));
        }
        if let Some(it) = text.chars().find(|it| matches!(it, '?' | '#')) {
            return Err(format!("must not contain a query or a fragment: it has {it:?}"));
        }
        let (authority, path) = split(rest);
        if authority.contains('@') {
            return fail("must not contain a user name or password");
        }
        let place = Place::parse(authority)?;
        check_path(path)?;
        let text = text.trim_end_matches('/');
        let read = Uri::try_from(text).map_err(|it| format!("is no address: {it}"))?;
        let read_host = read.host().unwrap_or_default();
        let read_host = read_host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        match read_host == place.host && read.port_u16() == place.port {
            true => Ok(Address { text: text.into(), is_https, place }),
            false => {
                Err(format!("can be read in two ways: its host may be {:?} or {read_host:?}", place.host))
            }
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn is_https(&self) -> bool {
        self.is_https
    }

    /// In lower case, without brackets.
    pub(crate) fn host(&self) -> &str {
        &self.place.host
    }

    /// The server is on this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        let host = self.host();
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|it| it.is_loopback())
    }

    /// An address that this server names, where something can be read by whoever has the address. One that begins with a
    /// slash is on the server itself.
    ///
    /// # Errors
    /// It is not of http or https, less safe than the server itself, or none at all.
    pub(crate) fn named(&self, url: &str) -> Result<String, String> {
        let url = url.trim();
        if url.starts_with('/') && !url.starts_with("//") {
            let origin = self.text.len() - split(scheme(&self.text).map_or("", |it| it.1)).1.len();
            return self.named(&format!("{}{url}", &self.text[..origin]));
        }
        let Some((is_https, rest)) = scheme(url) else {
            let scheme = url.split_once(':').map_or("", |it| it.0);
            return Err(format!("its scheme {scheme:?} is neither http nor https"));
        };
        if self.is_https && !is_https {
            return Err("it is of http, though the server itself is of https".into());
        }
        if url.chars().any(|it| it.is_whitespace() || it.is_control() || it == '\\') {
            return Err("it has white space, a control character or a backslash".into());
        }
        let authority = split(rest).0;
        match authority.contains('@') {
            true => Err("it has a user name".into()),
            false => Place::parse(authority).map(|_| url.to_string()).map_err(|it| format!("it {it}")),
        }
    }
}

impl Place {
    /// A host, with a port or without.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(authority: &str) -> Result<Self, String> {
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((host, "")) => (host, None),
                Some((host, port)) if port.starts_with(':') => (host, Some(&port[1..])),
                Some((_, rest)) => return Err(format!("has {rest:?} behind the brackets of its host")),
                None => return Err(format!("has a host {authority:?} whose bracket is not closed")),
            },
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let port = port.map(|it| port_of(it, authority)).transpose()?;
        let host = match authority.starts_with('[') {
            true => match host.parse::<Ipv6Addr>() {
                Ok(_) => host.to_ascii_lowercase(),
                Err(_) => return Err(format!("has a host \"[{host}]\" that is no address of IPv6")),
            },
            false => name(host)?,
        };
        match Authority::try_from(authority) {
            Ok(_) => Ok(Place { host, port }),
            Err(error) => Err(format!("has a host {authority:?} that is none: {error}")),
        }
    }
}

fn port_of(text: &str, authority: &str) -> Result<u16, String> {
    if text.contains(':') {
        return Err(format!("has a host {authority:?} with several colons: IPv6 stands in brackets"));
    }
    let port = text.bytes().all(|it| it.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    match port.filter(|it| *it != 0) {
        Some(port) => Ok(port),
        None => Err(format!("has a port {text:?} that is no number from 1 to 65535")),
    }
}

/// A name or an address of IPv4, in lower case.
fn name(host: &str) -> Result<String, String> {
    if host.is_empty() {
        return Err("has no host".into());
    }
    if !host.is_ascii() {
        return Err(format!("has a host {host:?} with other letters than ASCII: write it as xn--…"));
    }
    if let Some(it) = host.chars().find(|it| !it.is_ascii_alphanumeric() && !matches!(it, '-' | '.' | '_')) {
        return Err(format!("has a host {host:?} with {it:?} in it"));
    }
    let labels = host.strip_suffix('.').unwrap_or(host);
    if 253 < labels.len() || labels.split('.').any(|it| it.is_empty() || 63 < it.len()) {
        return Err(format!("has a host {host:?} with an empty or too long part"));
    }
    let last = labels.rsplit('.').next().unwrap_or_default();
    let is_number = last.bytes().all(|it| it.is_ascii_digit());
    match is_number && host.parse::<Ipv4Addr>().is_err() {
        true => Err(format!("has a host {host:?} that is no address of IPv4")),
        false => Ok(host.to_ascii_lowercase()),
    }
}

/// Whether the scheme is https, and what comes after it.
fn scheme(text: &str) -> Option<(bool, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    match scheme.to_ascii_lowercase().as_str() {
        "http" => Some((false, rest)),
        "https" => Some((true, rest)),
        _ => None,
    }
}

/// The authority, and what comes after it.
fn split(rest: &str) -> (&str, &str) {
    rest.split_at(rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len()))
}

fn check_path(path: &str) -> Result<(), String> {
    let mut rest = path;
    while let Some((_, after)) = rest.split_once('%') {
        let digits = after.as_bytes().get(..2);
        if !digits.is_some_and(|it| it.iter().all(u8::is_ascii_hexdigit)) {
            return Err(format!("has a path {path:?} with a percent sign that two digits do not follow"));
        }
        rest = after;
    }
    match path
        .chars()
        .find(|it| !it.is_ascii() || matches!(it, '\\' | '"' | '<' | '>' | '^' | '`' | '{' | '|' | '}'))
    {
        Some(it) => Err(format!("has a path {path:?} with {it:?} in it, which must be percent-encoded")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_addresses_are_read() {
        for (text, kept, https, host, port) in [
            ("http://h", "http://h", false, "h", None),
            (
                "HTTPS://Api.Example.:8443/p/q//",
                "HTTPS://Api.Example.:8443/p/q",
                true,
                "api.example.",
                Some(8443),
            ),
            ("http://127.0.0.1:80/", "http://127.0.0.1:80", false, "127.0.0.1", Some(80)),
            ("http://[::1]:8000", "http://[::1]:8000", false, "::1", Some(8000)),
            ("https://[2001:DB8::1]", "https://[2001:DB8::1]", true, "2001:db8::1", None),
            (
                "http://under_score.x-y:1/a%20b",
                "http://under_score.x-y:1/a%20b",
                false,
                "under_score.x-y",
                Some(1),
            ),
        ] {
            let address = Address::parse(text).unwrap_or_else(|it| panic!("{text} {it}"));
            assert_eq!((address.as_str(), address.is_https()), (kept, https));
            assert_eq!((address.host(), address.place.port), (host, port));
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            ("localhost:8000", "scheme"),
            ("ftp://x", "scheme"),
            ("http://", "no host"),
            ("http:///x", "no host"),
            ("http://:80", "no host"),
            ("http://h?q", "'?'"),
            ("http://h#f", "'#'"),
            ("http://h h", "' '"),
            ("http://u:p@h", "user name"),
            ("http://h:99999", "\"99999\""),
            ("http://h:0", "\"0\""),
            ("http://h:", "\"\""),
            ("http://h:+80", "\"+80\""),
            ("http://127.0.0.1:8402abc", "\"8402abc\""),
            ("http://::1", "brackets"),
            ("http://fe80::1:80/x", "brackets"),
            ("http://[::1", "not closed"),
            ("http://[::1]x", "\"x\""),
            ("http://[::g]", "[::g]"),
            ("http://[fe80::1%25eth0]", "IPv6"),
            ("http://[127.0.0.1]", "IPv6"),
            ("http://bücher.example", "xn--"),
            ("http://①②③.com", "xn--"),
            ("http://a..b", "a..b"),
            ("http://a%41", "'%'"),
            ("http://a,b", "','"),
            ("http://256.1.1.1", "IPv4"),
            ("http://127.1", "IPv4"),
            ("http://h/a%2", "a%2"),
            ("http://h/ä", "'ä'"),
            ("http://h\\@evil", "\\"),
        ] {
            let problem = Address::parse(text).expect_err(text);
            assert!(problem.contains(part), "{text}: {problem}");
        }
        assert!(Address::parse(&format!("http://{}", "a".repeat(64))).is_err());
    }

    #[test]
    fn what_a_server_names_is_no_less_safe_than_itself() {
        let named = |server: &str, url: &str| Address::parse(server).expect("good").named(url);
        let (plain, safe) = ("http://h:1/p", "https://h/p");
        for (server, url, kept) in [
            (plain, "http://x/a?b=c#d", "http://x/a?b=c#d"),
            (plain, "https://x", "https://x"),
            (safe, " HTTPS://x:8/a ", "HTTPS://x:8/a"),
            (plain, "/a?b", "http://h:1/a?b"),
            (safe, "/", "https://h/"),
        ] {
            assert_eq!(named(server, url).as_deref(), Ok(kept), "{url}");
        }
        for url in [
            "file:///etc/passwd",
            "http://x/a",
            "",
            "x",
            "//x/a",
            "javascript:alert(1)",
            "https://",
            "https:///a",
            "https://u@x",
            "https://x:99999",
            "https://x/a b",
            "https://x\\y",
        ] {
            assert!(named(safe, url).is_err(), "{url}");
        }
    }
}
