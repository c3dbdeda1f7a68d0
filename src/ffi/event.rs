//! `tinkex_event`: one entry of a queue, or what an observer is told.

use std::ffi::{CString, c_char};
use std::ptr;

use serde_json::Value;

use super::border::{self, c_json, c_text};
use super::constants::EVENT_LOSS;
use super::loss_call::{LossCall, tinkex_loss_call};
use super::object::{self, Kind, Object};
use crate::sync::Mutex;

pub type tinkex_event = Object<Event>;

/// An event. Texts that do not belong to its kind are empty.
pub struct Event {
    kind: i32,
    tag: u64,
    level: i32,
    message: CString,
    json: CString,
    /// Taken by `tinkex_event_take_loss`.
    loss: Mutex<Option<LossCall>>,
}

impl Kind for Event {
    const NAME: &'static str = "event";
}

impl Event {
    pub(super) fn new(kind: i32, tag: u64) -> Self {
        let (message, json) = (CString::default(), CString::default());
        Event { kind, tag, level: 0, message, json, loss: Mutex::new(None) }
    }

    /// Adds a text for people and the facts as JSON.
    pub(super) fn saying(mut self, message: impl Into<String>, json: &Value) -> Self {
        (self.message, self.json) = (c_text(message), c_json(json));
        self
    }

    /// Adds the level of a log record.
    pub(super) fn at_level(mut self, level: i32) -> Self {
        self.level = level;
        self
    }

    /// A custom loss belongs to the event.
    pub(super) fn has_loss(&self) -> bool {
        self.kind == EVENT_LOSS
    }

    /// Adds a custom loss for the caller to compute.
    pub(super) fn with_loss(self, call: LossCall) -> Self {
        *self.loss.lock() = Some(call);
        self
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_event_kind(event: *const tinkex_event) -> i32 {
    // SAFETY: see the header.
    border::value(0, || Ok(unsafe { object::get(event) }?.kind))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_event_tag(event: *const tinkex_event) -> u64 {
    // SAFETY: see the header.
    border::value(0, || Ok(unsafe { object::get(event) }?.tag))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_event_level(event: *const tinkex_event) -> i32 {
    // SAFETY: see the header.
    border::value(0, || Ok(unsafe { object::get(event) }?.level))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_event_message(event: *const tinkex_event) -> *const c_char {
    // SAFETY: see the header.
    border::value(ptr::null(), || Ok(unsafe { object::get(event) }?.message.as_ptr()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_event_json(event: *const tinkex_event) -> *const c_char {
    // SAFETY: see the header.
    border::value(ptr::null(), || Ok(unsafe { object::get(event) }?.json.as_ptr()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_event_take_loss(event: *mut tinkex_event) -> *mut tinkex_loss_call {
    border::value(ptr::null_mut(), || {
        // SAFETY: see the header.
        let call = unsafe { object::get(event) }?.loss.lock().take();
        Ok(call.map_or(ptr::null_mut(), Object::make))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_event_free(event: *mut *mut tinkex_event) {
    // SAFETY: see the header.
    unsafe { object::free(event) }
}
