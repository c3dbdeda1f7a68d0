//! A session: the state that its clients share (connections, flags, threads), from its start to its end.
//!
//! | module | content |
//! |---|---|
//! | `open`, `close` | start and end of the session |
//! | `flags`, `upkeep` | the server's flags and their refresh; heartbeats and renewal of tokens |
//! | `operation` | answers operations and lists those in flight |
//! | `dispatch` | limits on the work in flight |
//! | `retrieve`, `poller` | fetch results: of one request; of all samples of a sampling session |
//! | `cancellations` | cancels samples on the server |

mod cancellations;
mod close;
mod dispatch;
mod flags;
mod open;
mod operation;
mod poller;
mod retrieve;
mod upkeep;

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
use crate::policy::admission::CONCURRENT;
use crate::signals;
use crate::sync::clock::Clock;
use crate::sync::pool::{self, Pool};
use crate::sync::process::Process;
use crate::sync::task::Task;
use crate::sync::workers::Class;
use crate::sync::{Budget, CancelToken, Mutex};
use crate::telemetry::Telemetry;

pub(crate) use cancellations::CancelOnDrop;
use cancellations::Cancellations;
pub use close::CloseStatus;
pub(crate) use close::{Child, Owner};
pub(crate) use dispatch::Admission;
use dispatch::Dispatch;
use flags::{FlagRefresh, ServerFormats};
pub(crate) use flags::{Flags, is_about_resource, lacks_endpoint};
pub(crate) use operation::Ticket;
pub use operation::{ClientStatus, Dump, PoolStatus};
use operation::{InFlight, LongWaits};
use poller::Pollers;
pub(crate) use poller::{Fetching, PolledSample, Poller};
pub(crate) use retrieve::{Promise, Retrieved};
use upkeep::{Heartbeat, TokenRefresh};

/// Minimum number of bytes for CPU work on several threads.
const PARALLEL_FROM: usize = 1 << 20;
/// Stack of a thread that runs a caller's loss function, in bytes: the default of the standard library.
const CALLBACK_STACK: usize = 2 << 20;

/// The thread classes of a session. Separate classes isolate the work: thousands of samples never delay training, and a
/// slow request for flags never delays a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Job {
    /// Waits for a training result, or creates a model or a custom loss.
    Wait,
    /// Sends one part of a pass (one request of `forward` or `forward_backward`), or creates a sampling session.
    Send,
    /// Fetches the forward results of a custom loss and runs the caller's function.
    Loss,
    /// Sends one admitted sample.
    Post,
    /// Waits for the result of one sample that no poller polls for.
    Result,
    /// Pauses, then submits a sample again, because its submission failed or the server lost it.
    Retry,
    /// Polls for all samples of a sampling session.
    Poll,
    /// Fetches one result for a poller.
    Fetch,
    /// Cancels samples on the server.
    Cancel,
    /// Sends heartbeats.
    Heartbeat,
    /// Refreshes flags and tokens.
    Refresh,
    /// Logs long waits.
    Warn,
    /// Sends telemetry.
    Telemetry,
    /// Adds threads to classes that grow.
    Grow,
}

impl Job {
    const ALL: [Job; 14] = [
        Job::Wait,
        Job::Send,
        Job::Loss,
        Job::Post,
        Job::Result,
        Job::Retry,
        Job::Poll,
        Job::Fetch,
        Job::Cancel,
        Job::Heartbeat,
        Job::Refresh,
        Job::Warn,
        Job::Telemetry,
        Job::Grow,
    ];

    /// The thread class. [Threads](crate::docs::threads) describes them all.
    fn class(self, threads: &Threads) -> Class {
        let Threads { max_in_flight, stack_size, idle, .. } = *threads;
        let class = |name, max| Class::new(name, max, stack_size, idle);
        let growing = |name, eager: usize, max: usize| {
            let max = max.min(max_in_flight).max(1);
            Class { eager: eager.min(max), drains_mailboxes: true, ..class(name, max) }
        };
        match self {
            Job::Wait => class("tk-wait", max_in_flight),
            // Each job sends one large request, so a few threads are enough to keep a server busy.
            Job::Send => class("tk-send", 64),
            // Dedicated, because one loss function may wait for another one, which must not be queued behind it.
            Job::Loss => Class { stack: CALLBACK_STACK, dedicated: true, ..class("tk-loss", max_in_flight) },
            // Begin with few threads: they are enough for a server that accepts samples immediately. More threads than
            // permits to send would have no job.
            Job::Post => growing("tk-post", 48, CONCURRENT),
            Job::Result => Class { drains_mailboxes: true, ..class("tk-result", max_in_flight) },
            Job::Retry => Class { drains_mailboxes: true, ..class("tk-retry", max_in_flight) },
            // A poller must not wait in the queue: the running pollers may run until the end of the session.
            Job::Poll => Class { dedicated: true, drains_mailboxes: true, ..class("tk-poll", max_in_flight) },
            Job::Fetch => growing("tk-fetch", 28, 256),
            Job::Cancel => class("tk-cancel", cancellations::MOST_THREADS),
            Job::Heartbeat => class("tk-beat", 1),
            // Each of the two tasks occupies a thread until the end of the session.
            Job::Refresh => Class { dedicated: true, ..class("tk-refresh", 2) },
            Job::Warn => class("tk-warn", 1),
            Job::Telemetry => class("tk-tele", 1),
            Job::Grow => class("tk-grow", 2),
        }
    }
}

impl pool::Kind for Job {
    fn index(self) -> usize {
        self as usize
    }
}

// `ALL` holds each job at its index, by which the pool finds the class of the job.
const _: () = {
    let mut i = 0;
    while i < Job::ALL.len() {
        assert!(Job::ALL[i] as usize == i);
        i += 1;
    }
    assert!(Job::ALL.len() == Job::Grow as usize + 1, "the last job is missing");
};

/// The shared state of a session. Threads of the session hold this value. Handles of the caller hold its [`Owner`]
/// instead, whose drop ends the session.
pub(crate) struct Session {
    pub(crate) config: Arc<Config>,
    pub(crate) http: Arc<Http>,
    /// Reports the use of this session, if the caller enabled that.
    pub(crate) telemetry: Option<Arc<Telemetry>>,
    pub(crate) clock: Clock,
    /// Cancelled at the end of the session. The tokens of all operations descend from it.
    pub(crate) cancel: CancelToken,
    /// All threads of the session except the threads of its clients.
    pub(crate) pool: Pool<Job>,
    pub(crate) dispatch: Dispatch,
    pub(crate) formats: ServerFormats,
    pollers: Pollers,
    cancellations: Arc<Task<Cancellations>>,
    heartbeat: Arc<Task<Heartbeat>>,
    flag_refresh: Arc<Task<FlagRefresh>>,
    token_refresh: Arc<Task<TokenRefresh>>,
    long_waits: Arc<Task<LongWaits>>,
    flags: Mutex<Option<Arc<Flags>>>,
    id: Mutex<Option<Arc<str>>>,
    model_seq_id: AtomicU64,
    sampling_session_seq_id: AtomicU64,
    closed: AtomicBool,
    ending: close::EndSignal,
    /// The process that made the session.
    process: Process,
    children: Mutex<Vec<Arc<dyn Child>>>,
    /// Created for the first large computation; `None` if the system refused its threads.
    cpu_pool: OnceLock<Option<rayon::ThreadPool>>,
    in_flight: Arc<InFlight>,
}

impl Session {
    pub(crate) fn new(config: Config, transport: Arc<dyn Transport>, clock: Clock) -> Arc<Self> {
        let config = Arc::new(config);
        let http = Arc::new(Http::new(transport, config.clone(), clock.clone()));
        let classes = Job::ALL.iter().map(|job| job.class(&config.threads)).collect();
        let pool = Pool::new(classes, Job::Grow);
        Arc::new(Session {
            telemetry: Telemetry::new(&config, &http, &clock, pool.shared(Job::Telemetry)),
            pool,
            http,
            cancel: CancelToken::new(),
            dispatch: Dispatch::new(&config.threads),
            formats: ServerFormats::default(),
            pollers: Pollers::default(),
            cancellations: Task::new(Cancellations::default()),
            heartbeat: Task::new(Heartbeat::default()),
            flag_refresh: Task::new(FlagRefresh),
            token_refresh: Task::new(TokenRefresh::default()),
            long_waits: Task::new(LongWaits::default()),
            flags: Mutex::new(None),
            id: Mutex::new(None),
            model_seq_id: AtomicU64::new(0),
            sampling_session_seq_id: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            ending: close::EndSignal::default(),
            process: Process::this(),
            children: Mutex::new(Vec::new()),
            cpu_pool: OnceLock::new(),
            in_flight: Arc::default(),
            config,
            clock,
        })
    }

    /// The caller's metadata of the session.
    pub(crate) fn metadata(&self) -> BTreeMap<String, Value> {
        self.config.user_metadata.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect()
    }

    /// Takes the sequence id of the next model. The id is used up even if the creation fails (PROTOCOL §2.2).
    pub(crate) fn next_model_seq_id(&self) -> u64 {
        self.model_seq_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes the sequence id of the next sampling session.
    pub(crate) fn next_sampling_session_seq_id(&self) -> u64 {
        self.sampling_session_seq_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends a JSON request of an operation and decodes the JSON answer.
    pub(crate) fn request_json<T: DeserializeOwned>(
        &self,
        lane: Lane,
        endpoint: &'static Endpoint,
        request: &impl Serialize,
        progress: &Progress,
        cancel: &CancelToken,
    ) -> Result<T> {
        self.http.json(&Call::post(lane, endpoint, request)?.of(progress), cancel)
    }

    /// Snapshot of the operations in flight and of all threads.
    pub(crate) fn dump(&self) -> Dump {
        let now = self.clock.now();
        let session_id = self.id.lock().as_ref().map(|id| id.to_string());
        Dump {
            base_url: self.config.base_url.clone(),
            session_id,
            closed: self.closed.load(Ordering::Acquire),
            last_contact: self.http.last_contact().map(|at| now.saturating_duration_since(at)),
            operations: self.in_flight.list(now),
            clients: self.client_status(),
            pools: self.pool_status(),
        }
    }

    fn pool_status(&self) -> Vec<PoolStatus> {
        let of_pool = self.pool.status().map(|(name, threads, queued)| PoolStatus { name, threads, queued });
        let mut all: Vec<_> = of_pool.collect();
        // Samples to cancel are queued in the task, not in the class.
        all[Job::Cancel as usize].queued += self.cancellations.n_queued();
        if let Some(Some(cpu)) = self.cpu_pool.get() {
            all.push(PoolStatus { name: "tk-cpu", threads: cpu.current_num_threads(), queued: 0 });
        }
        all
    }

    /// Returns the given result of an operation; first reports a failure to telemetry.
    pub(crate) fn reported<T>(&self, result: Result<T>) -> Result<T> {
        if let (Err(error), Some(telemetry)) = (&result, &self.telemetry) {
            telemetry.failed(error);
        }
        result
    }

    /// Runs CPU work on the rayon pool if `n_bytes` ≥ 1 MiB; `work` gets `true` then.
    pub(crate) fn compute<T: Send>(&self, n_bytes: usize, work: impl FnOnce(bool) -> T + Send) -> T {
        if n_bytes < PARALLEL_FROM {
            return work(false);
        }
        match self.cpu_pool.get_or_init(new_cpu_pool) {
            Some(cpu) => cpu.install(|| work(true)),
            None => work(false),
        }
    }

    /// Byte budget of the results that are fetched at the same time.
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

/// Starts the rayon pool. If the system refuses its threads, the calling thread computes instead.
fn new_cpu_pool() -> Option<rayon::ThreadPool> {
    let pool = rayon::ThreadPoolBuilder::new().thread_name(|i| format!("tk-cpu-{i}"));
    signals::blocked(|| pool.build()).ok()
}

/// Error for an answer without a field that is needed.
pub(crate) fn missing_in_answer(what: &str) -> Error {
    Error::new(ErrorKind::Decode, format!("the server's answer lacks {what}"))
}
