//! Parts of a file that a client asks for, so that a broken download can be continued (RFC 9110 §13.1.5, §14).

use std::fmt::Write;
use std::ops::Range;

use axum::http::{HeaderMap, Method, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{Digest, SHA256, digest};

/// What an answer has of a file.
#[derive(Debug, PartialEq)]
pub(super) enum Part {
    Whole,
    Range(Range<usize>),
    /// The range begins after the end of the file.
    Unsatisfiable,
}

/// The digest of a file. It identifies the version: it does not change while a checkpoint stays the same.
pub(super) struct Version(Digest);

impl Version {
    pub(super) fn of(bytes: &[u8]) -> Self {
        Version(digest(&SHA256, bytes))
    }

    /// Value of the header `ETag`.
    pub(super) fn etag(&self) -> String {
        let mut text = String::from("\"");
        for byte in self.0.as_ref() {
            // Writing to a text does not fail.
            let _ = write!(text, "{byte:02x}");
        }
        text + "\""
    }

    /// Value of the header `Repr-Digest` (RFC 9530), by which clients check the whole file.
    pub(super) fn digest(&self) -> String {
        format!("sha-256=:{}:", STANDARD.encode(self.0.as_ref()))
    }
}

/// The part that a request asks for, of a file with this size and this tag.
pub(super) fn asked(method: &Method, headers: &HeaderMap, size: usize, etag: &str) -> Part {
    let text = |name: header::HeaderName| headers.get(name).map(|it| it.to_str().unwrap_or_default().trim());
    let is_same = text(header::IF_RANGE).is_none_or(|it| it == etag);
    match text(header::RANGE) {
        Some(range) if method == Method::GET && is_same => part(range, size),
        _ => Part::Whole,
    }
}

/// Reads a range. Several ranges, and what is not a range, ask for the whole file.
fn part(range: &str, size: usize) -> Part {
    let number =
        |text: &str| text.bytes().all(|it| it.is_ascii_digit()).then(|| text.parse().unwrap_or(usize::MAX));
    let bounds = range.strip_prefix("bytes=").and_then(|it| it.trim().split_once('-'));
    let Some((first, last)) = bounds else { return Part::Whole };
    let range = match (first, last) {
        ("", "") => return Part::Whole,
        ("", length) => number(length).map(|length| size.saturating_sub(length)..size),
        (first, "") => number(first).map(|first| first..size),
        (first, last) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => Some(first..last.saturating_add(1).min(size)),
            _ => None,
        },
    };
    match range {
        None => Part::Whole,
        Some(range) if range.is_empty() => Part::Unsatisfiable,
        Some(range) => Part::Range(range),
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn single_ranges_within_the_file_are_served_and_others_are_the_whole_file() {
        for (range, expected) in [
            ("bytes=0-", Part::Range(0..10)),
            ("bytes=4-", Part::Range(4..10)),
            ("bytes=4-4", Part::Range(4..5)),
            ("bytes=4-99", Part::Range(4..10)),
            ("bytes=4-99999999999999999999999", Part::Range(4..10)),
            ("bytes=-3", Part::Range(7..10)),
            ("bytes=-99", Part::Range(0..10)),
            ("bytes=10-", Part::Unsatisfiable),
            ("bytes=10-20", Part::Unsatisfiable),
            ("bytes=99999999999999999999999-", Part::Unsatisfiable),
            ("bytes=-0", Part::Unsatisfiable),
            ("bytes=5-4", Part::Whole),
            ("bytes=0-1,3-4", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=a-", Part::Whole),
            ("bytes=+1-", Part::Whole),
            ("items=0-1", Part::Whole),
            ("", Part::Whole),
        ] {
            assert_eq!(part(range, 10), expected, "{range}");
        }
        assert_eq!(part("bytes=0-", 0), Part::Unsatisfiable);
    }

    #[test]
    fn a_range_of_another_version_or_of_a_head_is_the_whole_file() {
        let version = Version::of(b"content");
        let of = |method: Method, if_range: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, HeaderValue::from_static("bytes=1-"));
            if let Some(it) = if_range {
                headers.insert(header::IF_RANGE, HeaderValue::from_str(it).expect("a value"));
            }
            asked(&method, &headers, 7, &version.etag())
        };
        assert_eq!(of(Method::GET, None), Part::Range(1..7));
        assert_eq!(of(Method::GET, Some(&version.etag())), Part::Range(1..7));
        assert_eq!(of(Method::GET, Some(&Version::of(b"other").etag())), Part::Whole);
        assert_eq!(of(Method::GET, Some(&format!("W/{}", version.etag()))), Part::Whole);
        assert_eq!(of(Method::GET, Some("Sat, 28 Nov 2026 10:00:00 GMT")), Part::Whole);
        assert_eq!(of(Method::HEAD, None), Part::Whole);
        assert_eq!(version.digest(), "sha-256=:7XACtDnprIRfIjV9giusFERzD722AW0+yUMil7nsn3M=:");
    }
}
