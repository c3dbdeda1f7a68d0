//! The credential that requests carry (PROTOCOL §1.3, §1.4).

use std::time::{Duration, Instant, SystemTime};

use crate::claims::{self, Claims};
use crate::config::Config;
use crate::credential::{Credentials, Source};
use crate::error::{Error, Result};
use crate::policy::refresh::RENEW_BEFORE;
use crate::secret::Secret;
use crate::sync::clock::Clock;
use crate::sync::{CancelToken, Mutex, Semaphore};

use super::redact::Redactor;
use super::{Broken, command};

/// The raw credential, and the token that stands for it where the server wants one.
pub(crate) struct Auth {
    credentials: Credentials,
    /// How long the credential command may take.
    patience: Duration,
    redactor: Redactor,
    /// Cancelled at the end of the client, which ends a command that is running.
    stop: CancelToken,
    state: Mutex<State>,
    /// Taken while a token is fetched, so that many requests fetch one.
    fetching: Semaphore,
}

struct State {
    source: Source,
    uses_tokens: bool,
    token: Option<Token>,
    /// How many tokens arrived.
    n_tokens: u64,
    /// How many fetches ended.
    n_fetches: u64,
    /// The last fetch that ended, if it failed.
    failure: Option<Broken>,
}

#[derive(Clone)]
struct Token {
    jwt: Secret,
    arrived: Instant,
    expires: Option<Instant>,
    lifetime: Option<Duration>,
}

/// The token that there is, for whoever replaces it in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Issued {
    /// Tells tokens apart.
    pub(crate) number: u64,
    pub(crate) age: Duration,
    /// From its making to its end, if it says so.
    pub(crate) lifetime: Option<Duration>,
    /// How much longer it lives, if it says so.
    pub(crate) left: Option<Duration>,
}

impl Auth {
    pub(crate) fn new(config: &Config) -> Self {
        Auth {
            credentials: config.credentials.clone(),
            patience: config.timeouts.credential_command,
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

    /// What the server says of itself: whether it wants tokens instead of the raw credential, and then whether the
    /// credential has to come from the command.
    pub(crate) fn adapt(&self, uses_tokens: bool, command_only: bool) -> Result<()> {
        let source = self.credentials.source(uses_tokens && command_only)?;
        if !uses_tokens && matches!(source, Source::Command(_)) {
            return Err(Error::config(
                "the server takes API keys as they are, and there is only a credential command: set TINKER_API_KEY or \
                 call ServiceClientBuilder::api_key",
            ));
        }
        let mut state = self.state.lock();
        (state.source, state.uses_tokens) = (source, uses_tokens);
        Ok(())
    }

    /// The credential is one that servers without tokens take as it is. Nothing that a server says is needed to send it.
    pub(crate) fn can_do_without_tokens(&self) -> bool {
        matches!(self.credentials.source(false), Ok(Source::Fixed(_)))
    }

    /// The server gave this credential for another one.
    pub(crate) fn is_exchanged(&self, credential: &Secret) -> bool {
        self.state.lock().token.as_ref().is_some_and(|it| &it.jwt == credential)
    }

    pub(crate) fn redactor(&self) -> &Redactor {
        &self.redactor
    }

    /// Ends a command that is running, and runs none any more.
    pub(crate) fn shutdown(&self) {
        self.stop.cancel();
    }

    /// The credential itself: the fixed one, or what the command prints now.
    pub(crate) fn raw(&self) -> Result<Secret> {
        let source = self.state.lock().source.clone();
        match source {
            Source::Fixed(secret) => {
                claims::check_expiry(secret.expose(), "the credential", SystemTime::now())?;
                Ok(secret)
            }
            Source::Command(line) => {
                let output = command::run(&line, self.patience, &self.stop)?;
                let secret = self.credentials.printed(&output)?;
                self.redactor.learn(&secret);
                Ok(secret)
            }
        }
    }

    /// What to put into the header now. Another thread's fetch is waited for no longer than `patience`.
    pub(crate) fn credential(
        &self,
        clock: &Clock,
        patience: Duration,
        fetch: impl FnOnce(&str) -> Result<String, Broken>,
    ) -> Result<Secret, Broken> {
        // Read before the lock is taken: a clock of a test's own has one as well.
        let now = clock.now();
        let n_fetches = {
            let state = self.state.lock();
            if let Some(it) = state.token(now, RENEW_BEFORE) {
                return Ok(it);
            }
            state.uses_tokens.then_some(state.n_fetches)
        };
        let Some(n_fetches) = n_fetches else { return self.raw().map_err(Broken::Token) };
        let _one = match self.fetching.try_acquire(1) {
            Some(permit) => permit,
            None => {
                // Somebody is at it. A token that will do once more need not wait for the next one.
                if let Some(it) = self.state.lock().token(now, Duration::ZERO) {
                    return Ok(it);
                }
                // One thread fetches, the others wait for it and then find its token.
                let deadline = Instant::now().checked_add(patience);
                self.fetching.acquire_deadline(1, deadline, &self.stop).map_err(Broken::Token)?
            }
        };
        let now = clock.now();
        {
            let state = self.state.lock();
            if let Some(it) = state.token(now, RENEW_BEFORE) {
                return Ok(it);
            }
            // What failed for one while others waited for it has failed for all of them.
            if let Some(broken) = state.failure.as_ref().filter(|_| n_fetches < state.n_fetches) {
                return state.despite(broken.clone(), now);
            }
        }
        self.fetch(clock, fetch)
    }

    /// Fetches a token, however long the one that there is would do.
    pub(crate) fn replace(
        &self,
        clock: &Clock,
        fetch: impl FnOnce(&str) -> Result<String, Broken>,
    ) -> Result<(), Broken> {
        let Some(_one) = self.fetching.try_acquire(1) else { return Ok(()) };
        self.fetched(clock, fetch).map(|_| ())
    }

    /// Forgets a token that the server rejected. False if there is no use in trying again.
    pub(crate) fn renew(&self, rejected: &Secret) -> bool {
        let mut state = self.state.lock();
        if state.token.as_ref().is_some_and(|it| it.jwt == *rejected) {
            state.token = None;
        }
        state.uses_tokens
    }

    pub(crate) fn uses_tokens(&self) -> bool {
        self.state.lock().uses_tokens
    }

    /// The token that there is.
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

    /// How many tokens arrived so far.
    pub(crate) fn n_tokens(&self) -> u64 {
        self.state.lock().n_tokens
    }

    fn fetch(
        &self,
        clock: &Clock,
        fetch: impl FnOnce(&str) -> Result<String, Broken>,
    ) -> Result<Secret, Broken> {
        self.fetched(clock, fetch).or_else(|it| {
            let now = clock.now();
            self.state.lock().despite(it, now)
        })
    }

    /// A new token, which everybody uses from now on. Only for the holder of the permit.
    fn fetched(
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
    /// The token, if it lives longer than this.
    fn token(&self, now: Instant, left: Duration) -> Option<Secret> {
        let token = self.token.as_ref().filter(|_| self.uses_tokens)?;
        token.expires.is_none_or(|it| now + left < it).then(|| token.jwt.clone())
    }

    /// An older token that is still good is better than none, unless the server refuses the credential itself.
    fn despite(&self, broken: Broken, now: Instant) -> Result<Secret, Broken> {
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
            // One that does not say when it was made was made just now.
            lifetime: claims.lifetime().or(left),
        }
    }
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;
