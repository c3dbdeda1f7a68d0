//! Where and when an error happened.

use std::fmt::DebugStruct;
use std::time::Duration;

use super::Sent;

/// The circumstances of an error. Every field may be unknown.
#[derive(Clone, Debug, Default)]
pub(crate) struct Context {
    pub(crate) operation: Option<String>,
    pub(crate) request_id: Option<String>,
    pub(crate) session_id: Option<String>,
    pub(crate) model_id: Option<String>,
    pub(crate) seq_id: Option<u64>,
    pub(crate) url: Option<String>,
    /// Method and path of the endpoint, such as `GET sessions/{id}`.
    pub(crate) endpoint: Option<&'static str>,
    pub(crate) status: Option<u16>,
    /// The server's reason for its refusal, made safe to print.
    pub(crate) detail: Option<String>,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) attempts: Option<u32>,
    pub(crate) elapsed: Option<Duration>,
    pub(crate) accepted_parts: Option<(usize, usize)>,
    /// `Maybe` if the server may have received the request in one of the attempts.
    pub(crate) sent: Option<Sent>,
    /// The protocol's name of the request whose result the operation waited for, such as `Sample`.
    pub(crate) request_type: Option<&'static str>,
    /// True if the server forbids a retry of the request.
    pub(crate) vetoed: Option<bool>,
    /// The call would have waited forever for an operation that cannot go on before the caller returns.
    pub(crate) deadlock: Option<bool>,
    /// True if the training client sends no more requests because of this error; see
    /// [`ErrorKind::Poisoned`](crate::ErrorKind::Poisoned).
    pub(crate) poisons: Option<bool>,
}

impl Context {
    /// Fills the unknown fields from `more`.
    pub(crate) fn or(&mut self, more: Context) {
        let Context { operation, request_id, session_id, model_id, seq_id, url, endpoint, .. } = more;
        let Context { status, detail, retry_after, attempts, elapsed, accepted_parts, .. } = more;
        let Context { sent, request_type, vetoed, deadlock, poisons, .. } = more;
        fill(&mut self.operation, operation);
        fill(&mut self.request_id, request_id);
        fill(&mut self.session_id, session_id);
        fill(&mut self.model_id, model_id);
        fill(&mut self.seq_id, seq_id);
        fill(&mut self.url, url);
        fill(&mut self.endpoint, endpoint);
        fill(&mut self.status, status);
        fill(&mut self.detail, detail);
        fill(&mut self.retry_after, retry_after);
        fill(&mut self.attempts, attempts);
        fill(&mut self.elapsed, elapsed);
        fill(&mut self.accepted_parts, accepted_parts);
        fill(&mut self.sent, sent);
        fill(&mut self.request_type, request_type);
        fill(&mut self.vetoed, vetoed);
        fill(&mut self.deadlock, deadlock);
        fill(&mut self.poisons, poisons);
    }

    pub(crate) fn debug(&self, out: &mut DebugStruct<'_, '_>) {
        let mut text = |name, value: Option<&str>| {
            if let Some(value) = value {
                out.field(name, &value);
            }
        };
        text("operation", self.operation.as_deref());
        text("request_id", self.request_id.as_deref());
        text("session_id", self.session_id.as_deref());
        text("model_id", self.model_id.as_deref());
        text("url", self.url.as_deref());
        text("endpoint", self.endpoint);
        text("seq_id", self.seq_id.map(|id| id.to_string()).as_deref());
        text("status", self.status.map(|status| status.to_string()).as_deref());
        text("attempts", self.attempts.map(|n| n.to_string()).as_deref());
        text("elapsed", self.elapsed.map(|time| format!("{time:?}")).as_deref());
        text("retry_after", self.retry_after.map(|time| format!("{time:?}")).as_deref());
        text("accepted_parts", self.accepted_parts.map(|(n, of)| format!("{n} of {of}")).as_deref());
    }
}

fn fill<T>(field: &mut Option<T>, value: Option<T>) {
    if field.is_none() {
        *field = value;
    }
}
