//! Background upkeep of a session: heartbeats (PROTOCOL §9.4) and the renewal of tokens (PROTOCOL §1.4).

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::words::one_line;
use crate::error::{Error, Result};
use crate::event::HeartbeatTrouble;
use crate::http::{Call, Lane, endpoint};
use crate::pending::retry_deliveries;
use crate::policy::refresh::{self, AFTER_FAILURE, AfterFailure};
use crate::sync::task::{Turn, Work};
use crate::sync::{Mutex, unwind};
use crate::wire::json::SessionHeartbeatRequest;

use super::{Job, Session};

const INTERVAL: Duration = Duration::from_secs(10);
/// Time without a successful heartbeat after which each failure is logged as a warning.
const WARN_AFTER: Duration = Duration::from_secs(120);

/// Sends heartbeats until the session ends.
#[derive(Default)]
pub(super) struct Heartbeat {
    session: Mutex<Option<HeartbeatState>>,
}

#[derive(Clone)]
struct HeartbeatState {
    id: Arc<str>,
    last_success: Instant,
}

impl Work for Heartbeat {
    type Owner = Session;

    /// Waits for one interval, then sends one heartbeat.
    fn turn(&self, session: &Arc<Session>) -> Turn {
        let Some(HeartbeatState { id, last_success }) = self.session.lock().clone() else {
            return Turn::Idle;
        };
        if session.clock.tick(INTERVAL, &session.cancel).is_err() {
            return Turn::Idle;
        }
        // Retry background work for which the system refused a thread.
        retry_deliveries();
        session.start_flag_refresh();
        session.start_token_refresh();
        // A panic in code of the user counts as one failed heartbeat.
        let failure = match unwind::catch(|| send_heartbeat(session, &id)).flatten() {
            Ok(()) => {
                let last_success = session.clock.now();
                *self.session.lock() = Some(HeartbeatState { id, last_success });
                return Turn::Again;
            }
            Err(error) => error,
        };
        if failure.http_status() == Some(410) {
            log::info!(target: "tinkex", "session {} was finished by the server", one_line(&id));
            *self.session.lock() = None;
            return Turn::Idle;
        }
        // The logger and the observer are code of the user: their panics must not end the heartbeats.
        unwind::shield("a heartbeat failed", || report_failure(session, &id, last_success, failure));
        Turn::Again
    }

    fn lost(&self, session: &Arc<Session>, error: &Error) {
        if !session.cancel.is_cancelled() {
            log::error!(target: "tinkex", "no more heartbeats are sent: {error}");
        }
    }
}

/// Reports a failed heartbeat, if none has succeeded for a while.
fn report_failure(session: &Session, id: &str, last_success: Instant, failure: Error) {
    let silent = session.clock.now().saturating_duration_since(last_success);
    if silent <= WARN_AFTER || session.cancel.is_cancelled() {
        return;
    }
    let shown = one_line(id);
    log::warn!(target: "tinkex", "no heartbeat of session {shown} succeeded for {silent:.0?}: {failure}");
    let trouble = HeartbeatTrouble { session_id: id.into(), silent, error: failure };
    session.config.seeing.observed.tell(|observer| observer.on_heartbeat_trouble(&trouble));
}

fn send_heartbeat(session: &Session, id: &str) -> Result<(), Error> {
    let request = SessionHeartbeatRequest { session_id: id.into() };
    // Bypass the breaker: without heartbeats the server would end the session.
    let call = Call::post(Lane::Session, &endpoint::SESSION_HEARTBEAT, &request)?
        .once(session.config.timeouts.heartbeat)
        .passing_breaker();
    session.http.send(&call, &session.cancel).map(|_| ())
}

/// Renews the token before the next request needs it.
#[derive(Default)]
pub(super) struct TokenRefresh {
    /// The last attempt failed.
    failed: Mutex<bool>,
}

impl Work for TokenRefresh {
    type Owner = Session;

    /// Waits until the token has to be renewed, then renews it.
    fn turn(&self, session: &Arc<Session>) -> Turn {
        match self.renew(session) {
            Ok(failed) => {
                *self.failed.lock() = failed;
                Turn::Again
            }
            Err(Ended) => Turn::Idle,
        }
    }

    fn lost(&self, session: &Arc<Session>, error: &Error) {
        if !session.cancel.is_cancelled() {
            log::warn!(target: "tinkex", "tokens are not renewed ahead of time until the next heartbeat: {error}");
        }
    }
}

/// The session ended.
struct Ended;

impl TokenRefresh {
    /// Waits until the token has to be renewed, then renews it. Returns whether that failed.
    fn renew(&self, session: &Session) -> Result<bool, Ended> {
        let (auth, clock) = (session.http.auth(), &session.clock);
        let sleep = |pause| clock.tick(pause, &session.cancel).map_err(|_| Ended);
        let before = auth.issued(clock.now());
        let failed = *self.failed.lock();
        sleep(match before.and_then(|token| Some((token.age, token.lifetime?))) {
            Some((age, lifetime)) if !failed => refresh::pause(lifetime, fastrand::f64()).saturating_sub(age),
            // There is no token yet, the token does not state its lifetime, or the last attempt failed.
            _ => AFTER_FAILURE,
        })?;
        let now = auth.issued(clock.now());
        let is_other = now.map(|token| token.number) != before.map(|token| token.number);
        if is_other || now.is_none_or(|token| token.lifetime.is_none()) {
            return Ok(false);
        }
        let n_tokens = auth.n_tokens();
        let Err(error) = unwind::catch(|| session.http.replace_token()).flatten() else {
            // While another thread fetches a token, `replace_token` does nothing. Without a new token this counts as a
            // failure.
            return Ok(auth.n_tokens() == n_tokens);
        };
        log::debug!(target: "tinkex", "the token was not replaced: {error}");
        let refused = error.http_status() == Some(401);
        if refresh::after_failure(refused, now.and_then(|token| token.left)) != AfterFailure::Stop {
            return Ok(true);
        }
        // Wait until another request has fetched a token.
        while auth.n_tokens() == n_tokens {
            sleep(AFTER_FAILURE)?;
        }
        Ok(false)
    }
}

impl Session {
    /// Starts the heartbeats.
    ///
    /// # Errors
    /// The system refused the thread, or the session is closed.
    pub(super) fn start_heartbeat(self: &Arc<Self>, id: Arc<str>) -> Result<()> {
        *self.heartbeat.session.lock() = Some(HeartbeatState { id, last_success: self.clock.now() });
        self.heartbeat.wake(self, &self.pool[Job::Heartbeat])
    }

    /// Starts the renewal if the server uses tokens. If the system refuses the thread, requests fetch their tokens
    /// themselves, and the next heartbeat tries again.
    pub(super) fn start_token_refresh(self: &Arc<Self>) {
        if self.http.auth().uses_tokens() {
            let _ = self.token_refresh.wake(self, &self.pool[Job::Refresh]);
        }
    }
}
