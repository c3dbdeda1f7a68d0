#![allow(clippy::unwrap_used)]

use std::ffi::{CString, c_char};
use std::ptr;

use serde_json::json;

use super::checkpoints::*;
use super::runs::*;
use super::sessions::*;
use super::*;
use crate::ffi::code;
use crate::ffi::text::{tinkex_text_data, tinkex_text_free};
use crate::testing::FakeServer;
use crate::types::{LoraConfig, Ttl};

#[test]
fn a_range_takes_no_limit_and_no_negative_offset() {
    assert_eq!(Range::new(-1, 0).unwrap(), Range { limit: None, offset: 0 });
    let two = Range::new(2, 1).unwrap();
    assert_eq!(two.cut(vec![1, 2, 3, 4]), [2, 3]);
    assert_eq!(Range::new(-1, 3).unwrap().cut(vec![1, 2, 3, 4]), [4]);
    assert!(Range::new(0, 0).unwrap().cut(vec![1]).is_empty());
    assert!(Range::new(5, i64::MAX).unwrap().cut(vec![1]).is_empty());
    assert_eq!(Range::new(1, -1).unwrap_err().code(), code::INVALID_INPUT);
    let page = json!({ "runs": [], "offset": 1, "total_count": 4 });
    assert_eq!(two.label(json!({ "runs": [] }), Some(4)), page);
}

/// Calls a function and reads its JSON.
fn json_of(
    call: impl FnOnce(*mut *mut tinkex_text) -> tinkex_code,
) -> std::result::Result<Value, tinkex_code> {
    let mut text = ptr::dangling_mut();
    let code = call(&raw mut text);
    if code != 0 {
        assert!(text.is_null(), "the output is cleared on failure");
        return Err(code);
    }
    // SAFETY: the text was made by the call.
    unsafe {
        let json = std::ffi::CStr::from_ptr(tinkex_text_data(text)).to_str().unwrap();
        let value = serde_json::from_str(json).unwrap();
        tinkex_text_free(&raw mut text);
        Ok(value)
    }
}

/// A text for C that is never freed.
fn c(text: &str) -> *const c_char {
    CString::new(text).unwrap().into_raw()
}

/// A server with a run that has three states.
fn rest_with_states() -> (FakeServer, *mut tinkex_rest) {
    let server = FakeServer::new();
    let service = server.in_memory().build().unwrap();
    let training = service.create_lora_training_client("fake/model", LoraConfig::default()).unwrap();
    for name in ["a", "b", "c"] {
        training.save_state(name, Ttl::Never).wait().unwrap();
    }
    (server, Object::make(Clients::of(&service)))
}

#[test]
fn lists_are_read_in_parts() {
    let (server, mut rest) = rest_with_states();
    // SAFETY: all pointers are valid or NULL.
    unsafe {
        let names = |run, limit, offset| {
            let page =
                json_of(|json| tinkex_rest_list_checkpoints(rest, run, limit, offset, json, ptr::null_mut()));
            page.map(|page| {
                let all = page["checkpoints"].as_array().unwrap().iter();
                let names: Vec<String> =
                    all.map(|it| it["checkpoint_id"].as_str().unwrap().to_string()).collect();
                (names.join(" "), page["offset"].as_u64(), page["total_count"].as_u64())
            })
        };
        let runs = json_of(|json| tinkex_rest_list_runs(rest, -1, 0, json, ptr::null_mut())).unwrap();
        let run = c(runs["runs"][0]["training_run_id"].as_str().unwrap());
        let all = names(run, -1, 0).unwrap();
        assert_eq!(all.0.split(' ').count(), 3);
        assert_eq!((all.1, all.2), (Some(0), Some(3)));
        assert_eq!(names(run, 1, 1).unwrap(), ("weights/b".into(), Some(1), Some(3)));
        assert_eq!(names(ptr::null(), 2, 0).unwrap(), ("weights/c weights/b".into(), Some(0), Some(3)));
        assert_eq!(names(ptr::null(), -1, 2).unwrap(), ("weights/a".into(), Some(2), Some(3)));
        let n_requests = server.requests().len();
        assert_eq!(names(ptr::null(), 0, 0).unwrap(), (String::new(), Some(0), None));
        assert_eq!(names(ptr::null(), 1, -1), Err(code::INVALID_INPUT.number()));
        assert_eq!(server.requests().len(), n_requests);
        let sessions = json_of(|json| tinkex_rest_list_sessions(rest, -1, 0, json, ptr::null_mut())).unwrap();
        assert_eq!(sessions["sessions"].as_array().unwrap().len(), 1);
        tinkex_rest_free(&raw mut rest);
    }
    assert!(rest.is_null());
}

#[test]
fn deletions_fail_only_if_nothing_was_deleted() {
    let (server, mut rest) = rest_with_states();
    // SAFETY: all pointers are valid or NULL.
    unsafe {
        let runs = json_of(|json| tinkex_rest_list_runs(rest, 1, 0, json, ptr::null_mut())).unwrap();
        let run = runs["runs"][0]["training_run_id"].as_str().unwrap().to_string();
        let keep_last = |n, dry_run| {
            json_of(|json| tinkex_rest_keep_last(rest, c(&run), n, dry_run, json, ptr::null_mut())).unwrap()
        };
        let plan = keep_last(2, 1);
        assert_eq!((plan["keep"].as_array().unwrap().len(), plan.get("deleted_count")), (2, None));
        let done = keep_last(2, 0);
        assert_eq!((&done["delete"], &done["deleted_count"]), (&plan["delete"], &json!(1)));
        assert_eq!(keep_last(2, 0)["deleted_count"], json!(0));

        let path = |name: &str| format!("tinker://{run}/weights/{name}");
        let delete = |paths: &[&str]| {
            let paths: Vec<_> = paths.iter().map(|path| c(path)).collect();
            json_of(|json| {
                tinkex_rest_delete_checkpoints(rest, paths.as_ptr(), paths.len(), json, ptr::null_mut())
            })
        };
        let n_requests = server.requests().len();
        assert_eq!(delete(&[&path("c"), "weights/c"]), Err(code::INVALID_INPUT.number()));
        assert_eq!(server.requests().len(), n_requests, "nothing is deleted if a path is wrong");
        let done = delete(&[&path("lost"), &path("c")]).unwrap();
        assert_eq!(
            (&done["deleted_count"], &done["failed"][0]["tinker_path"]),
            (&json!(1), &json!(path("lost")))
        );
        assert_eq!(delete(&[&path("lost")]), Err(code::NOT_FOUND.number()));
        assert_eq!(delete(&[]), Ok(json!({ "deleted_count": 0, "failed": [] })));
        tinkex_rest_free(&raw mut rest);
    }
}

#[test]
fn wrong_arguments_are_refused_before_anything_is_sent() {
    let (server, mut rest) = rest_with_states();
    let n_requests = server.requests().len();
    // SAFETY: all pointers are valid or NULL.
    unsafe {
        let null: *mut *mut tinkex_error = ptr::null_mut();
        let path = c("tinker://r/weights/x");
        assert_eq!(tinkex_rest_list_runs(rest, 1, 0, null.cast(), null), code::NULL.number());
        for (call, expected) in [
            (json_of(|json| tinkex_rest_get_run(rest, ptr::null(), json, null)), code::NULL),
            (json_of(|json| tinkex_rest_get_run(ptr::null(), path, json, null)), code::NULL),
            (json_of(|json| tinkex_rest_weights_info(rest, c("x"), json, null)), code::INVALID_INPUT),
            (json_of(|json| tinkex_rest_get_sampler(rest, c"\xff".as_ptr(), json, null)), code::UTF8),
            (json_of(|json| tinkex_rest_external_urls(rest, path, json, null)), code::INVALID_INPUT),
            (
                json_of(|json| tinkex_rest_search_sessions(rest, c("{"), ptr::null(), json, null)),
                code::INVALID_INPUT,
            ),
        ] {
            assert_eq!(call, Err(expected.number()));
        }
        assert_eq!(tinkex_rest_set_ttl(rest, path, 0, null), code::INVALID_INPUT.number());
        assert_eq!(tinkex_rest_set_public(rest, c("x"), 1, null), code::INVALID_INPUT.number());
        assert_eq!(tinkex_rest_assign_project(rest, c("s"), ptr::null(), null), code::NULL.number());
        assert_eq!(server.requests().len(), n_requests);
        tinkex_rest_free(&raw mut rest);
    }
}
