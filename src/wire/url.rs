//! Builds the paths and queries of URLs, with percent-encoding (PROTOCOL §1.9).

use crate::error::{Error, Result};

/// Appends `text` to `out`. Percent-encodes all bytes except ASCII letters, digits and the bytes in `keep`. A space
/// becomes `%20`.
fn escape(text: &str, keep: &[u8], out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || keep.contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

/// Encodes an id as one segment of a path.
///
/// # Errors
/// An id that would change the path: empty, `.`, `..`, or with a slash.
pub(crate) fn segment(field: &str, id: &str) -> Result<String> {
    if id.contains('/') {
        Err(Error::invalid(field, format!("{id:?} contains a slash")))
    } else {
        segments(field, id)
    }
}

/// Encodes an id that is one or more segments of a path, such as `weights/step-10`.
///
/// # Errors
/// An id with a segment that would change the path: empty, `.` or `..`.
pub(crate) fn segments(field: &str, id: &str) -> Result<String> {
    if id.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        return Err(Error::invalid(field, format!("{id:?} has an empty segment, \".\" or \"..\"")));
    }
    let mut out = String::with_capacity(id.len());
    escape(id, b"-._~!$&'()*+,;=:@/", &mut out);
    Ok(out)
}

/// Encodes an id that the server assigned, as one or more segments of a path.
///
/// # Errors
/// As for [`segments`], but as a decode error, because the server chose the id.
pub(crate) fn segment_of_server(id: &str) -> Result<String> {
    segments("id", id)
        .map_err(|_| Error::decode(format!("the server's id {id:?} is not a valid part of a URL path")))
}

/// A path with a query. Parameters with an empty value are left out.
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
    fn ids_stay_readable_and_cannot_change_the_path() {
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
    fn a_query_omits_empty_values_and_escapes_the_others() {
        let query = Query::on("/a").with("limit", 20).with("x", "").and("none", None::<u8>);
        assert_eq!(query.and("p", Some("a b&c=d+e")).text(), "/a?limit=20&p=a%20b%26c%3Dd%2Be");
        assert_eq!(Query::on("/a").with("t", "2026-07-13T00:00:00Z").text(), "/a?t=2026-07-13T00:00:00Z");
        assert_eq!(Query::on("/a").text(), "/a");
    }
}
