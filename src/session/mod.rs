//! What the clients of one session share: the connection to the server, its flags, the threads, the end.

mod abandon;
mod crew;
mod dispatch;
mod events;
mod flags;
mod heartbeat;
mod inflight;
mod losses;
mod many;
mod poll_many;
mod retrieve;
mod telemetry;
mod tend;
mod watch;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::config::{Config, Threads};
use crate::error::{Error, ErrorKind, Result};
use crate::http::{Call, Http, Lane, Transport};
use crate::pending::{Pending, Progress};
use crate::sync::cancel::{Registration, Wake};
use crate::sync::clock::Clock;
use crate::sync::oneshot::{Reply, Slot, oneshot};
use crate::sync::pool::{Pool, PoolConfig};
use crate::sync::{Budget, CancelToken, Mutex};
use crate::wire::json;

pub(crate) use abandon::Underway;
use dispatch::Dispatch;
pub(crate) use flags::{Flags, is_not_offered};
pub use inflight::{Dump, PoolStatus};
use inflight::{Entry, InFlight};
pub(crate) use losses::Creating;
pub(crate) use poll_many::{Fetching, Poller, Waiter};
pub(crate) use retrieve::{Promise, Retrieved};
use telemetry::Telemetry;

/// Threads that send requests. Each of them is one exchange, so few of them keep a server busy.
const SENDERS: usize = 64;
/// Bytes from which on writing them is shared among several threads.
const WORTH_SHARING: usize = 1 << 20;

/// The shared state of a session. Threads hold it; handles hold its [`Owner`], whose drop ends it.
pub(crate) struct Session {
    pub(crate) config: Arc<Config>,
    pub(crate) http: Arc<Http>,
    /// Reports the session's own use, if asked to.
    pub(crate) telemetry: Option<Arc<Telemetry>>,
    pub(crate) clock: Clock,
    /// Cancelled when the session ends; every operation's token is its descendant.
    pub(crate) cancel: CancelToken,
    /// Runs the jobs that wait for results of training, and those that make clients.
    pub(crate) waiters: Arc<Pool>,
    /// Runs samples from their dispatch to their result. Apart from the others, so that thousands of samples never hold
    /// up training.
    pub(crate) samplers: Arc<Pool>,
    /// Runs the jobs that send requests.
    pub(crate) senders: Arc<Pool>,
    /// Runs the callers' own loss functions.
    pub(crate) losses: Arc<Pool>,
    /// Those that the session knows.
    pub(crate) custom_losses: losses::CustomLosses,
    pub(crate) dispatch: Dispatch,
    /// What samples need whose results are waited for together.
    pub(crate) many: many::Many,
    /// Samples that nobody waits for any more.
    abandoned: abandon::Abandoned,
    beats: Arc<Pool>,
    /// Runs what keeps flags and tokens fresh, apart from the heartbeats, which neither must ever hold up.
    tenders: Arc<Pool>,
    watch: watch::Watch,
    flags: Mutex<Option<Arc<Flags>>>,
    /// A thread asks for the flags again.
    tends_flags: AtomicBool,
    tends_tokens: AtomicBool,
    id: Mutex<Option<Arc<str>>>,
    pub(crate) model_seq_id: AtomicU64,
    pub(crate) sampling_session_seq_id: AtomicU64,
    closed: AtomicBool,
    children: Mutex<Vec<Arc<dyn Child>>>,
    cpu: OnceLock<Option<rayon::ThreadPool>>,
    in_flight: Arc<InFlight>,
}

/// The stack of a thread that runs a caller's own code, in bytes: as much as a thread of the standard library has.
const LOSS_STACK: usize = 2 << 20;

/// A client of the session that has a thread of its own.
pub(crate) trait Child: Send + Sync {
    /// Ends the client: what it has queued is answered, what is in flight is given up.
    fn stop(&self);
    /// Waits for its thread, at most until `deadline`.
    fn join(&self, deadline: Instant);
    /// Its thread is gone.
    fn has_ended(&self) -> bool;
}

/// Ends the session when the last handle is dropped.
pub(crate) struct Owner {
    session: Arc<Session>,
}

impl Owner {
    pub(crate) fn new(session: Arc<Session>) -> Arc<Self> {
        Arc::new(Owner { session })
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.session.end();
    }
}

/// How a session ended, for the server's records (PROTOCOL §2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseStatus {
    /// The work is done.
    Success,
    /// The program failed.
    Errored,
    /// Somebody stopped the program.
    Interrupted,
}

/// Answers one operation, with everything that is known of it added to an error.
pub(crate) struct Ticket<T: Send + 'static> {
    reply: Reply<T>,
    pub(crate) progress: Progress,
    pub(crate) cancel: CancelToken,
    session: Arc<Session>,
    /// Answers at once when the client or the session is closed, however long the work then takes to notice.
    _closing: Registration,
    _entry: Entry,
}

struct Closing<T: Send + 'static>(Slot<T>);

impl<T: Send + 'static> Wake for Closing<T> {
    fn wake(&self) {
        self.0.settle(Err(closed_meanwhile()));
    }
}

fn closed_meanwhile() -> Error {
    Error::closed("the client was closed while this was in progress")
}

impl<T: Send + 'static> Ticket<T> {
    pub(crate) fn answer(self, result: Result<T>) {
        let now = self.session.clock.now();
        let result = result.map_err(|it| {
            let error = match self.session.as_ended(it) {
                // A caller who cancels has his answer before the work hears of it. So where this one counts, the work was
                // cancelled by the end of its client, and noticed before `Closing` was told.
                it if it.is_cancelled() && !it.is_panic() => closed_meanwhile(),
                it => it,
            };
            self.progress.explain(error, now)
        });
        self.reply.send(self.session.reported(result));
    }

    /// Nobody waits any more.
    pub(crate) fn is_given_up(&self) -> bool {
        self.cancel.is_cancelled() || self.reply.is_settled()
    }
}

impl Session {
    pub(crate) fn new(config: Config, transport: Arc<dyn Transport>, clock: Clock) -> Arc<Self> {
        let config = Arc::new(config);
        let pool = |name, max_threads| {
            let Threads { stack_size, idle, .. } = config.threads;
            Arc::new(Pool::new(PoolConfig { name, max_threads, stack_size, idle }))
        };
        let http = Arc::new(Http::new(transport, config.clone(), clock.clone()));
        Arc::new(Session {
            telemetry: Telemetry::new(&config, &http, &clock),
            http,
            cancel: CancelToken::new(),
            waiters: pool("tk-wait", config.threads.max_in_flight),
            samplers: pool("tk-draw", config.threads.max_in_flight),
            senders: pool("tk-send", SENDERS),
            losses: Arc::new(Pool::new(PoolConfig {
                name: "tk-loss",
                max_threads: config.threads.max_in_flight,
                stack_size: LOSS_STACK,
                idle: config.threads.idle,
            })),
            beats: pool("tk-beat", 1),
            many: many::Many::new(&config),
            tenders: pool("tk-tend", 2),
            abandoned: abandon::Abandoned::new(&config.threads),
            watch: watch::Watch::new(&config.threads),
            custom_losses: losses::CustomLosses::default(),
            dispatch: Dispatch::new(),
            flags: Mutex::new(None),
            tends_flags: AtomicBool::new(false),
            tends_tokens: AtomicBool::new(false),
            id: Mutex::new(None),
            model_seq_id: AtomicU64::new(0),
            sampling_session_seq_id: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            children: Mutex::new(Vec::new()),
            cpu: OnceLock::new(),
            in_flight: Arc::default(),
            config,
            clock,
        })
    }

    /// A new operation: the half that answers and the half that waits.
    pub(crate) fn ticket<T: Send + 'static>(
        self: &Arc<Self>,
        operation: &'static str,
        parent: &CancelToken,
    ) -> (Ticket<T>, Pending<T>) {
        let now = self.clock.now();
        let deadline = now.checked_add(self.config.timeouts.operation);
        let seeing = &self.config.seeing;
        let progress = Progress::new(operation, now, deadline).seen_by(seeing);
        let entry = self.in_flight.enter(progress.clone(), &seeing.metrics);
        let cancel = parent.child();
        let (reply, slot) = oneshot();
        let closing = cancel.on_cancel(Arc::new(Closing(slot.clone())));
        let pending = Pending::new(slot, progress.clone(), cancel.clone());
        (Ticket { reply, progress, cancel, session: self.clone(), _closing: closing, _entry: entry }, pending)
    }

    /// The flags of the server, fetched at the first call. Only the service's actor calls this, one call at a time.
    pub(crate) fn flags(self: &Arc<Self>) -> Result<Arc<Flags>> {
        let known = self.flags.lock().clone();
        if let Some(flags) = known {
            return Ok(flags);
        }
        self.check_open()?;
        let flags =
            Arc::new(flags::fetch(&self.http, &self.config, &self.cancel).map_err(|it| self.as_ended(it))?);
        self.heed(&flags);
        if flags.are_assumed {
            tend::start_flags(self);
        }
        Ok(flags)
    }

    fn heed(self: &Arc<Self>, flags: &Arc<Flags>) {
        *self.flags.lock() = Some(flags.clone());
        self.dispatch.resize(flags);
        self.many.resize(flags);
        if self.http.auth().uses_tokens() {
            tend::start_tokens(self);
        }
    }

    /// Takes part in a session that somebody else has opened, under flags that he was given. Called once, instead of
    /// [`open`](Self::open).
    pub(crate) fn join(self: &Arc<Self>, id: Arc<str>, flags: Flags) -> Result<()> {
        flags::heed(&self.http, &flags.config)?;
        self.heed(&Arc::new(flags));
        heartbeat::start(self, id.clone())?;
        self.begin(id);
        Ok(())
    }

    /// The flags that may change while the session lives, as they are now.
    pub(crate) fn dynamic_flags(&self) -> json::DynamicConfig {
        self.known_flags().dynamic.clone()
    }

    /// The id of the session, if it is open.
    pub(crate) fn id(&self) -> Option<Arc<str>> {
        self.id.lock().clone()
    }

    /// The flags once they are known, else the documented defaults.
    pub(crate) fn known_flags(&self) -> Arc<Flags> {
        self.flags.lock().clone().unwrap_or_default()
    }

    /// The id of the session, which is created at the first call. Only the service's actor calls this.
    pub(crate) fn open(self: &Arc<Self>) -> Result<Arc<str>> {
        let known = self.id.lock().clone();
        if let Some(id) = known {
            return Ok(id);
        }
        self.flags()?;
        let request = json::CreateSessionRequest {
            tags: self.config.tags.clone(),
            user_metadata: self.metadata(),
            sdk_version: self.config.sdk_version.clone(),
            project_id: self.config.project_id.clone(),
            display_name: self.config.display_name.clone(),
        };
        let call = Call::post(Lane::Session, "/api/v1/create_session", &request)?;
        let reply: json::CreateSessionResponse =
            self.http.json(&call, &self.cancel).map_err(|it| self.as_ended(it))?;
        for (level, text) in [
            (log::Level::Info, &reply.info_message),
            (log::Level::Warn, &reply.warning_message),
            (log::Level::Error, &reply.error_message),
        ] {
            if let Some(text) = text {
                log::log!(target: "tinkex", level, "the server says: {text}");
            }
        }
        let id: Arc<str> = reply.session_id.into();
        if let Err(error) = heartbeat::start(self, id.clone()) {
            // The server would end it by itself before long, and the next call opens another.
            if let Err(untold) = self.finish(&id, CloseStatus::Errored, Some("no thread for heartbeats")) {
                log::debug!(target: "tinkex", "session {id} was not finished: {untold}");
            }
            return Err(error);
        }
        self.begin(id.clone());
        Ok(id)
    }

    /// A session whose heart beats is open.
    fn begin(self: &Arc<Self>, id: Arc<str>) {
        *self.id.lock() = Some(id.clone());
        if let Some(it) = &self.telemetry {
            it.session_started(&id);
        }
        tend::start_flags(self);
    }

    /// What the caller wants to find the session and its models by.
    pub(crate) fn metadata(&self) -> BTreeMap<String, Value> {
        self.config.user_metadata.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect()
    }

    /// The number of the next model of the session. Used up even if its creation fails (PROTOCOL §2.2).
    pub(crate) fn next_model_seq_id(&self) -> u64 {
        self.model_seq_id.fetch_add(1, Ordering::Relaxed)
    }

    /// The number of the next sampling session.
    pub(crate) fn next_sampling_session_seq_id(&self) -> u64 {
        self.sampling_session_seq_id.fetch_add(1, Ordering::Relaxed)
    }

    /// A client that is stopped and joined with the session, even after its last handle is gone.
    pub(crate) fn adopt(&self, child: Arc<dyn Child>) {
        let over = {
            let mut children = self.children.lock();
            let over: Vec<_> = children.extract_if(.., |it| it.has_ended()).collect();
            children.push(child.clone());
            over
        };
        // Dropped without the lock.
        drop(over);
        // The session may have ended while the client was made, and then looked at its children too early.
        if self.closed.load(Ordering::Acquire) {
            child.stop();
        }
    }

    /// How long closing may take.
    pub(crate) fn closing(&self) -> Duration {
        const LONGEST: Duration = Duration::from_secs(3600);
        self.config.timeouts.close.min(LONGEST)
    }

    /// Sends a JSON request and reads its JSON answer.
    pub(crate) fn ask<T: DeserializeOwned>(
        &self,
        lane: Lane,
        path: &str,
        request: &impl Serialize,
        progress: &Progress,
        cancel: &CancelToken,
    ) -> Result<T> {
        self.http.json(&Call::post(lane, path, request)?.of(progress), cancel)
    }

    /// Everything that is in flight.
    pub(crate) fn dump(&self) -> Dump {
        let now = self.clock.now();
        let session_id = self.id.lock().as_ref().map(|it| it.to_string());
        Dump {
            base_url: self.config.base_url.clone(),
            session_id,
            closed: self.closed.load(Ordering::Acquire),
            last_contact: self.http.last_contact().map(|it| now.saturating_duration_since(it)),
            operations: self.in_flight.list(now),
            pools: [
                pool_status("tk-wait", &self.waiters),
                pool_status("tk-draw", &self.samplers),
                pool_status("tk-send", &self.senders),
                pool_status("tk-beat", &self.beats),
                pool_status("tk-tend", &self.tenders),
            ]
            .into_iter()
            .chain(self.many.status())
            .chain([self.abandoned.status(), self.watch.status()])
            .collect(),
        }
    }

    /// The result of an operation as its caller gets it. A failure is also told to telemetry.
    pub(crate) fn reported<T>(&self, result: Result<T>) -> Result<T> {
        if let (Err(error), Some(telemetry)) = (&result, &self.telemetry) {
            telemetry.failed(error);
        }
        result
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        match self.closed.load(Ordering::Acquire) {
            true => Err(Error::closed("the service client is closed")),
            false => Ok(()),
        }
    }

    /// An error as the caller should see it: what ended because the session did says so.
    pub(crate) fn as_ended(&self, error: Error) -> Error {
        let by_us = error.is_cancelled() || error.is_closed();
        match by_us && self.closed.load(Ordering::Acquire) && !error.is_panic() {
            true => Error::closed("the service client was closed while this was in progress"),
            false => error,
        }
    }

    /// Tells the server how the session ended, then ends it here.
    pub(crate) fn close(&self, status: CloseStatus, detail: Option<&str>) -> Result<()> {
        let deadline = Instant::now() + self.closing();
        let id = self.id.lock().clone();
        let finished = match (self.check_open(), id) {
            (Ok(()), Some(id)) => {
                self.abandoned.retire();
                self.many.farewell(self.closing() / 8);
                self.finish(&id, status, detail)
            }
            _ => Ok(()),
        };
        self.end_by(deadline);
        finished
    }

    fn finish(&self, id: &str, status: CloseStatus, detail: Option<&str>) -> Result<()> {
        let reason = match status {
            CloseStatus::Success => json::FinishReason::Success,
            CloseStatus::Errored => json::FinishReason::Errored,
            CloseStatus::Interrupted => json::FinishReason::Interrupted,
        };
        let request = json::FinishSessionRequest { reason, detail: detail.map(str::to_string) };
        let call = Call::post(Lane::Session, format!("/api/v1/sessions/{id}/finish"), &request)?
            .once(self.closing() / 2)
            .by("ServiceClient.close");
        match self.http.send(&call, &self.cancel) {
            Ok(_) => Ok(()),
            // Servers without the endpoint notice the end by the missing heartbeats.
            Err(error) if matches!(error.http_status(), Some(404 | 405 | 410)) => Ok(()),
            Err(error) => Err(error.with(|it| it.operation = Some("close".into()))),
        }
    }

    /// Ends everything, within half of the time that closing may take. Doing it again does nothing.
    fn end(&self) {
        self.end_by(Instant::now() + self.closing() / 2);
    }

    fn end_by(&self, deadline: Instant) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let deadline = deadline.min(Instant::now() + self.closing() / 2);
        self.cancel.cancel();
        self.dispatch.close();
        // While requests still can be sent. Nobody waits for this but the one who closes: all callers are answered.
        if let Some(it) = &self.telemetry {
            it.finish(deadline - self.closing() / 4);
        }
        self.http.shutdown();
        let children = std::mem::take(&mut *self.children.lock());
        for child in &children {
            child.stop();
        }
        for child in &children {
            child.join(deadline);
        }
        let reporters = self.telemetry.as_ref().map_or(0, |it| it.join(deadline));
        let left = [&self.senders, &self.waiters, &self.samplers, &self.losses, &self.beats, &self.tenders]
            .map(|it| it.close(deadline))
            .iter()
            .sum::<usize>()
            + reporters
            + self.many.close(deadline)
            + self.abandoned.close(deadline)
            + self.watch.close(deadline);
        if 0 < left {
            log::warn!(target: "tinkex", "{left} threads were still busy when the client was closed");
        }
    }

    /// Does arithmetic on so many bytes: on the session's own computing threads if that is worth it, which the function is
    /// told.
    pub(crate) fn compute<T: Send>(&self, n_bytes: usize, work: impl FnOnce(bool) -> T + Send) -> T {
        if n_bytes < WORTH_SHARING {
            return work(false);
        }
        match self.cpu.get_or_init(cpu) {
            Some(cpu) => cpu.install(|| work(true)),
            None => work(false),
        }
    }

    /// The budget for results that are fetched at the same time.
    pub(crate) fn response_budget(&self) -> Budget {
        self.dispatch.response_budget()
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("base_url", &self.config.base_url)
            .field("closed", &self.closed.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}

/// Threads that compute, made when the first large batch comes and gone with the session. Without them, which the system
/// may refuse, the thread at hand computes.
fn cpu() -> Option<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new().thread_name(|i| format!("tk-cpu-{i}")).build().ok()
}

fn pool_status(name: &'static str, pool: &Pool) -> PoolStatus {
    PoolStatus { name, threads: pool.n_threads(), queued: pool.n_queued() }
}

/// An error that says which answer is missing what.
pub(crate) fn incomplete(what: &str) -> Error {
    Error::new(ErrorKind::Decode, format!("the server's answer lacks {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use crate::env::Env;
    use crate::secret::Secret;
    use crate::transport::{Answer, Broken, Exchange};

    struct Nowhere;

    impl Transport for Nowhere {
        fn exchange(&self, _: &Exchange) -> std::result::Result<Answer, Broken> {
            Err(Broken::Closed)
        }

        fn shutdown(&self) {}
    }

    /// Grants every request, and keeps their addresses.
    #[derive(Default)]
    struct Granting(Mutex<Vec<String>>);

    impl Transport for Granting {
        fn exchange(&self, exchange: &Exchange) -> std::result::Result<Answer, Broken> {
            let path = exchange.url.split("/api/v1/").nth(1).unwrap_or_default();
            self.0.lock().push(path.into());
            Ok(Answer { status: 200, headers: Vec::new(), body: r#"{"session_id":"s-1"}"#.into() })
        }

        fn shutdown(&self) {}
    }

    #[test]
    fn a_session_that_cannot_be_kept_alive_is_none() {
        let settings = Settings { api_key: Some(Secret::new("tml-x")), ..Default::default() };
        let config = settings.resolve(&Env::empty()).expect("good settings");
        let server = Arc::new(Granting::default());
        let session = Session::new(config, server.clone(), Clock::default());
        // Threads are refused from now on.
        session.beats.close(Instant::now());
        for n in 1..=2 {
            session.open().expect_err("no thread");
            assert_eq!(session.id(), None);
            let asked = server.0.lock().iter().filter(|it| *it == "create_session").count();
            assert_eq!(asked, n, "the next call begins anew");
        }
        assert_eq!(server.0.lock().last().map(String::as_str), Some("sessions/s-1/finish"));
        session.end();
    }

    #[test]
    fn work_that_notices_the_end_of_its_client_before_its_caller_does_says_that_it_was_closed() {
        let settings = Settings { api_key: Some(Secret::new("tml-x")), ..Default::default() };
        let config = settings.resolve(&Env::empty()).expect("good settings");
        let session = Session::new(config, Arc::new(Nowhere), Clock::default());
        let client = session.cancel.child();
        let (ticket, pending) = session.ticket::<()>("TrainingClient.optim_step", &client);
        ticket.answer(Err(Error::cancelled()));
        let error = pending.wait().expect_err("an end");
        assert!(error.is_closed() && !error.is_cancelled(), "{error:?}");
        let (ticket, pending) = session.ticket::<()>("TrainingClient.optim_step", &client);
        pending.cancel();
        ticket.answer(Err(Error::cancelled()));
        assert!(pending.wait().expect_err("an end").is_cancelled());
        session.end();
    }
}
