//! Functions about checkpoints.

use std::ffi::c_char;
use std::ptr;
use std::time::Duration;

use serde_json::Value;

use super::{Clients, Range, answer, command, named, tinkex_rest};
use crate::ffi::border::{self, Fault, Out, Result};
use crate::ffi::download_options::{self, tinkex_download_options};
use crate::ffi::error::tinkex_error;
use crate::ffi::object;
use crate::ffi::save_options::{self, tinkex_save_options};
use crate::ffi::text::{Text, tinkex_text};
use crate::ffi::tinkex_code;
use crate::report_json;
use crate::types::{AccessToken, CheckpointPath, CopyOptions, Ttl};

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_rest_list_checkpoints(
    rest: *const tinkex_rest,
    run_id: *const c_char,
    limit: i64,
    offset: i64,
    json: *mut *mut tinkex_text,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        answer(rest, json, error, |clients| {
            let range = Range::new(limit, offset)?;
            let run_id = border::optional_text(run_id, "run_id")?;
            let (checkpoints, total) = match run_id {
                // The server sends the checkpoints of one run in one answer.
                Some(run_id) => {
                    let all = clients.rest.list_checkpoints(run_id)?;
                    let total = all.len() as u64;
                    (range.cut(all), Some(total))
                }
                None => range.read(clients.rest.list_user_checkpoints())?,
            };
            Ok(range.label(report_json::checkpoints(run_id, &checkpoints), total))
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_rest_delete_checkpoints(
    rest: *const tinkex_rest,
    paths: *const *const c_char,
    n: usize,
    json: *mut *mut tinkex_text,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        answer(rest, json, error, |clients| {
            let paths = border::array(paths, n, "paths")?.iter().enumerate().map(|(i, path)| {
                let name = format!("paths[{i}]");
                border::text(*path, &name)?.parse().map_err(|error| named(error, &name))
            });
            delete(clients, paths.collect::<Result<Vec<CheckpointPath>>>()?)
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_rest_keep_last(
    rest: *const tinkex_rest,
    run_id: *const c_char,
    n: usize,
    dry_run: i32,
    json: *mut *mut tinkex_text,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        answer(rest, json, error, |clients| {
            let plan = clients.rest.keep_last(border::text(run_id, "run_id")?, n)?;
            let mut value = report_json::checkpoint_plan(&plan);
            if dry_run == 0 {
                let mut deletion = delete(clients, plan.paths_to_delete())?;
                for name in ["deleted_count", "failed"] {
                    value[name] = deletion[name].take();
                }
            }
            Ok(value)
        })
    }
}

/// Deletes checkpoints and returns the result as JSON.
///
/// # Errors
/// The first error, if no checkpoint could be deleted. If some could, the JSON names the others.
fn delete(clients: &Clients, paths: Vec<CheckpointPath>) -> Result<Value> {
    let results = clients.rest.delete_checkpoints(paths);
    let deletion = report_json::deletion(&results);
    let is_any_deleted = results.iter().any(|(_, result)| result.is_ok());
    match results.into_iter().find_map(|(_, result)| result.err()) {
        Some(error) if !is_any_deleted => Err(error.into()),
        _ => Ok(deletion),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_rest_set_public(
    rest: *const tinkex_rest,
    path: *const c_char,
    on: i32,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        command(rest, error, |clients| {
            let path = border::text(path, "path")?;
            if on == 0 {
                clients.rest.unpublish_checkpoint_from_tinker_path(path)?;
            } else {
                clients.rest.publish_checkpoint_from_tinker_path(path)?;
            }
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_rest_set_ttl(
    rest: *const tinkex_rest,
    path: *const c_char,
    seconds: i64,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        command(rest, error, |clients| {
            let path = border::text(path, "path")?;
            // A negative number means: until deleted.
            let ttl =
                u64::try_from(seconds).map_or(Ttl::Never, |seconds| Ttl::After(Duration::from_secs(seconds)));
            ttl.seconds().map_err(|error| named(error, "seconds"))?;
            Ok(clients.rest.set_checkpoint_ttl_from_tinker_path(path, ttl)?)
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_rest_copy_weights(
    rest: *const tinkex_rest,
    path: *const c_char,
    access_token: *const c_char,
    options: *const tinkex_save_options,
    new_path: *mut *mut tinkex_text,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let new_path = Out::cleared(new_path, ptr::null_mut());
        border::run(error, || {
            new_path.required("new_path")?;
            let clients = object::get(rest)?.clone();
            let path = border::text(path, "path")?;
            let token = border::optional_text(access_token, "access_token")?;
            let ttl = copy_ttl(&save_options::read(options)?)?;
            let options = CopyOptions {
                ttl,
                weights_access_token: token.map(AccessToken::new),
                ..CopyOptions::default()
            };
            let copy = clients.rest.copy_weights(path, &options)?;
            new_path.set(Text::make(copy.as_str()));
            Ok(())
        })
    }
}

/// The one option that a copy takes.
///
/// # Errors
/// Another option is set.
fn copy_ttl(options: &save_options::Settings) -> Result<Ttl> {
    let others = [
        ("overwrite", options.overwrite),
        ("metadata", !options.metadata.is_empty()),
        ("recipients", !options.recipients.is_empty()),
    ];
    match others.iter().find(|(_, is_set)| *is_set) {
        None => Ok(options.ttl),
        Some((name, _)) => {
            Err(Fault::invalid(*name, format!("`{name}` cannot be set for a copy, only the ttl")))
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_rest_archive_url(
    rest: *const tinkex_rest,
    path: *const c_char,
    json: *mut *mut tinkex_text,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        answer(rest, json, error, |clients| {
            let path = border::text(path, "path")?;
            Ok(report_json::archive_url(&clients.rest.get_checkpoint_archive_url(path)?))
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_rest_external_urls(
    rest: *const tinkex_rest,
    path: *const c_char,
    json: *mut *mut tinkex_text,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        answer(rest, json, error, |clients| {
            let path = border::text(path, "path")?;
            Ok(report_json::external_urls(&clients.rest.get_external_weights_urls(path)?))
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_rest_download(
    rest: *const tinkex_rest,
    path: *const c_char,
    options: *const tinkex_download_options,
    json: *mut *mut tinkex_text,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        answer(rest, json, error, |clients| {
            let path = border::text(path, "path")?;
            let options = download_options::read(options)?;
            Ok(report_json::downloaded(&clients.rest.download(path, &options)?))
        })
    }
}
