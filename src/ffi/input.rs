//! `tinkex_input`: the input of a model, made of tokens and images.

use std::ffi::{c_char, c_void};

use super::border::{self, Fault, Result};
use super::error::tinkex_error;
use super::object::{self, Kind, Object};
use super::tinkex_code;
use crate::sync::Mutex;
use crate::types::{Chunk, ImageFormat, ModelInput};

pub type tinkex_input = Object<Input>;

/// An input that is being built.
#[derive(Default)]
pub struct Input(Mutex<ModelInput>);

impl Kind for Input {
    const NAME: &'static str = "input";
}

/// The input of a handle.
///
/// # Safety
/// As for [`object::get`].
pub(super) unsafe fn read(input: *const tinkex_input) -> Result<ModelInput> {
    // SAFETY: promised by the caller.
    Ok(unsafe { object::get(input) }?.0.lock().clone())
}

fn format(name: &str) -> Result<ImageFormat> {
    ImageFormat::parse(name).ok_or_else(|| Fault::name("image format", name, &["png", "jpeg"]))
}

/// The number of tokens of an image; 0 or less means that the caller does not know it.
fn expected_tokens(n: i64) -> Result<Option<u32>> {
    if n <= 0 { Ok(None) } else { border::unsigned(n, "expected_tokens").map(Some) }
}

fn add_tokens(input: &mut ModelInput, tokens: &[i32]) -> Result<()> {
    if let Some(i) = tokens.iter().position(|token| *token < 0) {
        let text = format!("the token id {} is negative", tokens[i]);
        return Err(Fault::invalid(format!("tokens[{i}]"), text));
    }
    match input.chunks.last_mut() {
        _ if tokens.is_empty() => {}
        Some(Chunk::EncodedText { tokens: last }) => last.extend_from_slice(tokens),
        _ => input.chunks.push(Chunk::EncodedText { tokens: tokens.to_vec() }),
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_input_new() -> *mut tinkex_input {
    border::value(std::ptr::null_mut(), || Ok(Object::make(Input::default())))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_input_free(input: *mut *mut tinkex_input) {
    // SAFETY: see the header.
    unsafe { object::free(input) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_input_add_tokens(
    input: *mut tinkex_input,
    tokens: *const i32,
    n: usize,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        border::run(error, || {
            let input = object::get(input)?;
            add_tokens(&mut input.0.lock(), border::array(tokens, n, "tokens")?)
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_input_add_image(
    input: *mut tinkex_input,
    bytes: *const c_void,
    n: usize,
    format: *const c_char,
    expected_tokens: i64,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        border::run(error, || {
            let input = object::get(input)?;
            let data = border::array(bytes.cast::<u8>(), n, "bytes")?;
            if data.is_empty() {
                return Err(Fault::invalid("bytes", "the image has no bytes"));
            }
            let format = self::format(border::text(format, "format")?)?;
            let expected_tokens = self::expected_tokens(expected_tokens)?;
            let chunk = Chunk::Image { data: data.to_vec(), format, expected_tokens };
            input.0.lock().chunks.push(chunk);
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_input_add_asset(
    input: *mut tinkex_input,
    location: *const c_char,
    format: *const c_char,
    expected_tokens: i64,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        border::run(error, || {
            let input = object::get(input)?;
            let location = border::text(location, "location")?.to_string();
            if location.is_empty() {
                return Err(Fault::invalid("location", "the location of the image is empty"));
            }
            let format = self::format(border::text(format, "format")?)?;
            let expected_tokens = self::expected_tokens(expected_tokens)?;
            input.0.lock().chunks.push(Chunk::ImageAssetPointer { location, format, expected_tokens });
            Ok(())
        })
    }
}

/// Returns −1 if the length is not known.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_input_len(input: *const tinkex_input) -> i64 {
    border::value(-1, || {
        // SAFETY: see the header.
        let input = unsafe { object::get(input) }?;
        let n = input.0.lock().len();
        Ok(n.ok().and_then(|n| i64::try_from(n).ok()).unwrap_or(-1))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn tokens_behind_tokens_extend_the_chunk() {
        let mut input = ModelInput::default();
        add_tokens(&mut input, &[]).unwrap();
        assert_eq!(input, ModelInput::default());
        add_tokens(&mut input, &[1, 2]).unwrap();
        add_tokens(&mut input, &[3]).unwrap();
        add_tokens(&mut input, &[4, -1]).unwrap_err();
        assert_eq!(input, ModelInput::from_ints([1, 2, 3]));
    }

    #[test]
    fn zero_expected_tokens_are_an_unknown_number() {
        assert_eq!([-1, 0, 7].map(|n| expected_tokens(n).unwrap()), [None, None, Some(7)]);
        assert!(expected_tokens(1 << 32).is_err());
    }
}
