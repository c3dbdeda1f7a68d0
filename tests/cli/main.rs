//! Runs the program `tinkex` as a person or a script does: against the engine and against scripted servers.

#![allow(clippy::unwrap_used)]

mod manage_checkpoints;
mod manage_delete;
mod manage_site;
mod manners;
mod util;
