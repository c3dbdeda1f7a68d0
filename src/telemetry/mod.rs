//! Telemetry: reports the start and end of a session and its failed operations to the server (PROTOCOL §9.5). Off
//! unless enabled in the settings; never delays or fails an operation.
//!
//! Events wait in a bounded queue, and one thread, the exporter, sends them. Reporting an event only holds a lock for a
//! short time. Telemetry belongs to the session: it ends with the session, not with a client.

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

/// Time after which queued events are sent even if they are few.
const INTERVAL: Duration = Duration::from_secs(10);
/// Time limit of one request.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit of all attempts to send one batch.
const BUDGET: Duration = Duration::from_secs(10);

/// Collects events and sends them.
pub(crate) struct Telemetry {
    config: Arc<Config>,
    http: Arc<Http>,
    clock: Clock,
    workers: Arc<Workers>,
    exporter: Arc<Task<Exporter>>,
    /// Cancelled when the time for sending is over.
    stop: CancelToken,
    /// Id sent while the client has no session yet.
    sessionless: String,
    state: Mutex<State>,
}

struct State {
    backlog: Backlog<Value>,
    session: Option<(Arc<str>, Instant)>,
    /// Ends the exporter's current wait early. Each wait has its own token.
    round: CancelToken,
}

impl Telemetry {
    /// Creates telemetry if the settings enable it. The first event starts its thread.
    pub(crate) fn new(
        config: &Arc<Config>,
        http: &Arc<Http>,
        clock: &Clock,
        workers: Arc<Workers>,
    ) -> Option<Arc<Self>> {
        let telemetry = || Telemetry {
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
        config.telemetry.then(|| Arc::new(telemetry()))
    }

    /// Numbers of events sent, dropped and queued so far.
    pub(crate) fn counts(&self) -> TelemetryCounts {
        self.state.lock().backlog.counts()
    }

    /// Assigns all further events to a session, and reports its start.
    pub(crate) fn session_started(self: &Arc<Self>, id: &Arc<str>) {
        let now = self.clock.now();
        self.state.lock().session = Some((id.clone(), now));
        self.report(Event::session_start());
    }

    /// Reports a failed operation.
    pub(crate) fn failed(self: &Arc<Self>, error: &Error) {
        let secrets = self.config.secrets();
        let secrets: Vec<_> = secrets.iter().map(|secret| secret.expose()).collect();
        for event in events::of_failure(error, &secrets) {
            self.report(event);
        }
    }

    /// Queues an event, or drops it if the queue is full. Never waits for the network, and never fails.
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
                log::warn!(target: "tinkex", "the telemetry queue is full: further events are dropped");
            }
            Pushed::Dropped => {}
        }
    }

    /// Starts the exporter if it is idle. If the system cannot start its thread, the events stay queued, and the next
    /// event retries the start.
    fn export(self: &Arc<Self>) {
        let _ = self.exporter.wake(self, &self.workers);
    }

    /// Takes the next batch of queued events, unless the time for sending is over.
    fn next_batch(&self) -> Option<Vec<Value>> {
        if self.stop.is_cancelled() {
            return None;
        }
        let batch = self.state.lock().backlog.take();
        (!batch.is_empty()).then_some(batch)
    }

    fn send(&self, events: Vec<Value>) -> Result<()> {
        let session = self.state.lock().session.as_ref().map(|session| session.0.to_string());
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

    /// Reports the end of the session, and sends all queued events until the deadline.
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

    /// Drops all events that the server has not acknowledged, and counts them as dropped.
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
            // A full batch is sent without a wait.
            (!state.backlog.is_due()).then(|| state.round.clone())
        };
        if let Some(round) = round {
            // Cancelled when a batch is full, and at the end of the session. The events are sent in each case.
            let _ = telemetry.clock.tick(INTERVAL, &round);
        }
        while let Some(batch) = telemetry.next_batch() {
            // If foreign code panics, such as a transport of the caller, only this batch is lost.
            let outcome = unwind::catch(|| telemetry.send(batch)).flatten();
            if let Err(error) = &outcome {
                log::debug!(target: "tinkex", "telemetry events were dropped: {error}");
            }
            telemetry.state.lock().backlog.settle(outcome.is_ok());
        }
        Turn::Again
    }

    fn lost(&self, _: &Arc<Telemetry>, error: &Error) {
        log::debug!(target: "tinkex", "telemetry events stay queued, because no thread could be started: {error}");
    }
}

/// A random id of this process.
fn process_uuid() -> &'static str {
    static UUID: OnceLock<String> = OnceLock::new();
    UUID.get_or_init(headers::uuid4)
}
