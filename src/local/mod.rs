//! The embedded engine: an HTTP server with the API of the Tinker service that runs inside this process. It really
//! trains a small model, on the CPU.
//!
//! [`Server::start`] starts the engine on the loopback address of this machine, or on another one ([`Options::listen`]),
//! for any client of the API: examples run offline, tests train for real, and nothing is billed. The engine uses none of
//! the code of this crate's client, only shared types, wire formats and small helpers; the client talks to the engine
//! over HTTP as to any other server.
//!
//! One engine thread runs the jobs; a job is the work of one request, for example a training pass. The sessions are
//! served round-robin, and the requests of one model run in their order. Samples run concurrently. Training and sampling
//! share the processors: for a training pass, running samples pause, and after it they have about the time that it took.
//! Quick jobs, such as creating a model, run before all others. When a session ends, its pending jobs fail. While a session's client is
//! silent, the session is paused: its jobs stay in the queue. A client that waits for one result, or for the
//! completions of many samples, occupies no thread. The model `tinkex/nano`, whose tokens are bytes
//! ([`tokenizer::ByteTokenizer`](crate::tokenizer::ByteTokenizer)), is built in; [`Options::models`] adds models of folders.
//!
//! Every operation of the client works with the engine, except the audit log, the revocation of the API key, and
//! `whoami` with a key that is not a JWT. Custom losses that clients send as graphs are differentiated and trained on.
//! Checkpoints expire, and can be copied, published, archived and exported; the requests of a session can be exported
//! as a trace. [`Options`] set the flags that the engine sends to clients. [`docs::compat`](crate::docs::compat) lists
//! what is served and what is refused.
//!
//! Only one engine at a time can use a data folder. Other programs of the same user find that engine with
//! [`Access::open`], and use it instead of one of their own.

mod age;
mod catalogue;
mod checkpoint;
mod connections;
mod cpu;
mod disk;
mod downloads;
mod engine;
mod examples;
mod feeds;
mod futures;
mod hosts;
mod http;
mod issued;
mod job;
mod kernel;
mod limits;
mod machine_memory;
mod names;
mod nn;
mod queue;
mod reply;
mod request_order;
mod room;
mod running;
mod sampling;
mod schedule;
mod scratch;
mod served;
mod server;
mod shares;
mod snapshots;
mod state;
mod tokens;
mod trace;
mod worker;

pub use running::{Access, Running, is_data_folder};
pub use server::{Options, Server};
