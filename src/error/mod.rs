//! The one error type of the crate.
//!
//! [`Error`] has the size of a pointer and is cheap to clone. Use its predicates
//! ([`is_retryable`](Error::is_retryable), [`is_user_error`](Error::is_user_error), …) rather than matching on
//! [`ErrorKind`], because new versions may add kinds. The text of an error names the operation and the reason and,
//! where possible, says what to do.

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

/// A failure: its kind, its message, its circumstances and its cause.
///
/// Every failure has this type: a refused connection, an error answer of the server, a deadline, a closed client, a
/// panic in a worker thread. Credentials never appear in its `Debug` or `Display`.
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
    /// Creates an error. `message` is one line that says what happened, without a full stop at the end.
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

    /// Creates the error of an invalid argument from the path of the value and the problem with it.
    #[cold]
    pub(crate) fn invalid(path: impl Into<String>, problem: impl Into<String>) -> Self {
        let (path, problem) = (words::message(path.into()), words::message(problem.into()));
        let violation = Violation { path, problem };
        let message = violation.to_string();
        Error::new(ErrorKind::InvalidInput(violation), message)
    }

    /// Creates the error of an unusable setting.
    #[cold]
    pub(crate) fn config(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Config, message)
    }

    /// Creates the error of an answer that cannot be decoded.
    #[cold]
    pub(crate) fn decode(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Decode, message)
    }

    /// Creates the error of a closed client, session or pool.
    #[cold]
    pub(crate) fn closed(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Closed, message)
    }

    /// Creates the error of a cancelled operation.
    #[cold]
    pub(crate) fn cancelled() -> Self {
        Error::new(ErrorKind::Cancelled, "cancelled by the caller")
    }

    /// Creates the error of a deadline that passed in `phase`.
    #[cold]
    pub(crate) fn timeout(phase: Phase, message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Timeout(phase), message)
    }

    /// Creates the error of a panic in a worker thread, from the panic's message.
    #[cold]
    pub(crate) fn panicked(thread: impl Into<String>, message: impl Into<String>) -> Self {
        let (thread, message) = (thread.into(), message.into());
        let text = format!("thread {thread:?} panicked: {message}");
        Error::new(ErrorKind::Panicked { thread, message }, text)
    }

    /// The kind of failure.
    pub fn kind(&self) -> &ErrorKind {
        &self.inner.kind
    }

    /// The failure in one line, without the operation and the cause. If it contains text of the server, that text is
    /// safe to print: line breaks are replaced by spaces, and terminal control sequences are removed.
    pub fn message(&self) -> &str {
        &self.inner.message
    }

    /// The error that led to this one.
    pub fn cause(&self) -> Option<&Error> {
        self.inner.cause.as_ref()
    }

    /// The method that failed, such as `forward_backward`.
    pub fn operation(&self) -> Option<&str> {
        self.find(|it| it.operation.as_deref())
    }

    /// The server's id of the request. Quote it in questions to the operators of the server.
    pub fn request_id(&self) -> Option<&str> {
        self.find(|it| it.request_id.as_deref())
    }

    /// The id of the session.
    pub fn session_id(&self) -> Option<&str> {
        self.find(|it| it.session_id.as_deref())
    }

    /// The id of the model that was trained or sampled.
    pub fn model_id(&self) -> Option<&str> {
        self.find(|it| it.model_id.as_deref())
    }

    /// The sequence number of the request within its client.
    pub fn seq_id(&self) -> Option<u64> {
        self.find(|it| it.seq_id)
    }

    /// The URL of the request.
    pub fn url(&self) -> Option<&str> {
        self.find(|it| it.url.as_deref())
    }

    /// The method and path of the endpoint, with `{id}` for each id, such as `GET sessions/{id}`.
    pub fn endpoint(&self) -> Option<&str> {
        self.find(|it| it.endpoint)
    }

    /// The reason that the server gave when it refused a request by an HTTP status. `None` if the server accepted the
    /// request and reported the failure as its result. [`message`](Error::message) contains the reason in both cases.
    /// Both texts are safe to print.
    pub fn detail(&self) -> Option<&str> {
        self.find(|it| it.detail.as_deref())
    }

    /// The number of HTTP requests that were made for the operation, over all of its parts and attempts.
    pub fn attempts(&self) -> Option<u32> {
        self.find(|it| it.attempts)
    }

    /// The time from the submission of the operation to this error.
    pub fn elapsed(&self) -> Option<Duration> {
        self.find(|it| it.elapsed)
    }

    /// For a call that was split into several requests: the number of accepted requests, and the number of all
    /// requests. Gradients of accepted parts stay accumulated on the server.
    pub fn accepted_parts(&self) -> Option<(usize, usize)> {
        self.find(|it| it.accepted_parts)
    }

    /// `Maybe` if the server may have received the request. `None` if the error did not occur while sending.
    pub(crate) fn sent(&self) -> Option<Sent> {
        self.find(|it| it.sent)
    }

    /// The protocol's name of the request whose result the operation waited for, such as `Sample`.
    pub(crate) fn request_type(&self) -> Option<&'static str> {
        self.find(|it| it.request_type)
    }

    /// True if the server forbids a retry of the request (`x-should-retry: false`).
    pub(crate) fn is_vetoed(&self) -> bool {
        self.find(|it| it.vetoed).unwrap_or(false)
    }

    /// A wait that would have lasted forever was refused.
    #[cfg(feature = "ffi")]
    pub(crate) fn is_deadlock(&self) -> bool {
        self.find(|it| it.deadlock) == Some(true)
    }

    /// The path of the invalid value and the problem with it, if an argument was invalid.
    pub fn violation(&self) -> Option<&Violation> {
        self.chain().find_map(|error| match error.kind() {
            ErrorKind::InvalidInput(violation) => Some(violation),
            _ => None,
        })
    }

    /// The status of the HTTP answer that caused the error.
    pub fn http_status(&self) -> Option<u16> {
        self.find(|it| it.status)
    }

    /// The pause before the next attempt that the server asked for.
    pub fn retry_after(&self) -> Option<Duration> {
        self.find(|it| it.retry_after)
    }

    /// The same call may succeed later. True for a failed connection, a deadline, a limit, and a fault of the server.
    /// False if this error poisons the training client ([`is_poisoned`](Error::is_poisoned)), because its later calls
    /// fail too.
    pub fn is_retryable(&self) -> bool {
        if self.find(|it| it.poisons) == Some(true) || self.is_vetoed() {
            return false;
        }
        match &self.root().inner.kind {
            ErrorKind::Timeout(_) | ErrorKind::RateLimited | ErrorKind::Connection { .. } => true,
            ErrorKind::Stuck { .. } | ErrorKind::PromiseExpired => true,
            ErrorKind::Paused | ErrorKind::CircuitOpen => true,
            ErrorKind::Status { code } => matches!(code, 408 | 425) || 500 <= *code,
            ErrorKind::RequestFailed { category } => *category != Category::User,
            _ => false,
        }
    }

    /// The call itself is at fault and would fail again.
    pub fn is_user_error(&self) -> bool {
        self.chain().any(|error| match error.kind() {
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

    /// A user error as the protocol defines it (PROTOCOL §1.13): the server reports a user error, or its status is 400
    /// to 499 except 408. Unlike [`is_user_error`](Error::is_user_error) this includes refusals that are temporary,
    /// such as 429.
    pub(crate) fn counts_as_user_error(&self) -> bool {
        let status = self.http_status();
        self.is_user_error() || status.is_some_and(|it| (400..500).contains(&it) && it != 408)
    }

    /// A deadline passed. The operation may still be running on the server.
    pub fn is_timeout(&self) -> bool {
        matches!(self.root().inner.kind, ErrorKind::Timeout(_) | ErrorKind::Stuck { .. })
    }

    /// The client was closed, by `close`, by dropping it, or because its thread ended.
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

    /// The requested thing does not exist on the server. If the server lacks the endpoint itself, the error is
    /// [`is_incompatible`](Error::is_incompatible) instead, as far as the client can tell the difference.
    pub fn is_not_found(&self) -> bool {
        matches!(self.root().inner.kind, ErrorKind::NotFound)
    }

    /// The state on the server forbids the call, for example because the name of a checkpoint is taken.
    pub fn is_conflict(&self) -> bool {
        matches!(self.root().inner.kind, ErrorKind::Conflict)
    }

    /// The training client sends no more requests, because it is unknown if the server received an earlier one; or
    /// because a custom loss failed between its two passes. Create a new client from the last checkpoint;
    /// [`cause`](Error::cause) is the earlier failure.
    ///
    /// # Example: resume from the last checkpoint
    /// ```
    /// # use tinkex::{Error, Pending, ServiceClient, TrainingClient, types::{ForwardBackwardOutput, TrainingPath}};
    /// fn client_after(
    ///     error: &Error,
    ///     service: &ServiceClient,
    ///     last: &TrainingPath,
    /// ) -> Result<Option<TrainingClient>, Error> {
    ///     if error.is_poisoned() {
    ///         return service.create_training_client_from_state_with_optimizer(last.clone()).map(Some);
    ///     }
    ///     Ok(None)
    /// }
    /// ```
    pub fn is_poisoned(&self) -> bool {
        self.chain().any(|it| matches!(it.kind(), ErrorKind::Poisoned))
    }

    /// The server lacks an endpoint or a feature that the call needs.
    pub fn is_incompatible(&self) -> bool {
        self.chain().any(|it| matches!(it.kind(), ErrorKind::Incompatible))
    }

    /// The server paused the operation for longer than [`PausePolicy`](crate::PausePolicy) allows.
    pub fn is_paused(&self) -> bool {
        self.chain().any(|it| matches!(it.kind(), ErrorKind::Paused))
    }

    /// A worker thread panicked.
    pub fn is_panic(&self) -> bool {
        self.chain().any(|it| matches!(it.kind(), ErrorKind::Panicked { .. }))
    }

    /// Sets the cause.
    pub(crate) fn caused_by(self, cause: Error) -> Self {
        self.edit(|it| it.cause = Some(cause))
    }

    /// Fills unknown fields of the context. Known fields keep their values.
    pub(crate) fn with(self, fill: impl FnOnce(&mut Context)) -> Self {
        self.edit(|inner| {
            let mut more = Context::default();
            fill(&mut more);
            inner.context.or(more);
        })
    }

    /// Replaces kind and message; the context stays.
    pub(crate) fn renamed(self, kind: ErrorKind, message: impl Into<String>) -> Self {
        self.edit(|inner| {
            inner.kind = kind;
            inner.message = words::message(message.into());
        })
    }

    /// Replaces texts in this error and in its causes: `text` gets each text and returns the new text, or `None` to
    /// keep the old one.
    pub(crate) fn reworded(self, text: &dyn Fn(&str) -> Option<String>) -> Self {
        let new = text(&self.inner.message);
        let detail = self.inner.context.detail.as_deref().and_then(text);
        let cause = self.inner.cause.clone().map(|it| it.reworded(text));
        if new.is_none() && detail.is_none() && cause.is_none() {
            return self;
        }
        self.edit(|inner| {
            inner.message = new.unwrap_or_else(|| std::mem::take(&mut inner.message));
            inner.context.detail = detail.or_else(|| inner.context.detail.take());
            inner.cause = cause;
        })
    }

    /// Appends text to the message.
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

    /// The error in the chain of causes that decides what the caller can do. It is the outermost error that is final
    /// regardless of its cause (poisoned, closed, cancelled, deadline of the operation), or else the innermost error.
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
        if let Some(n) = self.attempts().filter(|n| 1 < *n) {
            facts.push(format!("{n} attempts"));
        }
        if let Some(elapsed) = self.elapsed() {
            facts.push(format!("{:.1} s", elapsed.as_secs_f64()));
        }
        if facts.is_empty() { Ok(()) } else { write!(f, " ({})", facts.join(", ")) }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Error");
        out.field("kind", self.kind()).field("message", &self.inner.message);
        self.inner.context.debug(&mut out);
        if let Some(cause) = self.cause() {
            out.field("cause", cause);
        }
        out.finish()
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
    fn an_error_has_the_size_of_a_pointer() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
        assert_eq!(size_of::<Option<Error>>(), size_of::<usize>());
    }

    #[test]
    fn the_text_names_operation_cause_request_attempts_and_time() {
        let cause = Error::new(ErrorKind::Connection { sent: Sent::No }, "connection refused");
        let error = Error::closed("the client is closed").caused_by(cause).with(|context| {
            context.operation = Some("sample".into());
            context.request_id = Some("17".into());
            context.attempts = Some(3);
            context.elapsed = Some(Duration::from_millis(1500));
        });
        assert_eq!(
            error.to_string(),
            "sample failed: the client is closed: connection refused (request 17, 3 attempts, 1.5 s)"
        );
        assert!(error.is_closed() && !error.is_retryable());
    }

    #[test]
    fn text_of_the_server_contains_no_terminal_sequence_and_no_line_break() {
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
    fn known_context_is_not_overwritten() {
        let error = Error::cancelled().with(|it| it.operation = Some("sample".into()));
        let error = error.with(|it| it.operation = Some("outer".into()));
        assert_eq!(error.operation(), Some("sample"));
    }

    #[test]
    fn the_kind_decides_if_an_error_is_retryable_or_a_user_error() {
        let table = [
            (ErrorKind::Status { code: 503 }, true, false),
            (ErrorKind::Status { code: 418 }, false, true),
            // For example a finished session. An expired result has the kind `PromiseExpired` instead.
            (ErrorKind::Status { code: 410 }, false, true),
            (ErrorKind::Status { code: 425 }, true, false),
            (ErrorKind::Timeout(Phase::Total), true, false),
            (ErrorKind::Conflict, false, true),
            (ErrorKind::RateLimited, true, false),
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
        let vetoed = Error::new(ErrorKind::Status { code: 500 }, "x").with(|it| it.vetoed = Some(true));
        assert!(!vetoed.is_retryable() && !vetoed.is_user_error());
    }

    #[test]
    fn predicates_are_true_for_the_kind_of_the_error_or_of_its_cause() {
        let of = Error::new;
        let poisoned = of(ErrorKind::Poisoned, "p").caused_by(of(ErrorKind::Conflict, "c"));
        let paused = of(ErrorKind::Timeout(Phase::Total), "t").caused_by(of(ErrorKind::Paused, "p"));
        for (error, names) in [
            (of(ErrorKind::NotFound, "x"), "not_found"),
            (of(ErrorKind::Decode, "outer").caused_by(of(ErrorKind::NotFound, "x")), "not_found"),
            (of(ErrorKind::Conflict, "x"), "conflict"),
            (of(ErrorKind::Incompatible, "x"), "incompatible"),
            (poisoned, "poisoned"),
            (paused, "paused"),
            (of(ErrorKind::Decode, "x"), ""),
        ] {
            let found = [
                (error.is_not_found(), "not_found"),
                (error.is_conflict(), "conflict"),
                (error.is_incompatible(), "incompatible"),
                (error.is_poisoned(), "poisoned"),
                (error.is_paused(), "paused"),
            ];
            let found: Vec<&str> = found.into_iter().filter_map(|(yes, name)| yes.then_some(name)).collect();
            assert_eq!(found.join(" "), names, "{error:?}");
        }
    }

    #[test]
    fn an_error_reports_the_detail_and_the_endpoint_of_its_cause() {
        let error = Error::new(ErrorKind::NotFound, "HTTP 404: no such model").with(|context| {
            context.endpoint = Some("POST get_info");
            context.detail = Some("no such model".into());
        });
        let outer = Error::decode("outer").caused_by(error);
        assert_eq!((outer.endpoint(), outer.detail()), (Some("POST get_info"), Some("no such model")));
        let hidden = outer.reworded(&|text| text.contains("model").then(|| "***".to_string()));
        assert_eq!((hidden.detail(), hidden.endpoint()), (Some("***"), Some("POST get_info")));
        assert!(!hidden.to_string().contains("no such model"));
    }
}
