//! `tinkex_service`: the client that opens the session and makes the other clients.

use std::ffi::{CString, c_char};
use std::ptr;
use std::sync::OnceLock;

use serde_json::{Map, Value, json};

use super::border::{self, Fault, Out, Result, c_text};
use super::constants::{CLOSE_ERRORED, CLOSE_INTERRUPTED, CLOSE_SUCCESS};
use super::error::tinkex_error;
use super::object::{self, Kind, Object};
use super::service_options::{self, tinkex_service_options};
use super::text::{Text, tinkex_text};
use super::tinkex_code;
use crate::report_json;
use crate::{CloseStatus, HistogramSnapshot, MetricsSnapshot, ServiceClient};

pub type tinkex_service = Object<Service>;

/// A client with the texts that C code has asked for.
pub struct Service {
    client: ServiceClient,
    /// Set once the session is open.
    session_id: OnceLock<CString>,
    /// The page of all sessions, and the page of the session once it is open.
    console_urls: [OnceLock<CString>; 2],
}

impl Kind for Service {
    const NAME: &'static str = "service";
}

impl Service {
    fn make(client: ServiceClient) -> *mut tinkex_service {
        Object::make(Service { client, session_id: OnceLock::new(), console_urls: Default::default() })
    }

    /// The client of a handle.
    ///
    /// # Safety
    /// As for [`object::get`].
    pub(super) unsafe fn client(service: *const tinkex_service) -> Result<ServiceClient> {
        // SAFETY: promised by the caller.
        Ok(unsafe { object::get(service) }?.client.clone())
    }

    /// The id of the session, if it is open.
    fn session_id(&self) -> Option<&CString> {
        if self.session_id.get().is_none()
            && let Some(id) = self.client.session_id()
        {
            return Some(self.session_id.get_or_init(|| c_text(id)));
        }
        self.session_id.get()
    }

    fn console_url(&self) -> &CString {
        let url = &self.console_urls[usize::from(self.session_id().is_some())];
        url.get_or_init(|| c_text(self.client.get_console_url()))
    }
}

fn metrics_json(metrics: &MetricsSnapshot) -> Value {
    let histogram = |(name, values): (&String, &HistogramSnapshot)| {
        let HistogramSnapshot { count, mean, min, max, p50, p95, p99 } = values;
        let json = json!({
            "count": count, "mean": mean, "min": min, "max": max, "p50": p50, "p95": p95, "p99": p99,
        });
        (name.clone(), json)
    };
    let histograms: Map<String, Value> = metrics.histograms.iter().map(histogram).collect();
    json!({ "counters": metrics.counters, "gauges": metrics.gauges, "histograms": histograms })
}

fn close_status(status: i32) -> Result<CloseStatus> {
    match status {
        CLOSE_SUCCESS => Ok(CloseStatus::Success),
        CLOSE_ERRORED => Ok(CloseStatus::Errored),
        CLOSE_INTERRUPTED => Ok(CloseStatus::Interrupted),
        _ => {
            let text = format!("`status` must be one of the constants TINKEX_CLOSE_*, not {status}");
            Err(Fault::invalid("status", text))
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_service_new(
    options: *const tinkex_service_options,
    out: *mut *mut tinkex_service,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(out, ptr::null_mut());
        border::run(error, || {
            out.required("out")?;
            out.set(Service::make(service_options::builder(options)?.build()?));
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_service_ref(service: *const tinkex_service) -> *mut tinkex_service {
    // SAFETY: see the header.
    border::value(ptr::null_mut(), || Ok(Service::make(unsafe { Service::client(service) }?)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_service_free(service: *mut *mut tinkex_service) {
    // SAFETY: see the header.
    unsafe { object::free(service) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_service_close(
    service: *mut tinkex_service,
    status: i32,
    detail: *const c_char,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        border::run(error, || {
            let (client, status) = (Service::client(service)?, close_status(status)?);
            match border::optional_text(detail, "detail")? {
                Some(detail) => client.close_with(status, detail)?,
                None => client.close(status)?,
            }
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_service_session_id(service: *const tinkex_service) -> *const c_char {
    border::value(ptr::null(), || {
        // SAFETY: see the header.
        let service = unsafe { object::get(service) }?;
        Ok(service.session_id().map_or(ptr::null(), |id| id.as_ptr()))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_service_console_url(service: *const tinkex_service) -> *const c_char {
    // SAFETY: see the header.
    border::value(ptr::null(), || Ok(unsafe { object::get(service) }?.console_url().as_ptr()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_service_capabilities(
    service: *const tinkex_service,
    json: *mut *mut tinkex_text,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let json = Out::cleared(json, ptr::null_mut());
        border::run(error, || {
            json.required("json")?;
            let capabilities = Service::client(service)?.get_server_capabilities()?;
            json.set(Text::json(&report_json::capabilities(&capabilities)));
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_service_metrics(
    service: *const tinkex_service,
    json: *mut *mut tinkex_text,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let json = Out::cleared(json, ptr::null_mut());
        border::run(error, || {
            json.required("json")?;
            let metrics = Service::client(service)?.metrics().snapshot();
            json.set(Text::json(&metrics_json(&metrics)));
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_service_dump(
    service: *const tinkex_service,
    text: *mut *mut tinkex_text,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let text = Out::cleared(text, ptr::null_mut());
        border::run(error, || {
            text.required("text")?;
            text.set(Text::make(Service::client(service)?.dump().to_string()));
            Ok(())
        })
    }
}
