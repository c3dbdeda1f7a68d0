//! The reporter of a session's own use (PROTOCOL §9.5): off unless asked for, and never in the way.
//!
//! Events wait in a bounded queue, and one thread sends them. Whoever reports an event takes one short lock and no
//! more. The reporter belongs to the session, which alone ends it; a client's end is not the reporter's.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::http::{Call, Http, Lane, endpoint, headers};
use crate::policy::telemetry::{Backlog, Offered, TelemetryCounts};
use crate::sync::clock::Clock;
use crate::sync::oneshot::{Reply, Slot, oneshot};
use crate::sync::pool::{Pool, PoolConfig};
use crate::sync::undo::Undo;
use crate::sync::{CancelToken, Mutex, unwind};
use crate::wire::json::TelemetryRequest;

use super::events::{self, Event};

/// After so long events are sent, however few they are.
const INTERVAL: Duration = Duration::from_secs(10);
/// One request.
const TIMEOUT: Duration = Duration::from_secs(5);
/// All attempts at one batch.
const BUDGET: Duration = Duration::from_secs(10);

/// Collects events and sends them.
pub(crate) struct Telemetry {
    config: Arc<Config>,
    http: Arc<Http>,
    clock: Clock,
    pool: Pool,
    /// Cancelled when there is no more time to send anything.
    stop: CancelToken,
    /// The name of a client that has no session yet.
    sessionless: String,
    state: Mutex<State>,
}

struct State {
    backlog: Backlog<Value>,
    session: Option<(Arc<str>, Instant)>,
    /// Ends the exporter's wait before its time. Each wait has one of its own.
    round: CancelToken,
    /// Answers when the exporter has ended, however it did; there is none before the first event. One that has ended before its
    /// time is replaced.
    exporter: Option<Slot<()>>,
}

impl Telemetry {
    /// A reporter, if the settings ask for one. Its thread comes with the first event.
    pub(super) fn new(config: &Arc<Config>, http: &Arc<Http>, clock: &Clock) -> Option<Arc<Self>> {
        if !config.telemetry {
            return None;
        }
        let pool = PoolConfig {
            name: "tk-tele",
            max_threads: 1,
            stack_size: config.threads.stack_size,
            idle: config.threads.idle,
        };
        Some(Arc::new(Telemetry {
            config: config.clone(),
            http: http.clone(),
            clock: clock.clone(),
            pool: Pool::new(pool),
            stop: CancelToken::new(),
            sessionless: format!("sessionless-{}", headers::uuid4()),
            state: Mutex::new(State {
                backlog: Backlog::default(),
                session: None,
                round: CancelToken::new(),
                exporter: None,
            }),
        }))
    }

    /// What became of the events so far.
    pub(crate) fn counts(&self) -> TelemetryCounts {
        self.state.lock().backlog.counts()
    }

    /// The session exists: from now on events belong to it.
    pub(super) fn session_started(self: &Arc<Self>, id: &Arc<str>) {
        let now = self.clock.now();
        self.state.lock().session = Some((id.clone(), now));
        self.report(Event::session_start());
    }

    /// An operation failed. That is ordinary, and ends nothing here.
    pub(crate) fn failed(self: &Arc<Self>, error: &Error) {
        let secrets = self.config.secrets();
        let secrets: Vec<_> = secrets.iter().map(|it| it.expose()).collect();
        for event in events::of_failure(error, &secrets) {
            self.report(event);
        }
    }

    /// Queues an event. Never waits for the network or for room, and never fails.
    fn report(self: &Arc<Self>, event: Event) {
        let (offered, round, reply) = {
            let mut state = self.state.lock();
            let offered = state.backlog.offer(|index| event.numbered(index));
            let starts = state.exporter.is_none() && matches!(offered, Offered::Queued | Offered::Due);
            let reply = starts.then(|| {
                let (reply, slot) = oneshot();
                state.exporter = Some(slot);
                reply
            });
            (offered, state.round.clone(), reply)
        };
        match offered {
            Offered::Due => round.cancel(),
            Offered::Full => {
                log::warn!(target: "tinkex", "telemetry cannot keep up: further events are dropped");
            }
            Offered::Queued | Offered::Dropped => {}
        }
        if let Some(reply) = reply {
            self.start(reply);
        }
    }

    fn start(self: &Arc<Self>, reply: Reply<()>) {
        let exporter = self.clone();
        let lost = Undo::new(move |error| {
            // A later event tries again. What waits until then is bounded.
            log::debug!(target: "tinkex", "telemetry waits for a thread: {error}");
            let ended = exporter.state.lock().exporter.take();
            drop(ended);
        });
        let exporter = self.clone();
        let _undone_if_refused = self.pool.spawn(move || {
            exporter.run();
            lost.disarm();
            reply.send(Ok(()));
        });
    }

    /// The life of the exporter: waits for events, then sends them all.
    fn run(&self) {
        loop {
            let round = {
                let mut state = self.state.lock();
                if state.backlog.is_over() || self.stop.is_cancelled() {
                    return;
                }
                state.round = CancelToken::new();
                // What came since the last look may already be enough.
                if state.backlog.is_due() { None } else { Some(state.round.clone()) }
            };
            if let Some(round) = round {
                // Whether the time is over, there is enough, or the end has come: whatever waits goes now.
                let _either_way = self.clock.tick(INTERVAL, &round);
            }
            while let Some(batch) = self.next() {
                // A panic on the way costs one batch.
                let outcome = unwind::catch(|| self.send(batch)).and_then(|it| it);
                if let Err(error) = &outcome {
                    log::debug!(target: "tinkex", "telemetry was dropped: {error}");
                }
                self.state.lock().backlog.settle(outcome.is_ok());
            }
        }
    }

    fn next(&self) -> Option<Vec<Value>> {
        if self.stop.is_cancelled() {
            return None;
        }
        let batch = self.state.lock().backlog.take();
        (!batch.is_empty()).then_some(batch)
    }

    fn send(&self, events: Vec<Value>) -> Result<()> {
        let session = self.state.lock().session.as_ref().map(|it| it.0.to_string());
        let request = TelemetryRequest {
            events,
            platform: headers::os().into(),
            sdk_version: self.config.sdk_version.clone(),
            session_id: session.unwrap_or_else(|| self.sessionless.clone()),
            process_uuid: Some(process_uuid().into()),
        };
        let mut call = Call::post(Lane::Telemetry, &endpoint::TELEMETRY, &request)?;
        call.timeout = Some(TIMEOUT);
        call.budget = Some(BUDGET);
        self.http.send(&call, &self.stop).map(|_| ())
    }

    /// The session ends: sends what waits, and the event of the end, until the deadline.
    pub(super) fn finish(&self, deadline: Instant) {
        let now = self.clock.now();
        let (round, exporter) = {
            let mut state = self.state.lock();
            let lived = state.session.as_ref().map(|it| now.saturating_duration_since(it.1));
            let last = lived.map(|it| move |index| Event::session_end(it).numbered(index));
            state.backlog.finish(last);
            (state.round.clone(), state.exporter.clone())
        };
        round.cancel();
        if let Some(ended) = exporter {
            let _in_time = ended.wait(Some(deadline));
        }
        self.stop.cancel();
    }

    /// Waits for the thread until the deadline, and gives up what is not delivered. Returns how many threads are left.
    pub(super) fn join(&self, deadline: Instant) -> usize {
        let left = self.pool.close(deadline);
        let given_up = self.state.lock().backlog.abandon();
        // Dropped without the lock.
        drop(given_up);
        left
    }
}

/// Tells the processes of one machine apart.
fn process_uuid() -> &'static str {
    static UUID: OnceLock<String> = OnceLock::new();
    UUID.get_or_init(headers::uuid4)
}
