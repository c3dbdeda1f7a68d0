//! Parses and checks the URLs of servers and proxies. The connection is made from the same URL as parsed by
//! `http::Uri`, so the two parsers must agree on host and port. Mistakes that `http::Uri` accepts (an invalid port, an
//! unfinished IPv6 address) are refused here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::Uri;
use http::uri::Authority;

/// The base URL of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// The URL without trailing slashes.
    text: String,
    is_https: bool,
    place: Place,
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The host name or IP address in lower case; an IPv6 address without its brackets.
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
}

impl Address {
    /// Parses an absolute URL.
    ///
    /// # Errors
    /// The problem, as a text that continues the words "the URL", such as "must begin with http:// or https://".
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let fail = |problem: &str| Err(problem.to_string());
        let Some((is_https, rest)) = scheme(text) else {
            return fail("must begin with http:// or https://");
        };
        if let Some(c) = text.chars().find(|c| c.is_whitespace() || c.is_control()) {
            return Err(format!("must not contain white space or control characters, but has {c:?}"));
        }
        if let Some(c) = text.chars().find(|c| matches!(c, '?' | '#')) {
            return Err(format!("must not contain a query or a fragment, but has {c:?}"));
        }
        let (authority, path) = split(rest);
        if authority.contains('@') {
            return fail("must not contain a user name or password");
        }
        let place = Place::parse(authority)?;
        check_path(path)?;
        let text = text.trim_end_matches('/');
        let uri = Uri::try_from(text).map_err(|error| format!("is not a valid URL: {error}"))?;
        let uri_host = uri.host().unwrap_or_default();
        let uri_host = uri_host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        if uri_host == place.host && uri.port_u16() == place.port {
            Ok(Address { text: text.into(), is_https, place })
        } else {
            Err(format!("is ambiguous: its host may be {:?} or {uri_host:?}", place.host))
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn is_https(&self) -> bool {
        self.is_https
    }

    /// The server of an absolute URL, which may have a path and a query.
    ///
    /// # Errors
    /// As for [`parse`](Self::parse).
    pub(crate) fn of_server(url: &str) -> Result<Self, String> {
        let path = scheme(url).map_or("", |(_, rest)| split(rest).1);
        Address::parse(&url[..url.len() - path.len()])
    }

    /// True if scheme, host and port are the same.
    pub(crate) fn is_same_server(&self, other: &Address) -> bool {
        let port = |address: &Address| address.place.port.unwrap_or(if address.is_https { 443 } else { 80 });
        (self.is_https, self.host(), port(self)) == (other.is_https, other.host(), port(other))
    }

    /// The host name or IP address in lower case; an IPv6 address without its brackets.
    pub(crate) fn host(&self) -> &str {
        &self.place.host
    }

    /// True if the server is on this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        let host = self.host();
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|it| it.is_loopback())
    }

    /// Checks a URL that this server returned. A URL that begins with a single slash gets the scheme, host and port of
    /// the server.
    ///
    /// # Errors
    /// The URL is malformed, its scheme is neither http nor https, or its scheme is http while the server is reached
    /// over https.
    pub(crate) fn named(&self, url: &str) -> Result<String, String> {
        let url = url.trim();
        if url.starts_with('/') && !url.starts_with("//") {
            let origin = self.text.len() - split(scheme(&self.text).map_or("", |(_, rest)| rest)).1.len();
            return self.named(&format!("{}{url}", &self.text[..origin]));
        }
        let Some((is_https, rest)) = scheme(url) else {
            let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
            return Err(format!("its scheme {scheme:?} is neither http nor https"));
        };
        if self.is_https && !is_https {
            return Err("it uses http, but the server is reached over https".into());
        }
        if url.chars().any(|c| c.is_whitespace() || c.is_control() || c == '\\') {
            return Err("it contains white space, a control character or a backslash".into());
        }
        let authority = split(rest).0;
        if authority.contains('@') {
            return Err("it contains a user name".into());
        }
        Place::parse(authority).map(|_| url.to_string()).map_err(|problem| format!("it {problem}"))
    }
}

impl Place {
    /// Parses a host with or without a port.
    ///
    /// # Errors
    /// The problem, as a text that continues the words "the URL", such as "has no host".
    pub(crate) fn parse(authority: &str) -> Result<Self, String> {
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((host, "")) => (host, None),
                Some((host, port)) if port.starts_with(':') => (host, Some(&port[1..])),
                Some((_, rest)) => return Err(format!("has {rest:?} after the brackets of its host")),
                None => return Err(format!("has the host {authority:?}, whose bracket is not closed")),
            },
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let port = port.map(|port| port_of(port, authority)).transpose()?;
        let host = if !authority.starts_with('[') {
            name(host)?
        } else if host.parse::<Ipv6Addr>().is_ok() {
            host.to_ascii_lowercase()
        } else {
            return Err(format!("has the host \"[{host}]\", which is not a valid IPv6 address"));
        };
        match Authority::try_from(authority) {
            Ok(_) => Ok(Place { host, port }),
            Err(error) => Err(format!("has the host {authority:?}, which is not valid: {error}")),
        }
    }
}

fn port_of(text: &str, authority: &str) -> Result<u16, String> {
    if text.contains(':') {
        return Err(format!(
            "has the host {authority:?} with several colons: write IPv6 addresses in brackets"
        ));
    }
    let port = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    match port.filter(|port| *port != 0) {
        Some(port) => Ok(port),
        None => Err(format!("has the port {text:?}, which is not a number from 1 to 65535")),
    }
}

/// Checks a host name or an IPv4 address. Returns it in lower case.
fn name(host: &str) -> Result<String, String> {
    if host.is_empty() {
        return Err("has no host".into());
    }
    if !host.is_ascii() {
        return Err(format!("has the host {host:?} with letters other than ASCII: write it as xn--…"));
    }
    if let Some(c) = host.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '.' | '_')) {
        return Err(format!("has the host {host:?}, which must not contain {c:?}"));
    }
    let labels = host.strip_suffix('.').unwrap_or(host);
    if 253 < labels.len() || labels.split('.').any(|label| label.is_empty() || 63 < label.len()) {
        return Err(format!("has the host {host:?} with an empty or too long part"));
    }
    let last = labels.rsplit('.').next().unwrap_or_default();
    let is_number = last.bytes().all(|byte| byte.is_ascii_digit());
    if is_number && host.parse::<Ipv4Addr>().is_err() {
        return Err(format!("has the host {host:?}, which is not a valid IPv4 address"));
    }
    Ok(host.to_ascii_lowercase())
}

/// Splits off the scheme. Returns `true` for https, and the rest of the text. `None` for other schemes.
fn scheme(text: &str) -> Option<(bool, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    match scheme.to_ascii_lowercase().as_str() {
        "http" => Some((false, rest)),
        "https" => Some((true, rest)),
        _ => None,
    }
}

/// Splits the authority from the path.
fn split(rest: &str) -> (&str, &str) {
    rest.split_at(rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len()))
}

fn check_path(path: &str) -> Result<(), String> {
    let mut rest = path;
    while let Some((_, after)) = rest.split_once('%') {
        let digits = after.as_bytes().get(..2);
        if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            return Err(format!(
                "has the path {path:?} with a percent sign that is not followed by two hex digits"
            ));
        }
        rest = after;
    }
    let is_forbidden =
        |c: &char| !c.is_ascii() || matches!(c, '\\' | '"' | '<' | '>' | '^' | '`' | '{' | '|' | '}');
    match path.chars().find(is_forbidden) {
        Some(c) => Err(format!("has the path {path:?}, in which {c:?} must be percent-encoded")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_urls_are_parsed() {
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
    fn the_error_of_an_invalid_url_names_the_problem() {
        for (text, part) in [
            ("localhost:8000", "http://"),
            ("ftp://x", "http://"),
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
    fn a_url_returned_by_a_server_is_at_least_as_safe_as_the_server() {
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
