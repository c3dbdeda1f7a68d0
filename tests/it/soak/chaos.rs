//! The faults of the soak, and how often each is injected.

use std::time::Duration;

use fastrand::Rng;
use tinkex::testing::{Act, FakeServer};
use tinkex::transport::Answer;

/// On average, one of this many exchanges (requests with their answers) gets a fault.
const ONE_IN: u32 = 20;

/// Fault of one exchange. `done` is true if the server carries out the request before the fault. `StallBody`,
/// `Truncate` and `Drip` are the acts of the fake server with these names ([`Act`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The server reads the request and closes the connection without an answer.
    Reset {
        done: bool,
    },
    /// This request is answered. At the next request to the same path, the server closes the connection before it reads
    /// the request.
    ResetNextUnread,
    /// The server restarts: all connections break, and new connections are refused for 1 to 19 ms.
    Restart,
    /// The server never answers.
    Stall {
        done: bool,
    },
    StallBody,
    Truncate,
    Drip,
    /// An answer that is not HTTP.
    Garbage {
        done: bool,
    },
    /// An answer with status 200 and an HTML page as its body.
    Nonsense {
        done: bool,
    },
    /// An HTTP error with a message, or with an empty body.
    Status {
        code: u16,
        empty: bool,
        done: bool,
    },
    /// The server answers a poll for a result with a failure of this category. Only for such polls.
    Failed(&'static str),
}

impl Fault {
    /// Returns a random fault in one of [`ONE_IN`] calls, else `None`.
    pub(super) fn roll(rng: &mut Rng) -> Option<Self> {
        (rng.u32(..ONE_IN) == 0).then(|| Fault::pick(rng))
    }

    fn pick(rng: &mut Rng) -> Self {
        let done = rng.bool();
        let status = |code| Fault::Status { code, empty: false, done: false };
        match rng.u32(..200) {
            0 => Fault::Restart,
            1..20 => Fault::Reset { done },
            20..30 => Fault::ResetNextUnread,
            30..35 => Fault::Stall { done },
            35..40 => Fault::StallBody,
            40..50 => Fault::Truncate,
            50..60 => Fault::Drip,
            60..68 => Fault::Garbage { done },
            68..72 => Fault::Nonsense { done },
            72..82 => status(400),
            82..88 => Fault::Status { code: 400, empty: true, done: false },
            88..94 => status(404),
            94..104 => Fault::Status { code: 408, empty: rng.bool(), done },
            104..112 => status(409),
            112..118 => status(410),
            118..126 => status(425),
            126..134 => status(429),
            134..146 => Fault::Status { code: 500, empty: rng.bool(), done },
            146..156 => Fault::Status { code: 502, empty: false, done },
            156..170 => Fault::Status { code: 503, empty: false, done },
            170..180 => Fault::Status { code: 529, empty: false, done },
            180..187 => Fault::Failed("user"),
            187..194 => Fault::Failed("server"),
            _ => Fault::Failed("unknown"),
        }
    }

    /// True if the server carries out the request in spite of the fault.
    pub(super) fn is_done(self) -> bool {
        match self {
            Fault::Reset { done }
            | Fault::Stall { done }
            | Fault::Garbage { done }
            | Fault::Nonsense { done }
            | Fault::Status { done, .. } => done,
            Fault::ResetNextUnread | Fault::StallBody | Fault::Truncate | Fault::Drip => true,
            Fault::Restart | Fault::Failed(_) => false,
        }
    }

    /// True if the fault is a final refusal of the request. The server must not inject such a fault into the repetition
    /// of a request that it has accepted.
    pub(super) fn is_refusal(self) -> bool {
        matches!(self, Fault::Status { code: 400 | 404, empty: false, .. })
    }

    /// True if the client does not retry after this fault. For a request for flags, the client then uses default flags.
    pub(super) fn is_final(self) -> bool {
        match self {
            Fault::Status { code, empty, .. } => matches!(code, 400 | 404 | 410) && !empty,
            Fault::Nonsense { .. } | Fault::Failed(_) => true,
            _ => false,
        }
    }

    /// Makes the fake server's reaction to a request to `path`; `answer` makes the answer without the fault.
    pub(super) fn act(
        self,
        answer: impl FnOnce() -> Answer,
        path: &str,
        server: &FakeServer,
        rng: &mut Rng,
    ) -> Act {
        match self {
            Fault::Reset { .. } => Act::Reset,
            Fault::ResetNextUnread => {
                server.next(path, Act::ResetUnread);
                Act::Answer(answer())
            }
            Fault::Restart => Act::Refuse(Duration::from_millis(rng.u64(1..20))),
            Fault::Stall { .. } => Act::Stall,
            Fault::StallBody => Act::StallBody(answer()),
            Fault::Truncate => Act::Truncate(answer()),
            Fault::Drip => Act::Drip(answer(), Duration::from_millis(1)),
            Fault::Garbage { .. } => Act::Garbage("220 this is another protocol\r\n\r\n".into()),
            Fault::Nonsense { .. } => Act::status(200, "<html>a proxy's own page</html>"),
            Fault::Status { code, empty, .. } => {
                let body = if empty { String::new() } else { format!(r#"{{"detail":"soak {code}"}}"#) };
                let act = Act::status(code, body);
                match rng.u32(..4) {
                    0 => act,
                    1 => act.with_header("retry-after", "0.01"),
                    _ => act.with_header("retry-after-ms", &rng.u32(1..10).to_string()),
                }
            }
            Fault::Failed(category) => {
                Act::json(serde_json::json!({"error": "soak: the work failed", "category": category}))
            }
        }
    }
}
