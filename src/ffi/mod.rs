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
mod code;
mod constants;
mod error;
mod event;
//#[cfg(test)]
//mod header;
mod library;
mod loss_call;
mod object;
mod options;
mod pending;
mod queue;
mod rest;
mod result;
mod save_options;
mod service;
mod service_options;
mod status;
mod text;

pub use error::tinkex_error;
pub use event::tinkex_event;
pub use loss_call::tinkex_loss_call;
pub use pending::tinkex_pending;
pub use queue::tinkex_queue;
pub use rest::tinkex_rest;
pub use result::tinkex_result;
pub use save_options::tinkex_save_options;
pub use service::tinkex_service;
pub use service_options::tinkex_service_options;
pub use status::tinkex_status;
pub use text::{tinkex_text, tinkex_tokens};

pub type tinkex_code = i32;
/// Frees the `user` pointer of a callback. Called exactly once.
pub type tinkex_release_fn = Option<unsafe extern "C-unwind" fn(*mut c_void)>;
/// Receives a log record: `user`, level, target, message.
pub type tinkex_log_fn = Option<unsafe extern "C-unwind" fn(*mut c_void, i32, *const c_char, *const c_char)>;
