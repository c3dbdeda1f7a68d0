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

use super::super::hosts::Hosts;
use super::super::reply::Reply;
use super::super::state::USER;
use super::{App, Context, ok, refusal};

/// Endpoints that accept the key itself even if tokens are required.
const KEY_ENDPOINTS: [&str; 3] = ["/api/v1/client/config", "/api/v1/auth/token", "/api/v1/auth/apikey/me"];

/// The host that a request names, with its port. [`check_host`] has accepted it.
#[derive(Clone)]
pub(super) struct AskedHost(Authority);

impl AskedHost {
    /// The URL of a path of this server, for the client that has sent the request. Machines reach the server by different
    /// addresses; the client's own is the one that it has used.
    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.0)
    }
}

/// Refuses requests whose `Host` or `Origin` header names a host that is not allowed (see [`Hosts`]).
pub(super) async fn check_host(Shared(app): Context, mut request: Request, next: Next) -> Response {
    match asked_host(&request, &app.hosts) {
        Ok(host) => {
            request.extensions_mut().insert(host);
            next.run(request).await
        }
        Err(why) => refusal(403, &why),
    }
}

/// The host of a request, or the reason for which it is refused.
fn asked_host(request: &Request, hosts: &Hosts) -> Result<AskedHost, String> {
    let headers = request.headers();
    let in_headers = headers.get_all(header::HOST).iter().map(|it| hosts.served(it.to_str().ok()?));
    let in_address = request.uri().authority().map(|it| hosts.served(it.as_str()));
    // A request may name its host in several places. Each must be allowed; the one in the address counts.
    let all: Option<Vec<Authority>> = in_address.into_iter().chain(in_headers).collect();
    let host = all.and_then(|all| all.into_iter().next()).ok_or_else(|| hosts.refusal())?;
    let from_here = |it: &HeaderValue| it.to_str().is_ok_and(|it| hosts.serves_page(it, &host));
    if !headers.get_all(header::ORIGIN).iter().all(from_here) {
        return Err("this server does not answer to pages of other hosts".into());
    }
    Ok(AskedHost(host))
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
    let keys = [&app.api_key, &app.local_key];
    let is_key = app.any_key || keys.into_iter().any(|it| is_same(key, it.as_bytes()));
    if (is_key && takes_key) || app.tokens.is_valid(key, SystemTime::now()) {
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
    fn a_comparison_includes_the_length_and_every_byte() {
        assert!(is_same(b"", b"") && is_same(b"tml-a", b"tml-a"));
        assert!(!is_same(b"tml-a", b"tml-b") && !is_same(b"tml-", b"tml-a") && !is_same(b"tml-a", b""));
    }
}
