//! [`Server`] and its [`Options`]: starts the parts of the engine and their threads, and stops them.
//!
//! The threads: one serves HTTP and puts jobs into the [`Queue`]; the engine thread takes them from there, one after the
//! other (see [`Engine`]); the threads of the pool `compute` compute training passes and samples; the one of the pool
//! `quick` computes quick jobs. A training pass has the pool `compute` for itself: samples pause for it between two of
//! their steps, and occupy no thread while they are paused.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use rayon::{ThreadPool, ThreadPoolBuilder};
use tokio::sync::Notify;

use crate::error::{Error, ErrorKind, Result};
use crate::signals;
use crate::sync::CancelToken;
use crate::wire::json::{ClientConfig, DynamicConfig};

use super::catalogue::Catalogue;
use super::checkpoint::{Refused, Store};
use super::connections;
use super::cpu::Cpu;
use super::disk::make_folder;
use super::downloads::random_token;
use super::futures::Futures;
use super::hosts::{self, Hosts};
use super::http::{App, Bodies, router};
use super::machine_memory;
use super::queue::Queue;
use super::running::Announcement;
use super::served::Models;
use super::snapshots::Snapshots;
use super::state::{Limits, State};
use super::worker::{PanicTexts, Worker, max_concurrent_samples};

/// Upper bound of `Options::long_poll`; larger values count as this one.
const MAX_LONG_POLL: Duration = Duration::from_secs(24 * 3600);
/// Time limit of stopping, for all threads together.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Interval between deletions of expired checkpoints, and between updates of the catalogue.
const SWEEP_PERIOD: Duration = Duration::from_secs(30);

/// Settings of a [`Server`].
///
/// # Example: a server that keeps its checkpoints
/// ```no_run
/// use tinkex::local::{Options, Server};
///
/// let server = Server::start(Options { data_dir: Some("checkpoints".into()), ..Options::default() })?;
/// println!("{}", server.url());
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct Options {
    /// Address to listen on. Default `127.0.0.1`: only programs on this machine can reach the engine. With any address that
    /// is not a loopback address, other machines can; `0.0.0.0` means all IPv4 addresses of this machine, `::` all
    /// addresses (on systems that are set so, those of IPv6 only). Then `api_key` has to be given. Whoever has the key can
    /// use all of the engine. Connections are not encrypted: on a network that others can read, use a tunnel or a proxy
    /// with TLS.
    ///
    /// ```
    /// use std::net::Ipv4Addr;
    /// use tinkex::local::{Options, Server};
    ///
    /// let key = "tml-5fPq0cXw9LrT2mZb7uKe"; // better one that is read from a file
    /// let listen = Ipv4Addr::UNSPECIFIED.into();
    /// let server = Server::start(Options { listen, api_key: Some(key.into()), ..Options::default() })?;
    /// assert!(server.url().starts_with("http://127.0.0.1:")); // elsewhere: an address or a name of this machine
    /// # assert!(Server::start(Options { listen, ..Options::default() }).is_err());
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub listen: IpAddr,
    /// Port to listen on. Default 0: the system chooses a free port.
    pub port: u16,
    /// Folder of the checkpoints, and of the records of training runs and sessions that are listed after their end. Only
    /// one engine at a time can use a folder; other programs of the same user find it there with
    /// [`Access::open`](super::Access::open). Default none: a temporary folder, which is removed when the server stops.
    pub data_dir: Option<PathBuf>,
    /// Time from the start until other programs find this engine by its data folder. Until then they wait for the folder.
    /// A program that may need the engine only for a moment sets a second, so that others do not begin to work with an
    /// engine that is about to end. Default 0.
    pub share_after: Duration,
    /// Limit of the disk space of the data folder, in bytes, with files that are being written and with the weights of
    /// samplers, which are in a scratch file. A save, a copy or a new sampler that would exceed the limit fails before
    /// anything is written. A checkpoint that replaces another one needs space beside it. Records of runs and sessions,
    /// which are small, are counted but never refused. Default none.
    pub max_disk_bytes: Option<u64>,
    /// Limit of the models that are loaded, each with its adapter, gradients and optimizer state in memory: about 4 MB
    /// each for `tinkex/nano` at rank 32. At the limit, a new model replaces those of the session that has been paused
    /// for longest (see `pause_after`). If no session is paused, the new model is refused with status 429, which makes
    /// clients try again later. Default 256.
    pub max_models: usize,
    /// Limit of the sessions that have not ended. At the limit, a new session replaces the one that has been paused for
    /// longest. If no session is paused, the new one is refused with status 429. Default 4096.
    pub max_sessions: usize,
    /// Limit of the samplers of all sessions, which take about 1 KB of memory each, besides their weights (see
    /// `samplers_in_memory`). They end with their session. At the limit, a new sampler is refused. Default 65 536.
    pub max_samplers: usize,
    /// Limit of the requests that wait or run, of all sessions: samples, passes, optimizer steps, saves. At the limit, a new
    /// request is refused with status 429, which makes clients try again later, unless it can run before all other requests
    /// of its session. Default 65 536.
    pub max_waiting_requests: usize,
    /// The API key that requests must carry. Default none: a random key for each start, returned by
    /// [`Server::api_key`]. It must be given, and have at least 20 characters, if other machines can reach `listen`.
    pub api_key: Option<String>,
    /// Accepts every key, so that programs run with whatever key they have. Only for a loopback address, and without
    /// `api_key`. Requests must still carry a key. Default false.
    ///
    /// ```
    /// use tinkex::ServiceClient;
    /// use tinkex::local::{Options, Server};
    ///
    /// let server = Server::start(Options { any_key: true, ..Options::default() })?;
    /// let service = ServiceClient::builder().base_url(server.url()).api_key("tml-whatever").build()?;
    /// assert!(!service.get_server_capabilities()?.supported_models.is_empty());
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub any_key: bool,
    /// Host names, without a port, that requests may have in the headers `Host` and `Origin`, besides `127.0.0.1`,
    /// `localhost`, `[::1]` and the addresses that the engine listens on. Set them for access by a name of this machine,
    /// or through a proxy or a tunnel. Requests with any other host or origin are refused; otherwise a foreign web page
    /// could reach the engine by having its own host name resolve to this machine (DNS rebinding). Default none.
    pub allowed_hosts: Vec<String>,
    /// Seed of the base model's weights, and of the random numbers of requests that set no seed. A checkpoint can only
    /// be used by a server with the seed that it was trained with. Default 0.
    pub seed: u64,
    /// Number of compute threads. Default 0: one for each processor.
    pub threads: usize,
    /// Number of samplers kept in memory, about 5 MB each. Sampling from a sampler that is not in memory first loads
    /// its weights, which takes some milliseconds. Default 8.
    pub samplers_in_memory: usize,
    /// Limit of the memory, in bytes, of base models, adapters and training passes together. The engine estimates what a
    /// model or a pass takes; it computes a pass in smaller parts if that is needed, and refuses with an error what
    /// cannot fit. Weights in mapped files, samplers and requests do not count. Default none: nine tenths of the memory
    /// that is available at the start, which on Linux is that of the machine or of the control group (the container).
    pub max_memory_bytes: Option<u64>,
    /// Models to serve besides `tinkex/nano`: names, each with a folder in the format of the Hugging Face libraries
    /// (`config.json` and safetensors in f32, f16 or bf16) of the dense Llama, Qwen2, Qwen2.5 or Qwen3 family. The
    /// files of a large model are mapped into memory, and must not be changed while the engine runs. Clients find the
    /// tokenizer in the folder. Strings that end a sample need the feature `text`. Default none.
    ///
    /// ```
    /// use tinkex::local::Options;
    ///
    /// let models = [("Qwen/Qwen3-0.6B".to_string(), "models/qwen3-0.6b".into())].into();
    /// let options = Options { models, ..Options::default() };
    /// ```
    pub models: BTreeMap<String, PathBuf>,
    /// Other names of models, each with the name of a served model as its value. They let programs written for a model
    /// of the Tinker service run unchanged. Default none.
    ///
    /// ```
    /// use tinkex::local::Options;
    ///
    /// let aliases = [("Qwen/Qwen3-8B".to_string(), "tinkex/nano".to_string())].into();
    /// let options = Options { aliases, ..Options::default() };
    /// ```
    pub aliases: BTreeMap<String, String>,
    /// Time that a request for a result waits until the result is there. After that time the server answers that the
    /// result is pending, and the client polls again. Default 20 s.
    pub long_poll: Duration,
    /// Limit of open connections. At the limit, a new connection replaces the connection that has been idle for
    /// longest; if none is idle, the new connection waits. Default 2048.
    pub max_connections: usize,
    /// A connection that sends no complete request head for this long is closed. Default 60 s.
    pub idle_timeout: Duration,
    /// A request is aborted if nothing of its body arrives for this long, and a connection is closed if its client
    /// reads nothing of the response for this long. Default 30 s.
    pub stall_timeout: Duration,
    /// The server first announces the size of results with more bytes than this, so that clients can reserve memory
    /// before they fetch the result. Default 4 MiB.
    pub announce_above: usize,
    /// A session that gets no request for this long is ended: its models are unloaded and its pending requests fail.
    /// Polls for results do not count as requests here. Default 300 s.
    pub session_timeout: Duration,
    /// A session that gets neither a request nor a poll for this long is paused: its jobs stay in the queue until the
    /// next request or poll. Clients send a heartbeat, which counts as a request, every ten seconds. Default 60 s.
    pub pause_after: Duration,
    /// Flag for clients. If true, they wait for the completions of all samples of a sampler with one request. Default
    /// false: with one request for each sample. The server accepts both ways.
    pub sample_use_retrieve_futures: bool,
    /// Flag for clients that share a sampler. If true, they request a client number from the server. Default false:
    /// they choose a random number. The server accepts both ways.
    pub sample_join_sampling_session: bool,
    /// Flag for clients. If true, they exchange the API key for a token, and the server refuses the key itself where a
    /// token is required. Default false.
    pub pjwt_auth_enabled: bool,
    /// Flag for clients. If true, they cancel samples whose result nobody waits for any more. Default true.
    pub sample_cancel_enabled: bool,
    /// Serves the loss `stable_reinforce`, whose formula is not public, by another one: `cispo` with its default bounds.
    /// Programs whose default it is then run. The results of such a pass have the metric
    /// `tinkex/stable_reinforce_is_cispo:max`, and the log has a warning at the start. Default false: the loss is refused.
    pub stable_reinforce_as_cispo: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            listen: Ipv4Addr::LOCALHOST.into(),
            port: 0,
            data_dir: None,
            share_after: Duration::ZERO,
            max_disk_bytes: None,
            max_models: 256,
            max_sessions: 4096,
            max_samplers: 65_536,
            max_waiting_requests: 65_536,
            api_key: None,
            any_key: false,
            allowed_hosts: Vec::new(),
            seed: 0,
            threads: 0,
            samplers_in_memory: 8,
            max_memory_bytes: None,
            models: BTreeMap::new(),
            aliases: BTreeMap::new(),
            long_poll: Duration::from_secs(20),
            max_connections: 2048,
            idle_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(30),
            announce_above: 4 << 20,
            session_timeout: Duration::from_secs(300),
            pause_after: Duration::from_secs(60),
            sample_use_retrieve_futures: false,
            sample_join_sampling_session: false,
            pjwt_auth_enabled: false,
            sample_cancel_enabled: true,
            stable_reinforce_as_cispo: false,
        }
    }
}

/// Largest accepted number of compute threads. A larger one is probably a mistake.
const MAX_THREADS: usize = 1024;

impl Options {
    /// Refuses invalid settings.
    fn check(&self) -> Result<()> {
        let fail = |what: &str| Err(Error::config(format!("Options::{what}")));
        if self.api_key.as_ref().is_some_and(|it| it.is_empty() || !it.bytes().all(|b| b.is_ascii_graphic()))
        {
            return fail("api_key must be printable ASCII without spaces, and not empty");
        }
        hosts::check_key(self.listen, self.api_key.as_deref()).or_else(|problem| fail(&problem))?;
        if self.any_key && self.api_key.is_some() {
            return fail("any_key and api_key exclude each other");
        }
        if self.any_key && !hosts::is_private(self.listen) {
            return fail("any_key is only for a loopback address: other machines can reach this one");
        }
        if self.data_dir.as_ref().is_some_and(|it| it.as_os_str().is_empty()) {
            return fail("data_dir is empty: leave it out for a temporary folder");
        }
        if MAX_THREADS < self.threads {
            return fail(&format!("threads must be at most {MAX_THREADS}, is {}", self.threads));
        }
        for (name, max) in [
            ("max_connections", self.max_connections),
            ("max_models", self.max_models),
            ("max_sessions", self.max_sessions),
            ("max_samplers", self.max_samplers),
            ("max_waiting_requests", self.max_waiting_requests),
        ] {
            if max == 0 {
                return fail(&format!("{name} must be at least 1"));
            }
        }
        if self.stall_timeout.is_zero() || self.idle_timeout.is_zero() {
            return fail("stall_timeout and idle_timeout must be above zero");
        }
        Models::check(&self.models, &self.aliases).or_else(|problem| fail(&problem))
    }

    /// Flags sent to clients.
    fn flags(&self) -> ClientConfig {
        ClientConfig {
            custom_loss_server_side: true,
            sample_use_retrieve_futures: self.sample_use_retrieve_futures,
            sample_join_sampling_session: self.sample_join_sampling_session,
            pjwt_auth_enabled: self.pjwt_auth_enabled,
            ..ClientConfig::default()
        }
    }

    fn dynamic_flags(&self) -> DynamicConfig {
        DynamicConfig { sample_cancel_enabled: self.sample_cancel_enabled, ..DynamicConfig::default() }
    }
}

/// Shows all settings except the key.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("listen", &self.listen)
            .field("port", &self.port)
            .field("data_dir", &self.data_dir)
            .field("share_after", &self.share_after)
            .field("max_disk_bytes", &self.max_disk_bytes)
            .field("max_models", &self.max_models)
            .field("max_sessions", &self.max_sessions)
            .field("max_samplers", &self.max_samplers)
            .field("max_waiting_requests", &self.max_waiting_requests)
            .field("seed", &self.seed)
            .field("threads", &self.threads)
            .field("samplers_in_memory", &self.samplers_in_memory)
            .field("max_memory_bytes", &self.max_memory_bytes)
            .field("models", &self.models)
            .field("aliases", &self.aliases)
            .field("long_poll", &self.long_poll)
            .field("allowed_hosts", &self.allowed_hosts)
            .field("max_connections", &self.max_connections)
            .field("idle_timeout", &self.idle_timeout)
            .field("stall_timeout", &self.stall_timeout)
            .field("announce_above", &self.announce_above)
            .field("session_timeout", &self.session_timeout)
            .field("pause_after", &self.pause_after)
            .field("sample_use_retrieve_futures", &self.sample_use_retrieve_futures)
            .field("sample_join_sampling_session", &self.sample_join_sampling_session)
            .field("pjwt_auth_enabled", &self.pjwt_auth_enabled)
            .field("any_key", &self.any_key)
            .field("sample_cancel_enabled", &self.sample_cancel_enabled)
            .field("stable_reinforce_as_cispo", &self.stable_reinforce_as_cispo)
            .finish_non_exhaustive()
    }
}

/// The reason why an engine was not started.
pub(super) enum Unstarted {
    /// Another engine has the data folder open.
    InUse(Error),
    Failed(Error),
}

impl From<Error> for Unstarted {
    fn from(error: Error) -> Self {
        Unstarted::Failed(error)
    }
}

/// A running embedded engine, which listens until this value is dropped.
///
/// The engine trains the model `tinkex/nano` and samples from it, on the CPU, with the same HTTP API as the Tinker
/// service. Any client of that API can use the engine at [`url`](Server::url). Only programs on this machine can reach
/// it, unless [`Options::listen`] says otherwise, and they must send its [`api_key`](Server::api_key), which is random and
/// new at each start unless [`Options`] set it.
///
/// # Blocking
/// Starting takes some milliseconds. Stopping, by [`stop`](Server::stop) or by dropping the server, aborts the requests
/// in flight, and waits at most 30 s until the running job and all threads have ended.
///
/// # Example: a server for one program
/// ```
/// use tinkex::local::{Options, Server};
///
/// let server = Server::start(Options::default())?;
/// assert!(server.url().starts_with("http://127.0.0.1:"));
/// assert!(server.api_key().starts_with("tml-"));
/// server.stop();
/// # Ok::<(), tinkex::Error>(())
/// ```
pub struct Server {
    url: String,
    api_key: String,
    data_dir: PathBuf,
    /// True if the data folder is a temporary one, which is removed when the server stops.
    temporary: bool,
    /// Tells other programs of the user where the engine is.
    announcement: Option<Arc<Announcement>>,
    /// Id of the process that started the server; a forked child has another one.
    process: u32,
    stopping: Arc<AtomicBool>,
    wake: Arc<Notify>,
    threads: Vec<Thread>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("url", &self.url)
            .field("data_dir", &self.data_dir)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Starts a server.
    ///
    /// # Errors
    /// A setting is invalid, the port is taken, the address is not one of this machine, the folder cannot be created or is
    /// used by another engine (see [`Access::open`](super::Access::open)), or the system refuses a thread.
    pub fn start(options: Options) -> Result<Self> {
        Server::begin(options).map_err(|refused| match refused {
            Unstarted::InUse(error) | Unstarted::Failed(error) => error,
        })
    }

    /// As [`start`](Self::start). The error tells whether another engine has the folder open.
    pub(super) fn begin(options: Options) -> std::result::Result<Self, Unstarted> {
        options.check()?;
        let address = SocketAddr::from((options.listen, options.port));
        let bound = TcpListener::bind(address).and_then(|it| it.set_nonblocking(true).map(|()| it));
        let listener = bound.map_err(|it| system_error(format!("cannot listen on {address}: {it}")))?;
        let address =
            listener.local_addr().map_err(|it| system_error(format!("no address to listen on: {it}")))?;
        if !hosts::is_private(options.listen) {
            log::warn!(
                "the embedded engine listens on {address}: other machines can reach it, and nothing is encrypted, not \
                 even the key"
            );
        }
        if options.stable_reinforce_as_cispo {
            log::warn!("the embedded engine computes cispo where a client asks for stable_reinforce");
        }
        let temporary = options.data_dir.is_none();
        let (flags, dynamic_flags) = (options.flags(), options.dynamic_flags());
        let data_dir = match options.data_dir {
            Some(it) => make_folder(&it, true).map(|()| it),
            None => temporary_folder(),
        };
        let data_dir = data_dir.map_err(system_error)?;
        let mut server = Server {
            url: hosts::url(address),
            api_key: options.api_key.unwrap_or_else(|| format!("tml-{}", random_token())),
            data_dir: data_dir.clone(),
            temporary,
            announcement: None,
            process: std::process::id(),
            stopping: Arc::default(),
            wake: Arc::default(),
            threads: Vec::new(),
        };
        // From here on, an early return drops `server`, which stops the threads started so far.
        let store = Store::open(data_dir.clone()).map_err(|refused| match refused {
            Refused::InUse(text) => Unstarted::InUse(system_error(text)),
            Refused::Unusable(text) => Unstarted::Failed(system_error(text)),
        })?;
        let store = store.limited(options.max_disk_bytes);
        let store = Arc::new(store);
        let catalogue = if temporary {
            Catalogue::in_memory()
        } else {
            Catalogue::open(&store.catalogue(), &store.scratch()).map_err(system_error)?
        };
        let catalogue = Arc::new(catalogue);
        // Before the models are loaded: their weights count.
        let available = || machine_memory::available().map_or(u64::MAX, |it| it / 10 * 9);
        let max_memory = options.max_memory_bytes.unwrap_or_else(available);
        let served =
            Models::load(&Cpu::default(), &options.models, &options.aliases, &data_dir, options.seed);
        let served = served.map_err(system_error)?;
        let futures = Arc::new(Futures::new(fastrand::u64(..) >> 32));
        let panics = PanicTexts::new();
        let pool = server.pool("compute", options.threads, panics.sender())?;
        let quick_pool = server.pool("quick", 1, panics.sender())?;
        let threads = pool.current_num_threads();
        let queue = Arc::new(Queue::new(max_concurrent_samples(threads), threads));
        let worker = Worker {
            snapshots: Arc::new(Snapshots::new(store.scratch(), options.samplers_in_memory, store.room())),
            store: store.clone(),
            catalogue: catalogue.clone(),
            futures: futures.clone(),
            pool,
            quick_pool,
            panics,
            stop: server.stopping.clone(),
            trainers: Default::default(),
            max_memory,
            base_memory: served.owned_bytes(),
        };
        let jobs = queue.clone();
        server.spawn("tinkex-engine", move || worker.run(&jobs))?;
        let local_key = format!("tml-{}", random_token());
        let app = Arc::new(App {
            state: State::new(
                served,
                options.seed,
                Limits {
                    session_timeout: options.session_timeout,
                    pause_after: options.pause_after,
                    max_models: options.max_models,
                    max_sessions: options.max_sessions,
                    max_samplers: options.max_samplers,
                    max_waiting_requests: options.max_waiting_requests,
                },
                store,
                catalogue,
                futures,
                queue,
            ),
            flags,
            dynamic_flags,
            stands_in: options.stable_reinforce_as_cispo,
            api_key: server.api_key.clone(),
            local_key: local_key.clone(),
            any_key: options.any_key,
            hosts: Hosts::new(options.listen, options.allowed_hosts),
            bodies: Bodies::new(options.stall_timeout),
            tokens: Default::default(),
            // Limited, because adding a longer time to the current time may overflow.
            long_poll: options.long_poll.min(MAX_LONG_POLL),
            announce_above: options.announce_above,
        });
        let limits = connections::Limits {
            max: options.max_connections,
            idle: options.idle_timeout,
            stall: options.stall_timeout,
        };
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime =
            runtime.enable_io().enable_time().thread_name("tinkex-blocking").max_blocking_threads(4);
        let runtime = runtime.build();
        let runtime =
            runtime.map_err(|it| system_error(format!("cannot start the server's runtime: {it}")))?;
        let wake = server.wake.clone();
        let shortest = options.session_timeout.min(options.pause_after);
        let period = (shortest / 4).clamp(Duration::from_millis(10), Duration::from_secs(5));
        if !temporary {
            server.announcement = announce(&data_dir, &server.url, &local_key);
        }
        let announcement = server.announcement.clone();
        // At once, not by the thread: the caller may expect that others find the engine now.
        let announcement = match announcement {
            Some(it) if options.share_after.is_zero() => {
                it.publish();
                None
            }
            it => it,
        };
        let share = async move {
            tokio::time::sleep(options.share_after).await;
            // A rename, which is short enough for this thread.
            announcement.iter().for_each(|it| it.publish());
        };
        let work = async move {
            tokio::spawn(share);
            serve(listener, app, limits, period, wake).await;
        };
        server.spawn("tinkex-server", move || runtime.block_on(work))?;
        Ok(server)
    }

    /// Waits until no other program uses this engine by its data folder (see [`Access::open`](super::Access::open)), so
    /// that stopping the engine takes it from nobody. Meanwhile more programs may begin to use it. Returns true once it is
    /// unused: from then on other programs do not find it. Returns false at the time limit, or if the token is cancelled.
    ///
    /// # Blocking
    /// At most `timeout`.
    ///
    /// # Example: a program that ends after the others
    /// ```
    /// use std::time::Duration;
    /// use tinkex::local::{Access, Options, Server};
    /// use tinkex::sync::CancelToken;
    ///
    /// # let folder = std::env::temp_dir().join(format!("tinkex-users-{}", std::process::id()));
    /// let options = Options { data_dir: Some(folder.clone()), ..Options::default() };
    /// let server = Server::start(options.clone())?;
    /// let other = Access::open(options)?;
    /// assert!(!server.wait_for_users(Duration::from_millis(10), &CancelToken::new()));
    /// drop(other);
    /// assert!(server.wait_for_users(Duration::from_secs(600), &CancelToken::new()));
    /// server.stop();
    /// # std::fs::remove_dir_all(folder).unwrap();
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub fn wait_for_users(&self, timeout: Duration, cancel: &CancelToken) -> bool {
        self.announcement.as_ref().is_none_or(|it| it.wait_for_users(timeout, cancel))
    }

    /// The base URL for clients on this machine. Clients on other machines use an address or a name of this machine
    /// instead, with the same port.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The key that requests must carry.
    pub fn api_key(&self) -> &str {
        &self.api_key
    }

    /// Folder of the checkpoints.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Stops the server. Dropping the server does the same.
    pub fn stop(self) {
        drop(self);
    }

    /// Starts a pool of compute threads. They end when the pool is dropped; the engine thread owns the pools and drops
    /// them when it ends.
    fn pool(&mut self, name: &'static str, threads: usize, panics: Sender<String>) -> Result<ThreadPool> {
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(move |i| format!("tinkex-{name}-{i}"))
            // A large stack, because a rayon worker that waits for a task runs other tasks meanwhile, nested on its own
            // stack.
            .stack_size(8 << 20)
            // The engine thread receives the text of the panic. Sending fails only after that thread has ended; then
            // the text is dropped.
            .panic_handler(move |payload| drop(panics.send(panic_text(&*payload))))
            .spawn_handler(|thread| {
                let name = thread.name().unwrap_or("tinkex").to_string();
                let stack = thread.stack_size();
                self.threads.push(Thread::start(name, stack, || thread.run())?);
                Ok(())
            })
            .build();
        pool.map_err(|it| system_error(format!("cannot start the compute threads: {it}")))
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = Thread::start(name.into(), None, work);
        let thread = thread.map_err(|it| system_error(format!("cannot start the thread {name}: {it}")))?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // In a forked child do nothing: the threads do not exist there, and the folder belongs to the parent process.
        if self.process != std::process::id() {
            std::mem::forget(std::mem::take(&mut self.threads));
            return;
        }
        // First, so that other programs wait for the folder.
        self.announcement.iter().for_each(|it| it.withdraw());
        self.stopping.store(true, Ordering::Relaxed);
        self.wake.notify_one();
        let deadline = Instant::now() + STOP_TIMEOUT;
        // Join in reverse order of starting. The HTTP thread ends first and closes the queue; then the engine thread
        // ends and drops the pools; then their threads end.
        for thread in self.threads.drain(..).rev() {
            thread.join(deadline);
        }
        if self.temporary
            && let Err(error) = fs::remove_dir_all(&self.data_dir)
        {
            log::warn!("cannot remove {}: {error}", self.data_dir.display());
        }
    }
}

/// A thread and the means to join it with a deadline.
struct Thread {
    handle: JoinHandle<()>,
    ended: Receiver<()>,
}

impl Thread {
    fn start(
        name: String,
        stack: Option<usize>,
        work: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<Self> {
        let (alive, ended): (Sender<()>, _) = bounded(0);
        let mut builder = std::thread::Builder::new().name(name);
        if let Some(stack) = stack {
            builder = builder.stack_size(stack);
        }
        let work = move || {
            // Dropped when the thread ends, even by a panic. This disconnects the channel, which ends the wait in
            // `join`.
            let _alive = alive;
            work();
        };
        let handle = signals::blocked(|| builder.spawn(work))?;
        Ok(Thread { handle, ended })
    }

    fn join(self, deadline: Instant) {
        match self.ended.recv_deadline(deadline) {
            Err(RecvTimeoutError::Timeout) => {
                let name = self.handle.thread().name().unwrap_or_default().to_string();
                log::warn!(
                    "the thread {name} of the embedded engine did not end in time and is left running"
                );
            }
            // Ignore a panic of the thread: it was logged when it happened.
            _ => drop(self.handle.join()),
        }
    }
}

async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    limits: connections::Limits,
    period: Duration,
    stop: Arc<Notify>,
) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(it) => it,
        Err(error) => {
            log::error!("the embedded engine cannot serve: {error}");
            return;
        }
    };
    tokio::spawn(sweep_sessions(app.clone(), period));
    tokio::spawn(connections::serve(listener, router(app), limits));
    // Returning drops the runtime, and with it all connections and the state.
    stop.notified().await;
}

async fn sweep_sessions(app: Arc<App>, period: Duration) {
    let mut swept = Instant::now();
    loop {
        tokio::time::sleep(period).await;
        let now = Instant::now();
        app.state.end_silent_sessions(now);
        app.state.pause_silent_sessions(now);
        // Search for expired checkpoints only every `SWEEP_PERIOD`, because the search reads the description of every
        // checkpoint. Until they are deleted, expired checkpoints are hidden from clients.
        if SWEEP_PERIOD <= now.duration_since(swept) {
            swept = now;
            let app = app.clone();
            let sweep = move || {
                app.state.delete_expired_checkpoints(SystemTime::now());
                app.state.update_catalogue();
            };
            drop(tokio::task::spawn_blocking(sweep).await);
        }
    }
}

/// Writes the file that tells other programs where the engine is.
fn announce(data_dir: &Path, url: &str, api_key: &str) -> Option<Arc<Announcement>> {
    match Announcement::write(data_dir, url, api_key) {
        Ok(it) => Some(Arc::new(it)),
        // The disk may be full. The engine itself works: checkpoints can be deleted.
        Err(error) => {
            let folder = data_dir.display();
            log::warn!(
                "other programs cannot find the engine of {folder}: its address cannot be written: {error}"
            );
            None
        }
    }
}

/// Creates a new folder among the system's temporary files. A folder that exists already belongs to another program and
/// is not used.
fn temporary_folder() -> std::result::Result<PathBuf, String> {
    let name = || format!("tinkex-{}-{:016x}", std::process::id(), fastrand::u64(..));
    let mut made = Err(String::new());
    for _ in 0..8 {
        let path = std::env::temp_dir().join(name());
        made = make_folder(&path, false).map(|()| path);
        if made.is_ok() {
            break;
        }
    }
    made
}

fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|it| it.to_string());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".into())
}

fn system_error(message: String) -> Error {
    Error::new(ErrorKind::System, message)
}
