//! The events of telemetry (PROTOCOL §3.7, §9.5).

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use crate::clock_text;
use crate::error::{Error, ErrorKind};
use crate::http::headers;
use crate::policy::telemetry::presentable;

/// An event without its number, which is assigned when it is queued.
pub(super) struct Event(Map<String, Value>);

impl Event {
    pub(super) fn session_start() -> Self {
        Event::new("SESSION_START", "INFO")
    }

    pub(super) fn session_end(duration: Duration) -> Self {
        Event::new("SESSION_END", "INFO").with("duration", clock_text::hours(duration))
    }

    pub(super) fn numbered(self, index: u64) -> Value {
        Value::Object(self.with("event_session_index", index).0)
    }

    fn new(kind: &str, severity: &str) -> Self {
        Event(Map::new())
            .with("event", kind)
            .with("event_id", headers::uuid4())
            .with("severity", severity)
            .with("timestamp", clock_text::rfc3339_micros(SystemTime::now()))
    }

    fn generic(name: &str, severity: &str, data: Value) -> Self {
        Event::new("GENERIC_EVENT", severity).with("event_name", name).with("event_data", data)
    }

    fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.insert(key.into(), value.into());
        self
    }
}

/// Events of a failed operation: one for the failed HTTP exchange, if there was one, and one for the error that the
/// caller gets. No events if the caller cancelled the operation or closed the client.
pub(super) fn of_failure(error: &Error, secrets: &[&str]) -> Vec<Event> {
    if error.is_cancelled() || error.is_closed() {
        return Vec::new();
    }
    exchange(error, secrets).into_iter().chain([exception(error, secrets)]).collect()
}

/// The event of the failed exchange, if an exchange failed.
fn exchange(error: &Error, secrets: &[&str]) -> Option<Event> {
    let operation = error.operation().unwrap_or_default();
    let mut data = json!({
        "operation": operation,
        "exception": presentable(&error.to_string(), secrets),
        "exception_type": error.kind().name(),
        "should_retry": error.is_retryable(),
        "is_user_error": error.counts_as_user_error(),
        "status_code": error.http_status(),
        "attempt_count": error.attempts(),
        "elapsed_time": error.elapsed().map(|it| it.as_secs_f64()),
    });
    let name = match (error.request_id(), future_event(error)) {
        (_, None) => return None,
        (Some(id), Some(name)) => {
            data["request_id"] = id.into();
            data["request_type"] = error.request_type().into();
            name
        }
        // The server did not accept the request. The official Python SDK reports this case under this name.
        (None, Some(_)) if error.sent().is_some() => "InternalClientHolder.execute_with_retries.exception",
        (None, Some(_)) => return None,
    };
    if let Value::Object(fields) = &mut data {
        fields.retain(|_, value| !value.is_null());
    }
    Some(Event::generic(name, "ERROR", data))
}

/// The event name with which the official Python SDK reports that the result of a request could not be retrieved.
/// `None` for errors that it does not report in this way.
fn future_event(error: &Error) -> Option<&'static str> {
    match error.kind() {
        ErrorKind::RequestFailed { .. } => Some("APIFuture.result_async.application_error"),
        _ if error.http_status().is_some() => Some("APIFuture.result_async.api_status_error"),
        _ if error.is_timeout() => Some("APIFuture.result_async.timeout"),
        _ if error.is_connection() => Some("APIFuture.result_async.connection_error"),
        ErrorKind::Decode => Some("APIFuture.result_async.validation_error"),
        _ => None,
    }
}

/// The event of the error that the caller gets. After a fatal error the official Python SDK also reports the end of the
/// session. This crate does not, because only the program knows whether an error is fatal.
fn exception(error: &Error, secrets: &[&str]) -> Event {
    let message = presentable(&error.to_string(), secrets);
    if !error.counts_as_user_error() {
        return Event::new("UNHANDLED_EXCEPTION", "ERROR")
            .with("error_type", error.kind().name())
            .with("error_message", message);
    }
    let mut data = json!({"error_type": error.kind().name(), "message": message});
    if let Some(status) = error.http_status() {
        data["status_code"] = status.into();
    }
    Event::generic("user_error", "WARNING", data)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::error::{Category, Phase, Sent};

    fn events(error: &Error) -> Vec<Value> {
        of_failure(error, &["hunter2"]).into_iter().map(|it| it.numbered(7)).collect()
    }

    fn failed(kind: ErrorKind, status: Option<u16>, request_id: Option<&str>) -> Error {
        Error::new(kind, "no good: hunter2").with(|it| {
            it.operation = Some("optim_step".into());
            it.status = status;
            it.request_id = request_id.map(Into::into);
            it.sent = request_id.is_none().then_some(Sent::Maybe);
            it.request_type = request_id.map(|_| "OptimStep");
        })
    }

    #[test]
    fn each_failure_has_the_event_names_and_the_severity_of_the_protocol() {
        const NOT_ACCEPTED: &str = "InternalClientHolder.execute_with_retries.exception";
        let status = |code| ErrorKind::Status { code };
        let application = |category| ErrorKind::RequestFailed { category };
        let table = [
            (
                failed(status(422), Some(422), Some("r")),
                Some("APIFuture.result_async.api_status_error"),
                true,
            ),
            (
                failed(status(500), Some(500), Some("r")),
                Some("APIFuture.result_async.api_status_error"),
                false,
            ),
            (failed(ErrorKind::RateLimited, Some(429), None), Some(NOT_ACCEPTED), true),
            (failed(status(410), Some(410), None), Some(NOT_ACCEPTED), true),
            (failed(status(408), Some(408), None), Some(NOT_ACCEPTED), false),
            (failed(ErrorKind::NotFound, Some(404), None), Some(NOT_ACCEPTED), true),
            (failed(ErrorKind::Connection { sent: Sent::No }, None, None), Some(NOT_ACCEPTED), false),
            (
                failed(ErrorKind::Connection { sent: Sent::Maybe }, None, Some("r")),
                Some("APIFuture.result_async.connection_error"),
                false,
            ),
            (
                failed(ErrorKind::Timeout(Phase::Total), None, Some("r")),
                Some("APIFuture.result_async.timeout"),
                false,
            ),
            (
                failed(application(Category::User), None, Some("r")),
                Some("APIFuture.result_async.application_error"),
                true,
            ),
            (
                failed(application(Category::Server), None, Some("r")),
                Some("APIFuture.result_async.application_error"),
                false,
            ),
            (
                failed(ErrorKind::Decode, None, Some("r")),
                Some("APIFuture.result_async.validation_error"),
                false,
            ),
            (Error::panicked("t", "x"), None, false),
            (Error::timeout(Phase::Admission, "nothing was sent"), None, false),
        ];
        for (error, name, is_user_error) in table {
            let events = events(&error);
            let (last, first) = events.split_last().unwrap();
            let names: Vec<_> = first.iter().map(|event| event["event_name"].as_str().unwrap()).collect();
            assert_eq!(names, Vec::from_iter(name), "{error:?}");
            let (field, expected, severity) = if is_user_error {
                ("event_name", "user_error", "WARNING")
            } else {
                ("event", "UNHANDLED_EXCEPTION", "ERROR")
            };
            assert_eq!((&last[field], &last["severity"]), (&json!(expected), &json!(severity)));
            assert!(!format!("{events:?}").contains("hunter2"));
        }
    }

    #[test]
    fn a_cancelled_or_closed_operation_has_no_event() {
        for error in [
            Error::cancelled(),
            Error::closed("x"),
            Error::new(ErrorKind::Decode, "x").caused_by(Error::closed("y")),
        ] {
            assert!(of_failure(&error, &[]).is_empty(), "{error:?}");
        }
    }

    #[test]
    fn the_event_of_a_failed_result_has_the_fields_of_the_official_sdk() {
        let error = failed(ErrorKind::Status { code: 500 }, Some(500), Some("r-1"));
        let event = &events(&error.with(|it| it.elapsed = Some(Duration::from_millis(1500))))[0];
        let data = &event["event_data"];
        assert_eq!(event["event_session_index"], 7);
        assert_eq!((&data["request_id"], &data["request_type"]), (&json!("r-1"), &json!("OptimStep")));
        assert_eq!((&data["status_code"], &data["should_retry"]), (&json!(500), &json!(true)));
        assert_eq!((&data["exception_type"], &data["elapsed_time"]), (&json!("Status"), &json!(1.5)));
    }
}
