//! The embedded engine: a real trainer on the CPU behind the same HTTP API.
//!
//! [`Server::start`] serves it on the loopback address of this machine, and any client of the API can be pointed at it:
//! examples run offline, tests train for real, and nothing is paid for. It uses of the rest of the crate only the types,
//! the wire formats and the error, so that the client talks to it as to a stranger.
//!
//! One engine thread runs the jobs; the sessions of its clients take turns, each in its own order, and samples run side by
//! side. Models are made between the turns. What a session had asked for is dropped when it ends, and waits while nothing
//! is heard of it. A client that waits for a result, or for news of many, costs no thread. The one model is `tinkex/nano`, whose tokens are bytes
//! ([`tokenizer::ByteTokenizer`](crate::tokenizer::ByteTokenizer)).
//!
//! Every verb works offline except the audit log, and asking whom a plain key stands for. Losses that clients write as graphs are
//! differentiated and trained on; checkpoints end when their time is over, can be copied, published, archived and exported;
//! what a session did can be looked at as a trace. Which of its ways clients are told to take is a matter of [`Options`].
//! What is served and refused stands in [`docs::compat`](crate::docs::compat).

mod checkpoint;
mod connections;
mod downloads;
mod engine;
mod examples;
mod feeds;
mod futures;
mod http;
mod kernel;
mod lines;
mod names;
mod nn;
mod queue;
mod sampling;
mod scratch;
mod server;
mod snapshots;
mod state;
mod tokens;
mod trace;
mod turns;

pub use server::{Options, Server};
