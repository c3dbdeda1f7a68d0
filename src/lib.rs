//! A blocking SDK for the Tinker fine-tuning API: the training loop runs in plain threads of your program, and the
//! model trains on a server, or on the embedded engine (feature `local`).
//!
//! # Example: train in ten lines
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
//! println!("loss {:?}", step.wait()?.loss()); // waits for the result
//! update.wait()?;
//! # }
//! # Ok::<(), tinkex::Error>(())
//! ```
//!
//! # The clients
//! [`ServiceClient`] opens a session and creates the other clients. [`TrainingClient`] trains one model; operations run
//! in the order of the calls. [`SamplingClient`] samples from one set of weights, with thousands of samples in flight
//! if needed. These three clients are cheap handles that can be cloned and given to other threads; each client has one
//! thread, which owns the client's state. [`RestClient`] lists and manages runs and checkpoints, [`AdminClient`] reads
//! usage and the audit log. These last two clients open no session, and their calls run on the caller's thread.
//!
//! # Waiting
//! A method such as `forward_backward` submits an operation and returns a [`Pending`]; the operation runs even if no
//! thread waits for it. [`Pending::wait`] blocks until the result is available, [`Pending::wait_timeout`] for a limited
//! time, [`Pending::on_done`] sends the result to a channel, [`wait_all`] waits for several operations.
//! [`Pending::status`] reports what the operation is waiting for. Each wait is bounded: [`Timeouts`] lists the limits
//! and their defaults. After 30 s without a result, and then once a minute, a warning in the log names the operation.
//!
//! # Errors
//! All fallible functions return [`Error`]. Its predicates tell whether to try again
//! ([`is_retryable`](Error::is_retryable)) or to correct the call ([`is_user_error`](Error::is_user_error)). The
//! library itself retries requests where that is safe; see [`docs::errors`].
//!
//! # Threads and closing
//! The library needs no async runtime and works in any thread that may block. [`ServiceClient::close`] ends a session
//! and its clients, and tells the server, within `Timeouts::finish`. Dropping the last handle does the same without
//! telling the server, within `Timeouts::close`. See [`docs::threads`].
//!
//! # Observability
//! [`ServiceClient::dump`] lists the operations in flight, [`ServiceClient::metrics`] counts and measures, an
//! [`Observer`](event::Observer) is called for queue states, retries and failures as they happen, and [`PausePolicy`]
//! limits how long an operation waits when the server pauses it.
//!
//! # Features
//! | feature | effect |
//! |---|---|
//! | `zstd` (default) | compressed training uploads, if the server asks for them |
//! | `text` | tokenizers of models: `tokenizer::Bpe` |
//! | `hub` | `text`, and downloads of tokenizers from the Hugging Face hub: `tokenizer::Bpe::download` |
//! | `jinja` | renderers made of chat templates: `chat::TemplateRenderer` |
//! | `local` | the embedded engine, a server inside the program: [`local`] |
//! | `cli` | the program `tinkex`, with `local`, `hub` and `jinja`; the library is the same |
//! | `ffi` | the functions of the C library, [`docs::c`]; see `make -C src/ffi install` |
//! | `native-roots` | TLS trusts the operating system's certificates instead of the compiled-in certificates |
//! | `testing` | a scriptable server and a clock for tests, [`testing`]; may change in a minor version |
//!
//! # Logging
//! The library logs through the `log` crate; all its targets begin with `tinkex`. ERROR: messages of the server at that
//! level, panics in threads of the library, results that cannot be delivered. WARN: long waits and retries, failing
//! heartbeats, threads that are still busy after `close`. INFO: messages of the server, samples that are submitted
//! again. DEBUG: other retries. TRACE: each request and answer, without headers and bodies. Credentials are never
//! logged, and are removed from texts that the server returns. At TRACE a dependency of the HTTP library logs the bytes
//! of each request, including the credential, with the target `ureq_proto`: keep that target off.
//!
//! # Environment variables
//! `TINKER_API_KEY`, `TINKER_CREDENTIAL_CMD`, `TINKER_BASE_URL`, `TINKER_PROJECT_ID`, `TINKER_TAGS`,
//! `TINKER_TELEMETRY`, `CLOUDFLARE_ACCESS_CLIENT_ID` and `CLOUDFLARE_ACCESS_CLIENT_SECRET`; `HTTPS_PROXY` or
//! `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`; `HOME` for the stored keys ([`credentials`]). Settings of
//! [`ServiceClientBuilder`] take precedence over environment variables. With the feature `hub` also those of Hugging
//! Face's libraries: `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`; for the cache `HF_HUB_CACHE`, `HF_HOME`
//! and `XDG_CACHE_HOME`, which the feature `text` reads too.
//!
//! # Limits
//! The library does not merge adapters, handle signals, or start a runtime.

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(panic = "abort")]
compile_error!(
    "tinkex turns a panic in one of its threads into an error of the operation, which needs `panic = \"unwind\"` in the \
     profile"
);

pub mod chat;
mod client;
mod clock_text;
mod config;
pub mod credentials;
pub mod data;
pub mod download;
mod env;
mod error;
pub mod event;
#[cfg(feature = "ffi")]
mod ffi;
mod handles;
mod http;
mod http_date;
mod lane;
mod loss;
mod metrics;
#[cfg(all(test, shuttle))]
#[path = "../tests/model/mod.rs"]
mod model;
mod pending;
mod percent;
mod policy;
pub mod recovery;
/// For the program `tinkex` of this crate alone; not a part of the interface.
#[cfg(any(feature = "cli", feature = "ffi"))]
#[doc(hidden)]
pub mod report_json;
mod session;
mod signals;
pub mod sync;
mod telemetry;
pub mod tokenizer;
pub mod train;
pub mod types;
mod wire;

/// The crate whose byte buffers [`transport`] and [`testing`] use.
pub use bytes;
/// The crate whose channels [`Pending::on_done`] uses.
pub use crossbeam_channel;

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

/// Guides for users and contributors: the architecture, threads, findings (faults of another client library that this
/// crate prevents), errors, compatibility, the protocol (whose sections the documentation cites), and the C library.
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
    #[doc = include_str!("ffi/README.md")]
    pub mod c {}
}

// Runs the examples of the README against the embedded engine, as documentation tests.
#[cfg(all(doctest, feature = "local"))]
#[doc = include_str!("../README.md")]
struct Readme;
