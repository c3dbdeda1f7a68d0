//! Functions about the server, the account and its costs.

use std::ffi::c_char;

use serde_json::json;

use super::{answer, named, tinkex_rest};
use crate::ffi::border::{self, Fault, Result};
use crate::ffi::error::tinkex_error;
use crate::ffi::text::tinkex_text;
use crate::ffi::tinkex_code;
use crate::report_json;
use crate::types::{AuditEventType, Day, Timestamp};

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_rest_health(
    rest: *const tinkex_rest,
    json: *mut *mut tinkex_text,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe { answer(rest, json, error, |clients| Ok(json!({ "status": clients.rest.healthz()? }))) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_rest_capabilities(
    rest: *const tinkex_rest,
    json: *mut *mut tinkex_text,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        answer(rest, json, error, |clients| {
            Ok(report_json::capabilities(&clients.rest.get_server_capabilities()?))
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_rest_whoami(
    rest: *const tinkex_rest,
    json: *mut *mut tinkex_text,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe { answer(rest, json, error, |clients| Ok(report_json::identity(&clients.rest.whoami()?))) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_rest_api_key(
    rest: *const tinkex_rest,
    revoke: i32,
    json: *mut *mut tinkex_text,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        answer(rest, json, error, |clients| {
            if revoke == 0 {
                return Ok(report_json::api_key(&clients.rest.get_api_key_info()?));
            }
            clients.rest.revoke_api_key()?;
            Ok(json!({ "revoked": true }))
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_rest_audit_log(
    rest: *const tinkex_rest,
    event_type: *const c_char,
    day: *const c_char,
    json: *mut *mut tinkex_text,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        answer(rest, json, error, |clients| {
            let event_type = border::optional_text(event_type, "event_type")?.map(audit_event_type);
            let day = border::optional_text(day, "day")?
                .map(|day| day.parse::<Day>().map_err(|error| named(error, "day")))
                .transpose()?;
            let entries = clients.admin.get_audit_log(event_type.unwrap_or_default(), day.as_ref())?;
            Ok(report_json::audit_log(&entries))
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_rest_billing_usage(
    rest: *const tinkex_rest,
    starting_on: *const c_char,
    ending_before: *const c_char,
    json: *mut *mut tinkex_text,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        answer(rest, json, error, |clients| {
            let starting_on = time(border::text(starting_on, "starting_on")?, "starting_on")?;
            let ending_before = time(border::text(ending_before, "ending_before")?, "ending_before")?;
            let usage = clients.admin.get_billing_usage(&starting_on, &ending_before)?;
            Ok(report_json::billing_usage(&usage))
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_rest_storage_usage(
    rest: *const tinkex_rest,
    project_id: *const c_char,
    json: *mut *mut tinkex_text,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        answer(rest, json, error, |clients| {
            let project = border::optional_text(project_id, "project_id")?;
            if project == Some("") {
                return Err(Fault::invalid(
                    "project_id",
                    "`project_id` is empty; NULL stands for all projects",
                ));
            }
            let usage = clients.admin.get_current_checkpoint_storage_usage(project)?;
            Ok(report_json::storage_usage(&usage))
        })
    }
}

/// A filter of this name. The server refuses names that it does not know.
fn audit_event_type(name: &str) -> AuditEventType {
    serde_json::from_value(name.into()).unwrap_or_else(|_| AuditEventType::Other(name.into()))
}

/// A time as RFC 3339, or the start of a day in UTC.
fn time(text: &str, name: &str) -> Result<Timestamp> {
    let time = match text.parse::<Day>() {
        Ok(day) => format!("{day}T00:00:00Z").parse(),
        Err(_) => text.parse(),
    };
    time.map_err(|error| named(error, name))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ffi::code;

    #[test]
    fn a_time_may_be_a_day() {
        let text = |text: &str| time(text, "starting_on").map(|time| time.as_str().to_string());
        assert_eq!(text("2026-11-20").unwrap(), "2026-11-20T00:00:00Z");
        assert_eq!(text("2026-11-20T09:00:00+02:00").unwrap(), "2026-11-20T09:00:00+02:00");
        let fault = text("2026-02-30").unwrap_err();
        assert_eq!(fault.code(), code::INVALID_INPUT);
        let Fault::Misuse { message, path, .. } = fault else { panic!("an error of the arguments") };
        assert_eq!(path.as_deref(), Some("starting_on"));
        assert!(message.contains("2026-02-30"), "{message}");
    }

    #[test]
    fn a_filter_that_is_not_known_is_sent_as_it_is() {
        assert_eq!(audit_event_type("teams"), AuditEventType::Teams);
        assert_eq!(audit_event_type("robots"), AuditEventType::Other("robots".into()));
    }
}
