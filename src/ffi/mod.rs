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

use std::ffi::{c_char, c_void};

//mod agree;
mod border;
mod cancel;
mod code;
mod constants;
mod error;
mod event;
//#[cfg(test)]
//mod header;
mod input;
mod library;
mod loss;
mod loss_call;
mod object;
mod options;
mod pending;
mod queue;
mod result;
mod result_json;
mod result_outputs;
mod result_sample;
mod sample_options;
mod sampling;
mod server;
mod server_options;
mod service;
mod start;
mod status;
mod text;
mod training;

pub use cancel::tinkex_cancel;
pub use error::tinkex_error;
pub use event::tinkex_event;
pub use input::tinkex_input;
pub use loss::tinkex_loss;
pub use loss_call::tinkex_loss_call;
pub use pending::tinkex_pending;
pub use queue::tinkex_queue;
pub use result::tinkex_result;
pub use sample_options::tinkex_sample_options;
pub use sampling::tinkex_sampling;
pub use server::tinkex_server;
pub use server_options::tinkex_server_options;
pub use service::tinkex_service;
pub use status::tinkex_status;
pub use text::{tinkex_text, tinkex_tokens};
pub use training::tinkex_training;

pub type tinkex_code = i32;
/// Frees the `user` pointer of a callback. Called exactly once.
pub type tinkex_release_fn = Option<unsafe extern "C-unwind" fn(*mut c_void)>;
/// Receives a log record: `user`, level, target, message.
pub type tinkex_log_fn = Option<unsafe extern "C-unwind" fn(*mut c_void, i32, *const c_char, *const c_char)>;
