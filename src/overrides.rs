//! Headers that a caller adds to every request, or puts in the place of the client's own.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::secret::Secret;

/// What says where a body ends, or whose connection this is, is not the caller's to say.
const RESERVED: [&str; 6] =
    ["connection", "content-length", "keep-alive", "te", "transfer-encoding", "upgrade"];
/// Words in the names of headers whose values are secrets, even if a server repeats them.
const TELLTALE: [&str; 8] = ["auth", "cookie", "credential", "key", "pass", "secret", "session", "token"];

/// What a handle that somebody else made does not decide: as whom the client speaks, what it sends and understands, and by
/// what its requests are told apart.
const OURS: [&str; 14] = [
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

/// Whether a handle may ask for a header of this name.
pub(crate) fn may_be_foreign(name: &str) -> bool {
    !OURS.iter().chain(&RESERVED).any(|it| name.eq_ignore_ascii_case(it))
}

/// Refuses what is no header (RFC 9110 §5.1, §5.5). The value is not shown.
pub(crate) fn check(name: &str, value: &str) -> Result<()> {
    let is_token = |it: u8| it.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&it);
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(Error::config(format!("{name:?} is no name of a header")));
    }
    if RESERVED.iter().any(|it| name.eq_ignore_ascii_case(it)) {
        return Err(Error::config(format!("the header {name} cannot be overridden")));
    }
    let is_printable = value.bytes().all(|it| (b' '..=b'~').contains(&it) || it == b'\t');
    match is_printable && value.trim() == value {
        true => Ok(()),
        false => Err(Error::config(format!(
            "the value of the header {name} is not printable ASCII, or begins or ends with white space"
        ))),
    }
}

/// The values that must not be seen even if a server repeats them.
pub(crate) fn secrets(overrides: &[(String, Secret)]) -> impl Iterator<Item = &Secret> {
    overrides.iter().filter(|it| is_secret(&it.0)).map(|it| &it.1)
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    TELLTALE.iter().any(|it| name.contains(it))
}

/// What a handle may take to other processes: nothing whose name speaks of a secret, and no value that contains one.
pub(crate) fn shared(overrides: &[(String, Secret)], secrets: &[Secret]) -> BTreeMap<String, String> {
    let mut shared = BTreeMap::new();
    for (name, value) in overrides {
        // As in a request, the last of a name counts.
        shared.retain(|it: &String, _| !it.eq_ignore_ascii_case(name));
        let holds = |it: &Secret| !it.expose().is_empty() && value.expose().contains(it.expose());
        if may_be_foreign(name) && !is_secret(name) && !secrets.iter().any(holds) {
            shared.insert(name.clone(), value.expose().to_string());
        }
    }
    shared
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_headers_are_accepted_and_no_value_is_shown() {
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
    fn a_handle_takes_along_what_is_no_secret_and_no_others_affair() {
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
    fn values_are_secret_where_the_name_says_so() {
        let overrides = ["Authorization", "X-Gateway-Token", "Accept", "COOKIE"];
        let overrides = overrides.map(|it| (it.to_string(), Secret::new(it)));
        let found: Vec<_> = secrets(&overrides).map(Secret::expose).collect();
        assert_eq!(found, ["Authorization", "X-Gateway-Token", "COOKIE"]);
    }
}
