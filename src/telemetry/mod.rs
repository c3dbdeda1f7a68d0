//! The reporter of a session's own use (PROTOCOL §9.5): off unless asked for, and never in the way.
//!
//! Events wait in a bounded queue, and one thread sends them. Reporting an event takes one short lock and no
//! more. The reporter belongs to the session and ends with it, not with a client.

mod events;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::http::{Call, Http, Lane, endpoint, headers};
use crate::policy::telemetry::{Backlog, Pushed, TelemetryCounts};
use crate::sync::clock::Clock;
use crate::sync::task::{Task, Turn, Work};
use crate::sync::workers::Workers;
use crate::sync::{CancelToken, Mutex, unwind};
use crate::wire::json::TelemetryRequest;

use events::Event;

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
    workers: Arc<Workers>,
    exporter: Arc<Task<Exporter>>,
    /// Cancelled when there is no more time to send anything.
    stop: CancelToken,
    /// The name of a client that has no session yet.
    sessionless: String,
    state: Mutex<State>,
}

struct State {
    backlog: Backlog<Value>,
    session: Option<(Arc<str>, Instant)>,
    /// Ends the exporter's wait early. Each wait has a token of its own.
    round: CancelToken,
}

impl Telemetry {
    /// A reporter, if the settings ask for one. Its thread comes with the first event.
    pub(crate) fn new(
        config: &Arc<Config>,
        http: &Arc<Http>,
        clock: &Clock,
        workers: Arc<Workers>,
    ) -> Option<Arc<Self>> {
        let reporter = || Telemetry {
            config: config.clone(),
            http: http.clone(),
            clock: clock.clone(),
            workers,
            exporter: Task::new(Exporter),
            stop: CancelToken::new(),
            sessionless: format!("sessionless-{}", headers::uuid4()),
            state: Mutex::new(State {
                backlog: Backlog::default(),
                session: None,
                round: CancelToken::new(),
            }),
        };
        config.telemetry.then(|| Arc::new(reporter()))
    }

    /// What became of the events so far.
    pub(crate) fn counts(&self) -> TelemetryCounts {
        self.state.lock().backlog.counts()
    }

    /// The session exists: from now on events belong to it.
    pub(crate) fn session_started(self: &Arc<Self>, id: &Arc<str>) {
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
        let (pushed, round) = {
            let mut state = self.state.lock();
            (state.backlog.push(|index| event.numbered(index)), state.round.clone())
        };
        match pushed {
            Pushed::Due => {
                round.cancel();
                self.export();
            }
            Pushed::Queued => self.export(),
            Pushed::Full => {
                log::warn!(target: "tinkex", "telemetry cannot keep up: further events are dropped");
            }
            Pushed::Dropped => {}
        }
    }

    /// Starts the exporter. Without a thread, events wait for the next one that is reported; their number is bounded.
    fn export(self: &Arc<Self>) {
        let _ = self.exporter.wake(self, &self.workers);
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

    /// The session ends: sends what is queued, and the event of the end, until the deadline.
    pub(crate) fn finish(self: &Arc<Self>, deadline: Instant) {
        let now = self.clock.now();
        let (round, is_empty) = {
            let mut state = self.state.lock();
            let lived = state.session.as_ref().map(|session| now.saturating_duration_since(session.1));
            let last = lived.map(|lived| move |index| Event::session_end(lived).numbered(index));
            state.backlog.finish(last);
            (state.round.clone(), state.backlog.is_empty())
        };
        round.cancel();
        if !is_empty {
            self.export();
        }
        self.exporter.wait_idle(deadline);
        self.stop.cancel();
    }

    /// Counts what is still queued as dropped.
    pub(crate) fn give_up(&self) {
        let dropped = self.state.lock().backlog.drop_all();
        drop(dropped);
    }
}

/// Sends the queued events.
struct Exporter;

impl Work for Exporter {
    type Owner = Telemetry;

    /// Waits until events are due, then sends all that are queued.
    fn turn(&self, telemetry: &Arc<Telemetry>) -> Turn {
        let round = {
            let mut state = telemetry.state.lock();
            if state.backlog.is_empty() || telemetry.stop.is_cancelled() {
                return Turn::Idle;
            }
            state.round = CancelToken::new();
            // Enough may be queued already.
            (!state.backlog.is_due()).then(|| state.round.clone())
        };
        if let Some(round) = round {
            // Cancelled when enough is queued, and at the end: the events are sent in each case.
            let _ = telemetry.clock.tick(INTERVAL, &round);
        }
        while let Some(batch) = telemetry.next() {
            // A panic in foreign code costs one batch.
            let outcome = unwind::catch(|| telemetry.send(batch)).flatten();
            if let Err(error) = &outcome {
                log::debug!(target: "tinkex", "telemetry was dropped: {error}");
            }
            telemetry.state.lock().backlog.settle(outcome.is_ok());
        }
        Turn::Again
    }

    fn lost(&self, _: &Arc<Telemetry>, error: &Error) {
        log::debug!(target: "tinkex", "telemetry waits for a thread: {error}");
    }
}

/// Tells the processes of one machine apart.
fn process_uuid() -> &'static str {
    static UUID: OnceLock<String> = OnceLock::new();
    UUID.get_or_init(headers::uuid4)
}
