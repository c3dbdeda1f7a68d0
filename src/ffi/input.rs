//! `tinkex_input`.

use super::object::{Kind, Object};
use crate::types::ModelInput;

pub type tinkex_input = Object<Input>;

pub struct Input {
    input: ModelInput,
}

impl Kind for Input {
    const NAME: &'static str = "input";
}

impl Input {
    pub(super) fn model_input(&self) -> ModelInput {
        self.input.clone()
    }
}
