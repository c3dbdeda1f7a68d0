//! Addresses at which something answers that is not a Tinker server.

use std::time::Duration;

use tinkex::{Error, ErrorKind};

use super::connection::App;
use super::failure::Failure;

pub(crate) const REMEDY: &str =
    "the address of the server, which ends before /api/v1: --base-url URL, or TINKER_BASE_URL";
/// Calls that each Tinker server answers.
const BASIC: [&str; 2] = ["get_server_capabilities", "client/config"];
/// Time limit of asking what the server is.
const LIMIT: Duration = Duration::from_secs(5);

/// Says why the error shows that the server is not a Tinker server, if it does.
pub(crate) fn reason(error: &Error) -> Option<String> {
    reason_of(error.kind(), error.endpoint().unwrap_or_default(), error.message())
}

fn reason_of(kind: &ErrorKind, endpoint: &str, message: &str) -> Option<String> {
    let what = if message.contains("answered with an HTML page") {
        "it answers with an HTML page".to_owned()
    } else if *kind == ErrorKind::Incompatible && BASIC.iter().any(|it| endpoint.ends_with(it)) {
        let status = message.find("(HTTP ").map(|at| format!(" {}", &message[at..])).unwrap_or_default();
        format!("it does not know {endpoint}{status}")
    } else {
        return None;
    };
    Some(format!("the address answers but is not a Tinker server: {what}"))
}

/// The failure of a call that the server does not offer. Servers of other makers lack some calls; one that lacks even
/// the basic ones is something else, which the failure of such a call says.
pub(crate) fn explained(failure: Failure, app: &App) -> Failure {
    let lacks_call =
        matches!(&failure, Failure::Api { error, .. } if error.is_incompatible() && reason(error).is_none());
    if !lacks_call || app.global.local.is_some() {
        return failure;
    }
    let connection = app.connect_with(|builder| builder.timeouts(|it| it.operation = LIMIT));
    let Ok(connection) = connection else { return failure };
    match connection.service.create_rest_client().get_server_capabilities() {
        Err(error) if reason(&error).is_some() => error.into(),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_without_the_basic_calls_is_not_a_tinker_server() {
        let of = |kind, endpoint, message| reason_of(&kind, endpoint, message).unwrap_or_default();
        let text = of(
            ErrorKind::Incompatible,
            "GET get_server_capabilities",
            "this server does not offer GET get_server_capabilities (HTTP 404)",
        );
        assert!(text.ends_with("it does not know GET get_server_capabilities (HTTP 404)"), "{text}");
        let page = "the server answered with an HTML page instead of JSON or protobuf";
        assert!(of(ErrorKind::Decode, "GET training_runs", page).ends_with("an HTML page"));
        assert_eq!(of(ErrorKind::Incompatible, "GET training_runs", "not offered (HTTP 404)"), "");
        assert_eq!(of(ErrorKind::NotFound, "GET get_server_capabilities", "not found"), "");
    }
}
