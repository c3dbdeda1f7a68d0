//! Integration tests: one binary, one module per behaviour.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should say where")]

mod util;

mod admin;
mod auth;
mod bad_input;
mod bad_weather;
mod cancel_samples;
mod compat;
mod custom_loss;
mod doctor;
#[cfg(feature = "local")]
mod engine_checkpoints;
#[cfg(feature = "local")]
mod engine_http;
#[cfg(feature = "local")]
mod engine_losses;
#[cfg(feature = "local")]
mod engine_rest;
#[cfg(feature = "local")]
mod engine_sessions;
#[cfg(feature = "local")]
mod engine_waiting;
mod faults;
mod guarantees;
mod handles;
mod leniency;
mod matrix;
mod network;
mod poll_many;
mod regression;
mod rest;
mod sampling;
mod secrets;
mod seeing;
mod settings;
mod soak;
mod training_options;
mod verbs;
mod waiting;
