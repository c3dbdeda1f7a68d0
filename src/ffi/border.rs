//! What every exported function passes through: panics are caught, errors are written, arguments are read and checked.

use std::borrow::Cow;
use std::ffi::{CStr, CString, c_char};
use std::slice;

use super::code::{self, Code};
use super::error::tinkex_error;
use super::object::Object;
use crate::error::{Error, ErrorKind};
use crate::sync::unwind;

pub(super) type Result<T> = std::result::Result<T, Fault>;

/// The failure of a C function.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// A mistake in the use of the interface, or another failure that the Rust interface does not have.
    Misuse { code: Code, message: Cow<'static, str>, path: Option<String> },
    /// An error of the Rust interface.
    Sdk(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Sdk(error)
    }
}

impl Fault {
    pub(super) fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Fault::Misuse { code, message: message.into(), path: None }
    }

    /// Names the option or argument that is wrong.
    pub(super) fn at(self, place: impl Into<String>) -> Self {
        match self {
            Fault::Misuse { code, message, path: _ } => {
                Fault::Misuse { code, message, path: Some(place.into()) }
            }
            sdk => sdk,
        }
    }

    pub(super) fn null(name: &str) -> Self {
        Fault::new(code::NULL, format!("`{name}` is NULL")).at(name)
    }

    pub(super) fn range(name: &str, index: usize, len: usize) -> Self {
        let text = format!("`{name}` is {index}, but there are {len}");
        Fault::new(code::RANGE, text).at(name)
    }

    /// An unknown option, loss, operation or the like.
    pub(super) fn name(kind: &str, name: &str, known: &[&str]) -> Self {
        let text = format!("{name:?} is not a known {kind}; known are {}", known.join(", "));
        Fault::new(code::NAME, text).at(name)
    }

    pub(super) fn invalid(path: impl Into<String>, message: impl Into<Cow<'static, str>>) -> Self {
        Fault::new(code::INVALID_INPUT, message).at(path)
    }

    pub(super) fn unsupported(text: impl Into<Cow<'static, str>>) -> Self {
        Fault::new(code::UNSUPPORTED, text)
    }

    #[cold]
    pub(super) fn wrong_handle(name: &str) -> Self {
        let text = format!("the pointer is not a valid {name} handle: it was freed, or is of another type");
        Fault::new(code::HANDLE, text).at(name)
    }

    #[cold]
    pub(super) fn forked() -> Self {
        let text = "this process was forked from the one that made the handle, and has none of its threads and connections: \
                    make new objects here, or fork before making them";
        Fault::new(code::FORKED, text)
    }

    pub(super) fn code(&self) -> Code {
        match self {
            Fault::Misuse { code, .. } => *code,
            Fault::Sdk(error) if error.is_deadlock() => code::DEADLOCK,
            Fault::Sdk(error) => Code::of(error.kind()),
        }
    }
}

/// Runs the body of a function that returns a code, and writes its error.
///
/// # Safety
/// `error` is NULL or can be written to.
pub(super) unsafe fn run(error: *mut *mut tinkex_error, body: impl FnOnce() -> Result<()>) -> i32 {
    let body = move || {
        #[cfg(feature = "testing")]
        injected::panic_if_wanted();
        body()
    };
    let fault = match unwind::catch(body) {
        Ok(Ok(())) => None,
        Ok(Err(fault)) => Some(fault),
        Err(panic) => Some(panicked(&panic)),
    };
    let code = fault.as_ref().map_or(code::OK, |fault| fault.code().number());
    if !error.is_null() {
        // Texts are made here; a panic must not cross.
        let made = fault.and_then(|fault| unwind::catch(|| Object::make(fault.into())).ok());
        let made = made.unwrap_or(std::ptr::null_mut());
        // SAFETY: promised by the caller.
        unsafe { error.write(made) };
    }
    code
}

/// Runs the body of a function that cannot report an error: it returns `fallback` then, and the error is logged.
pub(super) fn value<T>(fallback: T, body: impl FnOnce() -> Result<T>) -> T {
    let fault = match unwind::catch(body) {
        Ok(Ok(value)) => return value,
        Ok(Err(fault)) => fault,
        Err(panic) => panicked(&panic),
    };
    // In a forked child, locks of the logger may stay held forever.
    if fault.code() != code::FORKED {
        unwind::shield("an error could not be logged", || {
            let (name, fault) = (fault.code().name(), super::error::ErrorInfo::from(fault));
            log::error!(target: "tinkex", "{name}: {}", fault.message());
        });
    }
    fallback
}

/// Drops owners of `user` pointers. A panic in a function of C code does not pass.
pub(super) fn drop_caught<T>(value: T) {
    self::value((), || {
        drop(value);
        Ok(())
    });
}

/// A panic for tests of C programs, in libraries that are built with the feature `testing`.
#[cfg(feature = "testing")]
mod injected {
    use std::sync::atomic::{AtomicBool, Ordering};

    static PANIC: AtomicBool = AtomicBool::new(false);

    pub(super) fn panic_if_wanted() {
        assert!(!PANIC.swap(false, Ordering::Relaxed), "a panic that a test injected");
    }

    /// Makes the next function that returns a code panic.
    #[unsafe(no_mangle)]
    pub extern "C" fn tinkex_testing_panic_next() {
        PANIC.store(true, Ordering::Relaxed);
    }
}

fn panic_text(error: &Error) -> &str {
    match error.kind() {
        ErrorKind::Panicked { message, .. } => message,
        _ => error.message(),
    }
}

#[cold]
fn panicked(error: &Error) -> Fault {
    Fault::new(code::PANIC, format!("a function of tinkex panicked: {}", panic_text(error)))
}

/// An output of a function.
pub(super) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Writes the value for a failure.
    ///
    /// # Safety
    /// `place` is NULL or can be written to until the function returns.
    pub(super) unsafe fn cleared(place: *mut T, initial: T) -> Self {
        let out = Out(place);
        out.set(initial);
        out
    }

    /// Writes the value, unless the caller does not want it.
    pub(super) fn set(&self, value: T) {
        if !self.0.is_null() {
            // SAFETY: promised to `cleared`.
            unsafe { self.0.write(value) };
        }
    }

    /// Fails if the caller gave no place for the output.
    pub(super) fn required(&self, name: &str) -> Result<()> {
        if self.0.is_null() { Err(Fault::null(name)) } else { Ok(()) }
    }
}

/// A text argument.
///
/// # Safety
/// `text` is NULL or points to bytes that end with NUL, which do not change while the result lives.
pub(super) unsafe fn text<'a>(text: *const c_char, name: &str) -> Result<&'a str> {
    // SAFETY: promised by the caller.
    unsafe { optional_text(text, name) }?.ok_or_else(|| Fault::null(name))
}

/// A text argument that may be NULL.
///
/// # Safety
/// As for [`text`].
pub(super) unsafe fn optional_text<'a>(text: *const c_char, name: &str) -> Result<Option<&'a str>> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: promised by the caller.
    let bytes = unsafe { CStr::from_ptr(text) };
    let text = bytes.to_str().map_err(|error| {
        let n = error.valid_up_to();
        Fault::new(code::UTF8, format!("`{name}` is not valid UTF-8 at byte {n}")).at(name)
    })?;
    Ok(Some(text))
}

/// An array argument.
///
/// # Safety
/// `data` is NULL or points to `n` values, which do not change while the result lives.
pub(super) unsafe fn array<'a, T>(data: *const T, n: usize, name: &str) -> Result<&'a [T]> {
    if n == 0 {
        return Ok(&[]);
    }
    if data.is_null() {
        return Err(Fault::new(code::NULL, format!("`{name}` is NULL, but its length is {n}")).at(name));
    }
    if isize::MAX as usize / size_of::<T>().max(1) < n {
        return Err(Fault::new(code::LENGTH, format!("`{name}` has an impossible length: {n}")).at(name));
    }
    if !data.is_aligned() {
        return Err(Fault::new(code::HANDLE, format!("`{name}` is not aligned for its type")).at(name));
    }
    // SAFETY: promised by the caller, and checked as far as possible.
    Ok(unsafe { slice::from_raw_parts(data, n) })
}

/// The offsets of a ragged array with `n` rows: `n + 1` ascending numbers from 0. The last one is the number of values.
///
/// # Safety
/// As for [`array`], with `n + 1` numbers.
pub(super) unsafe fn offsets<'a>(data: *const i64, n: usize, name: &str) -> Result<&'a [i64]> {
    if n == 0 && data.is_null() {
        return Ok(&[0]);
    }
    let length = n.checked_add(1).ok_or_else(|| {
        Fault::new(code::LENGTH, format!("`{name}` has an impossible length: {n} + 1")).at(name)
    })?;
    // SAFETY: promised by the caller.
    let offsets = unsafe { array(data, length, name) }?;
    if offsets[0] != 0 {
        let text = format!("`{name}[0]` is {}, but the first offset must be 0", offsets[0]);
        return Err(Fault::new(code::LENGTH, text).at(format!("{name}[0]")));
    }
    if let Some(i) = offsets.windows(2).position(|pair| pair[1] < pair[0]) {
        let text = format!(
            "`{name}[{}]` is {}, below the {} before it: offsets must not fall",
            i + 1,
            offsets[i + 1],
            offsets[i]
        );
        return Err(Fault::new(code::LENGTH, text).at(format!("{name}[{}]", i + 1)));
    }
    Ok(offsets)
}

/// The last offset: the number of values of a ragged array.
pub(super) fn n_values(offsets: &[i64], name: &str) -> Result<usize> {
    let last = offsets.last().copied().unwrap_or_default();
    usize::try_from(last).map_err(|_| {
        Fault::new(code::LENGTH, format!("`{name}` ends at an impossible number: {last}")).at(name)
    })
}

/// A whole number from 0 that C passes with a sign.
pub(super) fn unsigned<N: TryFrom<i64>>(value: i64, name: &str) -> Result<N> {
    N::try_from(value).map_err(|_| Fault::invalid(name, format!("`{name}` is out of range: {value}")))
}

/// A text for C. NUL bytes, which would end it, become U+FFFD.
pub(super) fn c_text(text: impl Into<String>) -> CString {
    let text: String = text.into();
    CString::new(text).unwrap_or_else(|error| {
        let bytes = error.into_vec();
        let replaced = String::from_utf8_lossy(&bytes).replace('\0', "\u{fffd}");
        CString::new(replaced).unwrap_or_default()
    })
}

/// A JSON value as text for C.
pub(super) fn c_json(value: &serde_json::Value) -> CString {
    c_text(value.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::ptr;

    use super::*;

    /// The code, message and path of a failing call.
    fn outcome(body: impl FnOnce() -> Result<()>) -> (i32, String, Option<String>) {
        let mut error = ptr::null_mut();
        // SAFETY: `error` can be written to, and is used while it lives.
        unsafe {
            let code = run(&mut error, body);
            if error.is_null() {
                return (code, String::new(), None);
            }
            let text = |text: *const c_char| {
                (!text.is_null()).then(|| CStr::from_ptr(text).to_str().unwrap().to_string())
            };
            let message = text(super::super::error::tinkex_error_message(error)).unwrap();
            let path = text(super::super::error::tinkex_error_path(error));
            super::super::error::tinkex_error_free(&mut error);
            assert!(error.is_null());
            (code, message, path)
        }
    }

    #[test]
    fn a_panic_becomes_an_error_and_the_next_call_works() {
        let (code, message, _) = outcome(|| panic!("out of {}", "luck"));
        assert_eq!((code, &*message), (9000, "a function of tinkex panicked: out of luck"));
        assert_eq!(outcome(|| Ok(())), (0, String::new(), None));
        assert_eq!(value(7, || panic!("again")), 7);
    }

    #[test]
    fn texts_must_be_there_and_be_utf_8() {
        // SAFETY: the texts end with NUL.
        unsafe {
            assert_eq!(outcome(|| text(ptr::null(), "name").map(drop)).0, 1001);
            let bad = c"caf\xe9".as_ptr();
            let (code, message, path) = outcome(|| text(bad, "name").map(drop));
            assert_eq!(
                (code, &*message, path.as_deref()),
                (1002, "`name` is not valid UTF-8 at byte 3", Some("name"))
            );
            assert_eq!(text(c"ok".as_ptr(), "name").unwrap(), "ok");
            assert!(optional_text(ptr::null(), "name").unwrap().is_none());
        }
    }

    #[test]
    fn arrays_and_offsets_are_checked_before_they_are_read() {
        // SAFETY: the arrays have the lengths that are given, or are refused before they are read.
        unsafe {
            assert!(array::<i32>(ptr::null(), 0, "tokens").unwrap().is_empty());
            assert_eq!(outcome(|| array::<i32>(ptr::null(), 3, "tokens").map(drop)).0, 1001);
            let four = [1i32; 4];
            assert_eq!(outcome(|| array(four.as_ptr(), usize::MAX / 4, "tokens").map(drop)).0, 1008);
            assert_eq!(array(four.as_ptr(), 4, "tokens").unwrap(), four);
            let failing = |values: &[i64]| {
                let (code, _, path) =
                    outcome(|| offsets(values.as_ptr(), values.len() - 1, "offsets").map(drop));
                (code, path.unwrap_or_default())
            };
            assert_eq!(failing(&[0, 3, 3, 7]), (0, String::new()));
            assert_eq!(failing(&[1, 3]), (1008, "offsets[0]".into()));
            assert_eq!(failing(&[0, 3, 2]), (1008, "offsets[2]".into()));
            assert_eq!(offsets(ptr::null(), 0, "offsets").unwrap(), [0]);
            assert_eq!(outcome(|| offsets(ptr::null(), 1, "offsets").map(drop)).0, 1001);
            assert_eq!(outcome(|| offsets([0].as_ptr(), usize::MAX, "offsets").map(drop)).0, 1008);
        }
    }
}
