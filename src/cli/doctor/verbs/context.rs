//! State that the checks of one examination share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tinkex::types::{CheckpointPath, LoraConfig, SamplerPath, TrainingPath};
use tinkex::{
    AdminClient, Error, RestClient, SamplingClient, ServiceClient, ServiceClientBuilder, TrainingClient,
};

/// Result of a check without an error.
#[derive(Clone, Debug)]
pub(crate) enum Finding {
    /// The method works. The text is a note and may be empty.
    Fine(String),
    /// The server ignored the option.
    Ignored(String),
}

/// Reason why a check failed.
#[derive(Clone, Debug)]
pub(crate) enum Trouble {
    /// An error of the client, in most cases a refusal by the server.
    Refused(Error),
    /// The answer is wrong.
    Wrong(String),
    /// The check needs the result of another check, which did not succeed. The value is the name of the other check.
    Needs(&'static str),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Trouble::Refused(error)
    }
}

pub(crate) type Found = Result<Finding, Trouble>;

pub(crate) fn fine() -> Found {
    Ok(Finding::Fine(String::new()))
}

pub(crate) fn note(text: impl Into<String>) -> Found {
    Ok(Finding::Fine(text.into()))
}

pub(crate) fn ignored(text: impl Into<String>) -> Found {
    Ok(Finding::Ignored(text.into()))
}

pub(crate) fn wrong(text: impl Into<String>) -> Found {
    Err(Trouble::Wrong(text.into()))
}

/// The server under test, its clients, and the objects that the checks made.
pub(crate) struct Context {
    /// Makes the builder of a client of this server.
    pub(crate) connect: Box<dyn Fn() -> ServiceClientBuilder + Send + Sync>,
    pub(crate) service: ServiceClient,
    pub(crate) rest: RestClient,
    pub(crate) admin: AdminClient,
    pub(crate) base_model: String,
    /// Prefix of the names of all saved checkpoints. It contains the time, so that existing checkpoints are not
    /// overwritten.
    prefix: String,
    made: Mutex<Made>,
}

/// Objects that the checks made so far.
#[derive(Default)]
pub(crate) struct Made {
    training: Option<TrainingClient>,
    /// Error of the attempt to create the model, after which no further attempt is made.
    no_training: Option<Error>,
    sampling: Option<SamplingClient>,
    pub(crate) state: Option<TrainingPath>,
    pub(crate) weights: Option<SamplerPath>,
    /// True if the saved state is public.
    pub(crate) published: bool,
    /// Checkpoints to delete at the end.
    pub(crate) to_delete: Vec<CheckpointPath>,
    names: u32,
}

impl Context {
    pub(crate) fn new(
        connect: Box<dyn Fn() -> ServiceClientBuilder + Send + Sync>,
        service: ServiceClient,
        base_model: String,
    ) -> Arc<Self> {
        let (rest, admin) = (service.create_rest_client(), service.create_admin_client());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let prefix = format!("doctor-{:x}", now.as_millis());
        Arc::new(Context { connect, service, rest, admin, base_model, prefix, made: Mutex::default() })
    }

    pub(crate) fn made(&self) -> MutexGuard<'_, Made> {
        // Ignore that the lock is poisoned: the check that panicked has reported it.
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client of the model to train. Creates the model on first use, and a new one after
    /// [`Context::give_up_training`].
    pub(crate) fn training(&self) -> Result<TrainingClient, Trouble> {
        if let Some(client) = &self.made().training {
            return Ok(client.clone());
        }
        if self.made().no_training.is_some() {
            return Err(Trouble::Needs("create_lora_training_client"));
        }
        match self.new_training(super::training::shape()) {
            Ok(client) => {
                self.made().training = Some(client.clone());
                Ok(client)
            }
            Err(error) => {
                self.made().no_training = Some(error.clone());
                Err(error.into())
            }
        }
    }

    pub(crate) fn new_training(&self, lora: LoraConfig) -> Result<TrainingClient, Error> {
        self.service.create_lora_training_client(&self.base_model, lora)
    }

    /// Discards the model, because its client may be poisoned after a failed call. The next check gets a new model.
    pub(crate) fn give_up_training(&self) {
        let client = self.made().training.take();
        if let Some(client) = client {
            self.discard(&client);
        }
    }

    /// Unloads a model that is no longer needed, because some servers can hold only a few. If the server cannot unload,
    /// the model lives until the end of the session.
    pub(crate) fn discard(&self, client: &TrainingClient) {
        drop(client.unload_model().wait());
        client.close();
    }

    /// A sampler of the base model, made on first use.
    pub(crate) fn sampling(&self) -> Result<SamplingClient, Trouble> {
        if let Some(client) = &self.made().sampling {
            return Ok(client.clone());
        }
        let client = self.service.create_sampling_client(self.base_model.as_str())?;
        self.made().sampling = Some(client.clone());
        Ok(client)
    }

    /// A saved state of the model.
    pub(crate) fn state(&self) -> Result<TrainingPath, Trouble> {
        self.made().state.clone().ok_or(Trouble::Needs("save_state"))
    }

    /// Saved weights to sample from.
    pub(crate) fn weights(&self) -> Result<SamplerPath, Trouble> {
        self.made().weights.clone().ok_or(Trouble::Needs("save_weights_for_sampler"))
    }

    /// Makes a name for a checkpoint that has not been used yet.
    pub(crate) fn name(&self) -> String {
        let mut made = self.made();
        made.names += 1;
        format!("{}-{}", self.prefix, made.names)
    }

    /// Adds a checkpoint to delete at the end.
    pub(crate) fn delete_later(&self, path: impl Into<CheckpointPath>) {
        self.made().to_delete.push(path.into());
    }
}
