//! The embedded engine: a real trainer on the CPU behind the same HTTP API.
//!
//! [`Server::start`] serves it on the loopback address of this machine for any client of the API: examples run
//! offline, tests really train, and nothing is billed. The engine shares only the types, the wire formats and the
//! error with the rest of the crate; the client treats it like any other server.
//!
//! One engine thread runs the jobs. Sessions take turns, each in its own order; samples run concurrently, and models
//! are created between the turns. The pending jobs of a session fail when it ends, and wait while it is paused for
//! lack of contact. A client that waits for one result, or for the completions of many, occupies no thread. The only
//! model is `tinkex/nano`, whose tokens are bytes ([`tokenizer::ByteTokenizer`](crate::tokenizer::ByteTokenizer)).
//!
//! Every verb works offline except the audit log and the question whom a plain key belongs to. Custom losses that
//! clients send as graphs are differentiated and trained on; checkpoints expire, and can be copied, published,
//! archived and exported; the requests of a session can be exported as a trace. [`Options`] set the flags that clients
//! get. [`docs::compat`](crate::docs::compat) lists what is served and what is refused.

mod checkpoint;
mod connections;
mod downloads;
mod engine;
mod examples;
mod feeds;
mod futures;
mod http;
mod job;
mod kernel;
mod names;
mod nn;
mod queue;
mod reply;
mod request_order;
mod sampling;
mod schedule;
mod scratch;
mod server;
mod snapshots;
mod state;
mod tokens;
mod trace;

pub use server::{Options, Server};
