//! Options and results of saving and loading.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ExternalPath, SamplerPath, TrainingPath};
use crate::error::{Error, Result};

/// Lifetime of a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ttl {
    /// Kept until deleted.
    #[default]
    Never,
    /// Kept for at least this time after the save: one hour to ten years, in whole seconds.
    After(Duration),
}

impl Ttl {
    pub(crate) fn seconds(self) -> Result<Option<u64>> {
        const HOUR: u64 = 3600;
        match self {
            Ttl::Never => Ok(None),
            Ttl::After(time) if (HOUR..=10 * 366 * 24 * HOUR).contains(&time.as_secs()) => {
                Ok(Some(time.as_secs()))
            }
            Ttl::After(time) => {
                Err(Error::invalid("ttl", format!("must be between one hour and ten years, is {time:?}")))
            }
        }
    }
}

/// Options of saving weights and optimizer state. The default keeps the checkpoint until it is deleted and does not
/// replace an existing checkpoint. End the literal with `..Default::default()`: a minor version may add fields.
///
/// # Example: replace the checkpoint of the same name, with metadata
/// ```
/// use tinkex::types::SaveStateOptions;
///
/// let options = SaveStateOptions {
///     overwrite: true,
///     user_metadata: Some([("step".to_string(), "120".to_string())].into()),
///     ..Default::default()
/// };
/// assert_eq!(options.ttl, tinkex::types::Ttl::Never);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SaveStateOptions {
    /// Lifetime of the checkpoint. Default: kept until deleted.
    pub ttl: Ttl,
    /// If true, the save replaces a checkpoint of the same name and its metadata. If false, such a save is refused.
    /// Default false.
    pub overwrite: bool,
    /// Metadata for finding the checkpoint. Default: none.
    pub user_metadata: Option<BTreeMap<String, String>>,
}

/// Options of saving weights for sampling under a name. The default keeps them until they are deleted. End the literal
/// with `..Default::default()`: a minor version may add fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SaveWeightsOptions {
    /// Lifetime of the weights. Default: kept until deleted.
    pub ttl: Ttl,
    /// Metadata for finding the weights. Default: none.
    pub user_metadata: Option<BTreeMap<String, String>>,
}

/// Kind of a sampling client that is created from a training client: which weights it uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SamplerKind {
    /// A copy of the current weights, which never changes.
    #[default]
    Snapshot,
    /// One set of weights that all inflight samplers of the model share: each later inflight save also updates the
    /// weights of the earlier clients. The tokens of one answer may come from several versions of the weights, but
    /// never from a version before the client's own save.
    Inflight,
}

/// Largest number of recipients of an encrypted save.
const MOST_RECIPIENTS: usize = 10;

pub(crate) fn check_recipients(recipients: &[&str]) -> Result<()> {
    const PATH: &str = "age_encryption_recipients";
    if MOST_RECIPIENTS < recipients.len() {
        return Err(Error::invalid(
            PATH,
            format!("has {} recipients, the limit is {MOST_RECIPIENTS}", recipients.len()),
        ));
    }
    match recipients.iter().position(|recipient| recipient.is_empty()) {
        Some(i) => Err(Error::invalid(format!("{PATH}[{i}]"), "is empty")),
        None => Ok(()),
    }
}

/// Result of `save_weights_external`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SaveWeightsExternalOutput {
    /// Path of the files; `RestClient::get_external_weights_urls` takes it.
    pub path: ExternalPath,
    /// Size of all files together in bytes, if the server reports it.
    pub size_bytes: Option<u64>,
}

impl SaveWeightsExternalOutput {
    /// A result without a size.
    pub fn new(path: ExternalPath) -> Self {
        SaveWeightsExternalOutput { path, size_bytes: None }
    }
}

/// Result of `save_state`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SaveStateOutput {
    /// Path of the weights and the optimizer state; `load_state` and `create_training_client_from_state` take it.
    pub path: TrainingPath,
}

impl SaveStateOutput {
    /// The result of saving to a path.
    pub fn new(path: TrainingPath) -> Self {
        SaveStateOutput { path }
    }
}

/// Result of `save_weights_for_sampler`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SaveWeightsForSamplerOutput {
    /// Path of the weights; `create_sampling_client` takes it.
    pub path: SamplerPath,
}

impl SaveWeightsForSamplerOutput {
    /// The result of saving to a path.
    pub fn new(path: SamplerPath) -> Self {
        SaveWeightsForSamplerOutput { path }
    }
}

/// Result of `load_state` and `load_state_with_optimizer`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadStateOutput {
    /// Path of the loaded checkpoint, if the server reports it.
    pub path: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_live_is_between_an_hour_and_ten_years() {
        let seconds = |seconds| Ttl::After(Duration::from_secs(seconds)).seconds();
        assert_eq!(Ttl::Never.seconds().expect("no end"), None);
        for good in [3600, 86_400, 10 * 365 * 86_400] {
            assert_eq!(seconds(good).expect("a time"), Some(good));
        }
        for wrong in [0, 3599, 11 * 365 * 86_400] {
            let error = seconds(wrong).expect_err("a refusal");
            assert_eq!(error.violation().expect("a path").path, "ttl", "{wrong}");
        }
    }

    #[test]
    fn too_many_recipients_and_empty_recipients_are_refused() {
        let path = |recipients: &[&str]| {
            check_recipients(recipients).expect_err("a refusal").violation().expect("a path").path.clone()
        };
        check_recipients(&[]).expect("not encrypted");
        check_recipients(&["age1a"; 10]).expect("the largest allowed number");
        assert_eq!(path(&["age1a"; 11]), "age_encryption_recipients");
        assert_eq!(path(&["age1a", ""]), "age_encryption_recipients[1]");
    }
}
