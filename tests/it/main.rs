//! Integration tests: one binary, one module per behaviour.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should say where")]

mod util;

mod accounts;
mod admin;
mod auth;
mod bad_input;
mod bad_weather;
mod cancel_samples;
mod closing;
mod compat;
mod counts;
mod custom_loss;
mod doctor;
mod dropped_sessions;
#[cfg(feature = "local")]
mod engine_checkpoints;
#[cfg(feature = "local")]
mod engine_guard;
#[cfg(feature = "local")]
mod engine_http;
#[cfg(feature = "local")]
mod engine_losses;
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
mod faults;
mod forked;
mod forms;
mod generations;
mod guarantees;
mod handles;
mod long_timeouts;
#[cfg(feature = "local")]
mod losses;
pub(crate) mod matrix;
mod memory_limits;
mod network;
mod observability;
mod outages;
mod payment;
mod poll_many;
mod refused_threads;
mod regression;
mod replay;
mod rest;
mod sampling;
mod secrets;
mod server_variants;
mod settings;
mod slow_networks;
mod soak;
mod traced_loss;
mod training_options;
mod unexpected_answers;
mod verbs;
mod waiting;
mod wrong_servers;
