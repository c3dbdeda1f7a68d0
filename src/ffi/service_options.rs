//! Stub.

use super::border::Result;
use super::object::{self, Kind, Object};
use crate::ServiceClientBuilder;

pub type tinkex_service_options = Object<ServiceOptions>;

pub struct ServiceOptions {}

impl Kind for ServiceOptions {
    const NAME: &'static str = "service_options";
}

/// # Safety
/// As for [`object::get`], or NULL.
pub(super) unsafe fn builder(options: *const tinkex_service_options) -> Result<ServiceClientBuilder> {
    if !options.is_null() {
        // SAFETY: promised by the caller.
        unsafe { object::get(options) }?;
    }
    Ok(ServiceClientBuilder::default())
}
