//! Decodes the claims of JWTs. Only the server checks signatures.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result};

/// Every JWT begins with this: base64 of `{"`.
pub(crate) const JWT_PREFIX: &str = "eyJ";

/// The claims that the protocol uses (PROTOCOL §1.4). A claim that is missing or of another type is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Claims {
    /// Time of expiry, in seconds since 1970.
    pub(crate) exp: Option<f64>,
    /// Time of issue, in seconds since 1970.
    pub(crate) iat: Option<f64>,
    /// The user's URN.
    pub(crate) sub: Option<String>,
    /// The organization's id.
    pub(crate) org_id: Option<String>,
    /// The user's email address. An empty one counts as missing.
    pub(crate) email: Option<String>,
    /// The issuer. In tokens of the Tinker service it begins with `passport-`.
    pub(crate) iss: Option<String>,
}

impl Claims {
    /// Decodes the claims. `None` if the text is not a JWT.
    pub(crate) fn read(jwt: &str) -> Option<Self> {
        let payload = URL_SAFE_NO_PAD.decode(jwt.split('.').nth(1)?.trim_end_matches('=')).ok()?;
        let claims: Map<String, Value> = serde_json::from_slice(&payload).ok()?;
        let number = |name| claims.get(name).and_then(Value::as_f64);
        let text = |name| {
            let text = claims.get(name).and_then(Value::as_str).filter(|it| !it.is_empty());
            text.map(str::to_string)
        };
        Some(Claims {
            exp: number("exp"),
            iat: number("iat"),
            sub: text("sub"),
            org_id: text("org_id"),
            email: text("email"),
            iss: text("iss"),
        })
    }

    /// Time until expiry: zero for an expired token, `None` without the claim `exp`.
    pub(crate) fn left(&self, now: SystemTime) -> Option<Duration> {
        let left = self.exp? - since_1970(now);
        Some(Duration::try_from_secs_f64(left.max(0.0)).unwrap_or(Duration::MAX))
    }

    /// Time from issue to expiry.
    pub(crate) fn lifetime(&self) -> Option<Duration> {
        Duration::try_from_secs_f64(self.exp? - self.iat?).ok().filter(|it| !it.is_zero())
    }
}

/// Refuses a JWT that has expired, so that it is not sent. `name` names the credential in the error.
pub(crate) fn check_expiry(credential: &str, name: &str, now: SystemTime) -> Result<()> {
    let claims = if credential.starts_with(JWT_PREFIX) { Claims::read(credential) } else { None };
    let Some(exp) = claims.and_then(|claims| claims.exp) else { return Ok(()) };
    let ago = since_1970(now) - exp;
    if ago < 0.0 {
        return Ok(());
    }
    let text = format!("{name} is a JWT that expired {ago:.0} s ago: get a new one");
    Err(Error::new(ErrorKind::Auth, text))
}

fn since_1970(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).map_or(0.0, |it| it.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_795_000_000;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(NOW)
    }

    fn jwt(claims: &str) -> String {
        format!("eyJhbGciOiJub25lIn0.{}.sig", URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn claims_are_decoded_and_empty_ones_count_as_missing() {
        let text = r#"{"exp":1795003600,"iat":1795000000.0,"sub":"tml:user:7","org_id":"9","email":"","iss":"passport-1"}"#;
        let claims = Claims::read(&jwt(text)).expect("a token");
        assert_eq!(claims.left(now()), Some(Duration::from_secs(3600)));
        assert_eq!(claims.lifetime(), Some(Duration::from_secs(3600)));
        assert_eq!((claims.sub.as_deref(), claims.org_id.as_deref()), (Some("tml:user:7"), Some("9")));
        assert_eq!((claims.email, claims.iss.as_deref()), (None, Some("passport-1")));
    }

    #[test]
    fn a_text_that_is_not_a_token_has_no_claims_and_claims_of_other_types_are_missing() {
        for text in ["", "eyJ", "eyJ.", "eyJ.!!!.x", "tml-abc", &jwt("[1]"), &jwt("{")] {
            assert_eq!(Claims::read(text), None, "{text}");
        }
        let mistyped = Claims::read(&jwt(r#"{"exp":"soon","iat":null,"sub":7}"#));
        assert_eq!(mistyped, Some(Claims::default()));
        let backwards = Claims::read(&jwt(r#"{"exp":5,"iat":9}"#)).expect("a token");
        assert_eq!((backwards.lifetime(), backwards.left(now())), (None, Some(Duration::ZERO)));
    }

    #[test]
    fn only_a_token_with_a_past_expiry_is_refused() {
        let check = |text: &str| check_expiry(text, "the credential", now());
        for good in ["tml-abc", "eyJx", &jwt("{}"), &jwt(r#"{"exp":1795000001}"#)] {
            assert!(check(good).is_ok(), "{good}");
        }
        let old = jwt(r#"{"exp":1794999990}"#);
        let error = check(&old).expect_err("expired");
        assert_eq!(error.message(), "the credential is a JWT that expired 10 s ago: get a new one");
        assert!(*error.kind() == ErrorKind::Auth && !error.is_retryable());
    }
}
