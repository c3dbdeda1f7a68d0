//! The C interface (`feature = "ffi"`), declared in `src/ffi/tinkex.h`.
//!
//! One file for each C object, with all of its functions. Every function passes through `border`, which catches panics,
//! writes the error and checks arguments. `object` makes and frees handles. The header is written by hand; `agree`,
//! which a test generates from the header, makes the compiler compare each function's type with its prototype.
//!
//! Safety of the functions: the conventions at the head of the header say what callers owe.

#![allow(unsafe_code, non_camel_case_types)]
// The header is the documentation of these functions.
#![allow(missing_docs, missing_debug_implementations, clippy::missing_safety_doc)]
// The functions are called from C, not from Rust.
#![allow(unreachable_pub)]

use std::ffi::{c_char, c_void};

#[rustfmt::skip]
mod agree;
mod batch;
mod border;
mod cancel;
mod code;
mod constants;
mod datum_json;
mod download_options;
mod error;
mod event;
mod examples;
mod graph;
#[cfg(test)]
mod header;
mod in_turn;
mod input;
mod library;
mod log;
mod loss;
mod loss_call;
mod model_options;
mod object;
mod observer;
mod optim;
mod options;
mod pending;
mod progress;
mod queue;
mod rest;
mod result;
mod result_json;
mod result_outputs;
mod result_sample;
mod sample_options;
mod sampling;
mod save_options;
mod server;
mod server_options;
mod service;
mod service_options;
mod status;
mod steps;
mod text;
mod tokenizer;
mod training;

pub use batch::tinkex_batch;
pub use cancel::tinkex_cancel;
pub use download_options::tinkex_download_options;
pub use error::tinkex_error;
pub use event::tinkex_event;
pub use graph::tinkex_graph;
pub use input::tinkex_input;
pub use loss::tinkex_loss;
pub use loss_call::tinkex_loss_call;
pub use model_options::tinkex_model_options;
pub use optim::tinkex_optim;
pub use pending::tinkex_pending;
pub use progress::tinkex_progress;
pub use queue::tinkex_queue;
pub use rest::tinkex_rest;
pub use result::tinkex_result;
pub use sample_options::tinkex_sample_options;
pub use sampling::tinkex_sampling;
pub use save_options::tinkex_save_options;
pub use server::tinkex_server;
pub use server_options::tinkex_server_options;
pub use service::tinkex_service;
pub use service_options::tinkex_service_options;
pub use status::tinkex_status;
pub use text::{tinkex_text, tinkex_tokens};
pub use tokenizer::tinkex_tokenizer;
pub use training::tinkex_training;

pub type tinkex_code = i32;
/// Frees the `user` pointer of a callback. Called exactly once.
pub type tinkex_release_fn = Option<unsafe extern "C-unwind" fn(*mut c_void)>;
/// Receives a log record: `user`, level, target, message.
pub type tinkex_log_fn = Option<unsafe extern "C-unwind" fn(*mut c_void, i32, *const c_char, *const c_char)>;
/// Receives an event of an observer: `user` and the event, which lives until the function returns.
pub type tinkex_event_fn = Option<unsafe extern "C-unwind" fn(*mut c_void, *const tinkex_event)>;
/// Computes a custom loss: `user` and the call, which lives until the function returns. Another result than 0 is a
/// failure of the loss.
pub type tinkex_loss_fn = Option<unsafe extern "C-unwind" fn(*mut c_void, *mut tinkex_loss_call) -> i32>;
/// Is told how far a download is: `user` and the progress, which lives until the function returns.
pub type tinkex_progress_fn = Option<unsafe extern "C-unwind" fn(*mut c_void, *const tinkex_progress)>;
