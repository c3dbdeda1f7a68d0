//! `tinkex_server`: the embedded engine (feature `local`).

use std::ffi::{CString, c_char};
use std::ptr;

#[cfg(not(feature = "local"))]
use super::border::Fault;
use super::border::{self, Out, Result};
use super::error::tinkex_error;
use super::object::{self, Kind, Object};
use super::options;
use super::server_options::{Settings, tinkex_server_options};
use super::tinkex_code;

pub type tinkex_server = Object<Server>;

/// A running engine.
pub struct Server {
    url: CString,
    api_key: CString,
    /// Stops the engine when it is dropped.
    #[cfg(feature = "local")]
    _engine: crate::local::Server,
}

impl Kind for Server {
    const NAME: &'static str = "server";
}

#[cfg(feature = "local")]
fn start(settings: Settings) -> Result<Server> {
    let engine = crate::local::Server::start(settings.options)?;
    let (url, api_key) = (border::c_text(engine.url()), border::c_text(engine.api_key()));
    Ok(Server { url, api_key, _engine: engine })
}

#[cfg(not(feature = "local"))]
fn start(_: Settings) -> Result<Server> {
    Err(unsupported())
}

/// The fault of all functions of the engine in a build without it.
#[cfg(not(feature = "local"))]
pub(super) fn unsupported() -> Fault {
    Fault::unsupported("this build of tinkex has no embedded engine: build it with the feature `local`")
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_server_new(
    options: *const tinkex_server_options,
    out: *mut *mut tinkex_server,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(out, ptr::null_mut());
        border::run(error, || {
            out.required("out")?;
            out.set(Object::make(start(options::read(options)?)?));
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_server_free(server: *mut *mut tinkex_server) {
    // SAFETY: see the header.
    unsafe { object::free(server) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_server_url(server: *const tinkex_server) -> *const c_char {
    // SAFETY: see the header.
    border::value(ptr::null(), || Ok(unsafe { object::get(server) }?.url.as_ptr()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_server_api_key(server: *const tinkex_server) -> *const c_char {
    // SAFETY: see the header.
    border::value(ptr::null(), || Ok(unsafe { object::get(server) }?.api_key.as_ptr()))
}
