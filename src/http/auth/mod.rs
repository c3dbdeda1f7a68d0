//! The credential that requests carry: the raw credential (an API key, or the output of a command), or a short-lived
//! token that the server gives in exchange for it (PROTOCOL §1.3, §1.4).

use std::time::{Duration, Instant, SystemTime};

use crate::config::Config;
use crate::credentials::Secret;
use crate::credentials::claims::{self, Claims};
use crate::credentials::source::{Credentials, Source};
use crate::error::{Error, Result};
use crate::policy::refresh::RENEW_BEFORE;
use crate::sync::clock::Clock;
use crate::sync::{CancelToken, Mutex, Semaphore};

use super::redact::Redactor;
use super::{Broken, command};

/// The raw credential, and the token that replaces it if the server uses tokens.
pub(crate) struct Auth {
    credentials: Credentials,
    /// Time limit of one run of the credential command.
    command_timeout: Duration,
    redactor: Redactor,
    /// Cancelled by `shutdown`, which ends a running command.
    stop: CancelToken,
    state: Mutex<State>,
    /// Held while a token is fetched, so that concurrent requests fetch one token together.
    fetching: Semaphore,
}

struct State {
    source: Source,
    uses_tokens: bool,
    token: Option<Token>,
    /// Number of tokens received.
    n_tokens: u64,
    /// Number of finished fetches.
    n_fetches: u64,
    /// The error of the last finished fetch, if it failed.
    failure: Option<Broken>,
}

#[derive(Clone)]
struct Token {
    jwt: Secret,
    arrived: Instant,
    expires: Option<Instant>,
    lifetime: Option<Duration>,
}

/// Age and lifetime of the current token, by which its replacement is scheduled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Issued {
    /// Number of the token. Each new token has a higher number.
    pub(crate) number: u64,
    pub(crate) age: Duration,
    /// Time from issue to expiry, if the token states it.
    pub(crate) lifetime: Option<Duration>,
    /// Time until expiry, if the token states it.
    pub(crate) left: Option<Duration>,
}

impl Auth {
    pub(crate) fn new(config: &Config) -> Self {
        Auth {
            credentials: config.credentials.clone(),
            command_timeout: config.timeouts.credential_command,
            redactor: Redactor::new(&config.secrets()),
            stop: CancelToken::new(),
            state: Mutex::new(State {
                source: config.source.clone(),
                uses_tokens: false,
                token: None,
                n_tokens: 0,
                n_fetches: 0,
                failure: None,
            }),
            fetching: Semaphore::new(1),
        }
    }

    /// Applies two flags of the server. With `uses_tokens`, requests carry a token instead of the raw credential. With
    /// `command_only` as well, the raw credential must be a JWT or come from the credential command.
    pub(crate) fn adapt(&self, uses_tokens: bool, command_only: bool) -> Result<()> {
        let source = self.credentials.source(uses_tokens && command_only)?;
        if !uses_tokens && matches!(source, Source::Command(_)) {
            return Err(Error::config(
                "the server uses API keys directly, but only a credential command is configured: set TINKER_API_KEY or \
                 call ServiceClientBuilder::api_key",
            ));
        }
        let mut state = self.state.lock();
        (state.source, state.uses_tokens) = (source, uses_tokens);
        Ok(())
    }

    /// Returns true if the raw credential itself is configured, and not only a command that prints it. While the flags
    /// of the server are not known, only a configured credential may be sent.
    pub(crate) fn can_do_without_tokens(&self) -> bool {
        matches!(self.credentials.source(false), Ok(Source::Fixed(_)))
    }

    /// Returns whether a credential is the token that the server issued in exchange for the raw credential.
    pub(crate) fn is_exchanged(&self, credential: &Secret) -> bool {
        self.state.lock().token.as_ref().is_some_and(|it| &it.jwt == credential)
    }

    pub(crate) fn redactor(&self) -> &Redactor {
        &self.redactor
    }

    /// Ends a running credential command. From now on no command is started.
    pub(crate) fn shutdown(&self) {
        self.stop.cancel();
    }

    /// Returns the raw credential: the fixed one, or the output of the command, which this call runs.
    pub(crate) fn raw(&self) -> Result<Secret> {
        let source = self.state.lock().source.clone();
        match source {
            Source::Fixed(secret) => {
                claims::check_expiry(secret.expose(), "the credential", SystemTime::now())?;
                Ok(secret)
            }
            Source::Command(line) => {
                let output = command::run(&line, self.command_timeout, &self.stop)?;
                let secret = self.credentials.printed(&output)?;
                self.redactor.learn(&secret);
                Ok(secret)
            }
        }
    }

    /// Returns the credential for the header of the next request: the raw credential, or a token, which is fetched if
    /// needed. Waits at most `timeout` while another thread fetches a token.
    pub(crate) fn credential(
        &self,
        clock: &Clock,
        timeout: Duration,
        fetch: impl FnOnce(&str) -> Result<String, Broken>,
    ) -> Result<Secret, Broken> {
        // Read the time before locking: a virtual clock takes another lock.
        let now = clock.now();
        let n_fetches = {
            let state = self.state.lock();
            if let Some(it) = state.token(now, RENEW_BEFORE) {
                return Ok(it);
            }
            state.uses_tokens.then_some(state.n_fetches)
        };
        let Some(n_fetches) = n_fetches else { return self.raw().map_err(Broken::Token) };
        let _permit = match self.fetching.try_acquire(1) {
            Some(permit) => permit,
            None => {
                // Another thread is fetching. Use the old token while it is valid.
                if let Some(token) = self.state.lock().token(now, Duration::ZERO) {
                    return Ok(token);
                }
                let deadline = Instant::now().checked_add(timeout);
                self.fetching.acquire_deadline(1, deadline, &self.stop).map_err(Broken::Token)?
            }
        };
        let now = clock.now();
        {
            let state = self.state.lock();
            if let Some(it) = state.token(now, RENEW_BEFORE) {
                return Ok(it);
            }
            // If a fetch failed while this thread waited for it, this call fails with the same error.
            if let Some(broken) = state.failure.as_ref().filter(|_| n_fetches < state.n_fetches) {
                return state.token_despite(broken.clone(), now);
            }
        }
        self.fetch(clock, fetch)
    }

    /// Fetches a new token even if the current one is valid. Does nothing if another thread is fetching.
    pub(crate) fn replace(
        &self,
        clock: &Clock,
        fetch: impl FnOnce(&str) -> Result<String, Broken>,
    ) -> Result<(), Broken> {
        let Some(_permit) = self.fetching.try_acquire(1) else { return Ok(()) };
        self.fetch_with_permit(clock, fetch).map(|_| ())
    }

    /// Drops a token that the server rejected. Returns false if the client uses no tokens: a retry is pointless then.
    pub(crate) fn drop_rejected(&self, rejected: &Secret) -> bool {
        let mut state = self.state.lock();
        if state.token.as_ref().is_some_and(|it| it.jwt == *rejected) {
            state.token = None;
        }
        state.uses_tokens
    }

    pub(crate) fn uses_tokens(&self) -> bool {
        self.state.lock().uses_tokens
    }

    /// Age and lifetime of the current token.
    pub(crate) fn issued(&self, now: Instant) -> Option<Issued> {
        let state = self.state.lock();
        let token = state.token.as_ref()?;
        Some(Issued {
            number: state.n_tokens,
            age: now.saturating_duration_since(token.arrived),
            lifetime: token.lifetime,
            left: token.expires.map(|it| it.saturating_duration_since(now)),
        })
    }

    /// Number of tokens received so far.
    pub(crate) fn n_tokens(&self) -> u64 {
        self.state.lock().n_tokens
    }

    fn fetch(
        &self,
        clock: &Clock,
        fetch: impl FnOnce(&str) -> Result<String, Broken>,
    ) -> Result<Secret, Broken> {
        self.fetch_with_permit(clock, fetch).or_else(|broken| {
            let now = clock.now();
            self.state.lock().token_despite(broken, now)
        })
    }

    /// Fetches a new token and makes it the current one. The caller must hold the permit of `fetching`.
    fn fetch_with_permit(
        &self,
        clock: &Clock,
        fetch: impl FnOnce(&str) -> Result<String, Broken>,
    ) -> Result<Secret, Broken> {
        let outcome = self.raw().map_err(Broken::Token).and_then(|raw| fetch(raw.expose()));
        let now = clock.now();
        let outcome = outcome.map(|jwt| Token::new(Secret::new(jwt), now));
        if let Ok(token) = &outcome {
            self.redactor.learn(&token.jwt);
        }
        let mut state = self.state.lock();
        state.n_fetches += 1;
        match outcome {
            Ok(token) => {
                let jwt = token.jwt.clone();
                state.n_tokens += 1;
                (state.token, state.failure) = (Some(token), None);
                Ok(jwt)
            }
            Err(broken) => {
                state.failure = Some(broken.clone());
                Err(broken)
            }
        }
    }
}

impl State {
    /// The token, if it is valid for longer than `left`.
    fn token(&self, now: Instant, left: Duration) -> Option<Secret> {
        let token = self.token.as_ref().filter(|_| self.uses_tokens)?;
        token.expires.is_none_or(|it| now + left < it).then(|| token.jwt.clone())
    }

    /// Returns the current token after a failed fetch, if the token is still valid and the server did not refuse the
    /// raw credential (401). Otherwise returns the failure.
    fn token_despite(&self, broken: Broken, now: Instant) -> Result<Secret, Broken> {
        let refused = matches!(&broken, Broken::Token(it) if it.http_status() == Some(401));
        self.token(now, Duration::ZERO).filter(|_| !refused).ok_or(broken)
    }
}

impl Token {
    fn new(jwt: Secret, now: Instant) -> Self {
        let claims = Claims::read(jwt.expose()).unwrap_or_default();
        let left = claims.left(SystemTime::now());
        Token {
            jwt,
            arrived: now,
            expires: left.and_then(|it| now.checked_add(it)),
            // A token without an issue time counts as issued now.
            lifetime: claims.lifetime().or(left),
        }
    }
}

#[cfg(test)]
mod tests;
