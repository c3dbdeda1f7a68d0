//! Integration tests: one binary, one module per behaviour.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should say where")]

mod util;

mod admin;
mod bad_input;
mod bad_weather;
mod custom_loss;
#[cfg(feature = "local")]
mod engine_http;
#[cfg(feature = "local")]
mod engine_rest;
mod faults;
mod guarantees;
mod poll_many;
mod regression;
mod rest;
mod seeing;
mod soak;
mod training_options;
mod verbs;
mod waiting;
