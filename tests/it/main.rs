//! Integration tests, compiled to one binary: one module per behaviour. Modules that run the embedded engine need the
//! feature `local`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should say where")]

mod util;

mod admin;
mod auth;
mod bad_input;
mod cancel_samples;
mod closing;
mod compat;
mod custom_loss;
mod doctor;
mod documents;
mod downloads;
mod dropped_sessions;
#[cfg(feature = "local")]
mod engine_abuse;
#[cfg(feature = "local")]
mod engine_adapters;
#[cfg(feature = "local")]
mod engine_catalogue;
#[cfg(feature = "local")]
mod engine_checkpoints;
#[cfg(feature = "local")]
mod engine_disk;
#[cfg(feature = "local")]
mod engine_fairness;
#[cfg(all(feature = "local", target_os = "linux"))]
mod engine_fuzz;
#[cfg(feature = "local")]
mod engine_http;
#[cfg(feature = "local")]
mod engine_killed;
#[cfg(feature = "local")]
mod engine_limits;
#[cfg(feature = "local")]
mod engine_listen;
#[cfg(all(feature = "local", target_os = "linux"))]
mod engine_load;
#[cfg(feature = "local")]
mod engine_losses;
#[cfg(feature = "local")]
mod engine_memory;
#[cfg(feature = "local")]
mod engine_models;
#[cfg(feature = "local")]
mod engine_names;
#[cfg(feature = "local")]
mod engine_numbers;
#[cfg(feature = "local")]
mod engine_rest;
#[cfg(feature = "local")]
mod engine_samplers;
#[cfg(feature = "local")]
mod engine_sessions;
#[cfg(feature = "local")]
mod engine_waiting;
mod error_context;
mod faults;
mod forked;
mod generations;
mod guarantees;
mod handles;
mod json_passes;
#[cfg(feature = "local")]
mod killed_runs;
mod long_timeouts;
#[cfg(feature = "local")]
mod losses;
pub(crate) mod matrix;
mod memory_limits;
#[cfg(feature = "local")]
mod model_tokenizers;
mod network;
mod observability;
mod outages;
mod payment;
mod poll_many;
mod recovery;
mod refused_threads;
mod regression;
mod replay;
mod response_counts;
mod rest;
#[cfg(feature = "local")]
mod run_options;
mod sampling;
mod secrets;
#[cfg(feature = "local")]
mod serve;
mod server_failures;
mod server_variants;
mod settings;
mod slow_networks;
mod soak;
#[allow(dead_code, reason = "each program of tests uses a part of it")]
mod storage;
mod threads;
mod tls;
mod traced_loss;
#[cfg(feature = "local")]
mod training_examples;
mod training_options;
#[cfg(feature = "local")]
mod training_programs;
mod unexpected_answers;
mod verbs;
mod waiting;
mod wrong_servers;
