//! What the checks of one examination share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tinkex::types::{CheckpointPath, LoraConfig, SamplerPath, TrainingPath};
use tinkex::{
    AdminClient, Error, RestClient, SamplingClient, ServiceClient, ServiceClientBuilder, TrainingClient,
};

/// How a check ends that was not refused.
#[derive(Clone, Debug)]
pub(crate) enum Finding {
    /// It works; a word about it, or none.
    Fine(String),
    /// The server took no notice of what was asked for.
    Ignored(String),
}

/// Why a check did not get that far.
#[derive(Clone, Debug)]
pub(crate) enum Trouble {
    /// An error of the client, which is most often a refusal of the server.
    Refused(Error),
    /// The answer is not what it should be.
    Wrong(String),
    /// Another check would have had to succeed first.
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

pub(crate) fn told(text: impl Into<String>) -> Found {
    Ok(Finding::Fine(text.into()))
}

pub(crate) fn ignored(text: impl Into<String>) -> Found {
    Ok(Finding::Ignored(text.into()))
}

pub(crate) fn wrong(text: impl Into<String>) -> Found {
    Err(Trouble::Wrong(text.into()))
}

/// A server under examination.
pub(crate) struct Patient {
    /// The settings of a client of this server.
    pub(crate) connect: Box<dyn Fn() -> ServiceClientBuilder + Send + Sync>,
    pub(crate) service: ServiceClient,
    pub(crate) rest: RestClient,
    pub(crate) admin: AdminClient,
    pub(crate) base_model: String,
    /// Begins the name of everything that is saved, so that nothing of others is touched.
    prefix: String,
    made: Mutex<Made>,
}

/// What the checks made so far.
#[derive(Default)]
pub(crate) struct Made {
    training: Option<TrainingClient>,
    /// Why there is no model to train.
    no_training: Option<Error>,
    sampling: Option<SamplingClient>,
    pub(crate) state: Option<TrainingPath>,
    pub(crate) weights: Option<SamplerPath>,
    /// The saved state is public.
    pub(crate) published: bool,
    /// Checkpoints that are to be deleted in the end.
    pub(crate) litter: Vec<CheckpointPath>,
    names: u32,
}

impl Patient {
    pub(crate) fn new(
        connect: Box<dyn Fn() -> ServiceClientBuilder + Send + Sync>,
        service: ServiceClient,
        base_model: String,
    ) -> Arc<Self> {
        let (rest, admin) = (service.create_rest_client(), service.create_admin_client());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let prefix = format!("doctor-{:x}", now.as_millis());
        Arc::new(Patient { connect, service, rest, admin, base_model, prefix, made: Mutex::default() })
    }

    pub(crate) fn made(&self) -> MutexGuard<'_, Made> {
        // A check that panicked says so itself.
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The model that is trained, made when it is first needed, and anew after [`Patient::give_up_training`].
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

    /// A client whose call failed may have lost its order: the next check gets another one.
    pub(crate) fn give_up_training(&self) {
        let client = self.made().training.take();
        if let Some(client) = client {
            self.discard(&client);
        }
    }

    /// Gives a model back that is not needed any more: some servers hold few. Where they cannot be told, it goes with the
    /// session.
    pub(crate) fn discard(&self, client: &TrainingClient) {
        drop(client.unload_model().wait());
        client.close();
    }

    /// A sampler of the base model, made when it is first needed.
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

    /// A name that nothing has yet.
    pub(crate) fn name(&self) -> String {
        let mut made = self.made();
        made.names += 1;
        format!("{}-{}", self.prefix, made.names)
    }

    /// Notes a checkpoint to be deleted.
    pub(crate) fn litter(&self, path: impl Into<CheckpointPath>) {
        self.made().litter.push(path.into());
    }
}
