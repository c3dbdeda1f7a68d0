//! Access control. A request must name an allowed host, and it must carry the server's key, or a token that was issued
//! for the key.

use std::hint::black_box;
use std::time::SystemTime;

use axum::extract::{Request, State as Shared};
use axum::http::uri::Authority;
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use serde_json::{Value, json};

use crate::wire::json::{AuthTokenRequest, AuthTokenResponse, Secret};

use super::super::reply::Reply;
use super::super::state::USER;
use super::{App, Context, ok, refusal};

/// Endpoints that accept the key itself even if tokens are required.
const KEY_ENDPOINTS: [&str; 3] = ["/api/v1/client/config", "/api/v1/auth/token", "/api/v1/auth/apikey/me"];

/// Host names of the loopback address.
const LOOPBACK: [&str; 3] = ["127.0.0.1", "localhost", "[::1]"];

/// Refuses requests whose `Host` or `Origin` header names a host that is not allowed. Without this check, a foreign web
/// page in a browser on this machine could reach the engine by having its own host name resolve to this machine (DNS
/// rebinding).
pub(super) async fn check_host(Shared(app): Context, request: Request, next: Next) -> Response {
    match refusal_reason(&request, &app.allowed_hosts) {
        Some(why) => refusal(403, why),
        None => next.run(request).await,
    }
}

/// Reason for which a request is refused, if its host or origin is not allowed.
fn refusal_reason(request: &Request, allowed: &[String]) -> Option<&'static str> {
    let headers = request.headers();
    let served = |it: &HeaderValue| it.to_str().is_ok_and(|it| is_served(it, allowed));
    let in_address = request.uri().authority().map(|it| is_served(it.as_str(), allowed));
    let mut hosts = headers.get_all(header::HOST).iter().map(served).chain(in_address).peekable();
    if hosts.peek().is_none() || !hosts.all(|it| it) {
        return Some("this server answers only to requests for 127.0.0.1, localhost and [::1]");
    }
    let from_here = |it: &HeaderValue| {
        let host = it.to_str().ok().and_then(|it| it.split_once("://"));
        host.is_some_and(|(_, it)| is_served(it, allowed))
    };
    let all = headers.get_all(header::ORIGIN).iter().all(from_here);
    (!all).then_some("this server does not answer to pages of other hosts")
}

/// True if this server accepts the host name, with any port.
fn is_served(host: &str, allowed: &[String]) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let host = authority.host().trim_end_matches('.');
    // Do not accept a user name, as in `user@host`.
    let bare = !authority.as_str().contains('@');
    let names = LOOPBACK.into_iter().chain(allowed.iter().map(String::as_str));
    bare && names.into_iter().any(|it| it.eq_ignore_ascii_case(host))
}

/// Compares two byte strings in a time that does not depend on how many bytes are equal, so that the time reveals
/// nothing about the key.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    let differences = a.iter().zip(b).fold(0, |all, (a, b)| black_box(all | (a ^ b)));
    a.len() == b.len() && differences == 0
}

pub(super) async fn check_credentials(Shared(app): Context, request: Request, next: Next) -> Response {
    let takes_key = !app.flags.pjwt_auth_enabled || KEY_ENDPOINTS.contains(&request.uri().path());
    let Some(key) = request.headers().get("x-api-key").map(|it| it.as_bytes()) else {
        return refusal(401, "the header X-API-Key is missing");
    };
    let is_key = is_same(key, app.api_key.as_bytes());
    if (is_key && takes_key) || (!is_key && app.tokens.is_valid(key, SystemTime::now())) {
        return next.run(request).await;
    }
    if !app.flags.pjwt_auth_enabled {
        return refusal(401, "the API key is not that of this server");
    }
    let mut response = refusal(401, "the token is not valid, or has expired; get a new one at auth/token");
    let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    response
}

/// Issues a token for the key.
pub(super) fn token(app: &App, _: AuthTokenRequest, _: u64) -> Reply<AuthTokenResponse> {
    Ok(AuthTokenResponse { jwt: Secret::new(app.tokens.issue(USER, SystemTime::now())) })
}

/// Description of the key.
pub(super) async fn key_info() -> Response {
    let details: Value =
        json!({"org_details": {"name": "local"}, "user_details": {"email": "local@localhost"}});
    ok(&json!({"key_id": 1, "name": "local", "note": "the key of this engine", "details": details}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_and_allowed_names_are_served() {
        let allowed = ["engine.test".to_string()];
        for host in ["127.0.0.1", "127.0.0.1:80", "LocalHost:8000", "localhost.", "[::1]:9", "engine.test:1"]
        {
            assert!(is_served(host, &allowed), "{host}");
        }
        for host in
            ["evil.example", "127.0.0.1.evil.example", "a@localhost", "", ":80", "127.0.0.2", "localhost/x"]
        {
            assert!(!is_served(host, &allowed), "{host}");
        }
    }

    #[test]
    fn a_comparison_includes_the_length_and_every_byte() {
        assert!(is_same(b"", b"") && is_same(b"tml-a", b"tml-a"));
        assert!(!is_same(b"tml-a", b"tml-b") && !is_same(b"tml-", b"tml-a") && !is_same(b"tml-a", b""));
    }
}
