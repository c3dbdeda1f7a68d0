//! `tinkex_training`.

use super::object::{Kind, Object};
use crate::TrainingClient;

pub type tinkex_training = Object<Training>;

pub struct Training {
    client: TrainingClient,
}

impl Kind for Training {
    const NAME: &'static str = "training";
}

impl Training {
    pub(super) fn make(client: TrainingClient) -> *mut tinkex_training {
        Object::make(Training { client })
    }
}
