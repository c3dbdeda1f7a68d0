//! Placeholder of `tinkex_loss`, replaced when the branches are merged.

use super::border::{Fault, Result};
use super::object::{Kind, Object};

pub type tinkex_loss = Object<NamedLoss>;

pub struct NamedLoss;

impl Kind for NamedLoss {
    const NAME: &'static str = "loss";
}

pub(super) unsafe fn read(_loss: *const tinkex_loss) -> Result<crate::types::Loss> {
    Err(Fault::unsupported("losses are not implemented yet"))
}
