//! Where and when an error happened.

use std::fmt::DebugStruct;
use std::time::Duration;

use super::Sent;

/// What is known about the place of an error. Every field may be unknown.
#[derive(Clone, Debug, Default)]
pub(crate) struct Context {
    pub(crate) operation: Option<String>,
    pub(crate) request_id: Option<String>,
    pub(crate) session_id: Option<String>,
    pub(crate) model_id: Option<String>,
    pub(crate) seq_id: Option<u64>,
    pub(crate) url: Option<String>,
    pub(crate) status: Option<u16>,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) attempts: Option<u32>,
    pub(crate) elapsed: Option<Duration>,
    pub(crate) accepted_parts: Option<(usize, usize)>,
    /// Whether the server may have taken the request, over all attempts at it.
    pub(crate) sent: Option<Sent>,
    /// What the server calls the request whose result could not be had.
    pub(crate) request_type: Option<&'static str>,
    /// The server said that the request is not to be repeated.
    pub(crate) vetoed: Option<bool>,
}

impl Context {
    /// Fills what is unknown here from `more`.
    pub(crate) fn or(&mut self, more: Context) {
        let Context { operation, request_id, session_id, model_id, seq_id, url, status, .. } = more;
        let Context { retry_after, attempts, elapsed, accepted_parts, sent, vetoed, request_type, .. } = more;
        fill(&mut self.operation, operation);
        fill(&mut self.request_id, request_id);
        fill(&mut self.session_id, session_id);
        fill(&mut self.model_id, model_id);
        fill(&mut self.seq_id, seq_id);
        fill(&mut self.url, url);
        fill(&mut self.status, status);
        fill(&mut self.retry_after, retry_after);
        fill(&mut self.attempts, attempts);
        fill(&mut self.elapsed, elapsed);
        fill(&mut self.accepted_parts, accepted_parts);
        fill(&mut self.sent, sent);
        fill(&mut self.vetoed, vetoed);
        fill(&mut self.request_type, request_type);
    }

    pub(crate) fn debug(&self, out: &mut DebugStruct<'_, '_>) {
        let mut text = |name, value: &Option<String>| {
            if let Some(value) = value {
                out.field(name, value);
            }
        };
        text("operation", &self.operation);
        text("request_id", &self.request_id);
        text("session_id", &self.session_id);
        text("model_id", &self.model_id);
        text("url", &self.url);
        text("seq_id", &self.seq_id.map(|it| it.to_string()));
        text("status", &self.status.map(|it| it.to_string()));
        text("attempts", &self.attempts.map(|it| it.to_string()));
        text("elapsed", &self.elapsed.map(|it| format!("{it:?}")));
        text("retry_after", &self.retry_after.map(|it| format!("{it:?}")));
        text("accepted_parts", &self.accepted_parts.map(|(n, of)| format!("{n} of {of}")));
    }
}

fn fill<T>(mine: &mut Option<T>, other: Option<T>) {
    if mine.is_none() {
        *mine = other;
    }
}
