//! Turns a valid request into the bytes that are sent: its body, its address, its headers or its framing is damaged.

use fastrand::Rng;

use super::corpus::{Body, Request};
use super::{bytes, json, protobuf, zstd};

/// A request as it is sent.
pub(super) struct Sent {
    pub(super) bytes: Vec<u8>,
    /// The kind of damage.
    pub(super) what: &'static str,
    /// Number of answers that must come. `None` if the request breaks the rules of HTTP: the engine may then close the
    /// connection without an answer.
    pub(super) answers: Option<usize>,
    /// True if the answer has no body, as that to a HEAD request.
    pub(super) is_head: bool,
    /// Says that nothing more comes after the request.
    pub(super) half_closed: bool,
}

/// The parts of a request that HTTP can carry.
struct Parts {
    method: String,
    target: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl Parts {
    fn new(request: &Request, key: &str) -> Parts {
        let mut headers = vec![("Host", "127.0.0.1"), ("X-API-Key", key)];
        headers.extend(request.body.content_type().map(|it| ("Content-Type", it)));
        Parts {
            method: request.method.into(),
            target: request.target.clone(),
            headers: headers.into_iter().map(|it| (it.0.into(), it.1.into())).collect(),
            body: request.body.bytes(),
        }
    }

    fn set(&mut self, name: &str, value: impl Into<Vec<u8>>) {
        self.headers.retain(|it| !it.0.eq_ignore_ascii_case(name));
        self.headers.push((name.into(), value.into()));
    }

    /// The head without its last empty line, and without a header that tells the length of the body.
    fn head(&self, version: &str) -> Vec<u8> {
        let mut out = format!("{} {} {version}\r\n", self.method, self.target).into_bytes();
        for (name, value) in &self.headers {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
        out
    }

    /// The request with the header lines `framing` and the body `body`.
    fn framed(&self, framing: &str, body: &[u8]) -> Vec<u8> {
        [&self.head("HTTP/1.1"), framing.as_bytes(), b"\r\n\r\n", body].concat()
    }

    fn bytes(&self) -> Vec<u8> {
        self.framed(&format!("Content-Length: {}", self.body.len()), &self.body)
    }

    fn sent(self, what: &'static str) -> Sent {
        let is_head = self.method == "HEAD";
        Sent { bytes: self.bytes(), what, answers: Some(1), is_head, half_closed: false }
    }
}

/// A damaged request.
pub(super) fn damage(rng: &mut Rng, request: &Request, key: &str) -> Sent {
    let mut parts = Parts::new(request, key);
    match rng.u8(..20) {
        0 => parts.sent("nothing"),
        1 => {
            damage_target(rng, &mut parts);
            parts.sent("address")
        }
        2 => {
            damage_headers(rng, &mut parts);
            parts.sent("headers")
        }
        3 => {
            parts.body = body(rng, request, &mut parts.headers);
            Sent { half_closed: true, ..parts.sent("body, and nothing after it") }
        }
        4 | 5 => damage_framing(rng, &parts),
        6 => {
            let mut sent = parts.sent("all bytes");
            bytes::damage(rng, &mut sent.bytes);
            Sent { answers: None, half_closed: true, ..sent }
        }
        _ => {
            parts.body = body(rng, request, &mut parts.headers);
            parts.sent("body")
        }
    }
}

fn body(rng: &mut Rng, request: &Request, headers: &mut Vec<(String, Vec<u8>)>) -> Vec<u8> {
    let is_pass = request.target.ends_with("forward_backward") || request.target.ends_with("forward");
    let mut body = match &request.body {
        Body::Json(value) if rng.u8(..5) != 0 => json::damage(rng, value),
        Body::Protobuf(message) if rng.u8(..3) != 0 => protobuf::damage(rng, message),
        other => {
            let mut body = other.bytes();
            bytes::damage(rng, &mut body);
            body
        }
    };
    if is_pass && rng.u8(..4) == 0 {
        headers.push(("Content-Encoding".into(), b"zstd".to_vec()));
        // Half of the compressed bodies are damaged only as such, so that the decoder of the pass sees some whole ones.
        let content = if rng.bool() { request.body.bytes() } else { std::mem::take(&mut body) };
        body = zstd::damage(rng, &content);
    }
    body
}

/// Damages the address or the method, such that HTTP still holds.
fn damage_target(rng: &mut Rng, parts: &mut Parts) {
    const METHODS: [&str; 9] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "BREW"];
    const PIECES: [&str; 18] = [
        "%ff",
        "%c3%28",
        "%00",
        "%2f",
        "%2e%2e",
        "..",
        ".",
        "//",
        "%",
        "%zz",
        "%25",
        "?",
        "?limit=-1&offset=1e9",
        "?limit=18446744073709551616",
        "?limit=%ff",
        "&&==",
        ":",
        "%ed%a0%80",
    ];
    match rng.u8(..4) {
        0 => parts.method = METHODS[rng.usize(..METHODS.len())].into(),
        1 => {
            let at = rng.usize(1..=parts.target.len());
            let piece = PIECES[rng.usize(..PIECES.len())];
            parts.target.insert_str(at, &piece.repeat(rng.usize(1..4)));
        }
        2 => {
            let mut segments: Vec<String> = parts.target.split('/').map(Into::into).collect();
            let i = rng.usize(1..segments.len());
            segments[i] = match rng.u8(..3) {
                0 => "x".repeat(rng.usize(..4000)),
                1 => PIECES[rng.usize(..PIECES.len())].into(),
                _ => segments[rng.usize(1..segments.len())].clone(),
            };
            parts.target = segments.join("/");
        }
        _ => {
            let mut segments: Vec<&str> = parts.target.split('/').collect();
            segments.remove(rng.usize(1..segments.len()));
            parts.target = segments.join("/");
        }
    }
    if !parts.target.starts_with('/') {
        parts.target.insert(0, '/');
    }
}

/// Changes headers, such that HTTP still holds.
fn damage_headers(rng: &mut Rng, parts: &mut Parts) {
    const TYPES: [&str; 7] = [
        "text/plain",
        "application/x-protobuf",
        "application/json",
        "",
        ";;;",
        "*/*",
        "application/x-protobuf; x",
    ];
    const ENCODINGS: [&str; 7] = ["zstd", "gzip", "zstd, zstd", "ZSTD", "identity", "", "br, zstd"];
    match rng.u8(..14) {
        0 | 1 => parts.set("Content-Type", TYPES[rng.usize(..TYPES.len())]),
        2 | 3 => parts.set("Content-Encoding", ENCODINGS[rng.usize(..ENCODINGS.len())]),
        4 => parts.set("Accept", TYPES[rng.usize(..TYPES.len())]),
        5 => parts.headers.retain(|it| it.0 != "Host"),
        6 => parts.headers.push(("Host".into(), b"evil.example".to_vec())),
        7 => parts.set("Host", ["", "[::1", "a@localhost", "127.0.0.1:99999", "\u{e9}"][rng.usize(..5)]),
        8 => parts.set("X-API-Key", vec![b'x'; rng.usize(..2000)]),
        9 => parts.headers.retain(|it| it.0 != "X-API-Key"),
        10 => parts.set("X-Name", vec![b'x'; rng.usize(..12_000)]),
        11 => parts.set("X-Idempotency-Key", vec![rng.u8(0x80..); rng.usize(1..50)]),
        12 => parts.set("Expect", "100-continue"),
        _ => parts.set("Connection", ["close", "keep-alive", "upgrade", "x, close"][rng.usize(..4)]),
    }
}

/// The body in chunks of random sizes.
fn chunks(rng: &mut Rng, body: &[u8], extension: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for part in body.chunks(rng.usize(1..=100)) {
        out.extend_from_slice(format!("{:x}{extension}\r\n", part.len()).as_bytes());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// Damages what says where a request ends, its first line, or the form of its headers. Some of these requests are valid.
fn damage_framing(rng: &mut Rng, parts: &Parts) -> Sent {
    let n = parts.body.len();
    let body = &parts.body[..];
    let length = format!("Content-Length: {n}");
    const CHUNKED: &str = "Transfer-Encoding: chunked";
    let line = |line: String| ([line.as_bytes(), &parts.bytes()[..]].concat(), None);
    let (bytes, answers) = match rng.u8(..34) {
        0 => (parts.framed(&format!("Content-Length: {}", n + rng.usize(1..100_000)), body), None),
        1 => (parts.framed(&format!("Content-Length: {}", n.saturating_sub(rng.usize(1..30))), body), None),
        2 => (parts.framed("Content-Length: -1", body), None),
        3 => (parts.framed("Content-Length: 18446744073709551616", body), None),
        4 => (parts.framed("Content-Length: 18446744073709551615", body), None),
        5 => (parts.framed("Content-Length: 9223372036854775807", body), None),
        6 => (parts.framed("Content-Length: +3", body), None),
        7 => (parts.framed("Content-Length: 0x10", body), None),
        8 => (parts.framed(&format!("Content-Length: {n}, {n}"), body), None),
        9 => (parts.framed(&format!("{length}\r\nContent-Length: {}", n + 1), body), None),
        10 => (parts.framed(&format!("{length}\r\n{length}"), body), None),
        11 => (parts.framed(&format!("{length}\r\n{CHUNKED}"), body), None),
        12 => (parts.framed(&format!("{CHUNKED}\r\n{length}"), &chunks(rng, body, "")), None),
        13 => (parts.framed(CHUNKED, body), None),
        14 => (parts.framed(CHUNKED, &chunks(rng, body, "")), None),
        15 => (parts.framed(CHUNKED, &[&chunks(rng, body, ""), &b"0\r\n\r\n"[..]].concat()), Some(1)),
        16 => {
            (parts.framed(CHUNKED, &[&chunks(rng, body, ";a=b"), &b"0\r\nX-A: b\r\n\r\n"[..]].concat()), None)
        }
        17 => (parts.framed(CHUNKED, b"ffffffffffffffff\r\nx\r\n0\r\n\r\n"), None),
        18 => (parts.framed(CHUNKED, b"-1\r\nx\r\n0\r\n\r\n"), None),
        19 => {
            let mut damaged = [&chunks(rng, body, "")[..], b"0\r\n\r\n"].concat();
            bytes::damage(rng, &mut damaged);
            (parts.framed(CHUNKED, &damaged), None)
        }
        20 => (parts.framed("Transfer-Encoding: gzip, chunked", body), None),
        21 => (parts.framed("Transfer-Encoding: chunked, gzip", body), None),
        22 => (parts.framed("Transfer-Encoding: xchunked", body), None),
        23 => (parts.framed(&format!("{CHUNKED}\r\n{CHUNKED}"), &chunks(rng, body, "")), None),
        24 => {
            let head = [&parts.head("HTTP/1.1"), length.as_bytes(), b"\r\n\r\n"].concat();
            let lines = String::from_utf8_lossy(&head).replace("\r\n", "\n").into_bytes();
            ([&lines[..], body].concat(), None)
        }
        25 => {
            const LINES: [&str; 7] =
                ["X-A", "X A: b", "X-A : b", ": b", "X-A: a\r\n b", "X-A: a\0b", "X-\u{e9}: b"];
            (parts.framed(&format!("{}\r\n{length}", LINES[rng.usize(..LINES.len())]), body), None)
        }
        26 => {
            let more: String = (0..rng.usize(50..300)).map(|i| format!("X-{i}: b\r\n")).collect();
            (parts.framed(&format!("{more}{length}"), body), None)
        }
        27 => {
            let name = "x".repeat(rng.usize(15_000..40_000));
            (parts.framed(&format!("X-Name: {name}\r\n{length}"), body), None)
        }
        28 => {
            const VERSIONS: [&str; 6] = ["HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/1.9", "http/1.1", ""];
            let head = parts.head(VERSIONS[rng.usize(..VERSIONS.len())]);
            ([&head, length.as_bytes(), b"\r\n\r\n", body].concat(), None)
        }
        29 => line("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into()),
        30 => line("CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n".into()),
        31 => (parts.bytes().repeat(2), Some(2)),
        32 => {
            let target = "x".repeat(rng.usize(15_000..80_000));
            let long = Parts { target: format!("/{target}"), ..Parts::new_like(parts) };
            (long.bytes(), None)
        }
        _ => {
            let whole = parts.bytes();
            (whole[..rng.usize(..whole.len())].to_vec(), None)
        }
    };
    // HTTP/1.1 needs a target without spaces; those of the corpus have none.
    let is_head = parts.method == "HEAD";
    Sent { bytes, what: "framing", answers, is_head, half_closed: true }
}

impl Parts {
    fn new_like(other: &Parts) -> Parts {
        let Parts { method, target, headers, body } = other;
        Parts { method: method.clone(), target: target.clone(), headers: headers.clone(), body: body.clone() }
    }
}
