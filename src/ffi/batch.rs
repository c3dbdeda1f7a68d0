//! Placeholder of `tinkex_batch`, replaced when the branches are merged.

use super::object::{Kind, Object};
use crate::types::Datum;

pub type tinkex_batch = Object<Batch>;

pub struct Batch;

impl Kind for Batch {
    const NAME: &'static str = "batch";
}

impl Batch {
    pub(super) fn data(&self) -> Vec<Datum> {
        Vec::new()
    }
}
