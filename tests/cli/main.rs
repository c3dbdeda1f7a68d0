//! Runs the program `tinkex` as a person or a script does: against the engine and against scripted servers.

#![allow(clippy::unwrap_used)]

mod manners;
mod train;
mod train_resume;
mod util;
