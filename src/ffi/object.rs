//! Handles: memory that C code holds a pointer to, with a tag that tells its type.

use std::mem;
use std::sync::Once;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use super::border::{self, Fault, Result};
use super::code;
use super::library::fingerprint;

/// A type of handle.
pub trait Kind: Send + Sync + 'static {
    /// Name of the C type without its prefix, for error texts.
    const NAME: &'static str;
}

/// The memory of a handle. C code sees only pointers to it.
#[repr(C)]
pub struct Object<T: Kind> {
    /// [`tag_of`] the type; 0 once freed.
    tag: AtomicU64,
    /// [`generation`] of the process that made it.
    generation: u32,
    value: T,
}

/// Number of handles that were made and not freed.
static LIVE: AtomicI64 = AtomicI64::new(0);

pub(super) fn live() -> i64 {
    LIVE.load(Ordering::Relaxed)
}

/// A number that differs between the types and is unlikely to be found in other memory.
fn tag_of<T: Kind>() -> u64 {
    fingerprint(T::NAME.as_bytes()) & !EMBEDDED
}

/// The bit of a tag that marks an object inside of another one, which must not be freed.
const EMBEDDED: u64 = 1;

/// Number of forks between the process that used this library first and this one.
static GENERATION: AtomicU32 = AtomicU32::new(0);

pub(super) fn generation() -> u32 {
    static REGISTER: Once = Once::new();
    REGISTER.call_once(|| {
        #[cfg(unix)]
        {
            extern "C" fn in_child() {
                GENERATION.fetch_add(1, Ordering::Relaxed);
            }
            // SAFETY: the handler only adds to an atomic, which is allowed after a fork. It fails only without memory;
            // forks are not detected then.
            unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        }
    });
    GENERATION.load(Ordering::Relaxed)
}

impl<T: Kind> Object<T> {
    /// Makes a handle, which belongs to the caller until it is passed to [`free`].
    pub(super) fn make(value: T) -> *mut Self {
        LIVE.fetch_add(1, Ordering::Relaxed);
        Box::into_raw(Box::new(Object {
            tag: AtomicU64::new(tag_of::<T>()),
            generation: generation(),
            value,
        }))
    }

    /// A handle inside of another object, which is borrowed by C code and never freed by it.
    pub(super) fn embedded(value: T) -> Self {
        let tag = AtomicU64::new(tag_of::<T>() ^ EMBEDDED);
        Object { tag, generation: generation(), value }
    }
}

/// The value of a handle.
///
/// # Errors
/// The pointer is NULL, not a handle of this type, or of the parent of a forked process.
///
/// # Safety
/// The pointer is NULL or points to a handle that is not freed while the result lives. Other memory is recognized as
/// far as it can be read.
pub(super) unsafe fn get<'a, T: Kind>(handle: *const Object<T>) -> Result<&'a T> {
    if handle.is_null() {
        return Err(Fault::null(T::NAME));
    }
    // SAFETY: the caller promises a handle, or at least memory that can be read.
    if !handle.is_aligned() || unsafe { (*handle).tag.load(Ordering::Relaxed) } & !EMBEDDED != tag_of::<T>() {
        return Err(Fault::wrong_handle(T::NAME));
    }
    // SAFETY: the tag shows that it is a handle of this type.
    let object = unsafe { &*handle };
    if object.generation != generation() {
        return Err(Fault::forked());
    }
    Ok(&object.value)
}

/// Frees the handle that `*handle` points to, and sets `*handle` to NULL. Does nothing if `handle` or `*handle` is NULL.
/// A handle of a forked process's parent is leaked, because its threads and locks do not exist here.
///
/// # Safety
/// `handle` is NULL or points to a pointer as [`get`] takes it, whose handle no other thread uses.
pub(super) unsafe fn free<T: Kind>(handle: *mut *mut Object<T>) {
    // A destructor may panic.
    border::value((), || {
        // SAFETY: promised by the caller.
        drop(unsafe { take(handle) });
        Ok(())
    });
}

/// As [`free`], but returns the value.
///
/// # Safety
/// As for [`free`].
pub(super) unsafe fn take<T: Kind>(handle: *mut *mut Object<T>) -> Option<T> {
    if handle.is_null() {
        return None;
    }
    // SAFETY: promised by the caller.
    let object = mem::replace(unsafe { &mut *handle }, std::ptr::null_mut());
    if object.is_null() {
        return None;
    }
    // SAFETY: promised by the caller, as in `get`.
    let is_ours = object.is_aligned()
        && unsafe { &(*object).tag }
            .compare_exchange(tag_of::<T>(), 0, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok();
    if !is_ours {
        log::error!(target: "tinkex", "{}: the freed pointer is not a valid {} handle", code::HANDLE.name(), T::NAME);
        return None;
    }
    // SAFETY: the tag was that of a handle, which `make` allocated, and no other call can take it again.
    let object = unsafe { Box::from_raw(object) };
    if object.generation != generation() {
        mem::forget(object);
        return None;
    }
    LIVE.fetch_sub(1, Ordering::Relaxed);
    Some(object.value)
}

/// A pointer of a C callback's owner, which is passed back to each call.
#[derive(Clone, Copy)]
pub(super) struct UserPointer(pub(super) *mut std::ffi::c_void);

// SAFETY: the header demands that callbacks and their `user` can be used from any thread.
unsafe impl Send for UserPointer {}
// SAFETY: as above.
unsafe impl Sync for UserPointer {}

/// The `user` pointer of a registered callback, released exactly once.
pub(super) struct User {
    pointer: UserPointer,
    release: super::tinkex_release_fn,
}

impl User {
    pub(super) fn new(pointer: *mut std::ffi::c_void, release: super::tinkex_release_fn) -> Self {
        User { pointer: UserPointer(pointer), release }
    }

    pub(super) fn pointer(&self) -> *mut std::ffi::c_void {
        self.pointer.0
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if let Some(release) = self.release {
            // SAFETY: the registering caller gave a function that takes this pointer, for this one call.
            unsafe { release(self.pointer.0) };
        }
    }
}
