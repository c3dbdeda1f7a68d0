//! What the clients of one session share: the connection to the server, its flags, the threads, the end.

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
use flags::{Dialect, FlagRefresh};
pub(crate) use flags::{Flags, is_not_offered, names_what_is_missing};
pub(crate) use operation::Ticket;
pub use operation::{ClientStatus, Dump, PoolStatus};
use operation::{InFlight, LongWaits};
use poller::Pollers;
pub(crate) use poller::{Fetching, Poller, Waiter};
pub(crate) use retrieve::{Promise, Retrieved};
use upkeep::{Heartbeat, TokenRefresh};

/// Bytes from which on encoding is shared among several threads.
const WORTH_SHARING: usize = 1 << 20;
/// Stack of a thread that runs a caller's own code, in bytes: that of a thread of the standard library.
const CALLBACK_STACK: usize = 2 << 20;

/// The classes of a session's threads. Separate classes isolate the work: thousands of samples never hold up training, and a slow
/// request for flags never holds up a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Job {
    /// Waits for a result of training, or makes a model.
    Wait,
    /// Sends one part of a pass, or makes a sampling session.
    Send,
    /// Runs a caller's own loss function.
    Loss,
    /// Sends one sample that is admitted.
    Post,
    /// Waits for the result of one sample, where no poller does.
    Result,
    /// Waits for the next attempt of a sample that was lost.
    Retry,
    /// Polls for all samples of a sampling session.
    Poll,
    /// Fetches one result that a poller announced.
    Fetch,
    /// Cancels samples on the server.
    Cancel,
    /// Sends heartbeats.
    Heartbeat,
    /// Fetches flags and tokens again before they are stale.
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

    /// The threads of the class. [Threads](crate::docs::threads) describes them.
    fn class(self, threads: &Threads) -> Class {
        let Threads { max_in_flight, stack_size, idle, .. } = *threads;
        let of = |name, max| Class::new(name, max, stack_size, idle);
        let growing = |name, eager: usize, max: usize| {
            let max = max.min(max_in_flight).max(1);
            Class { eager: eager.min(max), drains_mailboxes: true, ..of(name, max) }
        };
        match self {
            Job::Wait => of("tk-wait", max_in_flight),
            // Each of them sends one large request, so that few keep a server busy.
            Job::Send => of("tk-send", 64),
            // A function may wait for another one.
            Job::Loss => Class { stack: CALLBACK_STACK, dedicated: true, ..of("tk-loss", max_in_flight) },
            // Few threads suffice for a server that accepts at once. There are never more jobs than permits.
            Job::Post => growing("tk-post", 48, CONCURRENT),
            Job::Result => Class { drains_mailboxes: true, ..of("tk-result", max_in_flight) },
            Job::Retry => Class { drains_mailboxes: true, ..of("tk-retry", max_in_flight) },
            // A poller that cannot start must not wait for the end of others, which may never come.
            Job::Poll => Class { dedicated: true, drains_mailboxes: true, ..of("tk-poll", max_in_flight) },
            Job::Fetch => growing("tk-fetch", 28, 256),
            Job::Cancel => of("tk-cancel", cancellations::MOST_THREADS),
            Job::Heartbeat => of("tk-beat", 1),
            // Flags and tokens each keep a thread until the end of the session.
            Job::Refresh => Class { dedicated: true, ..of("tk-refresh", 2) },
            Job::Warn => of("tk-warn", 1),
            Job::Telemetry => of("tk-tele", 1),
            Job::Grow => of("tk-grow", 2),
        }
    }
}

impl pool::Kind for Job {
    fn index(self) -> usize {
        self as usize
    }
}

/// The shared state of a session. Threads hold it; handles hold its [`Owner`], whose drop ends it.
pub(crate) struct Session {
    pub(crate) config: Arc<Config>,
    pub(crate) http: Arc<Http>,
    /// Reports the session's own use, if asked to.
    pub(crate) telemetry: Option<Arc<Telemetry>>,
    pub(crate) clock: Clock,
    /// Cancelled when the session ends; every operation's token is its descendant.
    pub(crate) cancel: CancelToken,
    /// All threads of the session except those of its clients.
    pub(crate) pool: Pool<Job>,
    pub(crate) dispatch: Dispatch,
    pub(crate) dialect: Dialect,
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
    ending: close::Ending,
    /// The one that made the session.
    process: Process,
    children: Mutex<Vec<Arc<dyn Child>>>,
    cpu: OnceLock<Option<rayon::ThreadPool>>,
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
            dialect: Dialect::default(),
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
            ending: close::Ending::default(),
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
            clients: self.client_status(),
            pools: self.pool_status(),
        }
    }

    fn pool_status(&self) -> Vec<PoolStatus> {
        let of_pool = self.pool.status().map(|(name, threads, queued)| PoolStatus { name, threads, queued });
        let mut all: Vec<_> = of_pool.collect();
        // Samples to be cancelled wait in the task and not in the queue of its class.
        all[Job::Cancel as usize].queued += self.cancellations.n_queued();
        if let Some(Some(cpu)) = self.cpu.get() {
            all.push(PoolStatus { name: "tk-cpu", threads: cpu.current_num_threads(), queued: 0 });
        }
        all
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

/// An error that says which answer is missing what.
pub(crate) fn incomplete(what: &str) -> Error {
    Error::new(ErrorKind::Decode, format!("the server's answer lacks {what}"))
}
