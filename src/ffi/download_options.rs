//! `tinkex_download_options`: settings of downloads, with the callback for their progress.

use std::ffi::{c_char, c_void};
use std::ptr;
use std::time::Duration;

use super::border::{self, Fault, Result, text};
use super::cancel::tinkex_cancel;
use super::object::{self, Kind, Object, User};
use super::options::{self, Holder, Sticky};
use super::progress::Receiver;
use super::{tinkex_progress_fn, tinkex_release_fn};
use crate::download::DownloadOptions;

pub type tinkex_download_options = Object<DownloadSettings>;

#[derive(Default)]
pub struct DownloadSettings(Sticky<DownloadOptions>);

impl Kind for DownloadSettings {
    const NAME: &'static str = "download_options";
}

impl Holder for DownloadSettings {
    type Options = DownloadOptions;

    fn sticky(&self) -> &Sticky<DownloadOptions> {
        &self.0
    }
}

const TEXTS: [&str; 2] = ["destination", "parent"];
const FLAGS: [&str; 3] = ["force", "resume", "as_tar"];
const NUMBERS: [&str; 2] = ["concurrency", "stall_ms"];

fn with_text(options: DownloadOptions, name: &str, value: &str) -> Result<DownloadOptions> {
    Ok(match name {
        "destination" => options.destination(value),
        "parent" => options.parent(value),
        _ => return Err(Fault::name("text of a download", name, &TEXTS)),
    })
}

fn with_flag(options: DownloadOptions, name: &str, on: bool) -> Result<DownloadOptions> {
    Ok(match name {
        "force" => options.force(on),
        "resume" => options.resume(on),
        "as_tar" => options.as_tar(on),
        _ => return Err(Fault::name("flag of a download", name, &FLAGS)),
    })
}

fn with_number(options: DownloadOptions, name: &str, value: i64) -> Result<DownloadOptions> {
    if !NUMBERS.contains(&name) {
        return Err(Fault::name("number of a download", name, &NUMBERS));
    }
    let number: u64 = border::unsigned(value, name)?;
    if number == 0 {
        return Err(Fault::invalid(name, format!("`{name}` must be at least 1")));
    }
    Ok(match name {
        "stall_ms" => options.stall(Duration::from_millis(number)),
        _ => options.concurrency(border::unsigned(value, name)?),
    })
}

/// The settings of a handle; NULL has the defaults.
///
/// # Errors
/// The first mistake of the setters.
///
/// # Safety
/// As for [`object::get`].
pub(super) unsafe fn read(options: *const tinkex_download_options) -> Result<DownloadOptions> {
    // SAFETY: promised by the caller.
    unsafe { options::read(options) }
}

/// The body of a setter.
///
/// # Safety
/// As for [`object::get`].
unsafe fn set(
    options: *mut tinkex_download_options,
    change: impl FnOnce(DownloadOptions) -> Result<DownloadOptions>,
) {
    // Dropped outside of the lock of the options, because it may hold the last reference to a callback of C code.
    let mut replaced = None;
    // SAFETY: promised by the caller.
    unsafe {
        options::set(options, |it| {
            let changed = change(it.clone())?;
            replaced = Some(std::mem::replace(it, changed));
            Ok(())
        });
    }
    border::drop_caught(replaced);
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_download_options_new() -> *mut tinkex_download_options {
    border::value(ptr::null_mut(), || Ok(Object::make(DownloadSettings::default())))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_download_options_free(options: *mut *mut tinkex_download_options) {
    // SAFETY: see the header.
    unsafe { object::free(options) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_download_options_set_text(
    options: *mut tinkex_download_options,
    name: *const c_char,
    value: *const c_char,
) {
    // SAFETY: see the header.
    unsafe { set(options, |it| with_text(it, text(name, "name")?, text(value, "value")?)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_download_options_set_flag(
    options: *mut tinkex_download_options,
    name: *const c_char,
    on: i32,
) {
    // SAFETY: see the header.
    unsafe { set(options, |it| with_flag(it, text(name, "name")?, on != 0)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_download_options_set_number(
    options: *mut tinkex_download_options,
    name: *const c_char,
    value: i64,
) {
    // SAFETY: see the header.
    unsafe { set(options, |it| with_number(it, text(name, "name")?, value)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_download_options_set_cancel(
    options: *mut tinkex_download_options,
    cancel: *const tinkex_cancel,
) {
    // SAFETY: see the header.
    unsafe { set(options, |it| Ok(it.cancelled_by(object::get(cancel)?.token()))) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_download_options_set_progress(
    options: *mut tinkex_download_options,
    progress: tinkex_progress_fn,
    user: *mut c_void,
    release: tinkex_release_fn,
) {
    // Released by the last owner: these options, their downloads, or this call if it fails.
    let mut user = Some(User::new(user, release));
    // SAFETY: see the header.
    unsafe {
        set(options, |it| {
            let function = progress.ok_or_else(|| Fault::null("progress"))?;
            let receiver = user.take().map(|user| Receiver::new(function, user));
            Ok(match receiver {
                Some(receiver) => it.on_progress(move |progress| receiver.receive(progress.clone())),
                None => it,
            })
        });
    }
    border::drop_caught(user);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::code;
    use super::*;

    #[test]
    fn each_setting_has_its_name_and_its_range() {
        let options = DownloadOptions::default;
        TEXTS.iter().for_each(|name| drop(with_text(options(), name, "x").unwrap()));
        FLAGS.iter().for_each(|name| drop(with_flag(options(), name, true).unwrap()));
        NUMBERS.iter().for_each(|name| drop(with_number(options(), name, 1).unwrap()));
        let path = "tinker://r/weights/a".parse().unwrap();
        let set = with_flag(with_text(options(), "parent", "p").unwrap(), "as_tar", true).unwrap();
        assert_eq!(set.destination_of(&path), std::path::Path::new("p/r_weights_a.tar"));
        assert_eq!(with_text(options(), "path", "x").unwrap_err().code(), code::NAME);
        assert_eq!(with_flag(options(), "overwrite", true).unwrap_err().code(), code::NAME);
        assert_eq!(with_number(options(), "stall", 0).unwrap_err().code(), code::NAME);
        for name in NUMBERS {
            for wrong in [0, -1, i64::MIN] {
                assert_eq!(with_number(options(), name, wrong).unwrap_err().code(), code::INVALID_INPUT);
            }
        }
    }

    #[test]
    fn a_callback_is_released_once_when_it_is_replaced_refused_or_freed() {
        unsafe extern "C-unwind" fn ignore(_: *mut c_void, _: *const super::super::tinkex_progress) {}
        unsafe extern "C-unwind" fn count(user: *mut c_void) {
            // SAFETY: the pointer is that of the counter below.
            unsafe { *user.cast::<i32>() += 1 }
        }
        let mut n_released = [0; 3];
        // SAFETY: all pointers are valid.
        unsafe {
            let mut options = tinkex_download_options_new();
            for released in &mut n_released[..2] {
                let user = (&raw mut *released).cast();
                tinkex_download_options_set_progress(options, Some(ignore), user, Some(count));
            }
            assert_eq!(n_released, [1, 0, 0]);
            let user = (&raw mut n_released[2]).cast();
            tinkex_download_options_set_progress(options, None, user, Some(count));
            assert_eq!(n_released, [1, 0, 1]);
            assert_eq!(read(options).unwrap_err().code(), code::NULL);
            tinkex_download_options_free(&raw mut options);
        }
        assert_eq!(n_released, [1, 1, 1]);
    }
}
