//! What else can be said of a model that is to be made.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{AccessToken, OptimizerConfig};
use crate::error::{Error, Result};

/// How a model is made, besides its base model and adapter. `ModelOptions::default()` trains with AdamW and notes nothing.
///
/// # Example: a note, and another optimizer
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
    /// Something to find the training run by. Default: none.
    pub user_metadata: Option<BTreeMap<String, String>>,
    /// The optimizer. Default: AdamW.
    pub optimizer: OptimizerConfig,
    /// What a server wants to know besides, by name, such as `model_role` for a critic. It becomes part of the request;
    /// fields that the client writes itself cannot be given. The Tinker service refuses fields that it does not know. Default:
    /// nothing.
    pub extra_fields: Map<String, Value>,
}

impl ModelOptions {
    /// `written` are the names of the fields that the client writes itself.
    pub(crate) fn validate(&self, written: &[&str]) -> Result<()> {
        self.optimizer.validate("optimizer")?;
        match self.extra_fields.keys().find(|it| written.contains(&it.as_str())) {
            Some(name) => {
                let problem = "is a field that the client writes itself";
                Err(Error::invalid(format!("extra_fields[{name:?}]"), problem))
            }
            None => Ok(()),
        }
    }
}

/// How a model is made from a checkpoint. The default takes the weights alone, and everything else as the checkpoint has
/// it.
///
/// # Example: go on with somebody else's weights
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
    /// Whether the state of the optimizer is restored too, so that training goes on as if it had never stopped. Default
    /// false.
    pub restore_optimizer: bool,
    /// The base model. Default: that of the checkpoint.
    pub base_model: Option<String>,
    /// Something to find the training run by. Default: none.
    pub user_metadata: Option<BTreeMap<String, String>>,
    /// The owner's permission, for checkpoints that are not the caller's. It is sent in the body of the request and shown
    /// nowhere. Default: none.
    pub weights_access_token: Option<AccessToken>,
    /// The optimizer, for weights alone: one that is restored is of the kind that was saved. Default: the server's, AdamW.
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
                let problem = "an optimizer that is restored is of the kind that was saved";
                Err(Error::invalid("optimizer", problem))
            }
            Some(it) => it.validate("optimizer"),
            None => Ok(()),
        }
    }
}
