//! The transport to a fake server in the same process.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::fake::{Act, FakeServer, Seen};
use crate::error::{Phase, Sent};
use crate::http::{Answer, Broken, Exchange, Transport};
use crate::sync::CancelToken;
use crate::sync::clock::VirtualClock;

/// Largest head of an answer, in bytes. An answer with a larger head is an error. Over sockets the limit is lower, see
/// `Lane::buffers`.
const LARGEST_HEAD: usize = 64 * 1024;

/// Calls a fake server directly.
pub(super) struct InMemory {
    server: FakeServer,
    clock: Arc<VirtualClock>,
    down: CancelToken,
}

impl InMemory {
    pub(super) fn new(server: FakeServer, clock: VirtualClock) -> Self {
        InMemory { server, clock: Arc::new(clock), down: CancelToken::new() }
    }

    /// Advances the virtual clock by the timeout of the request. No real time passes.
    fn time_out(&self, timeout: Duration, phase: Phase) -> Broken {
        self.clock.advance(timeout);
        if self.down.is_cancelled() { Broken::Closed } else { Broken::Timeout(phase) }
    }
}

impl InMemory {
    /// Receives an answer as over a socket: fails if the head or the body is too large, times out if the body is
    /// shorter than its `content-length`, and truncates a longer body.
    fn receive(&self, mut answer: Answer, exchange: &Exchange) -> Result<Answer, Broken> {
        let head: usize = answer.headers.iter().map(|it| it.0.len() + it.1.len()).sum();
        if LARGEST_HEAD < head {
            return Err(Broken::InvalidHttp {
                message: format!("its head exceeds the limit of {LARGEST_HEAD} bytes: it has {head}"),
            });
        }
        let length = answer.body.len();
        match answer.header("content-length").and_then(|it| it.parse::<usize>().ok()) {
            Some(stated) if length < stated => {
                return Err(self.time_out(exchange.timeout, Phase::Body));
            }
            Some(stated) => answer.body.truncate(stated),
            None => {}
        }
        let (limit, length) = (exchange.largest_answer, answer.body.len() as u64);
        if answer.is_success() && limit < length {
            return Err(Broken::TooLarge { limit, announced: Some(length) });
        }
        Ok(answer)
    }
}

impl Transport for InMemory {
    fn exchange(&self, exchange: &Exchange) -> Result<Answer, Broken> {
        if self.down.is_cancelled() {
            return Err(Broken::Closed);
        }
        let path = exchange.url.strip_prefix("http://memory.invalid").unwrap_or(&exchange.url).to_string();
        let headers = exchange.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
        let method = exchange.method.to_string();
        let seen = Seen { method, path, headers: headers.collect(), body: exchange.body.clone() };
        let broke = |message: &str| Broken::Connection { sent: Sent::Maybe, message: message.into() };
        match self.server.act(seen) {
            Act::Answer(answer) => self.receive(answer, exchange),
            Act::Drip(answer, _) => Ok(answer),
            Act::Reset | Act::ResetUnread => Err(broke("connection reset")),
            Act::Refuse(_) => {
                Err(Broken::Connection { sent: Sent::No, message: "connection refused".into() })
            }
            Act::Truncate(_) => Err(broke("the answer ended early")),
            Act::Stall => Err(self.time_out(exchange.timeout, Phase::FirstByte)),
            Act::StallBody(_) => Err(self.time_out(exchange.timeout, Phase::Body)),
            Act::Garbage(bytes) => Err(garbage(&bytes)),
        }
    }

    fn shutdown(&self) {
        self.down.cancel();
    }

    fn branch(&self) -> Option<Arc<dyn Transport>> {
        let (server, clock) = (self.server.clone(), self.clock.clone());
        Some(Arc::new(InMemory { server, clock, down: self.down.child() }))
    }
}

fn garbage(bytes: &Bytes) -> Broken {
    Broken::InvalidHttp { message: format!("{:?}", String::from_utf8_lossy(bytes)) }
}
