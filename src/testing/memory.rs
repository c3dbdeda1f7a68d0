//! Requests that never leave the process.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::fake::{Act, FakeServer, Seen};
use crate::error::{Phase, Sent};
use crate::http::{Answer, Broken, Exchange, Transport};
use crate::sync::CancelToken;
use crate::sync::clock::VirtualClock;

/// Longer heads are refused, as they are over sockets.
const LARGEST_HEAD: usize = 64 * 1024;

/// Carries requests to a fake server by a function call.
pub(super) struct InMemory {
    server: FakeServer,
    clock: Arc<VirtualClock>,
    down: CancelToken,
}

impl InMemory {
    pub(super) fn new(server: FakeServer, clock: VirtualClock) -> Self {
        InMemory { server, clock: Arc::new(clock), down: CancelToken::new() }
    }

    /// The client waits for the whole timeout of its request: virtual time passes, real time does not.
    fn time_out(&self, timeout: Duration, phase: Phase) -> Broken {
        self.clock.advance(timeout);
        match self.down.is_cancelled() {
            true => Broken::Closed,
            false => Broken::Timeout(phase),
        }
    }
}

impl InMemory {
    /// What arrives of an answer that may be too large, or lie about its length.
    fn receive(&self, mut answer: Answer, exchange: &Exchange) -> Result<Answer, Broken> {
        let head: usize = answer.headers.iter().map(|it| it.0.len() + it.1.len()).sum();
        if LARGEST_HEAD < head {
            return Err(Broken::Garbage {
                message: format!("its head is larger than {LARGEST_HEAD} bytes: {head}"),
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
        match answer.is_success() && limit < length {
            true => Err(Broken::TooLarge { limit, announced: Some(length) }),
            false => Ok(answer),
        }
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
    Broken::Garbage { message: format!("{:?}", String::from_utf8_lossy(bytes)) }
}
