//! Runs the program `tinkex` as a person or a script does: against the engine and against scripted servers.

#![allow(clippy::unwrap_used)]

mod download;
mod manage_account;
mod manage_checkpoints;
mod manage_delete;
mod manage_engine;
mod manage_help;
mod manage_runs;
mod manage_sessions;
mod manage_site;
mod manners;
#[path = "../it/storage.rs"]
mod storage;
mod util;
