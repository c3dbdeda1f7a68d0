//! The one error type of the crate.
//!
//! [`Error`] is one word wide and cheap to clone. Ask it questions with its predicates
//! ([`is_retryable`](Error::is_retryable), [`is_user_error`](Error::is_user_error), …) rather than matching on
//! [`ErrorKind`], which grows. Its text says what failed, why and, where something can be done about it, what.

mod account;
mod context;
mod kind;
pub(crate) mod words;

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use context::Context;
pub use kind::{Category, ErrorKind, Phase, Sent, Violation};

/// The result of every fallible function of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, where, and after how long.
///
/// Everything that can go wrong arrives as this type: a refused connection, an answer of the server, a deadline,
/// a closed client, a panic in a worker thread. Credentials never appear in its `Debug` or `Display`.
///
/// # Example: deciding what to do
/// ```
/// use tinkex::{Error, types::ModelInput};
///
/// let error: Error = ModelInput::try_from_ints([1, -2]).unwrap_err();
/// assert!(error.is_user_error() && !error.is_retryable());
/// assert_eq!(error.violation().unwrap().path, "tokens[1]");
/// ```
#[derive(Clone)]
pub struct Error {
    inner: Arc<Inner>,
}

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    context: Context,
    cause: Option<Error>,
}

impl Error {
    /// An error of a kind, with a message that says what happened in one line without a trailing period.
    #[cold]
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error {
            inner: Arc::new(Inner {
                kind,
                message: words::message(message.into()),
                context: Context::default(),
                cause: None,
            }),
        }
    }

    /// Input that cannot be sent: the path of the offending value and what is wrong with it.
    #[cold]
    pub(crate) fn invalid(path: impl Into<String>, problem: impl Into<String>) -> Self {
        let (path, problem) = (words::message(path.into()), words::message(problem.into()));
        let violation = Violation { path, problem };
        let message = violation.to_string();
        Error::new(ErrorKind::InvalidInput(violation), message)
    }

    /// A setting of the client that cannot be used.
    #[cold]
    pub(crate) fn config(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Config, message)
    }

    /// Bytes of the server that could not be understood.
    #[cold]
    pub(crate) fn decode(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Decode, message)
    }

    /// The client, session or pool that should have done this is closed.
    #[cold]
    pub(crate) fn closed(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Closed, message)
    }

    /// The caller cancelled.
    #[cold]
    pub(crate) fn cancelled() -> Self {
        Error::new(ErrorKind::Cancelled, "cancelled by the caller")
    }

    /// A deadline passed, in the phase given.
    #[cold]
    pub(crate) fn timeout(phase: Phase, message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Timeout(phase), message)
    }

    /// A panic in a worker thread, with the panic's message.
    #[cold]
    pub(crate) fn panicked(thread: impl Into<String>, message: impl Into<String>) -> Self {
        let (thread, message) = (thread.into(), message.into());
        let text = format!("thread {thread:?} panicked: {message}");
        Error::new(ErrorKind::Panicked { thread, message }, text)
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> &ErrorKind {
        &self.inner.kind
    }

    /// The failure in one line, without the operation and without the cause. Whatever a server said in it is fit to be shown:
    /// line breaks are spaces, and what would steer a terminal is left out.
    pub fn message(&self) -> &str {
        &self.inner.message
    }

    /// The error that led to this one.
    pub fn cause(&self) -> Option<&Error> {
        self.inner.cause.as_ref()
    }

    /// The verb that failed, such as `forward_backward`.
    pub fn operation(&self) -> Option<&str> {
        self.find(|it| it.operation.as_deref())
    }

    /// The server's id of the request, to quote in a question to the server's operators.
    pub fn request_id(&self) -> Option<&str> {
        self.find(|it| it.request_id.as_deref())
    }

    /// The session in which it happened.
    pub fn session_id(&self) -> Option<&str> {
        self.find(|it| it.session_id.as_deref())
    }

    /// The model that was trained or sampled.
    pub fn model_id(&self) -> Option<&str> {
        self.find(|it| it.model_id.as_deref())
    }

    /// The place of the request in its client's order.
    pub fn seq_id(&self) -> Option<u64> {
        self.find(|it| it.seq_id)
    }

    /// The address that was asked.
    pub fn url(&self) -> Option<&str> {
        self.find(|it| it.url.as_deref())
    }

    /// How many HTTP requests were made for the operation, over all of its parts and repetitions.
    pub fn attempts(&self) -> Option<u32> {
        self.find(|it| it.attempts)
    }

    /// How long it took from the submission of the operation to this error.
    pub fn elapsed(&self) -> Option<Duration> {
        self.find(|it| it.elapsed)
    }

    /// Of a call that was split into several requests: how many the server had accepted, and how many there were.
    /// Gradients of accepted parts stay accumulated on the server.
    pub fn accepted_parts(&self) -> Option<(usize, usize)> {
        self.find(|it| it.accepted_parts)
    }

    /// Whether the server may have taken the request. `None` if this is no error of sending.
    pub(crate) fn sent(&self) -> Option<Sent> {
        self.find(|it| it.sent)
    }

    /// What the server calls the request whose result could not be had.
    pub(crate) fn request_type(&self) -> Option<&'static str> {
        self.find(|it| it.request_type)
    }

    /// The server said that the request is not to be repeated.
    pub(crate) fn is_vetoed(&self) -> bool {
        self.find(|it| it.vetoed).unwrap_or(false)
    }

    /// Where the input is wrong, if that is what this error is about.
    pub fn violation(&self) -> Option<&Violation> {
        self.chain().find_map(|it| match it.kind() {
            ErrorKind::InvalidInput(violation) => Some(violation),
            _ => None,
        })
    }

    /// The status of the HTTP answer that caused this.
    pub fn http_status(&self) -> Option<u16> {
        self.find(|it| it.status)
    }

    /// How long the server asked to wait before trying again.
    pub fn retry_after(&self) -> Option<Duration> {
        self.find(|it| it.retry_after)
    }

    /// The same call may succeed later: no connection, a deadline, a limit, a fault of the server.
    pub fn is_retryable(&self) -> bool {
        match &self.root().inner.kind {
            ErrorKind::RateLimited | ErrorKind::Timeout(_) | ErrorKind::Connection { .. } => true,
            ErrorKind::Stuck { .. } | ErrorKind::PromiseExpired => true,
            ErrorKind::Paused | ErrorKind::CircuitOpen => true,
            ErrorKind::Status { code } => matches!(code, 408 | 425) || 500 <= *code,
            ErrorKind::RequestFailed { category } => *category != Category::User,
            _ => false,
        }
    }

    /// The call itself is at fault, and would fail again.
    pub fn is_user_error(&self) -> bool {
        self.chain().any(|it| match it.kind() {
            ErrorKind::InvalidInput(_)
            | ErrorKind::Config
            | ErrorKind::Auth
            | ErrorKind::Permission
            | ErrorKind::NotFound
            | ErrorKind::Conflict
            | ErrorKind::Billing
            | ErrorKind::CustomLoss => true,
            ErrorKind::Status { code } => (400..500).contains(code) && !matches!(code, 408 | 425),
            ErrorKind::RequestFailed { category } => *category == Category::User,
            _ => false,
        })
    }

    /// As PROTOCOL §1.13 counts them: the server says so, or answered 400 to 499, except 408. Unlike
    /// [`is_user_error`](Error::is_user_error) this includes what may pass, such as 429.
    pub(crate) fn counts_as_user_error(&self) -> bool {
        let status = self.http_status();
        self.is_user_error() || status.is_some_and(|it| (400..500).contains(&it) && it != 408)
    }

    /// A deadline passed. The operation itself may still be running on the server.
    pub fn is_timeout(&self) -> bool {
        matches!(self.root().inner.kind, ErrorKind::Timeout(_) | ErrorKind::Stuck { .. })
    }

    /// The client was closed, by `close`, by dropping it, or because its worker died.
    pub fn is_closed(&self) -> bool {
        matches!(self.root().inner.kind, ErrorKind::Closed)
    }

    /// The caller cancelled the operation.
    pub fn is_cancelled(&self) -> bool {
        matches!(self.root().inner.kind, ErrorKind::Cancelled)
    }

    /// The server could not be reached, or the connection to it broke.
    pub fn is_connection(&self) -> bool {
        matches!(self.root().inner.kind, ErrorKind::Connection { .. })
    }

    /// A worker thread panicked while it did this.
    pub fn is_panic(&self) -> bool {
        self.chain().any(|it| matches!(it.kind(), ErrorKind::Panicked { .. }))
    }

    /// This error with another as its cause.
    pub(crate) fn caused_by(self, cause: Error) -> Self {
        self.edit(|it| it.cause = Some(cause))
    }

    /// This error with more known about where it happened; what was known already stays.
    pub(crate) fn with(self, fill: impl FnOnce(&mut Context)) -> Self {
        self.edit(|it| {
            let mut more = Context::default();
            fill(&mut more);
            it.context.or(more);
        })
    }

    /// This error under another kind and in other words, with everything that is known about its place.
    pub(crate) fn renamed(self, kind: ErrorKind, message: impl Into<String>) -> Self {
        self.edit(|it| {
            it.kind = kind;
            it.message = words::message(message.into());
        })
    }

    /// This error and its causes, with those messages replaced for which there is another text.
    pub(crate) fn reworded(self, text: &dyn Fn(&str) -> Option<String>) -> Self {
        let new = text(&self.inner.message);
        let cause = self.inner.cause.clone().map(|it| it.reworded(text));
        if new.is_none() && cause.is_none() {
            return self;
        }
        self.edit(|it| {
            it.message = new.unwrap_or_else(|| std::mem::take(&mut it.message));
            it.cause = cause;
        })
    }

    /// This error with more said in its message.
    pub(crate) fn adding(self, more: &str) -> Self {
        self.edit(|it| it.message = words::message(format!("{}{more}", it.message)))
    }

    fn edit(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        change(Arc::make_mut(&mut self.inner));
        self
    }

    fn chain(&self) -> impl Iterator<Item = &Error> {
        std::iter::successors(Some(self), |it| Error::cause(it))
    }

    /// The error that decides what can be done: the innermost one, except that being poisoned, closed or out of time is final
    /// whatever led to it.
    fn root(&self) -> &Error {
        let is_final = |it: &ErrorKind| {
            matches!(it, ErrorKind::Poisoned | ErrorKind::Closed | ErrorKind::Cancelled)
                || matches!(it, ErrorKind::Timeout(Phase::Total))
        };
        self.chain().find(|it| is_final(it.kind())).or_else(|| self.chain().last()).unwrap_or(self)
    }

    fn find<'a, T>(&'a self, get: impl Fn(&'a Context) -> Option<T>) -> Option<T> {
        self.chain().find_map(|it| get(&it.inner.context))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(operation) = self.operation() {
            write!(f, "{operation} failed: ")?;
        }
        f.write_str(&self.inner.message)?;
        for cause in self.chain().skip(1) {
            write!(f, ": {}", cause.inner.message)?;
        }
        let mut facts = Vec::new();
        if let Some(url) = self.url() {
            facts.push(words::one_line(url).into_owned());
        }
        if let Some(id) = self.request_id() {
            facts.push(format!("request {}", words::one_line(id)));
        }
        if let Some((accepted, total)) = self.accepted_parts() {
            facts.push(format!("{accepted} of {total} parts were accepted"));
        }
        match self.attempts() {
            Some(n) if 1 < n => facts.push(format!("{n} attempts")),
            _ => {}
        }
        if let Some(elapsed) = self.elapsed() {
            facts.push(format!("{:.1} s", elapsed.as_secs_f64()));
        }
        match facts.is_empty() {
            true => Ok(()),
            false => write!(f, " ({})", facts.join(", ")),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut it = f.debug_struct("Error");
        it.field("kind", self.kind()).field("message", &self.inner.message);
        self.inner.context.debug(&mut it);
        if let Some(cause) = self.cause() {
            it.field("cause", cause);
        }
        it.finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.cause.as_ref().map(|it| it as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_word_wide() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
        assert_eq!(size_of::<Option<Error>>(), size_of::<usize>());
    }

    #[test]
    fn the_text_names_operation_cause_request_and_effort() {
        let cause = Error::new(ErrorKind::Connection { sent: Sent::No }, "connection refused");
        let error = Error::closed("the client is closed").caused_by(cause).with(|it| {
            it.operation = Some("sample".into());
            it.request_id = Some("17".into());
            it.attempts = Some(3);
            it.elapsed = Some(Duration::from_millis(1500));
        });
        assert_eq!(
            error.to_string(),
            "sample failed: the client is closed: connection refused (request 17, 3 attempts, 1.5 s)"
        );
        assert!(error.is_closed() && !error.is_retryable());
    }

    #[test]
    fn nothing_that_a_server_says_steers_a_terminal_or_breaks_a_line() {
        let bad = "a\r\nWARN fake\u{1b}[2J";
        let errors = [
            Error::decode(bad).caused_by(Error::closed(bad)),
            Error::decode("x").renamed(ErrorKind::Auth, bad),
            Error::decode("x").adding(bad),
            Error::decode("x").with(|it| (it.request_id, it.url) = (Some(bad.into()), Some(bad.into()))),
            Error::invalid(bad, bad),
        ];
        for error in errors {
            for shown in [error.to_string(), error.message().to_string(), format!("{error:?}")] {
                assert!(!shown.contains(char::is_control), "{shown:?}");
            }
        }
    }

    #[test]
    fn what_is_known_first_about_the_place_stays() {
        let error = Error::cancelled().with(|it| it.operation = Some("sample".into()));
        let error = error.with(|it| it.operation = Some("outer".into()));
        assert_eq!(error.operation(), Some("sample"));
    }

    #[test]
    fn retry_advice_follows_the_kind() {
        let table = [
            (ErrorKind::RateLimited, true, false),
            (ErrorKind::Status { code: 503 }, true, false),
            (ErrorKind::Status { code: 418 }, false, true),
            // Of a session that is finished, for instance; not a result that is gone.
            (ErrorKind::Status { code: 410 }, false, true),
            (ErrorKind::Status { code: 425 }, true, false),
            (ErrorKind::Timeout(Phase::Total), true, false),
            (ErrorKind::RequestFailed { category: Category::User }, false, true),
            (ErrorKind::RequestFailed { category: Category::Server }, true, false),
            (ErrorKind::Auth, false, true),
            (ErrorKind::Poisoned, false, false),
            (ErrorKind::Decode, false, false),
            (ErrorKind::Panicked { thread: "t".into(), message: "m".into() }, false, false),
        ];
        for (kind, retryable, user) in table {
            let error = Error::new(kind.clone(), "x");
            assert_eq!((error.is_retryable(), error.is_user_error()), (retryable, user), "{kind:?}");
        }
    }
}
