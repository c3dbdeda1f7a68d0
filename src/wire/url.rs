//! Paths and queries of addresses (PROTOCOL §1.9).

use crate::error::{Error, Result};

/// Writes text into a path. What a path may contain stays, colons and slashes too; a space becomes `%20`.
fn escape(text: &str, keep: &[u8], out: &mut String) {
    for byte in text.bytes() {
        match byte.is_ascii_alphanumeric() || keep.contains(&byte) {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
}

/// An id as one part of a path.
///
/// # Errors
/// Text that would lead to another place: nothing, `..`, or one with a slash.
pub(crate) fn segment(field: &str, id: &str) -> Result<String> {
    match id.contains('/') {
        true => Err(Error::invalid(field, format!("{id:?} contains a slash"))),
        false => segments(field, id),
    }
}

/// An id of one or more parts of a path, such as `weights/step-10`.
///
/// # Errors
/// Text with a part that would lead to another place: nothing, or `..`.
pub(crate) fn segments(field: &str, id: &str) -> Result<String> {
    if id.split('/').any(|it| matches!(it, "" | "." | "..")) {
        return Err(Error::invalid(field, format!("{id:?} cannot stand in an address")));
    }
    let mut out = String::with_capacity(id.len());
    escape(id, b"-._~!$&'()*+,;=:@/", &mut out);
    Ok(out)
}

/// An id that the server gave, as a part of a path.
///
/// # Errors
/// As for [`segment`], but then it is the server that is wrong.
pub(crate) fn segment_of_server(id: &str) -> Result<String> {
    segments("id", id)
        .map_err(|_| Error::decode(format!("the server's id {id:?} cannot stand in an address")))
}

/// A path with a query. Empty values are left out.
#[derive(Debug)]
pub(crate) struct Query {
    text: String,
    separator: char,
}

impl Query {
    pub(crate) fn on(path: impl Into<String>) -> Self {
        Query { text: path.into(), separator: '?' }
    }

    pub(crate) fn with(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        let value = value.to_string();
        if !value.is_empty() {
            self.text.push(self.separator);
            self.separator = '&';
            self.text.push_str(name);
            self.text.push('=');
            escape(&value, b"-._~:/,", &mut self.text);
        }
        self
    }

    pub(crate) fn and(self, name: &str, value: Option<impl std::fmt::Display>) -> Self {
        match value {
            Some(it) => self.with(name, it),
            None => self,
        }
    }

    pub(crate) fn text(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_stay_readable_and_cannot_lead_elsewhere() {
        for (id, path) in [
            ("session_1:train:0", "session_1:train:0"),
            ("weights/step 1", "weights/step%201"),
            ("a?b#c%d", "a%3Fb%23c%25d"),
            ("ü\n", "%C3%BC%0A"),
        ] {
            assert_eq!(segments("id", id).expect("parts"), path);
            assert_eq!(segment("id", id).is_ok(), !id.contains('/'), "{id}");
        }
        for id in ["", "..", "a/../b", "a//b", "/a", "a/", "."] {
            for refused in [segment("id", id), segments("id", id)] {
                assert_eq!(refused.expect_err("a refusal").violation().expect("a place").path, "id");
            }
        }
    }

    #[test]
    fn a_query_leaves_out_what_is_empty_and_escapes_the_rest() {
        let query = Query::on("/a").with("limit", 20).with("x", "").and("none", None::<u8>);
        assert_eq!(query.and("p", Some("a b&c=d+e")).text(), "/a?limit=20&p=a%20b%26c%3Dd%2Be");
        assert_eq!(Query::on("/a").with("t", "2026-07-13T00:00:00Z").text(), "/a?t=2026-07-13T00:00:00Z");
        assert_eq!(Query::on("/a").text(), "/a");
    }
}
