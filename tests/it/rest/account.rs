//! The caller's identity and API key.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;

fn jwt(claims: Value) -> String {
    format!("eyJhbGciOiJub25lIn0.{}.sig", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

fn claims(issuer: &str) -> Value {
    json!({"sub": "tml:user:7", "org_id": "o-1", "email": "", "iss": issuer, "exp": 99_999_999_999u64})
}

#[test]
fn whoami_reads_the_token_from_the_server() {
    let (server, rest) = rest();
    server.always("/api/v1/client/config", Act::json(json!({"pjwt_auth_enabled": true})));
    server.always("/api/v1/auth/token", Act::json(json!({"jwt": jwt(claims("other-service"))})));
    let me = rest.whoami().unwrap();
    assert_eq!(me.user_urn, "tml:user:7");
    assert_eq!((me.org_urn.as_deref(), me.email), (Some("tml:organization:o-1"), None));
    rest.whoami().unwrap();
    assert_eq!(server.requests_to("/api/v1/auth/token").len(), 1);
}

#[test]
fn whoami_reads_the_callers_token_if_the_service_issued_it() {
    for (issuer, known) in [("passport-prod", true), ("other-service", false)] {
        let server = FakeServer::new();
        let service = server.in_memory().api_key(jwt(claims(issuer))).build().unwrap();
        let who = service.create_rest_client().whoami();
        assert_eq!(who.is_ok(), known, "{issuer}: {who:?}");
        if let Err(error) = who {
            assert_eq!(error.kind(), &ErrorKind::Incompatible);
        }
    }
}

#[test]
fn whoami_is_incompatible_with_an_api_key_alone() {
    let (server, rest) = rest();
    let error = rest.whoami().unwrap_err();
    assert_eq!((error.kind(), error.operation()), (&ErrorKind::Incompatible, Some("whoami")));
    assert!(server.requests_to("/api/v1/auth/token").is_empty());
}

#[test]
fn a_token_exchange_that_fails_is_the_error_of_whoami() {
    let (server, rest) = rest();
    server.always("/api/v1/client/config", Act::json(json!({"pjwt_auth_enabled": true})));
    server.always("/api/v1/auth/token", Act::status(401, r#"{"detail":"unknown key"}"#));
    assert_eq!(rest.whoami().unwrap_err().kind(), &ErrorKind::Auth);
    server.always("/api/v1/auth/token", Act::json(json!({"jwt": jwt(json!({"org_id": "o"}))})));
    assert_eq!(rest.whoami().unwrap_err().kind(), &ErrorKind::Decode, "a token without a user");
}

#[test]
fn api_key_calls_send_the_key_and_not_its_token() {
    let (server, rest) = rest();
    server.always("/api/v1/client/config", Act::json(json!({"pjwt_auth_enabled": true})));
    server.always("/api/v1/auth/token", Act::json(json!({"jwt": jwt(claims("x"))})));
    rest.get_server_capabilities().unwrap();
    let key = rest.get_api_key_info().unwrap();
    assert_eq!((key.key_id, key.name.as_deref()), (Some(1), Some("key-1")));
    assert_eq!(key.details.org_details["name"], "org-1");
    rest.revoke_api_key().unwrap();
    let seen = server.requests_to("/api/v1/auth/apikey/me");
    let methods: Vec<_> = seen.iter().map(|it| it.method.as_str()).collect();
    assert_eq!(methods, ["GET", "DELETE"]);
    assert!(seen.iter().all(|it| it.header("x-api-key") == Some("tml-test")), "{seen:?}");
    server.next("/api/v1/auth/apikey/me", Act::json(json!({"key_id": 3.0, "details": {}})));
    assert_eq!(rest.get_api_key_info().unwrap().key_id, Some(3));
}

#[test]
fn api_key_calls_are_refused_with_a_token() {
    let server = FakeServer::new();
    let service = server.in_memory().api_key(jwt(claims("passport-x"))).build().unwrap();
    let rest = service.create_rest_client();
    assert_eq!(path_of(&rest.get_api_key_info().unwrap_err()), "api_key");
    assert_eq!(path_of(&rest.revoke_api_key().unwrap_err()), "api_key");
    assert!(server.requests().is_empty());
}
