//! Classifies ureq's errors: whether the request left this machine, and whether another attempt may succeed.

use std::fmt;
use std::io;

use ureq::unversioned::transport::{ConnectionDetails, Connector};
use ureq::{Error, Timeout};

use super::super::transport::Broken;
use crate::error::{Phase, Sent};

/// Progress of an exchange when it failed.
#[derive(Clone, Copy)]
pub(super) enum Stage {
    /// The head of the answer was incomplete.
    Head,
    /// The head of the answer was complete.
    Body { limit: u64, announced: Option<u64> },
}

/// A step before the first byte of a request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// Looking up the host's name.
    Resolve,
    /// Connecting: the socket, the proxy, the handshake of TLS.
    Connect,
}

/// An error of a step before the first byte of the request. Whatever its kind (too many open files, unknown name,
/// permission denied), the request did not leave this machine. The kind of the error alone does not show this: "host
/// unreachable" may also be the error of a connection that has carried the request already.
#[derive(Debug)]
struct Unsent {
    step: Step,
    error: Error,
}

impl fmt::Display for Unsent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Unsent {}

/// Marks an error as one of a step before the request. An error that is marked already keeps its step: steps may be
/// nested, and the inner step describes the failure better.
pub(super) fn unsent(error: Error, step: Step) -> Error {
    match error {
        Error::Other(it) if it.is::<Unsent>() => Error::Other(it),
        error => Error::Other(Box::new(Unsent { step, error })),
    }
}

/// Wraps a connector and marks its errors with [`Step::Connect`].
#[derive(Debug)]
pub(super) struct Marking<C>(pub(super) C);

impl<C: Connector<()>> Connector<()> for Marking<C> {
    type Out = C::Out;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<()>,
    ) -> Result<Option<Self::Out>, Error> {
        self.0.connect(details, chained).map_err(|it| unsent(it, Step::Connect))
    }
}

/// Classifies an error of ureq.
pub(super) fn broken(error: Error, stage: Stage) -> Broken {
    let maybe = |message: String| Broken::Connection { sent: Sent::Maybe, message };
    match (error, stage) {
        (Error::Other(it), _) => match it.downcast::<Unsent>() {
            Ok(unsent) => before(unsent.error, unsent.step),
            Err(other) => maybe(other.to_string()),
        },
        (Error::Timeout(it), stage) => Broken::Timeout(phase(it, stage)),
        (error @ (Error::Http(_) | Error::BadUri(_)), Stage::Head) => {
            Broken::Unsendable { message: error.to_string() }
        }
        (Error::BodyExceedsLimit(_), Stage::Body { limit, announced }) => {
            Broken::TooLarge { limit, announced }
        }
        (Error::Io(error), stage) => io_error(error, stage),
        (Error::LargeResponseHeader(n, limit), _) => Broken::InvalidHttp {
            message: format!("its head exceeds the limit of {limit} bytes: {n} arrived"),
        },
        (error @ (Error::Protocol(_) | Error::Decompress(..)), _) => {
            Broken::InvalidHttp { message: error.to_string() }
        }
        (error, _) => maybe(error.to_string()),
    }
}

/// Classifies an error of a step before the request.
fn before(error: Error, step: Step) -> Broken {
    let not_sent = |message: String| Broken::Connection { sent: Sent::No, message };
    match error {
        Error::Timeout(_) => Broken::Timeout(match step {
            Step::Resolve => Phase::Resolve,
            Step::Connect => Phase::Connect,
        }),
        Error::Http(_) | Error::BadUri(_) => Broken::Unsendable { message: error.to_string() },
        Error::HostNotFound => not_sent("the host name is unknown".into()),
        Error::ConnectionFailed => not_sent("connecting failed at every address of the host".into()),
        Error::Tls(message) => Broken::WrongPeer { message: format!("TLS: {message}") },
        Error::Rustls(error) => Broken::WrongPeer { message: tls(&error.to_string()) },
        // Errors of rustls arrive as invalid data.
        Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            Broken::WrongPeer { message: tls(&error.to_string()) }
        }
        Error::Io(error) => match step {
            Step::Resolve => not_sent(format!("the host name could not be resolved: {error}")),
            Step::Connect => not_sent(error.to_string()),
        },
        error => not_sent(error.to_string()),
    }
}

/// The text of a failed TLS handshake.
fn tls(error: &str) -> String {
    if error.contains("corrupt message") {
        format!(
            "TLS: {error}: the server does not use TLS; if it uses plain HTTP, write http:// instead of https://"
        )
    } else {
        format!("TLS: {error}")
    }
}

fn io_error(error: io::Error, stage: Stage) -> Broken {
    use io::ErrorKind::{TimedOut, WouldBlock};
    match (error.kind(), stage) {
        (TimedOut | WouldBlock, Stage::Body { .. }) => Broken::Timeout(Phase::Body),
        (TimedOut | WouldBlock, Stage::Head) => Broken::Timeout(Phase::Exchange),
        _ => Broken::Connection { sent: Sent::Maybe, message: error.to_string() },
    }
}

fn phase(timeout: Timeout, stage: Stage) -> Phase {
    match (timeout, stage) {
        // Whichever limit passed: the head has arrived, so the server has finished its work.
        (_, Stage::Body { .. }) => Phase::Body,
        (Timeout::Resolve, _) => Phase::Resolve,
        (Timeout::Connect, _) => Phase::Connect,
        (Timeout::SendRequest | Timeout::SendBody | Timeout::PerWrite, _) => Phase::Send,
        (Timeout::RecvResponse | Timeout::PerRead, _) => Phase::FirstByte,
        _ => Phase::Exchange,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Timeouts;
    use crate::policy::retry::Failure;

    /// EMFILE, ENFILE, ENOBUFS, EPERM, EACCES, ENETDOWN, ENETUNREACH, EHOSTUNREACH and ECONNREFUSED.
    #[cfg(target_os = "linux")]
    const OF_THE_SYSTEM: [i32; 9] = [24, 23, 105, 1, 13, 100, 101, 113, 111];

    #[test]
    #[cfg(target_os = "linux")]
    fn an_error_before_the_request_proves_that_it_was_not_sent_and_the_same_error_later_does_not() {
        for code in OF_THE_SYSTEM {
            let error = || Error::Io(io::Error::from_raw_os_error(code));
            for step in [Step::Resolve, Step::Connect] {
                let early = broken(unsent(error(), step), Stage::Head);
                assert_eq!(early.sent(), Sent::No, "{code} {early:?}");
                assert_eq!(early.failure(), Failure::Connection { sent: Sent::No }, "{code}");
                assert!(early.error(&Timeouts::default()).is_retryable(), "{code}");
            }
            assert_eq!(broken(error(), Stage::Head).sent(), Sent::Maybe, "{code}");
        }
    }

    #[test]
    fn a_failed_name_resolution_proves_that_nothing_was_sent() {
        let found_no_name = io::Error::other("failed to lookup address information");
        for error in [Error::HostNotFound, Error::Io(found_no_name), Error::Timeout(Timeout::Resolve)] {
            assert_eq!(broken(unsent(error, Step::Resolve), Stage::Head).sent(), Sent::No);
        }
        // The same holds if the time limit of the whole exchange passed during the step.
        let error = unsent(Error::Timeout(Timeout::Global), Step::Connect);
        assert!(matches!(broken(error, Stage::Head), Broken::Timeout(Phase::Connect)));
    }

    #[test]
    fn a_lost_connection_is_not_reported_as_a_closed_client() {
        let error = || Error::Io(io::ErrorKind::NotConnected.into());
        assert!(matches!(broken(error(), Stage::Head), Broken::Connection { sent: Sent::Maybe, .. }));
        let early = broken(unsent(error(), Step::Connect), Stage::Head);
        assert!(matches!(early, Broken::Connection { sent: Sent::No, .. }));
    }

    #[test]
    fn an_error_keeps_the_mark_of_the_innermost_step() {
        let error = unsent(unsent(Error::HostNotFound, Step::Resolve), Step::Connect);
        assert!(error.to_string().contains("host not found"), "{error}");
        assert!(matches!(broken(error, Stage::Head), Broken::Connection { sent: Sent::No, .. }));
    }
}
