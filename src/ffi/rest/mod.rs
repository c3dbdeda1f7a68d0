//! `tinkex_rest`: lists and manages training runs, checkpoints and sessions, and reads usage and costs. Answers are JSON
//! of `report_json`. Modules by topic: `account` (identity, key, usage, audit log), `checkpoints`, `runs`, `sessions`,
//! `search_query` (the conditions of a search).

pub(super) mod account;
pub(super) mod checkpoints;
pub(super) mod runs;
mod search_query;
pub(super) mod sessions;
#[cfg(test)]
mod tests;

use std::ptr;

use serde_json::Value;

use super::border::{self, Fault, Out, Result};
use super::error::tinkex_error;
use super::object::{self, Kind, Object};
use super::service::{Service, tinkex_service};
use super::service_options::{self, tinkex_service_options};
use super::text::{Text, tinkex_text};
use super::tinkex_code;
use crate::client::Listing;
use crate::error::Error;
use crate::{AdminClient, RestClient, ServiceClient};

pub type tinkex_rest = Object<Clients>;

/// The clients for users and administrators. Calls in progress hold clones.
#[derive(Clone)]
pub struct Clients {
    rest: RestClient,
    admin: AdminClient,
}

impl Kind for Clients {
    const NAME: &'static str = "rest";
}

impl Clients {
    fn of(service: &ServiceClient) -> Self {
        Clients { rest: service.create_rest_client(), admin: service.create_admin_client() }
    }
}

/// Runs a call that answers with a JSON text.
///
/// # Safety
/// As for the functions of the header.
unsafe fn answer(
    rest: *const tinkex_rest,
    json: *mut *mut tinkex_text,
    error: *mut *mut tinkex_error,
    call: impl FnOnce(&Clients) -> Result<Value>,
) -> tinkex_code {
    // SAFETY: promised by the caller.
    unsafe {
        let json = Out::cleared(json, ptr::null_mut());
        border::run(error, || {
            json.required("json")?;
            let clients = object::get(rest)?.clone();
            json.set(Text::json(&call(&clients)?));
            Ok(())
        })
    }
}

/// Runs a call without an answer.
///
/// # Safety
/// As for the functions of the header.
unsafe fn command(
    rest: *const tinkex_rest,
    error: *mut *mut tinkex_error,
    call: impl FnOnce(&Clients) -> Result<()>,
) -> tinkex_code {
    // SAFETY: promised by the caller.
    unsafe { border::run(error, || call(&object::get(rest)?.clone())) }
}

/// The error of an invalid argument, with the name that the argument has in C.
fn named(error: Error, name: &str) -> Fault {
    match error.violation() {
        Some(violation) => Fault::invalid(name, format!("`{name}`: {}", violation.problem)),
        None => error.into(),
    }
}

/// Part of a list.
#[derive(Debug, PartialEq, Eq)]
struct Range {
    /// Largest number of entries. `None`: all.
    limit: Option<usize>,
    /// Number of entries to skip.
    offset: u64,
}

impl Range {
    fn new(limit: i64, offset: i64) -> Result<Self> {
        // A limit above `usize::MAX` is above the length of every list.
        let limit = u64::try_from(limit).ok().map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(Range { limit, offset: border::unsigned(offset, "offset")? })
    }

    /// Reads this part of a list that the server sends in pages. Also returns the length of the whole list, if known.
    fn read<T: Send + 'static>(&self, list: Listing<T>) -> Result<(Vec<T>, Option<u64>)> {
        const LARGEST_PAGE: usize = 100;
        let limit = self.limit.unwrap_or(usize::MAX);
        // The cast is lossless, because the value is at most 100.
        let page_size = limit.min(LARGEST_PAGE) as u32;
        let mut list = list.start_at(self.offset).page_size(page_size);
        let items = list.by_ref().take(limit).collect::<crate::Result<Vec<T>>>()?;
        Ok((items, list.total_count()))
    }

    /// Cuts this part out of a whole list.
    fn cut<T>(&self, all: Vec<T>) -> Vec<T> {
        let offset = usize::try_from(self.offset).unwrap_or(usize::MAX);
        all.into_iter().skip(offset).take(self.limit.unwrap_or(usize::MAX)).collect()
    }

    /// Adds the position of this part to its JSON.
    fn label(&self, mut value: Value, total: Option<u64>) -> Value {
        value["offset"] = self.offset.into();
        value["total_count"] = total.into();
        value
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_rest_new(
    options: *const tinkex_service_options,
    out: *mut *mut tinkex_rest,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(out, ptr::null_mut());
        border::run(error, || {
            out.required("out")?;
            let service = service_options::builder(options)?.build()?;
            out.set(Object::make(Clients::of(&service)));
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_service_rest(
    service: *const tinkex_service,
    out: *mut *mut tinkex_rest,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(out, ptr::null_mut());
        border::run(error, || {
            out.required("out")?;
            out.set(Object::make(Clients::of(&Service::client(service)?)));
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_rest_ref(rest: *const tinkex_rest) -> *mut tinkex_rest {
    // SAFETY: see the header.
    border::value(ptr::null_mut(), || Ok(Object::make(unsafe { object::get(rest) }?.clone())))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_rest_free(rest: *mut *mut tinkex_rest) {
    // SAFETY: see the header.
    unsafe { object::free(rest) }
}
