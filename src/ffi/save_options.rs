//! `tinkex_save_options`: lifetime, metadata and recipients of what is saved.

use std::collections::BTreeMap;
use std::ffi::c_char;
use std::ptr;
use std::time::Duration;

use super::border::{self, Fault, Result, text};
use super::object::{self, Kind, Object};
use super::options::{self, Holder, Sticky};
use crate::types::{SaveStateOptions, SaveWeightsOptions, Ttl};

pub type tinkex_save_options = Object<SaveOptions>;

#[derive(Default)]
pub struct SaveOptions(Sticky<Settings>);

impl Kind for SaveOptions {
    const NAME: &'static str = "save_options";
}

impl Holder for SaveOptions {
    type Options = Settings;

    fn sticky(&self) -> &Sticky<Settings> {
        &self.0
    }
}

/// The settings of all kinds of saves. Each kind refuses those that it does not have.
#[derive(Clone, Default)]
pub(super) struct Settings {
    pub(super) ttl: Ttl,
    pub(super) overwrite: bool,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) recipients: Vec<String>,
}

impl Settings {
    pub(super) fn for_state(self) -> Result<SaveStateOptions> {
        self.without_recipients("a training state")?;
        let user_metadata = self.user_metadata();
        Ok(SaveStateOptions { ttl: self.ttl, overwrite: self.overwrite, user_metadata })
    }

    pub(super) fn for_sampler(self) -> Result<SaveWeightsOptions> {
        self.without_recipients("weights for sampling")?;
        self.without_overwrite("weights for sampling")?;
        Ok(SaveWeightsOptions { ttl: self.ttl, user_metadata: self.user_metadata() })
    }

    /// Lifetime and recipients of exported weights.
    pub(super) fn for_export(self) -> Result<(Ttl, Vec<String>)> {
        self.without_overwrite("exported weights")?;
        if !self.metadata.is_empty() {
            return Err(inapplicable("metadata", "exported weights"));
        }
        Ok((self.ttl, self.recipients))
    }

    pub(super) fn user_metadata(&self) -> Option<BTreeMap<String, String>> {
        Some(self.metadata.clone()).filter(|metadata| !metadata.is_empty())
    }

    pub(super) fn without_recipients(&self, what: &str) -> Result<()> {
        if self.recipients.is_empty() { Ok(()) } else { Err(inapplicable("recipients", what)) }
    }

    pub(super) fn without_overwrite(&self, what: &str) -> Result<()> {
        if self.overwrite { Err(inapplicable("overwrite", what)) } else { Ok(()) }
    }
}

fn inapplicable(option: &str, what: &str) -> Fault {
    Fault::invalid(option, format!("`{option}` cannot be set for {what}"))
}

/// The settings of a handle; NULL has the defaults.
///
/// # Errors
/// The first mistake of the setters.
///
/// # Safety
/// As for [`object::get`].
pub(super) unsafe fn read(options: *const tinkex_save_options) -> Result<Settings> {
    // SAFETY: promised by the caller.
    unsafe { options::read(options) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_save_options_new() -> *mut tinkex_save_options {
    border::value(ptr::null_mut(), || Ok(Object::make(SaveOptions::default())))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_save_options_free(options: *mut *mut tinkex_save_options) {
    // SAFETY: see the header.
    unsafe { object::free(options) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_save_options_set_ttl(options: *mut tinkex_save_options, seconds: i64) {
    // SAFETY: see the header.
    unsafe {
        options::set(options, |it| {
            // The limits are checked with the save.
            it.ttl = Ttl::After(Duration::from_secs(border::unsigned(seconds, "ttl")?));
            Ok(())
        });
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_save_options_set_overwrite(options: *mut tinkex_save_options, on: i32) {
    // SAFETY: see the header.
    unsafe {
        options::set(options, |it| {
            it.overwrite = on != 0;
            Ok(())
        });
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_save_options_add_metadata(
    options: *mut tinkex_save_options,
    key: *const c_char,
    value: *const c_char,
) {
    // SAFETY: see the header.
    unsafe {
        options::set(options, |it| {
            it.metadata.insert(text(key, "key")?.into(), text(value, "value")?.into());
            Ok(())
        });
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_save_options_add_recipient(
    options: *mut tinkex_save_options,
    recipient: *const c_char,
) {
    // SAFETY: see the header.
    unsafe {
        options::set(options, |it| {
            it.recipients.push(text(recipient, "recipient")?.into());
            Ok(())
        });
    }
}
