//! `tinkex_loss_call`: one evaluation of a custom loss, by a callback or by the thread that pulled it from a queue.

use super::object::{Kind, Object};

pub type tinkex_loss_call = Object<LossCall>;

/// One evaluation.
pub struct LossCall {}

impl Kind for LossCall {
    const NAME: &'static str = "loss_call";
}
