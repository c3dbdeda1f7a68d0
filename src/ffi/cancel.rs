//! `tinkex_cancel`: cancels a group of samples or downloads.

use super::border;
use super::object::{self, Kind, Object};
use crate::sync::CancelToken;

pub type tinkex_cancel = Object<Cancel>;

/// A token. `tinkex_sampling_with_cancel` makes handles whose samples it cancels; options of downloads hold it.
pub struct Cancel {
    token: CancelToken,
}

impl Kind for Cancel {
    const NAME: &'static str = "cancel";
}

impl Cancel {
    pub(super) fn token(&self) -> &CancelToken {
        &self.token
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_cancel_new() -> *mut tinkex_cancel {
    border::value(std::ptr::null_mut(), || Ok(Object::make(Cancel { token: CancelToken::new() })))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_cancel_now(cancel: *mut tinkex_cancel) {
    border::value((), || {
        // SAFETY: see the header. The clone outlives a `tinkex_cancel_free` in a callback that the cancellation causes.
        let token = unsafe { object::get(cancel) }?.token.clone();
        token.cancel();
        Ok(())
    });
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_cancel_free(cancel: *mut *mut tinkex_cancel) {
    // SAFETY: see the header.
    unsafe { object::free(cancel) }
}
