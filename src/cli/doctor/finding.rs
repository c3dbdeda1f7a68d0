//! What the doctor found, and how it judges measurements.

use std::time::Duration;

use serde_json::{Value, json};

/// Outcome of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Ok,
    Warn,
    Fail,
    /// Not examined, because an earlier check failed or there is nothing to examine.
    Skip,
}

impl Mark {
    pub(super) fn name(self) -> &'static str {
        match self {
            Mark::Ok => "ok",
            Mark::Warn => "warn",
            Mark::Fail => "fail",
            Mark::Skip => "skip",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) check: &'static str,
    pub(super) mark: Mark,
    pub(super) text: String,
    pub(super) remedy: String,
}

impl Finding {
    pub(super) fn new(check: &'static str, mark: Mark, text: impl Into<String>) -> Self {
        Finding { check, mark, text: text.into(), remedy: String::new() }
    }

    pub(super) fn ok(check: &'static str, text: impl Into<String>) -> Self {
        Finding::new(check, Mark::Ok, text)
    }

    pub(super) fn fail(check: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Finding::new(check, Mark::Fail, text).with_remedy(remedy)
    }

    pub(super) fn skip(check: &'static str, why: impl Into<String>) -> Self {
        Finding::new(check, Mark::Skip, why)
    }

    pub(super) fn with_remedy(self, remedy: impl Into<String>) -> Self {
        Finding { remedy: remedy.into(), ..self }
    }

    pub(super) fn json(&self) -> Value {
        let remedy = Some(&self.remedy).filter(|it| !it.is_empty());
        json!({ "check": self.check, "mark": self.mark.name(), "text": self.text, "remedy": remedy })
    }
}

/// Judges the difference between the server's clock and this machine's, in seconds.
pub(super) fn clock(ahead: Option<f64>) -> Finding {
    const CHECK: &str = "clock";
    const REMEDY: &str =
        "set the clock of this machine, for example by NTP: tokens and signed addresses have times";
    let Some(ahead) = ahead else {
        return Finding::skip(CHECK, "the server tells no time");
    };
    let text = match ahead {
        it if it.abs() < 2.0 => "as the server's".to_owned(),
        it if 0.0 < it => format!("{it:.0} s ahead of the server's"),
        it => format!("{:.0} s behind the server's", -it),
    };
    let mark = match ahead.abs() {
        it if it < 30.0 => Mark::Ok,
        it if it < 300.0 => Mark::Warn,
        _ => Mark::Fail,
    };
    let remedy = if mark == Mark::Ok { "" } else { REMEDY };
    Finding::new(CHECK, mark, text).with_remedy(remedy)
}

/// Judges the times of requests over one connection.
pub(super) fn round_trip(mut times: Vec<Duration>) -> Finding {
    const CHECK: &str = "round trip";
    times.sort();
    let Some(median) = times.get(times.len() / 2) else { return Finding::skip(CHECK, "no answer") };
    let ms = |it: &Duration| format!("{:.1} ms", 1e3 * it.as_secs_f64());
    let slowest = times.last().map(ms).unwrap_or_default();
    let text = format!("{} (median of {}, slowest {slowest})", ms(median), times.len());
    if Duration::from_millis(500) <= *median {
        return Finding::new(CHECK, Mark::Warn, text)
            .with_remedy("each step waits for it: use a nearer network, or submit steps ahead");
    }
    Finding::ok(CHECK, text)
}

/// Judges the free space of a folder, in bytes.
pub(super) fn disk(place: &str, free: u64) -> Finding {
    const CHECK: &str = "disk";
    let text = format!("{} free in {place}", super::super::moments::size(free));
    let mark = match free {
        0..500_000_000 => Mark::Fail,
        500_000_000..10_000_000_000 => Mark::Warn,
        _ => Mark::Ok,
    };
    let remedy = if mark == Mark::Ok { "" } else { "make room: a downloaded checkpoint has several GB" };
    Finding::new(CHECK, mark, text).with_remedy(remedy)
}

/// Judges the error of a request: which layer failed, and what to do.
pub(super) fn layer(message: &str, is_https: bool) -> (&'static str, &'static str) {
    let lower = message.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|it| lower.contains(it));
    if has(&["causedasendentity"]) {
        return (
            "TLS",
            "the server sends the certificate of an authority as its own: have the authority sign one for the server, and \
             trust it with SSL_CERT_FILE=authority.pem",
        );
    }
    if has(&["certificate", "unknownissuer", "invalid peer", "notvalidforname", "expired"]) {
        return (
            "TLS",
            "check the date of this machine and the name in the address; a private authority, or a proxy that opens TLS, \
             is trusted with SSL_CERT_FILE=authority.pem, its certificate as PEM",
        );
    }
    if is_https && has(&["tls", "rustls", "handshake", "corrupt message", "invalidcontenttype"]) {
        return ("TLS", "the port may not speak TLS: try http:// in the address");
    }
    if has(&["timeout", "timed out"]) {
        return (
            "answer",
            "the server accepts connections and does not answer: check the port and the proxy",
        );
    }
    ("answer", "check the port: another program may listen there")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_judged_by_their_difference() {
        for (ahead, mark) in [(0.0, Mark::Ok), (-29.0, Mark::Ok), (31.0, Mark::Warn), (-3600.0, Mark::Fail)] {
            assert_eq!(clock(Some(ahead)).mark, mark, "{ahead}");
        }
        assert_eq!(clock(Some(-3600.0)).text, "3600 s behind the server's");
        assert_eq!(clock(None).mark, Mark::Skip);
    }

    #[test]
    fn the_median_of_the_round_trips_counts() {
        let ms = |times: &[u64]| round_trip(times.iter().map(|it| Duration::from_millis(*it)).collect());
        assert_eq!(ms(&[2000, 10, 11, 12, 9]).mark, Mark::Ok);
        assert_eq!(ms(&[900, 800, 700]).mark, Mark::Warn);
        assert_eq!(ms(&[]).mark, Mark::Skip);
    }

    #[test]
    fn the_layer_is_known_by_the_message() {
        assert_eq!(layer("invalid peer certificate: UnknownIssuer", true).0, "TLS");
        assert_eq!(layer("received corrupt message of type InvalidContentType", true).0, "TLS");
        assert_eq!(layer("timeout: global", true).0, "answer");
    }

    #[test]
    fn little_room_is_a_warning_and_none_a_failure() {
        let marks = [1_000, 1_000_000_000, 100_000_000_000].map(|it| disk("/", it).mark);
        assert_eq!(marks, [Mark::Fail, Mark::Warn, Mark::Ok]);
    }
}
