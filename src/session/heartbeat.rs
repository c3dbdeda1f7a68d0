//! The sign of life that keeps a session from being ended by the server (PROTOCOL §9.4).

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::words::one_line;
use crate::error::{Error, Result};
use crate::event::HeartbeatTrouble;
use crate::http::{Call, Lane, endpoint};
use crate::pending::retry_deliveries;
use crate::sync::unwind;
use crate::wire::json::SessionHeartbeatRequest;

use super::{Session, tend};

const INTERVAL: Duration = Duration::from_secs(10);
/// After so long without success every further failure is worth a warning.
const WARN_AFTER: Duration = Duration::from_secs(120);

/// Starts the thread that beats until the session ends.
pub(super) fn start(session: &Arc<Session>, id: Arc<str>) -> Result<()> {
    let beating = session.clone();
    session.beats.spawn(move || run(&beating, &id))
}

fn run(session: &Arc<Session>, id: &str) {
    let mut last_success = session.clock.now();
    let shown = one_line(id);
    while session.clock.tick(INTERVAL, &session.cancel).is_ok() {
        // What could not be started before, because the system refused a thread.
        retry_deliveries();
        tend::start_all(session);
        // A panic of one beat is one failed beat.
        let failure = match unwind::catch(|| beat(session, id)) {
            Ok(Ok(())) => {
                last_success = session.clock.now();
                continue;
            }
            Ok(Err(error)) | Err(error) => error,
        };
        if failure.http_status() == Some(410) {
            log::info!(target: "tinkex", "session {shown} was finished by the server");
            return;
        }
        // The logger and the observer are foreign: their panics must not end the heartbeats.
        unwind::shield("a heartbeat failed", || tell(session, id, last_success, failure));
    }
}

/// Tells of a beat that failed, if that lasts.
fn tell(session: &Session, id: &str, last_success: Instant, failure: Error) {
    let silent = session.clock.now().saturating_duration_since(last_success);
    if silent <= WARN_AFTER || session.cancel.is_cancelled() {
        return;
    }
    let shown = one_line(id);
    log::warn!(target: "tinkex", "no heartbeat of session {shown} succeeded for {silent:.0?}: {failure}");
    let trouble = HeartbeatTrouble { session_id: id.into(), silent, error: failure };
    session.config.seeing.observed.tell(|it| it.on_heartbeat_trouble(&trouble));
}

fn beat(session: &Session, id: &str) -> Result<(), Error> {
    let request = SessionHeartbeatRequest { session_id: id.into() };
    // A breaker that is open must not be what ends the session.
    let call = Call::post(Lane::Session, &endpoint::SESSION_HEARTBEAT, &request)?
        .once(session.config.timeouts.heartbeat)
        .passing_breaker();
    session.http.send(&call, &session.cancel).map(|_| ())
}
