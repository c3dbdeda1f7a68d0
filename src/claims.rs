//! What a JWT says of itself. Nothing here checks its signature: that is the server's affair.

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
    /// Seconds since 1970 from which on the token is worthless.
    pub(crate) exp: Option<f64>,
    /// Seconds since 1970 at which it was made.
    pub(crate) iat: Option<f64>,
    /// The user's URN.
    pub(crate) sub: Option<String>,
    /// The organization's id.
    pub(crate) org_id: Option<String>,
    /// The user's address; an empty one counts as none.
    pub(crate) email: Option<String>,
    /// Who made it. The server's own begin with `passport-`.
    pub(crate) iss: Option<String>,
}

impl Claims {
    /// The claims of a JWT; `None` if the text is not one.
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

    /// How much longer the token lives: zero if it has expired, `None` if it does not say.
    pub(crate) fn left(&self, now: SystemTime) -> Option<Duration> {
        let left = self.exp? - since_1970(now);
        Some(Duration::try_from_secs_f64(left.max(0.0)).unwrap_or(Duration::MAX))
    }

    /// From when it was made to when it expires.
    pub(crate) fn lifetime(&self) -> Option<Duration> {
        Duration::try_from_secs_f64(self.exp? - self.iat?).ok().filter(|it| !it.is_zero())
    }
}

/// Refuses a credential that is a JWT and has expired, which a server would only refuse later.
pub(crate) fn check_expiry(credential: &str, whose: &str, now: SystemTime) -> Result<()> {
    let claims = match credential.starts_with(JWT_PREFIX) {
        true => Claims::read(credential),
        false => None,
    };
    let Some(exp) = claims.and_then(|it| it.exp) else { return Ok(()) };
    let ago = since_1970(now) - exp;
    match ago < 0.0 {
        true => Ok(()),
        false => Err(Error::new(
            ErrorKind::Auth,
            format!("{whose} is a JWT that expired {ago:.0} s ago: get a new one"),
        )),
    }
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
    fn claims_are_read_and_empty_ones_count_as_none() {
        let text = r#"{"exp":1795003600,"iat":1795000000.0,"sub":"tml:user:7","org_id":"9","email":"","iss":"passport-1"}"#;
        let claims = Claims::read(&jwt(text)).expect("a token");
        assert_eq!(claims.left(now()), Some(Duration::from_secs(3600)));
        assert_eq!(claims.lifetime(), Some(Duration::from_secs(3600)));
        assert_eq!((claims.sub.as_deref(), claims.org_id.as_deref()), (Some("tml:user:7"), Some("9")));
        assert_eq!((claims.email, claims.iss.as_deref()), (None, Some("passport-1")));
    }

    #[test]
    fn what_is_no_token_has_no_claims_and_odd_claims_are_nothing() {
        for text in ["", "eyJ", "eyJ.", "eyJ.!!!.x", "tml-abc", &jwt("[1]"), &jwt("{")] {
            assert_eq!(Claims::read(text), None, "{text}");
        }
        let odd = Claims::read(&jwt(r#"{"exp":"soon","iat":null,"sub":7}"#));
        assert_eq!(odd, Some(Claims::default()));
        let backwards = Claims::read(&jwt(r#"{"exp":5,"iat":9}"#)).expect("a token");
        assert_eq!((backwards.lifetime(), backwards.left(now())), (None, Some(Duration::ZERO)));
    }

    #[test]
    fn only_a_token_that_says_that_it_expired_is_refused() {
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
