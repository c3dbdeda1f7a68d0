//! Placeholder of `tinkex_optim`, replaced when the branches are merged.

use super::border::{Fault, Result};
use super::object::{Kind, Object};
use crate::types::OptimizerParams;

pub type tinkex_optim = Object<Optim>;

pub struct Optim;

impl Kind for Optim {
    const NAME: &'static str = "optim";
}

pub(super) unsafe fn read(_optim: *const tinkex_optim) -> Result<OptimizerParams> {
    Err(Fault::unsupported("optimizer parameters are not implemented yet"))
}
