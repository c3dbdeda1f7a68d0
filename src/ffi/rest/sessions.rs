//! Functions about sessions.

use std::ffi::c_char;

use super::{Range, answer, command, search_query, tinkex_rest};
use crate::ffi::border;
use crate::ffi::error::tinkex_error;
use crate::ffi::text::tinkex_text;
use crate::ffi::tinkex_code;
use crate::report_json;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_rest_list_sessions(
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
            let (ids, total) = range.read(clients.rest.list_sessions())?;
            Ok(range.label(report_json::sessions(&ids), total))
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_rest_search_sessions(
    rest: *const tinkex_rest,
    query_json: *const c_char,
    cursor: *const c_char,
    json: *mut *mut tinkex_text,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        answer(rest, json, error, |clients| {
            let query = border::optional_text(query_json, "query_json")?;
            let search = query.map(search_query::search).transpose()?.unwrap_or_default();
            let cursor = border::optional_text(cursor, "cursor")?;
            let cursor = cursor.map(search_query::cursor).transpose()?;
            let page = clients.rest.search_sessions(search).page(cursor.as_ref())?;
            Ok(report_json::found_sessions(&page))
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_rest_get_session(
    rest: *const tinkex_rest,
    session_id: *const c_char,
    json: *mut *mut tinkex_text,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        answer(rest, json, error, |clients| {
            let id = border::text(session_id, "session_id")?;
            Ok(report_json::session(&clients.rest.get_session(id)?))
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_rest_assign_project(
    rest: *const tinkex_rest,
    session_id: *const c_char,
    project_id: *const c_char,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        command(rest, error, |clients| {
            let id = border::text(session_id, "session_id")?;
            let project = border::text(project_id, "project_id")?;
            Ok(clients.rest.assign_session_project(id, project)?)
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_rest_export_trace(
    rest: *const tinkex_rest,
    session_id: *const c_char,
    json: *mut *mut tinkex_text,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        answer(rest, json, error, |clients| {
            let id = border::text(session_id, "session_id")?;
            Ok(report_json::trace_export(id, &clients.rest.export_session_trace(id)?))
        })
    }
}
