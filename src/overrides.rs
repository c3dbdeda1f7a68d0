//! Headers that a caller adds to every request, or puts in the place of the client's own.

use crate::error::{Error, Result};
use crate::secret::Secret;

/// What says where a body ends, or whose connection this is, is not the caller's to say.
const RESERVED: [&str; 6] =
    ["connection", "content-length", "keep-alive", "te", "transfer-encoding", "upgrade"];
/// Words in the names of headers whose values are secrets, even if a server repeats them.
const TELLTALE: [&str; 8] = ["auth", "cookie", "credential", "key", "pass", "secret", "session", "token"];

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
    let is_secret = |name: &str| TELLTALE.iter().any(|it| name.to_ascii_lowercase().contains(it));
    overrides.iter().filter(move |it| is_secret(&it.0)).map(|it| &it.1)
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
    fn values_are_secret_where_the_name_says_so() {
        let overrides = ["Authorization", "X-Gateway-Token", "Accept", "COOKIE"];
        let overrides = overrides.map(|it| (it.to_string(), Secret::new(it)));
        let found: Vec<_> = secrets(&overrides).map(Secret::expose).collect();
        assert_eq!(found, ["Authorization", "X-Gateway-Token", "COOKIE"]);
    }
}
