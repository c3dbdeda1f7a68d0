//! What saving and loading report.

use std::time::Duration;

use super::{SamplerPath, TrainingPath};
use crate::error::{Error, Result};

/// How long a checkpoint is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ttl {
    /// Until it is deleted.
    #[default]
    Never,
    /// At least this long after saving: one hour to ten years, in whole seconds.
    After(Duration),
}

impl Ttl {
    pub(crate) fn seconds(self) -> Result<Option<u64>> {
        const HOUR: u64 = 3600;
        match self {
            Ttl::Never => Ok(None),
            Ttl::After(it) if (HOUR..=10 * 366 * 24 * HOUR).contains(&it.as_secs()) => Ok(Some(it.as_secs())),
            Ttl::After(it) => {
                Err(Error::invalid("ttl", format!("must be between one hour and ten years, is {it:?}")))
            }
        }
    }
}

/// The result of `save_state`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaveStateOutput {
    /// Where weights and optimizer state are; give it to `load_state` or `create_training_client_from_state`.
    pub path: TrainingPath,
}

/// The result of `save_weights_for_sampler`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaveWeightsForSamplerOutput {
    /// Where the weights are; give it to `create_sampling_client`.
    pub path: SamplerPath,
}

/// The result of `load_state` and `load_state_with_optimizer`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadStateOutput {
    /// The checkpoint that was loaded, if the server says so.
    pub path: Option<String>,
}
