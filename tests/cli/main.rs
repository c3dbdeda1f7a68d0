//! Runs the program `tinkex` as a person or a script does: against the engine and against scripted servers.

#![allow(clippy::unwrap_used)]

mod doctor;
mod manners;
mod markup;
mod report;
mod serve;
mod util;
