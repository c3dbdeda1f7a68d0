//! How a command fails, and the exit status that follows.

use std::io::ErrorKind;
use std::process::ExitCode;

use serde_json::json;
use tinkex::Error;

use super::{notes, wording};

/// Why a command ended.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A call of the library failed. Status 1.
    Api { error: Box<Error>, remedy: Option<String> },
    /// The command cannot do what it was asked. Status 1.
    Text { message: String, remedy: Option<String> },
    /// The command was called wrongly, or would have to ask and there is no terminal. Status 2.
    Usage { message: String, remedy: Option<String> },
    /// Some of several items failed; each was reported before. Status 3, or 1 if all failed.
    Items { n_failed: usize, n_items: usize },
    /// A limit of the budget was reached, and the state is saved. Status 4.
    Budget(String),
    /// The command stopped because of a signal, after it had saved its state. Status 128 plus the signal.
    Signal(u8),
    /// The reader of stdout is gone: not an error.
    PipeClosed,
    /// The result is negative and was printed, as that of a check. Status 1.
    Negative,
}

impl Failure {
    pub(crate) fn text(message: impl Into<String>) -> Self {
        Failure::Text { message: message.into(), remedy: None }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Failure::Usage { message: message.into(), remedy: None }
    }

    /// Says what to do about it.
    pub(crate) fn with_remedy(self, text: impl Into<String>) -> Self {
        let remedy = Some(text.into());
        match self {
            Failure::Api { error, .. } => Failure::Api { error, remedy },
            Failure::Text { message, .. } => Failure::Text { message, remedy },
            Failure::Usage { message, .. } => Failure::Usage { message, remedy },
            other => other,
        }
    }

    /// What to do about it, if that is said.
    pub(crate) fn remedy(&self) -> Option<String> {
        match self {
            Failure::Api { remedy, .. } | Failure::Text { remedy, .. } | Failure::Usage { remedy, .. } => {
                remedy.clone()
            }
            _ => None,
        }
    }

    /// The failure in a line, without what to do about it.
    pub(crate) fn summary(&self) -> String {
        match self {
            Failure::Api { error, .. } => {
                let causes = std::iter::successors(error.cause(), |it| it.cause());
                let causes = causes.map(|cause| format!(": {}", wording::message(cause)));
                wording::line(error) + &causes.collect::<String>()
            }
            Failure::Text { message, .. } | Failure::Usage { message, .. } | Failure::Budget(message) => {
                message.clone()
            }
            Failure::Items { n_failed, n_items } => format!("{n_failed} of {n_items} failed"),
            Failure::Signal(signal) => format!("ended by signal {signal}"),
            Failure::PipeClosed => "stdout is closed".into(),
            Failure::Negative => "negative".into(),
        }
    }

    /// The failure of writing to stdout.
    pub(crate) fn of_stdout(error: &std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::BrokenPipe => Failure::PipeClosed,
            _ => Failure::text(format!("cannot write to stdout: {error}")),
        }
    }

    /// Writes the failure to stderr, also as JSON if that is the format, and returns the exit status.
    pub(crate) fn report(self, as_json: bool) -> ExitCode {
        let status = self.status();
        match self {
            Failure::Api { error, remedy } => {
                if as_json {
                    notes::write(
                        &json!({ "error": {
                            "code": error.http_status(),
                            "kind": error.kind().name(),
                            "message": wording::message(&error),
                            "request_id": error.request_id(),
                            "retryable": error.is_retryable(),
                        }})
                        .to_string(),
                    );
                }
                notes::write(&format!("error: {}", wording::line(&error)));
                for cause in std::iter::successors(error.cause(), |it| it.cause()) {
                    notes::write(&format!("  caused by: {}", wording::message(cause)));
                }
                if let Some(id) = error.request_id() {
                    notes::write(&format!("  request id: {id}"));
                }
                if let Some(remedy) = remedy.or_else(|| remedy_of(&error).map(str::to_owned)) {
                    notes::write(&format!("  try: {remedy}"));
                }
            }
            Failure::Text { message, remedy } | Failure::Usage { message, remedy } => {
                if as_json {
                    let kind = if status == 2 { "usage" } else { "failure" };
                    let error = json!({ "code": null, "kind": kind, "message": message, "request_id": null, "retryable": false });
                    notes::write(&json!({ "error": error }).to_string());
                }
                notes::write(&format!("error: {message}"));
                if let Some(remedy) = remedy {
                    notes::write(&format!("  try: {remedy}"));
                }
            }
            Failure::Items { n_failed, n_items } => {
                notes::write(&format!("error: {n_failed} of {n_items} failed"))
            }
            Failure::Budget(message) => notes::write(&format!("stopped: {message}")),
            Failure::Signal(_) | Failure::PipeClosed | Failure::Negative => {}
        }
        ExitCode::from(status)
    }

    fn status(&self) -> u8 {
        match self {
            // The library refused an argument; nothing was sent.
            Failure::Api { error, .. }
                if matches!(error.kind(), tinkex::ErrorKind::InvalidInput(_))
                    && error.http_status().is_none() =>
            {
                2
            }
            Failure::Api { .. } | Failure::Text { .. } | Failure::Negative => 1,
            Failure::Usage { .. } => 2,
            Failure::Items { n_failed, n_items } => {
                if n_failed < n_items {
                    3
                } else {
                    1
                }
            }
            Failure::Budget(_) => 4,
            Failure::Signal(signal) => 128 + signal,
            Failure::PipeClosed => 0,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Api { error: Box::new(error), remedy: None }
    }
}

/// What usually helps against an error of the library.
fn remedy_of(error: &Error) -> Option<&'static str> {
    use tinkex::ErrorKind;
    Some(match error.kind() {
        ErrorKind::Auth => "`tinkex auth login`, or set TINKER_API_KEY",
        ErrorKind::Connection { .. } => "`tinkex doctor` examines the connection",
        ErrorKind::NotFound if error.message().contains("tinker://") => {
            "`tinkex checkpoint list` shows the checkpoints that are there"
        }
        ErrorKind::Billing => "check the balance of the account at the console",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_says_how_a_command_failed() {
        let cases = [
            (Failure::text("x"), 1),
            (Failure::usage("x"), 2),
            (Failure::Items { n_failed: 1, n_items: 2 }, 3),
            (Failure::Items { n_failed: 2, n_items: 2 }, 1),
            (Failure::Budget("x".into()), 4),
            (Failure::Signal(2), 130),
            (Failure::Signal(15), 143),
            (Failure::PipeClosed, 0),
            (Failure::Negative, 1),
        ];
        for (failure, status) in cases {
            assert_eq!(failure.status(), status, "{failure:?}");
        }
    }
}
