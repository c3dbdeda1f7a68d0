//! Addresses at which something answers that is not a Tinker server, or that does not answer in the way of its address.

use std::time::Duration;

use tinkex::{Error, ErrorKind};

use super::connection::App;
use super::failure::Failure;
use super::shell_word::quoted;
use super::{logger, wording};

pub(crate) const REMEDY: &str = "the address of the server, which ends before /api/v1: --base-url http://127.0.0.1:8000, or another one in TINKER_BASE_URL";
/// Calls that each Tinker server answers.
const BASIC: [&str; 3] = ["get_server_capabilities", "client/config", "create_session"];
/// What an error says about an answer in another protocol, as the alert of a server that expects TLS.
const NOT_HTTP: &str = "is not valid HTTP";
/// Time limit of asking what the server is.
const LIMIT: Duration = Duration::from_secs(5);

/// Says why the error shows that the server is not a Tinker server, if it does.
pub(crate) fn reason(error: &Error) -> Option<String> {
    reason_of(error.kind(), error.endpoint().unwrap_or_default(), error.message())
}

fn reason_of(kind: &ErrorKind, endpoint: &str, message: &str) -> Option<String> {
    let is_basic = BASIC.iter().any(|it| endpoint.ends_with(it));
    let what = if message.contains("answered with an HTML page") {
        "it answers with an HTML page".to_owned()
    } else if message.contains(NOT_HTTP) {
        "its answer is not HTTP".to_owned()
    } else if is_basic && is_refused_with_page(message) {
        format!("it answers {endpoint} with {}", message.replace(": an HTML page", " and an HTML page"))
    } else if is_basic && *kind == ErrorKind::Incompatible {
        let status = message.find("(HTTP ").map(|at| format!(" {}", &message[at..])).unwrap_or_default();
        format!("it does not know {endpoint}{status}")
    } else if is_basic && message.contains("JSON does not have the expected form: expected value") {
        format!("its answer to {endpoint} is not JSON")
    } else {
        let location = redirect(message).filter(|it| base_of(it).is_none())?;
        format!("it redirects to {location:?}")
    };
    Some(format!("the address answers but is not a Tinker server: {what}"))
}

/// True of `HTTP 4xx: an HTML page`. Gateways before a Tinker server answer with pages, too, but with the statuses of
/// servers, and one that asks to try again later (429).
fn is_refused_with_page(message: &str) -> bool {
    message.starts_with("HTTP 4") && message.contains(": an HTML page") && !message.starts_with("HTTP 429")
}

/// What to do about an address at which something else answers, or in another way.
pub(crate) fn remedy(error: &Error) -> Option<String> {
    remedy_of(error.message(), error.url().unwrap_or_default())
        .or_else(|| reason(error).map(|_| REMEDY.to_owned()))
}

fn remedy_of(message: &str, url: &str) -> Option<String> {
    let of_address = |base: String| format!("--base-url={}", quoted(&base));
    if message.contains("the server does not use TLS") {
        return Some(of_address(base_of(url)?.replacen("https://", "http://", 1)));
    }
    if message.contains("invalid peer certificate") {
        return Some(
            "set SSL_CERT_FILE to the file, as PEM, of the certificate with which that of the server is signed".into(),
        );
    }
    redirect(message).and_then(base_of).map(of_address)
}

/// Where an answer redirects to.
fn redirect(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("the server redirects to \"")?;
    rest.split_once('"').map(|(location, _)| location)
}

/// The address of the server of a call, or of its root. `None` for another page of it, and a part of an address.
fn base_of(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://").filter(|it| matches!(it.0, "http" | "https"))?;
    let base = match (rest.split_once("/api/v1"), rest.split_once('/')) {
        (Some((base, _)), _) | (None, Some((base, ""))) => base,
        (None, None) => rest,
        _ => return None,
    };
    Some(format!("{scheme}://{base}"))
}

/// The failure of a call that the server does not offer. Servers of other makers lack some calls; one that lacks even
/// the basic ones is something else, which the failure of such a call says. A server that expects TLS gives up on plain
/// HTTP in many ways, so it is asked.
pub(crate) fn explained(failure: Failure, app: &App) -> Failure {
    let Failure::Api { error, remedy: None } = &failure else { return failure };
    let is_not_http = error.message().contains(NOT_HTTP);
    if app.global.local.is_some() || !is_not_http && reason(error).is_some() {
        return failure;
    }
    let status = error.http_status();
    let is_missing = status == Some(501) || is_basic(error) && matches!(status, Some(404 | 405));
    let lacks_call = error.is_incompatible() || is_refused_with_page(error.message()) || is_missing;
    let is_closed = ["reset", "closed", "EOF"].iter().any(|it| error.message().contains(it));
    let may_be_secure = is_not_http || error.is_connection() && is_closed;
    let secure = error.url().filter(|it| it.starts_with("http://")).and_then(base_of);
    let secure = secure.map(|it| it.replacen("http://", "https://", 1));
    if let Some(address) = secure.filter(|_| may_be_secure) {
        let answer = ask(app, Some(&address));
        wording::server_is_at(app.place());
        let is_secure = |error: &Error| {
            let is_reached = !error.is_connection() && !error.is_timeout();
            is_reached || error.message().contains("certificate")
        };
        if answer.is_some_and(|it| it.as_ref().is_none_or(is_secure)) {
            return failure.with_remedy(format!("--base-url={}; the server expects TLS", quoted(&address)));
        }
    } else if lacks_call {
        let answer = ask(app, None).flatten();
        if let Some(error) = answer.filter(|error| reason(error).is_some()) {
            return error.into();
        }
    }
    failure
}

/// True if a call failed that each Tinker server answers.
pub(crate) fn is_basic(error: &Error) -> bool {
    error.endpoint().is_some_and(|it| BASIC.iter().any(|basic| it.ends_with(basic)))
}

/// Asks the server, or the one at another address, for what each one answers: `Some(None)` if it does, the error if it
/// does not, and `None` if it cannot be asked.
fn ask(app: &App, address: Option<&str>) -> Option<Option<Error>> {
    let mut app = app.clone();
    if let Some(address) = address {
        app.global.base_url = Some(address.to_owned());
    }
    // What this connection meets is told by the failure alone.
    logger::silently(|| {
        let connection = app.connect_with(|builder| builder.timeouts(|it| it.operation = LIMIT)).ok()?;
        Some(connection.service.create_rest_client().get_server_capabilities().err())
    })
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
        let text = of(ErrorKind::Permission, "POST client/config", "HTTP 403: an HTML page, \"No\"");
        assert!(text.ends_with("POST client/config with HTTP 403 and an HTML page, \"No\""), "{text}");
        assert_eq!(of(ErrorKind::Permission, "POST client/config", "HTTP 502: an HTML page"), "");
        assert_eq!(of(ErrorKind::Permission, "POST client/config", "HTTP 403: the project is closed"), "");
    }

    #[test]
    fn an_address_of_another_form_leads_to_the_one_that_is_meant() {
        let redirect =
            |location: &str| format!("HTTP 301: the server redirects to {location:?}, which is not followed");
        let url = "https://127.0.0.1:8000/api/v1/client/config";
        for (message, expected) in [
            (redirect("https://a.example/api/v1/client/config"), Some("--base-url=https://a.example")),
            (redirect("https://a.example/x/api/v1/client/config"), Some("--base-url=https://a.example/x")),
            (redirect("https://a.example:9/"), Some("--base-url=https://a.example:9")),
            (redirect("https://a.example/login?next=x"), None),
            (redirect("/login"), None),
            ("TLS: the server does not use TLS; if it".into(), Some("--base-url=http://127.0.0.1:8000")),
            ("nothing".into(), None),
        ] {
            assert_eq!(remedy_of(&message, url).as_deref(), expected, "{message}");
        }
        let text =
            reason_of(&ErrorKind::Config, "POST client/config", &redirect("/login")).unwrap_or_default();
        assert!(text.ends_with("it redirects to \"/login\""), "{text}");
    }
}
