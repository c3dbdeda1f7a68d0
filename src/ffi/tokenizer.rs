//! `tinkex_tokenizer`: conversion between text and tokens.

use std::ffi::c_char;
use std::str;

use super::border::{self, Fault, Out, Result};
use super::code;
use super::error::tinkex_error;
use super::object::{self, Kind, Object};
use super::text::{Text, Tokens, tinkex_text, tinkex_tokens};
use super::tinkex_code;
use crate::tokenizer::ByteTokenizer;

pub type tinkex_tokenizer = Object<Tokenizer>;

/// A tokenizer.
pub struct Tokenizer(ByteTokenizer);

impl Kind for Tokenizer {
    const NAME: &'static str = "tokenizer";
}

fn named(name: &str) -> Result<Tokenizer> {
    match name {
        "bytes" | "tinkex/nano" => Ok(Tokenizer(ByteTokenizer)),
        _ => {
            let text = format!(
                "the tokenizer of {name:?} is not in this version, which has only \"bytes\", the tokenizer of \
                 \"tinkex/nano\". Tokenize with the library that the model comes with, and pass the token ids"
            );
            Err(Fault::unsupported(text).at("name_or_path"))
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_tokenizer_new(
    name_or_path: *const c_char,
    out: *mut *mut tinkex_tokenizer,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(out, std::ptr::null_mut());
        border::run(error, || {
            out.required("out")?;
            out.set(Object::make(named(border::text(name_or_path, "name_or_path")?)?));
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_tokenizer_free(tokenizer: *mut *mut tinkex_tokenizer) {
    // SAFETY: see the header.
    unsafe { object::free(tokenizer) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_tokenizer_encode(
    tokenizer: *const tinkex_tokenizer,
    text: *const c_char,
    n: usize,
    out: *mut *mut tinkex_tokens,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(out, std::ptr::null_mut());
        border::run(error, || {
            out.required("out")?;
            let tokenizer = object::get(tokenizer)?;
            let bytes = border::array(text.cast::<u8>(), n, "text")?;
            let text = str::from_utf8(bytes).map_err(|error| {
                let i = error.valid_up_to();
                Fault::new(code::UTF8, format!("`text` is not valid UTF-8 at byte {i}")).at("text")
            })?;
            out.set(Tokens::make(tokenizer.0.encode(text)));
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_tokenizer_decode(
    tokenizer: *const tinkex_tokenizer,
    tokens: *const i32,
    n: usize,
    out: *mut *mut tinkex_text,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(out, std::ptr::null_mut());
        border::run(error, || {
            out.required("out")?;
            let tokenizer = object::get(tokenizer)?;
            let tokens = border::array(tokens, n, "tokens")?;
            out.set(Text::make(tokenizer.0.decode(tokens)));
            Ok(())
        })
    }
}
