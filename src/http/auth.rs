//! The credential that requests carry (PROTOCOL §1.4).

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::secret::Secret;
use crate::sync::clock::Clock;
use crate::sync::{CancelToken, Mutex, Semaphore};

use super::Broken;

/// A token with less life than this is renewed before it is used.
const RENEW_BEFORE: Duration = Duration::from_secs(60);

/// The raw credential, and the token that stands for it where the server wants one.
#[derive(Debug)]
pub(crate) struct Auth {
    raw: Secret,
    state: Mutex<State>,
    /// Taken while a token is fetched, so that many requests fetch one.
    fetching: Semaphore,
}

#[derive(Debug, Default)]
struct State {
    uses_tokens: bool,
    token: Option<Token>,
}

#[derive(Clone, Debug)]
struct Token {
    jwt: Secret,
    expires: Option<Instant>,
}

impl Auth {
    pub(crate) fn new(raw: Secret) -> Self {
        Auth { raw, state: Mutex::new(State::default()), fetching: Semaphore::new(1) }
    }

    /// The credential that the caller gave.
    pub(crate) fn raw(&self) -> &Secret {
        &self.raw
    }

    /// The server wants tokens instead of the raw credential.
    pub(crate) fn use_tokens(&self) {
        self.state.lock().uses_tokens = true;
    }

    /// What to put into the header now. Another thread's fetch is waited for no longer than `patience`.
    pub(crate) fn credential(
        &self,
        clock: &Clock,
        patience: Duration,
        fetch: impl FnOnce(&str) -> Result<String, Broken>,
    ) -> Result<Secret, Broken> {
        if let Some(it) = self.fresh(clock.now()) {
            return Ok(it);
        }
        // One thread fetches, the others wait for it and then find its token.
        let deadline = Instant::now() + patience;
        let _one =
            self.fetching.acquire_deadline(1, Some(deadline), &CancelToken::new()).map_err(Broken::Token)?;
        let now = clock.now();
        if let Some(it) = self.fresh(now) {
            return Ok(it);
        }
        match fetch(self.raw.expose()) {
            Ok(jwt) => {
                let expires = expiry(&jwt).and_then(|left| now.checked_add(left));
                let jwt = Secret::new(jwt);
                self.state.lock().token = Some(Token { jwt: jwt.clone(), expires });
                Ok(jwt)
            }
            // An older token that is still good is better than none.
            Err(broken) => match &self.state.lock().token {
                Some(it) if it.expires.is_none_or(|it| now < it) => Ok(it.jwt.clone()),
                _ => Err(broken),
            },
        }
    }

    /// Forgets a token that the server rejected. False if there is no use in trying again.
    pub(crate) fn renew(&self, rejected: &Secret) -> bool {
        let mut state = self.state.lock();
        if state.token.as_ref().is_some_and(|it| it.jwt == *rejected) {
            state.token = None;
        }
        state.uses_tokens
    }

    fn fresh(&self, now: Instant) -> Option<Secret> {
        let state = self.state.lock();
        if !state.uses_tokens {
            return Some(self.raw.clone());
        }
        let token = state.token.as_ref()?;
        token.expires.is_none_or(|it| now + RENEW_BEFORE < it).then(|| token.jwt.clone())
    }
}

/// What a JWT claims, unverified.
pub(crate) fn claims(jwt: &str) -> Option<Value> {
    let claims = URL_SAFE_NO_PAD.decode(jwt.split('.').nth(1)?.trim_end_matches('=')).ok()?;
    serde_json::from_slice(&claims).ok()
}

/// How much longer a JWT lives, from its unverified claims.
fn expiry(jwt: &str) -> Option<Duration> {
    let claims = claims(jwt)?;
    let exp = Duration::try_from_secs_f64(claims.get("exp")?.as_f64()?).ok()?;
    Some(exp.saturating_sub(SystemTime::now().duration_since(UNIX_EPOCH).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn jwt(seconds_left: i64) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs() as i64;
        format!("eyJ.{}.sig", URL_SAFE_NO_PAD.encode(format!(r#"{{"exp":{}}}"#, now + seconds_left)))
    }

    #[test]
    fn the_raw_credential_is_used_until_the_server_wants_tokens() {
        let (auth, clock) = (Auth::new(Secret::new("tml-x")), Clock::default());
        let raw = auth.credential(&clock, RENEW_BEFORE, |_| panic!("nothing to fetch")).expect("raw");
        assert_eq!(raw.expose(), "tml-x");
        auth.use_tokens();
        let fetched = Cell::new(0);
        let fetch = |raw: &str| {
            assert_eq!(raw, "tml-x");
            fetched.set(fetched.get() + 1);
            Ok(jwt(3600))
        };
        let token = auth.credential(&clock, RENEW_BEFORE, fetch).expect("a token");
        assert_eq!(auth.credential(&clock, RENEW_BEFORE, fetch).expect("a token"), token);
        assert_eq!(fetched.get(), 1);
    }

    #[test]
    fn a_token_about_to_expire_is_renewed_and_kept_if_that_fails() {
        let (auth, clock) = (Auth::new(Secret::new("tml-x")), Clock::default());
        auth.use_tokens();
        let first = auth.credential(&clock, RENEW_BEFORE, |_| Ok(jwt(50))).expect("a token");
        let kept = auth.credential(&clock, RENEW_BEFORE, |_| Err(Broken::Closed)).expect("the old one");
        assert_eq!(kept, first);
        let next = jwt(3600);
        assert_eq!(
            auth.credential(&clock, RENEW_BEFORE, |_| Ok(next.clone())).expect("a new one").expose(),
            next
        );
    }

    #[test]
    fn a_rejected_token_is_forgotten_once() {
        let (auth, clock) = (Auth::new(Secret::new("tml-x")), Clock::default());
        assert!(!auth.renew(&Secret::new("tml-x")), "a raw credential cannot be renewed");
        auth.use_tokens();
        let first = auth.credential(&clock, RENEW_BEFORE, |_| Ok(jwt(3600))).expect("a token");
        assert!(auth.renew(&first));
        let second = auth.credential(&clock, RENEW_BEFORE, |_| Ok(jwt(7200))).expect("a token");
        assert!(auth.renew(&first), "a late rejection of the old token keeps the new one");
        assert_eq!(auth.credential(&clock, RENEW_BEFORE, |_| panic!("not again")).expect("a token"), second);
    }
}
