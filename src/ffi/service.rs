//! Stub.

use super::border::Result;
use super::object::{self, Kind, Object};
use crate::ServiceClient;

pub type tinkex_service = Object<Service>;

pub struct Service(ServiceClient);

impl Kind for Service {
    const NAME: &'static str = "service";
}

/// # Safety
/// As for [`object::get`].
pub(super) unsafe fn client(service: *const tinkex_service) -> Result<ServiceClient> {
    // SAFETY: promised by the caller.
    Ok(unsafe { object::get(service) }?.0.clone())
}
