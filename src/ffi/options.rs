//! Options whose setters cannot fail: the first mistake is kept, and reported by the function that uses the options.

use super::border::{self, Result};
use super::object::{self, Kind, Object};
use crate::ffi::border::Fault;
use crate::sync::Mutex;

/// Options with the first mistake that was made in setting them.
pub struct Sticky<T> {
    state: Mutex<(T, Option<Fault>)>,
}

impl<T: Default> Default for Sticky<T> {
    fn default() -> Self {
        Sticky::new(T::default())
    }
}

impl<T> Sticky<T> {
    pub(super) fn new(options: T) -> Self {
        Sticky { state: Mutex::new((options, None)) }
    }

    /// Changes the options, unless a mistake was made before.
    pub(super) fn change(&self, change: impl FnOnce(&mut T) -> Result<()>) {
        let mut state = self.state.lock();
        if state.1.is_none()
            && let Err(fault) = change(&mut state.0)
        {
            state.1 = Some(fault);
        }
    }

    /// Reads the options.
    ///
    /// # Errors
    /// The first mistake of the setters.
    pub(super) fn read<R>(&self, read: impl FnOnce(&T) -> Result<R>) -> Result<R> {
        let state = self.state.lock();
        match &state.1 {
            Some(fault) => Err(fault.clone()),
            None => read(&state.0),
        }
    }
}

/// The options inside of a handle.
pub(super) trait Holder: Kind {
    type Options;
    fn sticky(&self) -> &Sticky<Self::Options>;
}

/// The body of a setter.
///
/// # Safety
/// As for [`object::get`].
pub(super) unsafe fn set<T: Holder>(
    handle: *mut Object<T>,
    change: impl FnOnce(&mut T::Options) -> Result<()>,
) {
    border::value((), || {
        // SAFETY: promised by the caller.
        unsafe { object::get(handle) }?.sticky().change(change);
        Ok(())
    });
}

/// The options of a handle, or the defaults if it is NULL.
///
/// # Errors
/// The first mistake of the setters.
///
/// # Safety
/// As for [`object::get`].
pub(super) unsafe fn read<T: Holder>(handle: *const Object<T>) -> Result<T::Options>
where
    T::Options: Clone + Default,
{
    if handle.is_null() {
        return Ok(T::Options::default());
    }
    // SAFETY: promised by the caller.
    unsafe { object::get(handle) }?.sticky().read(|options| Ok(options.clone()))
}
