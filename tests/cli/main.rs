//! Runs the program `tinkex` as a person or a script does: against the engine and against scripted servers.

#![allow(clippy::unwrap_used)]

mod chat;
mod data;
mod doctor;
mod download;
mod eval;
mod manage_account;
mod manage_checkpoints;
mod manage_delete;
mod manage_engine;
mod manage_help;
mod manage_runs;
mod manage_sessions;
mod manage_site;
mod manners;
mod markup;
mod model_names;
mod nearby;
mod readme;
mod refusals;
mod report;
mod report_figures;
mod run_folder;
mod sample;
mod serve;
mod session_ends;
mod shared_engine;
mod shell;
mod statuses;
#[allow(dead_code, reason = "each program of tests uses a part of it")]
#[path = "../it/storage.rs"]
mod storage;
#[path = "../it/tls.rs"]
mod tls;
mod train;
mod train_begin;
mod train_engine;
mod train_finished;
mod train_plan;
mod train_remedies;
mod train_resume;
mod train_server;
mod train_told;
mod util;
