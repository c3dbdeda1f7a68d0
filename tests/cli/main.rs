//! Runs the program `tinkex` as a person or a script does: against the engine and against scripted servers.

#![allow(clippy::unwrap_used)]

mod chat;
mod data;
mod eval;
mod manners;
mod sample;
mod train;
mod train_resume;
mod util;
