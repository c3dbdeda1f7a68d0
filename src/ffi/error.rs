//! `tinkex_error`: the failure of one call.

use std::ffi::{CString, c_char};
use std::ptr;
use std::sync::OnceLock;

use serde_json::{Value, json};

use super::border::{self, Fault, c_json, c_text};
use super::code::{self, Code};
use super::object::{self, Kind, Object};
use super::status::milliseconds;
use super::tinkex_code;
use crate::error::Error;

pub type tinkex_error = Object<ErrorInfo>;

/// A failure with its texts, each made when it is asked for.
pub struct ErrorInfo {
    fault: Fault,
    message: CString,
    operation: OnceLock<Option<CString>>,
    request_id: OnceLock<Option<CString>>,
    path: OnceLock<Option<CString>>,
    json: OnceLock<CString>,
}

impl Kind for ErrorInfo {
    const NAME: &'static str = "error";
}

impl From<Fault> for ErrorInfo {
    fn from(fault: Fault) -> Self {
        let message = match &fault {
            Fault::Misuse { message, .. } => c_text(message.to_string()),
            Fault::Sdk(error) => c_text(error.to_string()),
        };
        let (operation, request_id, path) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        ErrorInfo { fault, message, operation, request_id, path, json: OnceLock::new() }
    }
}

impl ErrorInfo {
    pub(super) fn message(&self) -> std::borrow::Cow<'_, str> {
        self.message.to_string_lossy()
    }

    fn sdk(&self) -> Option<&Error> {
        match &self.fault {
            Fault::Sdk(error) => Some(error),
            Fault::Misuse { .. } => None,
        }
    }

    /// The path of the value that is wrong.
    fn path(&self) -> Option<&str> {
        match &self.fault {
            Fault::Misuse { path, .. } => path.as_deref(),
            Fault::Sdk(error) => error.violation().map(|it| &*it.path),
        }
    }

    fn json(&self) -> Value {
        let code = self.fault.code();
        let sdk = self.sdk();
        let text = |get: fn(&Error) -> Option<&str>| sdk.and_then(get);
        json!({
            "code": code.number(),
            "name": code.name(),
            "message": self.message(),
            "path": self.path(),
            "operation": text(Error::operation),
            "request_id": text(Error::request_id),
            "session_id": text(Error::session_id),
            "model_id": text(Error::model_id),
            "seq_id": sdk.and_then(Error::seq_id),
            "endpoint": text(Error::endpoint),
            "url": text(Error::url),
            "http_status": sdk.and_then(Error::http_status),
            "detail": text(Error::detail),
            "retry_after_ms": sdk.and_then(Error::retry_after).map(milliseconds),
            "attempts": sdk.and_then(Error::attempts),
            "elapsed_ms": sdk.and_then(Error::elapsed).map(milliseconds),
            "accepted_parts": sdk.and_then(Error::accepted_parts),
            "is_retryable": sdk.is_some_and(Error::is_retryable),
            "is_user_error": self.is_user_error(),
        })
    }

    fn is_user_error(&self) -> bool {
        match &self.fault {
            Fault::Sdk(error) => error.is_user_error(),
            Fault::Misuse { code, .. } => !matches!(
                *code,
                code::PANIC | code::TIMEOUT_WAIT | code::CLOSED | code::DECODE | code::SYSTEM
            ),
        }
    }
}

/// A text that is made when it is asked for. It lives as long as the error.
fn cached(place: &OnceLock<Option<CString>>, text: impl FnOnce() -> Option<String>) -> *const c_char {
    place.get_or_init(|| text().map(c_text)).as_ref().map_or(ptr::null(), |it| it.as_ptr())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_error_free(error: *mut *mut tinkex_error) {
    // SAFETY: see the header.
    unsafe { object::free(error) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_error_code(error: *const tinkex_error) -> tinkex_code {
    border::value(code::OK, || {
        if error.is_null() {
            return Ok(code::OK);
        }
        // SAFETY: see the header. An error that cannot be read must not look like success.
        Ok(unsafe { object::get(error) }
            .map_or_else(|fault| fault.code(), |error| error.fault.code())
            .number())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_error_message(error: *const tinkex_error) -> *const c_char {
    // SAFETY: see the header.
    border::value(ptr::null(), || Ok(unsafe { object::get(error) }?.message.as_ptr()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_error_operation(error: *const tinkex_error) -> *const c_char {
    border::value(ptr::null(), || {
        // SAFETY: see the header.
        let error = unsafe { object::get(error) }?;
        Ok(cached(&error.operation, || Some(error.sdk()?.operation()?.into())))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_error_request_id(error: *const tinkex_error) -> *const c_char {
    border::value(ptr::null(), || {
        // SAFETY: see the header.
        let error = unsafe { object::get(error) }?;
        Ok(cached(&error.request_id, || Some(error.sdk()?.request_id()?.into())))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_error_path(error: *const tinkex_error) -> *const c_char {
    border::value(ptr::null(), || {
        // SAFETY: see the header.
        let error = unsafe { object::get(error) }?;
        Ok(cached(&error.path, || Some(error.path()?.into())))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_error_http_status(error: *const tinkex_error) -> i32 {
    border::value(0, || {
        // SAFETY: see the header.
        let error = unsafe { object::get(error) }?;
        Ok(error.sdk().and_then(Error::http_status).map_or(0, i32::from))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_error_retry_after_ms(error: *const tinkex_error) -> i64 {
    border::value(-1, || {
        // SAFETY: see the header.
        let error = unsafe { object::get(error) }?;
        Ok(error.sdk().and_then(Error::retry_after).map_or(-1, milliseconds))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_error_is_retryable(error: *const tinkex_error) -> bool {
    // SAFETY: see the header.
    border::value(false, || Ok(unsafe { object::get(error) }?.sdk().is_some_and(Error::is_retryable)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_error_is_user_error(error: *const tinkex_error) -> bool {
    // SAFETY: see the header.
    border::value(false, || Ok(unsafe { object::get(error) }?.is_user_error()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_error_is_timeout(error: *const tinkex_error) -> bool {
    border::value(false, || {
        // SAFETY: see the header.
        let error = unsafe { object::get(error) }?;
        Ok(error.fault.code() == code::TIMEOUT_WAIT || error.sdk().is_some_and(Error::is_timeout))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_error_json(error: *const tinkex_error) -> *const c_char {
    border::value(ptr::null(), || {
        // SAFETY: see the header.
        let error = unsafe { object::get(error) }?;
        Ok(error.json.get_or_init(|| c_json(&error.json())).as_ptr())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_code_name(code: tinkex_code) -> *const c_char {
    Code::new(code).c_name()
}
