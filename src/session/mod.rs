//! What the clients of one session share: the connection to the server, its flags, the threads, the end.

mod abandon;
pub(crate) mod crew;
mod dialect;
mod dispatch;
mod end;
mod events;
mod failing;
mod flags;
mod heartbeat;
mod inflight;
mod losses;
mod many;
mod open;
mod poll_many;
mod retrieve;
mod telemetry;
mod tend;
mod ticket;
mod watch;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::config::{Config, Threads};
use crate::error::{Error, ErrorKind, Result};
use crate::http::{Call, Endpoint, Http, Lane, Transport};
use crate::pending::Progress;
use crate::sync::clock::Clock;
use crate::sync::pool::{Pool, PoolConfig};
use crate::sync::process::Process;
use crate::sync::{Budget, CancelToken, Mutex};

pub(crate) use abandon::Underway;
use dispatch::Dispatch;
pub use end::CloseStatus;
pub(crate) use end::{Child, Owner};
pub(crate) use flags::{Flags, is_not_offered, names_what_is_missing};
use inflight::InFlight;
pub use inflight::{Dump, PoolStatus};
pub(crate) use losses::Creating;
pub(crate) use poll_many::{Fetching, Poller, Waiter};
pub(crate) use retrieve::{Promise, Retrieved};
use telemetry::Telemetry;
pub(crate) use ticket::Ticket;

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
    pub(crate) dialect: dialect::Dialect,
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
    model_seq_id: AtomicU64,
    sampling_session_seq_id: AtomicU64,
    closed: AtomicBool,
    ending: end::Ending,
    /// The one that made the session.
    process: Process,
    children: Mutex<Vec<Arc<dyn Child>>>,
    cpu: OnceLock<Option<rayon::ThreadPool>>,
    in_flight: Arc<InFlight>,
}

/// The stack of a thread that runs a caller's own code, in bytes: as much as a thread of the standard library has.
const LOSS_STACK: usize = 2 << 20;

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
            dialect: dialect::Dialect::default(),
            flags: Mutex::new(None),
            tends_flags: AtomicBool::new(false),
            tends_tokens: AtomicBool::new(false),
            id: Mutex::new(None),
            model_seq_id: AtomicU64::new(0),
            sampling_session_seq_id: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            ending: end::Ending::default(),
            process: Process::this(),
            children: Mutex::new(Vec::new()),
            cpu: OnceLock::new(),
            in_flight: Arc::default(),
            config,
            clock,
        })
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

    /// Sends a JSON request and reads its JSON answer.
    pub(crate) fn ask<T: DeserializeOwned>(
        &self,
        lane: Lane,
        endpoint: &'static Endpoint,
        request: &impl Serialize,
        progress: &Progress,
        cancel: &CancelToken,
    ) -> Result<T> {
        self.http.json(&Call::post(lane, endpoint, request)?.of(progress), cancel)
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
