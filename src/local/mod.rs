//! The embedded engine: a real trainer on the CPU behind the same HTTP API.

#[allow(dead_code)] // Until the server that drives the engine is there.
mod kernel;
#[allow(dead_code, unused_imports)] // Likewise.
mod nn;
