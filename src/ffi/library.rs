//! The library as a whole: versions, features, live objects.

use std::ffi::c_char;

use super::border;
use super::object;

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
/// Changes when a program that was compiled against an older header would not work.
const ABI: u32 = 0;

/// Parses a part of the version at compile time.
const fn number(text: &str) -> u32 {
    let (bytes, mut value, mut i) = (text.as_bytes(), 0, 0);
    while i < bytes.len() {
        value = 10 * value + (bytes[i] - b'0') as u32;
        i += 1;
    }
    value
}

const NUMBER: u32 = number(env!("CARGO_PKG_VERSION_MAJOR")) << 16
    | number(env!("CARGO_PKG_VERSION_MINOR")) << 8
    | number(env!("CARGO_PKG_VERSION_PATCH"));

/// A number that differs between two texts (FNV-1a): for the tags of handles, and to notice at compile time that the
/// header was changed.
pub(super) const fn fingerprint(text: &[u8]) -> u64 {
    let (mut hash, mut i) = (0xcbf2_9ce4_8422_2325, 0);
    while i < text.len() {
        hash = (hash ^ text[i] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        i += 1;
    }
    hash
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_version() -> *const c_char {
    VERSION.as_ptr().cast()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_version_number() -> u32 {
    NUMBER
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_abi_version() -> u32 {
    ABI
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_has_feature(name: *const c_char) -> bool {
    border::value(false, || {
        // SAFETY: see the header.
        let name = unsafe { border::text(name, "name") }?;
        let features = [
            ("local", cfg!(feature = "local")),
            ("zstd", cfg!(feature = "zstd")),
            ("native-roots", cfg!(feature = "native-roots")),
            ("testing", cfg!(feature = "testing")),
        ];
        Ok(features.contains(&(name, true)))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_live_objects() -> i64 {
    object::live()
}
