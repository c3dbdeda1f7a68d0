//! Stub.

use std::collections::BTreeMap;

use super::border::Result;
use super::object::{self, Kind, Object};
use crate::types::Ttl;

pub type tinkex_save_options = Object<SaveOptions>;

pub struct SaveOptions {}

impl Kind for SaveOptions {
    const NAME: &'static str = "save_options";
}

#[derive(Clone, Default)]
pub(super) struct Settings {
    pub(super) ttl: Ttl,
    pub(super) overwrite: bool,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) recipients: Vec<String>,
}

/// # Safety
/// As for [`object::get`], or NULL.
pub(super) unsafe fn read(options: *const tinkex_save_options) -> Result<Settings> {
    if !options.is_null() {
        // SAFETY: promised by the caller.
        unsafe { object::get(options) }?;
    }
    Ok(Settings::default())
}
