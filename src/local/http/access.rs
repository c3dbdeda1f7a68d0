//! Who may ask: the key of the server, or a token that was got for it.

use std::time::SystemTime;

use axum::extract::{Request, State as Shared};
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use serde_json::{Value, json};

use crate::wire::json::{AuthTokenRequest, AuthTokenResponse, Secret};

use super::super::state::{Reply, USER};
use super::{App, Context, ok, refusal};

/// What is asked with the key itself even where tokens are in use.
const BY_KEY: [&str; 3] = ["/api/v1/client/config", "/api/v1/auth/token", "/api/v1/auth/apikey/me"];

pub(super) async fn check(Shared(app): Context, request: Request, next: Next) -> Response {
    let by_key = !app.flags.pjwt_auth_enabled || BY_KEY.contains(&request.uri().path());
    let Some(key) = request.headers().get("x-api-key").map(|it| it.as_bytes()) else {
        return refusal(401, "the header X-API-Key is missing");
    };
    let is_key = key == app.api_key.as_bytes();
    if (is_key && by_key) || (!is_key && app.tokens.knows(key, SystemTime::now())) {
        return next.run(request).await;
    }
    if !app.flags.pjwt_auth_enabled {
        return refusal(401, "this is not the API key of this server");
    }
    let mut response = refusal(401, "this is no token of this server, or no longer; get one at auth/token");
    let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    response
}

/// A token for the key.
pub(super) fn token(app: &App, _: AuthTokenRequest, _: u64) -> Reply<AuthTokenResponse> {
    Ok(AuthTokenResponse { jwt: Secret::new(app.tokens.give(USER, SystemTime::now())) })
}

/// What is known of the key.
pub(super) async fn key() -> Response {
    let details: Value =
        json!({"org_details": {"name": "local"}, "user_details": {"email": "local@localhost"}});
    ok(&json!({"key_id": 1, "name": "local", "note": "the key of this engine", "details": details}))
}
