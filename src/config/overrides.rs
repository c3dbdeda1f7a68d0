//! Headers of the caller. They are added to each request; a header replaces the client's own header of the same name.

use std::collections::BTreeMap;

use crate::credentials::Secret;
use crate::error::{Error, Result};

/// Headers that control the body or the connection. They cannot be overridden.
const RESERVED: [&str; 6] =
    ["connection", "content-length", "keep-alive", "te", "transfer-encoding", "upgrade"];
/// The value of a header is secret if the header's name contains one of these words.
const SECRET_WORDS: [&str; 8] = ["auth", "cookie", "credential", "key", "pass", "secret", "session", "token"];

/// Headers that a sampler handle from another process must not set, in addition to `RESERVED`: they control the
/// identity of the caller, the address, the encoding of bodies, or idempotency.
const NOT_FROM_HANDLES: [&str; 14] = [
    "accept",
    "accept-encoding",
    "authorization",
    "cf-access-client-id",
    "cf-access-client-secret",
    "content-encoding",
    "content-type",
    "expect",
    "host",
    "proxy-authorization",
    "trailer",
    "x-api-key",
    "x-idempotency-key",
    "x-tinker-weights-access-token",
];

/// Returns whether a sampler handle from another process may set this header.
pub(crate) fn may_be_foreign(name: &str) -> bool {
    !NOT_FROM_HANDLES.iter().chain(&RESERVED).any(|own| name.eq_ignore_ascii_case(own))
}

/// Checks the name and the value of a header (RFC 9110 §5.1, §5.5). The error does not show the value.
pub(crate) fn check(name: &str, value: &str) -> Result<()> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(Error::config(format!("{name:?} is not a valid header name")));
    }
    if RESERVED.iter().any(|reserved| name.eq_ignore_ascii_case(reserved)) {
        return Err(Error::config(format!("the header {name} cannot be overridden")));
    }
    if !value.bytes().all(|byte| (b' '..=b'~').contains(&byte) || byte == b'\t') {
        let text = format!("the value of the header {name} contains a character other than printable ASCII");
        return Err(Error::config(text));
    }
    if value.trim() != value {
        return Err(Error::config(format!("the value of the header {name} begins or ends with white space")));
    }
    Ok(())
}

/// The secret values among the headers. They are removed from texts that the server returns.
pub(crate) fn secrets(overrides: &[(String, Secret)]) -> impl Iterator<Item = &Secret> {
    overrides.iter().filter(|(name, _)| is_secret(name)).map(|(_, value)| value)
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_WORDS.iter().any(|word| name.contains(word))
}

/// The headers that a sampler handle passes on to other processes: those that a handle may set, except headers whose
/// name suggests a secret or whose value contains a secret.
pub(crate) fn shared(overrides: &[(String, Secret)], secrets: &[Secret]) -> BTreeMap<String, String> {
    let mut shared = BTreeMap::new();
    for (name, value) in overrides {
        // As in a request, the last of several headers with the same name counts.
        shared.retain(|earlier: &String, _| !earlier.eq_ignore_ascii_case(name));
        let is_part =
            |secret: &Secret| !secret.expose().is_empty() && value.expose().contains(secret.expose());
        if may_be_foreign(name) && !is_secret(name) && !secrets.iter().any(is_part) {
            shared.insert(name.clone(), value.expose().to_string());
        }
    }
    shared
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_valid_headers_are_accepted_and_no_value_is_shown() {
        for (name, value) in [("X-Team", "a b\tc"), ("x-api-key", "k"), ("A!~", "")] {
            assert!(check(name, value).is_ok(), "{name}");
        }
        for (name, value) in [
            ("", "hunter2"),
            ("X Team", "hunter2"),
            ("X-Team:", "hunter2"),
            ("Größe", "hunter2"),
            ("X-Team", "hunter2\r\nX-Other: 1"),
            ("X-Team", "hunter2 "),
            ("X-Team", "hunter2ü"),
            ("Content-Length", "7"),
            ("transfer-encoding", "chunked"),
        ] {
            let error = check(name, value).expect_err("no header");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_sampler_handle_omits_secret_and_reserved_headers() {
        let overrides = [
            ("X-Team", "research"),
            ("X-Gateway-Token", "open-sesame"),
            ("X-Note", "the key is tml-secret, psst"),
            ("X-API-Key", "mine"),
            ("Host", "elsewhere"),
            ("X-Stage", "test"),
            ("x-stage", "production"),
        ];
        let overrides = overrides.map(|(name, value)| (name.to_string(), Secret::new(value)));
        let shared = shared(&overrides, &[Secret::new("tml-secret"), Secret::new("")]);
        let expected = [("X-Team", "research"), ("x-stage", "production")];
        assert_eq!(shared, expected.map(|(name, value)| (name.into(), value.into())).into());
    }

    #[test]
    fn a_value_is_secret_if_its_name_contains_a_secret_word() {
        let overrides = ["Authorization", "X-Gateway-Token", "Accept", "COOKIE"];
        let overrides = overrides.map(|it| (it.to_string(), Secret::new(it)));
        let found: Vec<_> = secrets(&overrides).map(Secret::expose).collect();
        assert_eq!(found, ["Authorization", "X-Gateway-Token", "COOKIE"]);
    }
}
