//! `tinkex_text` and `tinkex_tokens`: text and tokens that belong to the caller.

use std::ffi::{CString, c_char};
use std::ptr;

use super::border;
use super::object::{self, Kind, Object};

pub type tinkex_text = Object<Text>;
pub type tinkex_tokens = Object<Tokens>;

/// Text with its length, because decoded tokens may contain NUL.
pub struct Text {
    /// Ends with NUL.
    bytes: Vec<u8>,
}

impl Kind for Text {
    const NAME: &'static str = "text";
}

/// Token ids.
pub struct Tokens(Vec<i32>);

impl Kind for Tokens {
    const NAME: &'static str = "tokens";
}

impl Text {
    /// A handle of a text.
    pub(super) fn make(text: impl Into<Vec<u8>>) -> *mut tinkex_text {
        let mut bytes = text.into();
        bytes.push(0);
        Object::make(Text { bytes })
    }

    /// A handle of a JSON text.
    pub(super) fn json(value: &serde_json::Value) -> *mut tinkex_text {
        Text::make(value.to_string())
    }
}

impl From<CString> for Text {
    fn from(text: CString) -> Self {
        Text { bytes: text.into_bytes_with_nul() }
    }
}

impl Tokens {
    /// A handle of tokens.
    pub(super) fn make(tokens: Vec<i32>) -> *mut tinkex_tokens {
        Object::make(Tokens(tokens))
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_text_data(text: *const tinkex_text) -> *const c_char {
    // SAFETY: see the header.
    border::value(ptr::null(), || Ok(unsafe { object::get(text) }?.bytes.as_ptr().cast()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_text_len(text: *const tinkex_text) -> usize {
    // SAFETY: see the header.
    border::value(0, || Ok(unsafe { object::get(text) }?.bytes.len() - 1))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_text_free(text: *mut *mut tinkex_text) {
    // SAFETY: see the header.
    unsafe { object::free(text) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_tokens_data(tokens: *const tinkex_tokens) -> *const i32 {
    // SAFETY: see the header.
    border::value(ptr::null(), || Ok(unsafe { object::get(tokens) }?.0.as_ptr()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_tokens_len(tokens: *const tinkex_tokens) -> usize {
    // SAFETY: see the header.
    border::value(0, || Ok(unsafe { object::get(tokens) }?.0.len()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_tokens_free(tokens: *mut *mut tinkex_tokens) {
    // SAFETY: see the header.
    unsafe { object::free(tokens) }
}
