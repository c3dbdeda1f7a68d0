//! Tokens that clients get in exchange for the API key (PROTOCOL §1.4).
//!
//! A token is a JWT that clients can parse. The server keeps a list of the tokens that it issued, so a token needs no
//! signature; its last part is random.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::downloads::random_token;

/// Time for which a token is valid.
const LIFE: Duration = Duration::from_secs(3600);

/// Limit of the tokens that are valid at a time. Above it the oldest one is no longer valid, and its client gets another.
const MAX_ISSUED: usize = 4096;

/// Tokens that were issued, each with the time of its expiry.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    issued: Mutex<HashMap<String, SystemTime>>,
}

impl Tokens {
    pub(super) fn issue(&self, user: &str, now: SystemTime) -> String {
        let seconds = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let part = |it: Value| URL_SAFE_NO_PAD.encode(it.to_string());
        let claims = json!({
            "iss": "passport-tinkex-local", "sub": user, "org_id": "local", "email": "",
            "iat": seconds(now), "exp": seconds(now + LIFE),
        });
        let token =
            format!("{}.{}.{}", part(json!({"alg": "none", "typ": "JWT"})), part(claims), random_token());
        let mut issued = self.issued.lock();
        issued.retain(|_, until| now < *until);
        issued.insert(token.clone(), now + LIFE);
        if MAX_ISSUED < issued.len()
            && let Some(oldest) = issued.iter().min_by_key(|it| it.1).map(|it| it.0.clone())
        {
            issued.remove(&oldest);
        }
        token
    }

    pub(super) fn is_valid(&self, token: &[u8], now: SystemTime) -> bool {
        let token = std::str::from_utf8(token).ok();
        token.is_some_and(|it| self.issued.lock().get(it).is_some_and(|until| now < *until))
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_its_user_and_is_valid_for_an_hour() {
        let (tokens, now) = (Tokens::default(), SystemTime::now());
        let token = tokens.issue("tml:user:local", now);
        let claims = token.split('.').nth(1).expect("claims");
        let claims: Value =
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).expect("base64")).expect("JSON");
        assert_eq!(claims["sub"], "tml:user:local");
        assert_eq!(claims["exp"].as_u64().expect("a time") - claims["iat"].as_u64().expect("a time"), 3600);
        assert!(token.starts_with("eyJ") && tokens.is_valid(token.as_bytes(), now));
        assert!(!tokens.is_valid(token.as_bytes(), now + LIFE));
        let forged = format!("{}.{}", token.rsplit_once('.').expect("parts").0, random_token());
        assert!(!tokens.is_valid(forged.as_bytes(), now));
    }

    #[test]
    fn the_oldest_of_too_many_tokens_is_no_longer_valid() {
        let (tokens, now) = (Tokens::default(), SystemTime::now());
        let issue = |i: usize| tokens.issue("u", now + Duration::from_millis(i as u64));
        let issued: Vec<String> = (0..MAX_ISSUED + 1).map(issue).collect();
        assert!(!tokens.is_valid(issued[0].as_bytes(), now));
        assert!(issued[1..].iter().all(|it| tokens.is_valid(it.as_bytes(), now)));
    }
}
