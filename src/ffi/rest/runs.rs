//! Functions about training runs, weights and samplers.

use std::ffi::c_char;

use super::{Range, answer, tinkex_rest};
use crate::ffi::border;
use crate::ffi::error::tinkex_error;
use crate::ffi::text::tinkex_text;
use crate::ffi::tinkex_code;
use crate::report_json;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_rest_list_runs(
    rest: *const tinkex_rest,
    limit: i64,
    offset: i64,
    json: *mut *mut tinkex_text,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        answer(rest, json, error, |clients| {
            let range = Range::new(limit, offset)?;
            let (runs, total) = range.read(clients.rest.list_training_runs())?;
            Ok(range.label(report_json::runs(&runs), total))
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_rest_get_run(
    rest: *const tinkex_rest,
    run_id_or_path: *const c_char,
    json: *mut *mut tinkex_text,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        answer(rest, json, error, |clients| {
            let text = border::text(run_id_or_path, "run_id_or_path")?;
            let run = if text.starts_with("tinker://") {
                clients.rest.get_training_run_by_tinker_path(text)?
            } else {
                clients.rest.get_training_run(text)?
            };
            Ok(report_json::run(&run))
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_rest_weights_info(
    rest: *const tinkex_rest,
    path: *const c_char,
    json: *mut *mut tinkex_text,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        answer(rest, json, error, |clients| {
            let path = border::text(path, "path")?;
            Ok(report_json::weights_info(&clients.rest.get_weights_info_by_tinker_path(path)?))
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_rest_get_sampler(
    rest: *const tinkex_rest,
    sampler_id: *const c_char,
    json: *mut *mut tinkex_text,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        answer(rest, json, error, |clients| {
            let id = border::text(sampler_id, "sampler_id")?;
            Ok(report_json::sampler(&clients.rest.get_sampler(id)?))
        })
    }
}
