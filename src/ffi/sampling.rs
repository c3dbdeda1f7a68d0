//! Placeholder of `tinkex_sampling`, replaced when the branches are merged.

use super::object::{Kind, Object};
use crate::SamplingClient;

pub type tinkex_sampling = Object<Sampling>;

pub struct Sampling(SamplingClient);

impl Kind for Sampling {
    const NAME: &'static str = "sampling";
}

impl Sampling {
    pub(super) fn make(client: SamplingClient) -> *mut tinkex_sampling {
        Object::make(Sampling(client))
    }
}
