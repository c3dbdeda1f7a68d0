//! Classification of one HTTP answer, independent of the call (PROTOCOL §1.10, §1.13).

use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::error::words::presentable;
use crate::error::{Error, ErrorKind};
use crate::http_date;

/// Longest pause that a server may ask for; a longer one is ignored.
const MAX_HINT: Duration = Duration::from_secs(60);

/// The parts of an answer that decisions need.
#[derive(Clone, Copy)]
pub(crate) struct Facts<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
    pub(crate) retry_after_ms: Option<&'a str>,
    pub(crate) retry_after: Option<&'a str>,
    /// Time of the answer by its `date` header, or by the clock of this machine if there is none. A date in
    /// `retry_after` is relative to this time.
    pub(crate) at: Option<SystemTime>,
    /// The `x-should-retry` header.
    pub(crate) should_retry: Option<&'a str>,
    /// The `location` header.
    pub(crate) location: Option<&'a str>,
}

/// Meaning of an answer for retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A success status.
    Success,
    /// The same request may succeed later.
    Retry,
    /// A conflict (409), which seldom ends soon: retry for a few seconds only.
    Conflict,
    /// A proxy dropped the request: retry over a new connection.
    Dropped,
    /// The same request would fail again.
    Fatal,
}

impl Facts<'_> {
    pub(crate) fn verdict(&self) -> Verdict {
        if (200..300).contains(&self.status) {
            return Verdict::Success;
        }
        match self.should_retry.map(str::trim) {
            Some("true") => return Verdict::Retry,
            Some("false") => return Verdict::Fatal,
            _ => {}
        }
        match self.status {
            400 if self.body.is_empty() => Verdict::Dropped,
            408 | 425 | 429 | 500.. => Verdict::Retry,
            409 => Verdict::Conflict,
            _ => Verdict::Fatal,
        }
    }

    /// Returns true if the server refused the content of the request. All attempts at a request have the same content,
    /// so the server did not accept an earlier attempt either.
    pub(crate) fn refuses_content(&self) -> bool {
        match self.status {
            400 => !self.body.is_empty(),
            422 => true,
            _ => false,
        }
    }

    /// Pause that the server asks for, stated in milliseconds, in seconds, or as a date.
    pub(crate) fn hint(&self) -> Option<Duration> {
        let seconds = |text: &str, unit: f64| {
            let seconds = text.trim().parse::<f64>().ok()? * unit;
            Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::ZERO))
        };
        let until = |text: &str| http_date::parse(text)?.duration_since(self.at?).ok();
        let hint = self
            .retry_after_ms
            .and_then(|it| seconds(it, 1e-3))
            .or_else(|| self.retry_after.and_then(|it| seconds(it, 1.0).or_else(|| until(it))))?;
        (!hint.is_zero() && hint <= MAX_HINT).then_some(hint)
    }

    /// Converts this answer to the error that the caller gets.
    pub(crate) fn error(&self) -> Error {
        let kind = match self.status {
            401 => ErrorKind::Auth,
            402 => ErrorKind::Billing,
            403 => ErrorKind::Permission,
            404 => ErrorKind::NotFound,
            409 => ErrorKind::Conflict,
            429 => ErrorKind::RateLimited,
            code => ErrorKind::Status { code },
        };
        let hint = self.hint();
        let vetoed = self.should_retry.is_some_and(|it| it.trim() == "false");
        let detail = detail(self.body);
        let text = match (&detail, self.location.filter(|_| (300..400).contains(&self.status))) {
            (_, Some(place)) => {
                let place = presentable(place);
                format!("the server redirects to {place:?}, which is not followed; check the base URL")
            }
            (Some(detail), None) => detail.clone(),
            (None, None) => "the server gave no reason".into(),
        };
        Error::new(kind, format!("HTTP {}: {text}", self.status)).with(|it| {
            it.status = Some(self.status);
            it.detail = detail;
            it.retry_after = hint;
            it.vetoed = Some(vetoed);
        })
    }
}

/// The server's description of a failure, cleaned for display. Reads JSON bodies of several shapes, and plain text.
/// `None` if the body has no text.
pub(crate) fn detail(body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    let text = text.trim();
    let words = match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(map)) => {
            let said = ["detail", "message", "error"].iter().find_map(|it| map.get(*it));
            said.map_or_else(|| text.to_string(), in_words)
        }
        _ => text.to_string(),
    };
    Some(presentable(&words)).filter(|words| !words.is_empty())
}

/// Converts a description to text. The web framework FastAPI sends a list of objects with a location and a message.
fn in_words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(in_words).collect::<Vec<_>>().join("; "),
        Value::Object(map) => match (map.get("loc"), map.get("msg")) {
            (Some(Value::Array(loc)), Some(Value::String(msg))) => {
                let loc: Vec<String> = loc.iter().map(in_words).collect();
                format!("{}: {msg}", loc.join("."))
            }
            _ => value.to_string(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(status: u16, body: &str) -> Facts<'_> {
        Facts {
            status,
            body: body.as_bytes(),
            retry_after_ms: None,
            retry_after: None,
            at: None,
            should_retry: None,
            location: None,
        }
    }

    #[test]
    fn the_error_of_a_redirect_names_its_target() {
        for status in [301, 302, 307, 308] {
            let facts = Facts { location: Some("https://other/x\u{1b}[1m"), ..facts(status, "") };
            let error = facts.error();
            assert!(error.to_string().contains(r#""https://other/x""#), "{error}");
        }
        let error = Facts { location: Some("https://other"), ..facts(201, "") }.error();
        assert!(!error.to_string().contains("other"), "{error}");
    }

    #[test]
    fn each_status_has_its_verdict() {
        use Verdict::*;
        let table = [
            (200, Success),
            (204, Success),
            (302, Fatal),
            (400, Fatal),
            (401, Fatal),
            (402, Fatal),
            (404, Fatal),
            (408, Retry),
            (409, Conflict),
            (410, Fatal),
            (413, Fatal),
            (422, Fatal),
            (425, Retry),
            (429, Retry),
            (500, Retry),
            (503, Retry),
            (599, Retry),
        ];
        for (status, verdict) in table {
            assert_eq!(facts(status, "x").verdict(), verdict, "{status}");
        }
        assert_eq!(facts(400, "").verdict(), Dropped);
    }

    #[test]
    fn a_422_and_a_400_with_a_body_refuse_the_content() {
        let table = [
            (400, "no such loss", true),
            (400, "", false),
            (422, "", true),
            (404, "x", false),
            (500, "x", false),
        ];
        for (status, body, expected) in table {
            assert_eq!(facts(status, body).refuses_content(), expected, "{status} {body}");
        }
    }

    #[test]
    fn the_should_retry_header_overrules_the_status() {
        assert_eq!(Facts { should_retry: Some("false"), ..facts(503, "x") }.verdict(), Verdict::Fatal);
        assert_eq!(Facts { should_retry: Some("true"), ..facts(400, "x") }.verdict(), Verdict::Retry);
    }

    #[test]
    fn a_hint_in_milliseconds_has_precedence_and_invalid_hints_are_ignored() {
        let hint = |ms, s| Facts { retry_after_ms: ms, retry_after: s, ..facts(429, "") }.hint();
        assert_eq!(hint(Some("250"), Some("9")), Some(Duration::from_millis(250)));
        assert_eq!(hint(None, Some("1.5")), Some(Duration::from_millis(1500)));
        for invalid in ["0", "-1", "61", "nan", "soon", "1e300"] {
            assert_eq!(hint(None, Some(invalid)), None, "{invalid}");
        }
    }

    #[test]
    fn a_hint_may_be_a_date_relative_to_the_time_of_the_answer() {
        let at = http_date::parse("Fri, 20 Nov 2026 13:19:11 GMT");
        let hint = |text| Facts { retry_after: Some(text), at, ..facts(503, "") }.hint();
        assert_eq!(hint("Fri, 20 Nov 2026 13:19:41 GMT"), Some(Duration::from_secs(30)));
        for ignored in [
            "Fri, 20 Nov 2026 13:19:11 GMT",
            "Fri, 20 Nov 2026 13:00:00 GMT",
            "Fri, 20 Nov 2026 14:19:11 GMT",
        ] {
            assert_eq!(hint(ignored), None, "{ignored}");
        }
        let without_time = Facts { retry_after: Some("Fri, 20 Nov 2026 13:19:41 GMT"), ..facts(503, "") };
        assert_eq!(without_time.hint(), None);
    }

    #[test]
    fn the_reason_of_the_server_is_found_in_every_form_of_body() {
        let table = [
            (r#"{"detail":"no such model"}"#, "no such model"),
            (r#"{"message":"m"}"#, "m"),
            (r#"{"error":"e","category":"user"}"#, "e"),
            (
                r#"{"detail":[{"loc":["body","x"],"msg":"field required","type":"missing"}]}"#,
                "body.x: field required",
            ),
            (r#"{"other":1}"#, r#"{"other":1}"#),
            (r#"["a"]"#, r#"["a"]"#),
            ("Internal Server Error", "Internal Server Error"),
            ("a\r\nb", "a b"),
            (r#"{"detail":"\u001b[31mred"}"#, "red"),
            ("<html><title>502</title>", r#"an HTML page, "502""#),
        ];
        for (body, text) in table {
            assert_eq!(detail(body.as_bytes()).as_deref(), Some(text));
        }
        assert_eq!(detail(b""), None);
    }
}
