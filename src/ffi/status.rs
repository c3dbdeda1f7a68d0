//! `tinkex_status`: what an operation is doing.

use std::ffi::{CString, c_char};
use std::ptr;
use std::time::Duration;

use serde_json::json;

use super::border::{self, c_json, c_text};
use super::constants;
use super::object::{self, Kind, Object};
use crate::pending::Status;

pub type tinkex_status = Object<StatusView>;

/// A snapshot of an operation's state.
pub struct StatusView {
    stage: i32,
    queue_state: CString,
    request_id: CString,
    elapsed: Duration,
    json: CString,
}

impl Kind for StatusView {
    const NAME: &'static str = "status";
}

impl StatusView {
    pub(super) fn new(status: Status) -> Self {
        let json = json!({
            "operation": status.operation,
            "stage": format!("{:?}", status.stage).to_lowercase(),
            "request_id": status.request_id,
            "queue_state": status.queue_state.as_ref().map(|it| it.as_str()),
            "queue_state_reason": status.queue_state_reason,
            "attempts": status.attempts,
            "last_contact_ms": status.last_contact.map(milliseconds),
            "elapsed_ms": milliseconds(status.elapsed),
            "last_failure": status.last_failure,
        });
        StatusView {
            stage: constants::stage(status.stage),
            queue_state: c_text(status.queue_state.map(|it| it.as_str().to_string()).unwrap_or_default()),
            request_id: c_text(status.request_id.unwrap_or_default()),
            elapsed: status.elapsed,
            json: c_json(&json),
        }
    }
}

/// Whole milliseconds.
pub(super) fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_status_stage(status: *const tinkex_status) -> i32 {
    // SAFETY: see the header.
    border::value(0, || Ok(unsafe { object::get(status) }?.stage))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_status_queue_state(status: *const tinkex_status) -> *const c_char {
    // SAFETY: see the header.
    border::value(ptr::null(), || Ok(unsafe { object::get(status) }?.queue_state.as_ptr()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_status_request_id(status: *const tinkex_status) -> *const c_char {
    // SAFETY: see the header.
    border::value(ptr::null(), || Ok(unsafe { object::get(status) }?.request_id.as_ptr()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_status_elapsed_ms(status: *const tinkex_status) -> i64 {
    // SAFETY: see the header.
    border::value(0, || Ok(milliseconds(unsafe { object::get(status) }?.elapsed)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_status_json(status: *const tinkex_status) -> *const c_char {
    // SAFETY: see the header.
    border::value(ptr::null(), || Ok(unsafe { object::get(status) }?.json.as_ptr()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_status_free(status: *mut *mut tinkex_status) {
    // SAFETY: see the header.
    unsafe { object::free(status) }
}
