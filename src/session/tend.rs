//! What is fetched again while a session lives: the flags that may change (PROTOCOL §3.1 #2) and the token (§1.4). Each
//! has a thread of its own, so that a slow answer to one holds up nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::policy::refresh::{self, AFTER_FAILURE, AfterFailure};
use crate::sync::undo::Undo;
use crate::sync::unwind;

use super::{Flags, Session, flags};

/// The flags are not asked for more often than this.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(10);
/// Nor more seldom: a server that says for ever would never be heard again.
const LONGEST_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// Starts the thread that asks for the flags again, if the server has any that may change, or has not told them yet.
pub(super) fn start_flags(session: &Arc<Session>) {
    let flags = session.known_flags();
    if flags.is_dynamic || flags.are_assumed {
        start(session, |it| &it.tends_flags, tend_flags);
    }
}

/// Starts those threads again that were refused.
pub(super) fn start_all(session: &Arc<Session>) {
    start_flags(session);
    if session.http.auth().uses_tokens() {
        start_tokens(session);
    }
}

/// Starts the thread that replaces tokens before anybody needs the next one.
pub(super) fn start_tokens(session: &Arc<Session>) {
    start(session, |it| &it.tends_tokens, tend_tokens);
}

/// The session can do without: flags then stay as they are, and tokens are fetched when they are needed. There is one thread
/// at a time; one that was refused, or ended by a panic, is started at the next occasion.
fn start(session: &Arc<Session>, tended: fn(&Session) -> &AtomicBool, tend: fn(&Arc<Session>)) {
    if tended(session).swap(true, Ordering::AcqRel) {
        return;
    }
    let untended = session.clone();
    let lost = Undo::new(move |error| {
        tended(&untended).store(false, Ordering::Release);
        if !untended.cancel.is_cancelled() {
            log::warn!(target: "tinkex", "flags or tokens are not kept fresh: {error}");
        }
    });
    let session = session.clone();
    // Apart, because the other one only ends with the session.
    let _undone_if_refused = session.tenders.clone().spawn_apart(move || {
        tend(&session);
        lost.disarm();
    });
}

fn tend_flags(session: &Arc<Session>) {
    loop {
        let known = session.known_flags();
        if known.are_assumed {
            if session.clock.tick(SHORTEST_INTERVAL, &session.cancel).is_err() {
                return;
            }
            learn_late(session);
            continue;
        }
        if !known.is_dynamic || session.clock.tick(interval(&known), &session.cancel).is_err() {
            return;
        }
        let fetch = || flags::fetch_dynamic(&session.http, &session.config, &session.cancel);
        // A panic on the way, or a failure, leaves everything as it was.
        match unwind::catch(fetch).and_then(|it| it) {
            Ok(dynamic) => {
                let is_dynamic = dynamic.is_some();
                let dynamic = dynamic.unwrap_or_default();
                let config = known.config.clone();
                let next = Flags { config, dynamic, is_dynamic, ..*known };
                *session.flags.lock() = Some(Arc::new(next));
            }
            Err(error) => log::debug!(target: "tinkex", "the server's flags stay as they were: {error}"),
        }
    }
}

/// What was assumed is replaced by what the server says, for whatever is done from now on.
fn learn_late(session: &Arc<Session>) {
    let fetch = || flags::fetch_late(&session.http, &session.config, &session.cancel);
    match unwind::catch(fetch).and_then(|it| it) {
        Ok(flags) => {
            log::info!(target: "tinkex", "the server tells its flags again");
            session.heed(&Arc::new(flags));
        }
        Err(error) => log::debug!(target: "tinkex", "the server still does not tell its flags: {error}"),
    }
}

fn interval(flags: &Flags) -> Duration {
    let wanted = Duration::try_from_secs_f64(flags.dynamic.refresh_interval_sec);
    wanted.unwrap_or(SHORTEST_INTERVAL).clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL)
}

fn tend_tokens(session: &Arc<Session>) {
    let (auth, clock) = (session.http.auth(), &session.clock);
    let mut failed = false;
    loop {
        let before = auth.issued(clock.now());
        let pause = match before.and_then(|it| Some((it.age, it.lifetime?))) {
            Some((age, lifetime)) if !failed => refresh::pause(lifetime, fastrand::f64()).saturating_sub(age),
            // There is none yet, it lives for ever, or the last attempt failed.
            _ => AFTER_FAILURE,
        };
        if clock.tick(pause, &session.cancel).is_err() {
            return;
        }
        let now = auth.issued(clock.now());
        if now.map(|it| it.number) != before.map(|it| it.number) || now.is_none_or(|it| it.lifetime.is_none())
        {
            failed = false;
            continue;
        }
        let n_tokens = auth.n_tokens();
        let Err(error) = unwind::catch(|| session.http.replace_token()).and_then(|it| it) else {
            // Somebody else may be at it at this moment, and fail.
            failed = auth.n_tokens() == n_tokens;
            continue;
        };
        log::debug!(target: "tinkex", "the token was not replaced: {error}");
        failed = true;
        let refused = error.http_status() == Some(401);
        if refresh::after_failure(refused, now.and_then(|it| it.left)) == AfterFailure::Stop {
            // Until somebody who needs a token has got one. Nothing is sent for that.
            while auth.n_tokens() == n_tokens {
                if clock.tick(AFTER_FAILURE, &session.cancel).is_err() {
                    return;
                }
            }
            failed = false;
        }
    }
}
