//! The embedded engine: a real trainer on the CPU behind the same HTTP API.

mod kernel;
mod nn;
