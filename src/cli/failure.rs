//! How a command fails, and the exit status that follows.

use std::io;
use std::process::ExitCode;

use serde_json::{Value, json};
use tinkex::{Error, ErrorKind};

use super::refusal::Refusal;
use super::{foreign, notes, wording};

/// Why a command ended.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A call of the library failed. Status 1.
    Api { error: Box<Error>, remedy: Option<String> },
    /// The command cannot do what it was asked. Status 1.
    Text { message: String, remedy: Option<String> },
    /// What a list of the server does not have: for a program the same as the answer 404. Status 1.
    Missing { message: String, remedy: Option<String> },
    /// The command was called wrongly, or would have to ask and there is no terminal. Status 2.
    Usage { message: String, remedy: Option<String> },
    /// The command line is not valid. Status 2.
    Arguments(Refusal),
    /// Some of several items failed; each was reported before. Status 3, or 1 if all failed.
    Items { n_failed: usize, n_items: usize, remedy: Option<String> },
    /// A limit of the budget was reached, and the state is saved. Status 4.
    Budget { message: String, remedy: Option<String> },
    /// The command stopped because of a signal, after it had saved its state, and has told a person how to go on; a
    /// program reads it here. Status 128 plus the signal.
    Signal { signal: u8, remedy: Option<String> },
    /// The reader of stdout is gone: not an error.
    PipeClosed,
    /// The result is negative and was printed, as that of a check. Status 1.
    Negative,
}

impl Failure {
    pub(crate) fn text(message: impl Into<String>) -> Self {
        Failure::Text { message: message.into(), remedy: None }
    }

    pub(crate) fn missing(message: impl Into<String>) -> Self {
        Failure::Missing { message: message.into(), remedy: None }
    }

    pub(crate) fn signal(signal: u8) -> Self {
        Failure::Signal { signal, remedy: None }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Failure::Usage { message: message.into(), remedy: None }
    }

    /// Some of several items failed, each of which was reported with [`report_item`](Self::report_item).
    pub(crate) fn items(n_failed: usize, n_items: usize) -> Self {
        Failure::Items { n_failed, n_items, remedy: None }
    }

    /// The failure of writing to stdout, of a command that has done its work: what was done is told here in its place.
    pub(crate) fn after(self, done: &str) -> Self {
        match self {
            Failure::Text { message, .. } => Failure::text(format!("{message}; this was done: {done}"))
                .with_remedy("do not repeat the command: only its output is lost"),
            other => other,
        }
    }

    /// Says what to do about it.
    pub(crate) fn with_remedy(self, text: impl Into<String>) -> Self {
        let remedy = Some(text.into());
        match self {
            Failure::Api { error, .. } => Failure::Api { error, remedy },
            Failure::Text { message, .. } => Failure::Text { message, remedy },
            Failure::Missing { message, .. } => Failure::Missing { message, remedy },
            Failure::Usage { message, .. } => Failure::Usage { message, remedy },
            Failure::Items { n_failed, n_items, .. } => Failure::Items { n_failed, n_items, remedy },
            Failure::Budget { message, .. } => Failure::Budget { message, remedy },
            Failure::Signal { signal, .. } => Failure::Signal { signal, remedy },
            other => other,
        }
    }

    /// The failure in a line, without what to do about it.
    pub(crate) fn summary(&self) -> String {
        match self {
            Failure::Api { error, .. } => {
                wording::line(error) + &causes(error).map(|cause| format!(": {cause}")).collect::<String>()
            }
            Failure::Text { message, .. }
            | Failure::Missing { message, .. }
            | Failure::Usage { message, .. }
            | Failure::Budget { message, .. } => message.clone(),
            Failure::Arguments(refusal) => refusal.message(),
            Failure::Items { n_failed, n_items, .. } => format!("{n_failed} of {n_items} failed"),
            Failure::Signal { signal, .. } => format!("ended by signal {signal}"),
            Failure::PipeClosed => "stdout is closed".into(),
            Failure::Negative => "negative".into(),
        }
    }

    /// The failure of writing to stdout.
    pub(crate) fn of_stdout(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::PipeClosed,
            _ => Failure::text(format!("cannot write to stdout: {error}")),
        }
    }

    /// Writes the failure to stderr, as JSON in a line if that is the format, and returns the exit status.
    pub(crate) fn report(self, as_json: bool) -> ExitCode {
        if as_json {
            if let Some(json) = self.to_json() {
                notes::write(&json.to_string());
            }
        } else {
            self.lines().iter().for_each(|line| notes::write(line));
        }
        ExitCode::from(self.status())
    }

    /// Writes to stderr why one of several items failed: for a person in a line, for a program as JSON that also has the
    /// item as `path`. What ends the command is reported after that. The failure of the `only` one is that of the command,
    /// with all that is known.
    pub(crate) fn report_item(&self, item: &str, only: bool, as_json: bool) {
        if !as_json && only {
            self.lines().iter().for_each(|line| notes::write(line));
        } else if !as_json {
            notes::write(&self.line_of_item(item));
        } else if let Some(mut json) = self.to_json() {
            json["error"]["path"] = item.into();
            notes::write(&json.to_string());
        }
    }

    /// Servers often name the item themselves.
    fn line_of_item(&self, item: &str) -> String {
        let problem = self.summary();
        if problem.contains(item) { format!("error: {problem}") } else { format!("error: {item}: {problem}") }
    }

    /// The lines for a person.
    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        match self {
            Failure::Api { error, .. } => {
                lines.push(format!("error: {}", wording::line(error)));
                lines.extend(causes(error).map(|cause| format!("  caused by: {cause}")));
                lines.extend(error.request_id().map(|id| format!("  request id: {id}")));
            }
            Failure::Arguments(refusal) => return refusal.lines(),
            Failure::Text { .. }
            | Failure::Missing { .. }
            | Failure::Usage { .. }
            | Failure::Items { .. } => {
                lines.push(format!("error: {}", self.summary()));
            }
            Failure::Budget { message, .. } => lines.push(format!("stopped: {message}")),
            Failure::Signal { .. } | Failure::PipeClosed | Failure::Negative => return lines,
        }
        lines.extend(self.remedy().map(|remedy| format!("  try: {remedy}")));
        lines
    }

    /// The same for a program. A result that was printed, and a reader that is gone, are not told.
    pub(crate) fn to_json(&self) -> Option<Value> {
        let kind = match self {
            Failure::Api { error, .. } => error.kind().name(),
            Failure::Text { .. } => "failure",
            Failure::Missing { .. } => ErrorKind::NotFound.name(),
            Failure::Usage { .. } | Failure::Arguments(_) => "usage",
            Failure::Items { .. } => "items",
            Failure::Budget { .. } => "budget",
            Failure::Signal { .. } => "signal",
            Failure::PipeClosed | Failure::Negative => return None,
        };
        let mut json = json!({
            "code": null,
            "kind": kind,
            "message": self.summary(),
            "request_id": null,
            "retryable": false,
            "status": self.status(),
            "try": self.remedy(),
        });
        if let Failure::Missing { .. } = self {
            json["code"] = 404.into();
        }
        if let Failure::Api { error, .. } = self {
            json["code"] = error.http_status().into();
            json["message"] = wording::line(error).into();
            json["causes"] = causes(error).collect();
            json["request_id"] = error.request_id().into();
            json["retryable"] = error.is_retryable().into();
        }
        Some(json!({ "error": json }))
    }

    /// What to do about the failure.
    pub(crate) fn remedy(&self) -> Option<String> {
        self.own_remedy().map(|text| wording::with_place(&text))
    }

    /// True if a call failed for another reason than its credential, which a server may judge by its flags.
    pub(crate) fn is_of_contact(&self) -> bool {
        matches!(self, Failure::Api { error, .. } if *error.kind() != ErrorKind::Auth)
    }

    fn own_remedy(&self) -> Option<String> {
        match self {
            Failure::Api { error, remedy } => remedy.clone().or_else(|| remedy_of(error)),
            Failure::Text { remedy, .. }
            | Failure::Missing { remedy, .. }
            | Failure::Usage { remedy, .. }
            | Failure::Items { remedy, .. }
            | Failure::Signal { remedy, .. }
            | Failure::Budget { remedy, .. } => remedy.clone(),
            Failure::Arguments(refusal) => Some(refusal.remedy()),
            _ => None,
        }
    }

    fn status(&self) -> u8 {
        match self {
            // The library refused an argument; nothing was sent.
            Failure::Api { error, .. }
                if matches!(error.kind(), ErrorKind::InvalidInput(_)) && error.http_status().is_none() =>
            {
                2
            }
            Failure::Api { .. } | Failure::Text { .. } | Failure::Missing { .. } | Failure::Negative => 1,
            Failure::Usage { .. } | Failure::Arguments(_) => 2,
            Failure::Items { n_failed, n_items, .. } => {
                if n_failed < n_items {
                    3
                } else {
                    1
                }
            }
            Failure::Budget { .. } => 4,
            Failure::Signal { signal, .. } => 128 + signal,
            Failure::PipeClosed => 0,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Api { error: Box::new(error), remedy: None }
    }
}

/// The messages of the errors that led to this one.
fn causes(error: &Error) -> impl Iterator<Item = String> {
    // A cause that says what was said before it tells nothing.
    let mut said = vec![wording::line(error)];
    std::iter::successors(error.cause(), |it| it.cause()).filter_map(move |cause| {
        let cause = wording::message(cause);
        let is_known = said.iter().any(|it| it.contains(cause.as_str()));
        said.push(cause.clone());
        (!is_known).then_some(cause)
    })
}

/// What usually helps against an error of the library.
fn remedy_of(error: &Error) -> Option<String> {
    if let Some(remedy) = foreign::remedy(error) {
        return Some(remedy);
    }
    let usual = match error.kind() {
        ErrorKind::Auth => "`tinkex auth login`, or set TINKER_API_KEY",
        ErrorKind::Connection { .. } => "`tinkex doctor` examines the connection",
        _ if error.is_timeout() && foreign::is_basic(error) => "`tinkex doctor` examines the connection",
        ErrorKind::NotFound if error.message().contains("tinker://") => {
            "`tinkex checkpoint list` shows the checkpoints that are there"
        }
        ErrorKind::NotFound if error.message().contains("training run") => "`tinkex run list` shows the ids",
        ErrorKind::NotFound if error.message().contains("session") => "`tinkex session list` shows the ids",
        ErrorKind::Billing => "check the balance of the account at the console",
        _ => return None,
    };
    Some(usual.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_says_how_a_command_failed() {
        let cases = [
            (Failure::text("x"), 1),
            (Failure::missing("x"), 1),
            (Failure::usage("x"), 2),
            (Failure::items(1, 2), 3),
            (Failure::items(2, 2), 1),
            (Failure::Budget { message: "x".into(), remedy: None }, 4),
            (Failure::signal(2), 130),
            (Failure::signal(15), 143),
            (Failure::PipeClosed, 0),
            (Failure::Negative, 1),
        ];
        for (failure, status) in cases {
            assert_eq!(failure.status(), status, "{failure:?}");
        }
    }

    #[test]
    fn a_program_reads_what_a_person_reads() {
        let json = |failure: Failure| failure.to_json().map(|it| it["error"].clone()).unwrap_or_default();
        let error = json(Failure::usage("no").with_remedy("yes"));
        assert_eq!((&error["message"], &error["try"]), (&json!("no"), &json!("yes")));
        assert_eq!((&error["kind"], &error["status"]), (&json!("usage"), &json!(2)));
        let error = json(Failure::missing("no").with_remedy("yes"));
        assert_eq!((&error["kind"], &error["code"]), (&json!("NotFound"), &json!(404)));
        assert_eq!((&error["message"], &error["try"]), (&json!("no"), &json!("yes")));
        assert_eq!(json(Failure::items(1, 2))["message"], "1 of 2 failed");
        let budget = json(Failure::Budget { message: "enough".into(), remedy: Some("more".into()) });
        assert_eq!((&budget["status"], &budget["try"]), (&json!(4), &json!("more")));
        // A person has read it before.
        let stopped = || Failure::signal(15).with_remedy("`go on`");
        assert_eq!(stopped().lines(), Vec::<String>::new());
        assert_eq!((&json(stopped())["status"], &json(stopped())["try"]), (&json!(143), &json!("`go on`")));
        assert_eq!((json(Failure::Negative), json(Failure::PipeClosed)), (Value::Null, Value::Null));
        let lines = Failure::text("no").with_remedy("yes").lines();
        assert_eq!(lines, ["error: no", "  try: yes"]);
    }

    #[test]
    fn a_line_names_the_item_once() {
        for (problem, expected) in [
            ("tinker://r/weights/x does not exist", "error: tinker://r/weights/x does not exist"),
            ("not yours", "error: tinker://r/weights/x: not yours"),
        ] {
            assert_eq!(Failure::text(problem).line_of_item("tinker://r/weights/x"), expected);
        }
    }
}
