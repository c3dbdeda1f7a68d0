//! Options of creating a model.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{AccessToken, OptimizerConfig};
use crate::error::{Error, Result};

/// Options of creating a model, besides its base model and adapter. The default trains with AdamW and has no metadata.
/// End the literal with `..Default::default()`: a minor version may add fields.
///
/// # Example: metadata and another optimizer
/// ```
/// use tinkex::types::{ModelOptions, OptimizerConfig};
///
/// let options = ModelOptions {
///     user_metadata: Some([("recipe".to_string(), "pig latin".to_string())].into()),
///     optimizer: OptimizerConfig::Dimuon { version: 1 },
///     ..Default::default()
/// };
/// assert_eq!(options.user_metadata.unwrap()["recipe"], "pig latin");
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelOptions {
    /// Metadata for finding the training run. Default: none.
    pub user_metadata: Option<BTreeMap<String, String>>,
    /// Optimizer. Default: AdamW.
    pub optimizer: OptimizerConfig,
    /// Further fields of the request, by name, such as `model_role` for a critic. Fields that the client sets itself
    /// are refused. The Tinker service refuses fields that it does not know. Default: none.
    pub extra_fields: Map<String, Value>,
}

impl ModelOptions {
    /// Checks the options. `reserved` are the names of the fields that the client sets itself.
    pub(crate) fn validate(&self, reserved: &[&str]) -> Result<()> {
        self.optimizer.validate("optimizer")?;
        match self.extra_fields.keys().find(|name| reserved.contains(&name.as_str())) {
            Some(name) => {
                let problem = "is a field that the client sets itself";
                Err(Error::invalid(format!("extra_fields[{name:?}]"), problem))
            }
            None => Ok(()),
        }
    }
}

/// Options of creating a model from a checkpoint. The default loads the weights into a model with the base model and
/// the adapter settings of the checkpoint, and begins with a new AdamW state. End the literal with
/// `..Default::default()`: a minor version may add fields.
///
/// # Example: continue from the weights of another user
/// ```
/// use tinkex::types::{AccessToken, FromStateOptions};
///
/// let options = FromStateOptions {
///     weights_access_token: Some(AccessToken::new("from the owner")),
///     ..Default::default()
/// };
/// assert!(!format!("{options:?}").contains("from the owner"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct FromStateOptions {
    /// Restores the optimizer state too, so that training continues exactly where it stopped. Default false.
    pub restore_optimizer: bool,
    /// Base model. Default: that of the checkpoint.
    pub base_model: Option<String>,
    /// Metadata for finding the training run. Default: none.
    pub user_metadata: Option<BTreeMap<String, String>>,
    /// Access token of the owner, for checkpoints of other users. It is sent in the body of the request; `Debug` hides
    /// it. Default: none.
    pub weights_access_token: Option<AccessToken>,
    /// Optimizer of the model. It cannot be set together with [`restore_optimizer`](Self::restore_optimizer), because a
    /// restored optimizer has the type that was saved. Default: that of the server, AdamW.
    pub optimizer: Option<OptimizerConfig>,
}

impl FromStateOptions {
    pub(crate) fn validate(&self) -> Result<()> {
        if self.base_model.as_deref() == Some("") {
            return Err(Error::invalid("base_model", "is empty"));
        }
        self.weights_access_token.as_ref().map(AccessToken::checked).transpose()?;
        match &self.optimizer {
            Some(_) if self.restore_optimizer => {
                let problem =
                    "cannot be set with restore_optimizer: a restored optimizer has the type that was saved";
                Err(Error::invalid("optimizer", problem))
            }
            Some(optimizer) => optimizer.validate("optimizer"),
            None => Ok(()),
        }
    }
}
