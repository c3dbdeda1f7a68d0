//! A blocking SDK for the Tinker fine-tuning API: the training loop runs here, in plain threads, and the model trains
//! somewhere else, or on the engine that is built in (feature `local`).
//!
//! # Ten lines that train
//! ```
//! # #[cfg(feature = "local")] {
//! use tinkex::ServiceClient;
//! use tinkex::types::{AdamParams, Datum, LossFn};
//!
//! let server = tinkex::local::Server::start(Default::default())?; // or the service: ServiceClient::from_env()
//! let service = ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build()?;
//! let training = service.create_lora_training_client("tinkex/nano", Default::default())?;
//! let data = vec![Datum::cross_entropy(&[104, 105], &[33, 10])];
//! let step = training.forward_backward(data, LossFn::CrossEntropy); // submitted
//! let update = training.optim_step(AdamParams { learning_rate: 1e-2, ..Default::default() });
//! println!("loss {:?}", step.wait()?.loss()); // waited for
//! update.wait()?;
//! # }
//! # Ok::<(), tinkex::Error>(())
//! ```
//!
//! # The clients
//! [`ServiceClient`] opens a session and makes the others. [`TrainingClient`] trains one model, in the order of the calls.
//! [`SamplingClient`] samples from one set of weights, thousands of times at once if need be. Each is a cheap handle of
//! which clones can be given to other threads, and has a thread of its own that owns its state. [`RestClient`] lists and manages
//! what was made, [`AdminClient`] says what it cost; they open no session and work on the caller's thread.
//!
//! # Waiting
//! A verb submits and returns a [`Pending`]; the operation goes on whether or not anybody waits. [`Pending::wait`] blocks
//! until the result is there, [`Pending::wait_timeout`] for a while, [`Pending::on_done`] feeds a channel, [`wait_all`]
//! waits for many. [`Pending::status`] says what is being waited for. Every wait ends: [`Timeouts`] lists the bounds and
//! their defaults. After 30 s without a result, and then once a minute, a warning in the log says what is missing.
//!
//! # Errors
//! Everything that can fail returns [`Error`]; its predicates say whether to try again
//! ([`is_retryable`](Error::is_retryable)) or to mend the call ([`is_user_error`](Error::is_user_error)). Requests are
//! repeated by the library itself where that is safe; see [`docs::errors`].
//!
//! # Threads and the end
//! No async runtime is involved: the library works in any thread, inside of an async program in one that may block.
//! [`ServiceClient::close`] ends a session and everything in it, dropping the last handle does the same without telling the
//! server; the one takes at most `Timeouts::finish`, the other `Timeouts::close`. See [`docs::threads`].
//!
//! # Seeing inside
//! [`ServiceClient::dump`] lists what is in flight, [`ServiceClient::metrics`] counts and measures, an
//! [`Observer`](event::Observer) hears of queue states, retries and trouble as they happen, and [`PausePolicy`] says how long
//! an operation lets the server pause it.
//!
//! # Features
//! | feature | what it brings |
//! |---|---|
//! | `zstd` (default) | compressed training uploads, when the server asks for them |
//! | `local` | the embedded engine, [`local`] |
//! | `native-roots` | TLS trusts the operating system's certificates instead of those that are compiled in |
//! | `testing` | a scriptable server and a clock for tests, [`testing`]; may change in a minor version |
//!
//! # The log
//! Through the `log` crate, target `tinkex` and `tinkex::http`. ERROR: a message of the server at that level, a panic in one
//! of the library's threads, a lost result. WARN: a wait that is long, heartbeats that fail, threads that outlive `close`.
//! INFO: messages of the server, lost samples. DEBUG: repeated requests. TRACE: every request and answer, without headers
//! and bodies. Credentials are never logged, and taken out of what a server repeats. At TRACE the crate under the HTTP library
//! logs the bytes of every request, the credential among them, under the target `ureq_proto`: leave that target off.
//!
//! # Environment variables
//! `TINKER_API_KEY`, `TINKER_CREDENTIAL_CMD`, `TINKER_BASE_URL`, `TINKER_PROJECT_ID`, `TINKER_TAGS`, `TINKER_TELEMETRY`,
//! `CLOUDFLARE_ACCESS_CLIENT_ID` and `CLOUDFLARE_ACCESS_CLIENT_SECRET`; `HTTPS_PROXY` or `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`; `HOME`
//! for the stored keys ([`credentials`]). Each has less weight than what [`ServiceClientBuilder`] is told.
//!
//! # What it does not do
//! Tokenizers other than bytes, chat templates and the download of checkpoints are not there yet. It never merges adapters,
//! owns signals, or starts a runtime.

#[cfg(panic = "abort")]
compile_error!(
    "tinkex turns a panic in one of its threads into an error for whoever waits there, which needs `panic = \"unwind\"` in the \
     profile"
);

mod address;
mod claims;
mod client;
mod clock_text;
mod config;
mod credential;
pub mod credentials;
mod env;
mod error;
pub mod event;
mod http;
mod http_date;
mod loss;
mod metrics;
#[cfg(all(test, shuttle))]
#[path = "../tests/model/mod.rs"]
mod model;
mod network;
mod overrides;
mod pending;
mod policy;
mod secret;
mod session;
pub mod sync;
mod telemetry;
pub mod tokenizer;
pub mod types;
mod wire;

pub use client::{AdminClient, FoundSessions, Listing, RestClient};
pub use client::{
    SamplerHandle, SamplingClient, SamplingSource, ServiceClient, ServiceClientBuilder, TrainStep,
    TrainingClient,
};
pub use config::{CircuitBreaker, PausePolicy, Threads, Timeouts};
pub use error::{Category, Error, ErrorKind, Phase, Result, Sent, Violation};
pub use http::transport;
pub use metrics::{HistogramSnapshot, Metrics, MetricsSnapshot};
pub use pending::{Canceller, Pending, Stage, Status, wait_all};
pub use policy::telemetry::TelemetryCounts;
pub use session::{ClientStatus, CloseStatus, Dump, PoolStatus};

#[cfg(any(test, feature = "testing"))]
pub mod testing;

#[cfg(feature = "local")]
pub mod local;

/// How the crate is built, for those who use it hard and those who work on it.
pub mod docs {
    #[doc = include_str!("_docs/architecture.md")]
    pub mod architecture {}
    #[doc = include_str!("_docs/threads.md")]
    pub mod threads {}
    #[doc = include_str!("_docs/findings.md")]
    pub mod findings {}
    #[doc = include_str!("_docs/errors.md")]
    pub mod errors {}
    #[doc = include_str!("_docs/compat.md")]
    pub mod compat {}
    #[doc = include_str!("_docs/protocol.md")]
    pub mod protocol {}
}

// Its programs run against the engine.
#[cfg(all(doctest, feature = "local"))]
#[doc = include_str!("../README.md")]
struct Readme;
