//! `tinkex_loss`.

use super::object::{Kind, Object};
use crate::types::Loss;

pub type tinkex_loss = Object<LossObject>;

pub struct LossObject {
    loss: Loss,
}

impl Kind for LossObject {
    const NAME: &'static str = "loss";
}

impl LossObject {
    pub(super) fn make(loss: Loss) -> *mut tinkex_loss {
        Object::make(LossObject { loss })
    }
}
