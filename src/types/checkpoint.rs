//! What saving and loading report.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ExternalPath, SamplerPath, TrainingPath};
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

/// How weights and optimizer state are saved. `SaveStateOptions::default()` keeps them until they are deleted and replaces
/// nothing.
///
/// # Example: the newest state under one name, with a note
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
    /// How long the checkpoint is kept. Default: until it is deleted.
    pub ttl: Ttl,
    /// Replaces a checkpoint of the same name, with all of its metadata, instead of refusing. Default false.
    pub overwrite: bool,
    /// Something to find the checkpoint by. Default: none.
    pub user_metadata: Option<BTreeMap<String, String>>,
}

/// How weights to sample from are saved under a name. The default keeps them until they are deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SaveWeightsOptions {
    /// How long the weights are kept. Default: until they are deleted.
    pub ttl: Ttl,
    /// Something to find the weights by. Default: none.
    pub user_metadata: Option<BTreeMap<String, String>>,
}

/// What a sampling client made from a training client samples from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SamplerKind {
    /// The weights as they are now, for good.
    #[default]
    Snapshot,
    /// One target of the model, which all its inflight samplers share: every later inflight save moves the old clients
    /// along with the new one. An answer may mix versions of the weights, none older than the client's own save.
    Inflight,
}

/// The most recipients that a save may be encrypted for.
const MOST_RECIPIENTS: usize = 10;

pub(crate) fn check_recipients(recipients: &[&str]) -> Result<()> {
    const PATH: &str = "age_encryption_recipients";
    if MOST_RECIPIENTS < recipients.len() {
        return Err(Error::invalid(PATH, format!("are {}, at most {MOST_RECIPIENTS}", recipients.len())));
    }
    match recipients.iter().position(|it| it.is_empty()) {
        Some(i) => Err(Error::invalid(format!("{PATH}[{i}]"), "is empty")),
        None => Ok(()),
    }
}

/// The result of `save_weights_external`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SaveWeightsExternalOutput {
    /// Where the files are; give it to `RestClient::get_external_weights_urls`.
    pub path: ExternalPath,
    /// The size of all files together, in bytes, if the server says it.
    pub size_bytes: Option<u64>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_live_is_between_an_hour_and_ten_years() {
        let seconds = |it| Ttl::After(Duration::from_secs(it)).seconds();
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
    fn recipients_are_few_and_none_is_empty() {
        let path = |it: &[&str]| {
            check_recipients(it).expect_err("a refusal").violation().expect("a path").path.clone()
        };
        check_recipients(&[]).expect("not encrypted");
        check_recipients(&["age1a"; 10]).expect("as many as are allowed");
        assert_eq!(path(&["age1a"; 11]), "age_encryption_recipients");
        assert_eq!(path(&["age1a", ""]), "age_encryption_recipients[1]");
    }
}
