//! `tinkex_progress`: how far a download is, for a callback of C code.

use std::ptr;

use super::border::{self, Fault, Result};
use super::constants;
use super::error::{ErrorInfo, tinkex_error};
use super::in_turn::InTurn;
use super::object::{self, Kind, Object, User};
use crate::download::{DownloadPhase, DownloadProgress};

pub type tinkex_progress = Object<ProgressView>;

/// The progress of a download at one moment.
pub struct ProgressView {
    phase: i32,
    n_bytes: i64,
    total_bytes: i64,
    n_files: i64,
    total_files: i64,
    /// Why another attempt is made.
    error: Option<tinkex_error>,
}

impl Kind for ProgressView {
    const NAME: &'static str = "progress";
}

/// Value of a total that is not known yet.
const UNKNOWN: i64 = -1;

impl From<DownloadProgress> for ProgressView {
    fn from(progress: DownloadProgress) -> Self {
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let phase = constants::phase(&progress.phase);
        let error = match progress.phase {
            DownloadPhase::Retrying(error) => Some(Object::embedded(ErrorInfo::from(Fault::Sdk(error)))),
            _ => None,
        };
        ProgressView {
            phase,
            n_bytes: number(progress.n_bytes),
            total_bytes: progress.total_bytes.map_or(UNKNOWN, number),
            n_files: number(progress.n_files as u64),
            total_files: progress.total_files.map_or(UNKNOWN, |n| number(n as u64)),
            error,
        }
    }
}

type ProgressFn = unsafe extern "C-unwind" fn(*mut std::ffi::c_void, *const tinkex_progress);

/// A registered callback. Downloads that use the same options share it.
pub(super) struct Receiver {
    function: ProgressFn,
    user: User,
    in_turn: InTurn<DownloadProgress>,
}

impl Receiver {
    pub(super) fn new(function: ProgressFn, user: User) -> Self {
        Receiver { function, user, in_turn: InTurn::new() }
    }

    pub(super) fn receive(&self, progress: DownloadProgress) {
        self.in_turn.call(progress, |progress| {
            let progress = Object::embedded(ProgressView::from(progress));
            // SAFETY: the caller who registered the function promises that it takes these pointers. The progress lives
            // until it returns.
            unsafe { (self.function)(self.user.pointer(), &raw const progress) };
        });
    }
}

/// Reads a part of a progress.
///
/// # Safety
/// As for [`object::get`].
unsafe fn part<T>(progress: *const tinkex_progress, fallback: T, get: impl FnOnce(&ProgressView) -> T) -> T {
    // SAFETY: promised by the caller.
    border::value(fallback, || -> Result<T> { Ok(get(unsafe { object::get(progress) }?)) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_progress_phase(progress: *const tinkex_progress) -> i32 {
    // SAFETY: see the header.
    unsafe { part(progress, 0, |it| it.phase) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_progress_bytes(progress: *const tinkex_progress) -> i64 {
    // SAFETY: see the header.
    unsafe { part(progress, 0, |it| it.n_bytes) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_progress_total_bytes(progress: *const tinkex_progress) -> i64 {
    // SAFETY: see the header.
    unsafe { part(progress, UNKNOWN, |it| it.total_bytes) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_progress_files(progress: *const tinkex_progress) -> i64 {
    // SAFETY: see the header.
    unsafe { part(progress, 0, |it| it.n_files) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_progress_total_files(progress: *const tinkex_progress) -> i64 {
    // SAFETY: see the header.
    unsafe { part(progress, UNKNOWN, |it| it.total_files) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_progress_error(progress: *const tinkex_progress) -> *const tinkex_error {
    // SAFETY: see the header.
    unsafe { part(progress, ptr::null(), |it| it.error.as_ref().map_or(ptr::null(), ptr::from_ref)) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::ffi::CStr;

    use super::super::code;
    use super::super::error::{tinkex_error_code, tinkex_error_free, tinkex_error_message};
    use super::*;
    use crate::error::Error;

    #[test]
    fn unknown_totals_are_negative_and_a_failed_attempt_has_its_error() {
        let first = Object::embedded(ProgressView::from(DownloadProgress::default()));
        let retrying = DownloadProgress {
            phase: DownloadPhase::Retrying(Error::decode("half of it")),
            n_bytes: 5,
            total_bytes: Some(9),
            n_files: 1,
            total_files: Some(2),
        };
        let retrying = Object::embedded(ProgressView::from(retrying));
        // SAFETY: the pointers are valid.
        unsafe {
            let numbers = |progress: *const tinkex_progress| {
                [
                    i64::from(tinkex_progress_phase(progress)),
                    tinkex_progress_bytes(progress),
                    tinkex_progress_total_bytes(progress),
                    tinkex_progress_files(progress),
                    tinkex_progress_total_files(progress),
                ]
            };
            assert_eq!(numbers(&raw const first), [i64::from(constants::PHASE_PREPARING), 0, -1, 0, -1]);
            assert!(tinkex_progress_error(&raw const first).is_null());
            assert_eq!(numbers(&raw const retrying), [i64::from(constants::PHASE_RETRYING), 5, 9, 1, 2]);
            let error = tinkex_progress_error(&raw const retrying);
            assert_eq!(tinkex_error_code(error), code::DECODE.number());
            // A borrowed error is not freed.
            tinkex_error_free(&mut error.cast_mut());
            let message = CStr::from_ptr(tinkex_error_message(error)).to_str().unwrap();
            assert!(message.contains("half of it"), "{message}");
            assert_eq!(numbers(ptr::null()), [0, 0, -1, 0, -1]);
        }
    }
}
