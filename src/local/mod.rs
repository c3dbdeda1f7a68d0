//! The embedded engine: a real trainer on the CPU behind the same HTTP API.
//!
//! [`Server::start`] serves it on the loopback address of this machine, and any client of the API can be pointed at it:
//! examples run offline, tests train for real, and nothing is paid for. It uses of the rest of the crate only the types,
//! the wire formats and the error, so that the client talks to it as to a stranger.
//!
//! One engine thread runs the jobs in order; samples that queue up behind each other run side by side. A client that
//! waits for a result costs no thread. The one model is `tinkex/nano`, whose tokens are bytes
//! ([`tokenizer::Bytes`](crate::tokenizer::Bytes)).

mod checkpoint;
mod downloads;
mod engine;
mod examples;
mod feeds;
mod futures;
mod http;
mod kernel;
mod nn;
mod sampling;
mod server;
mod state;
mod tokens;
mod trace;
mod turns;

pub use server::{Options, Server};
