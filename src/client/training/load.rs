//! Loading of saved weights into an existing model.

use super::submit::SingleRequest;
use super::{Msg, TrainingClient};
use crate::error::{Error, Result};
use crate::http::endpoint;
use crate::pending::Pending;
use crate::types::{LoadStateOutput, TrainingPath};
use crate::wire::json;

impl TrainingClient {
    /// Loads saved weights into this model, with a new optimizer state. Servers allow this call only as a model's first
    /// operation: prefer `ServiceClient::create_training_client_from_state`.
    ///
    /// # Errors
    /// Through the [`Pending`]: a path that is not the path of a training state (nothing is sent), or an error of the
    /// server.
    ///
    /// # Blocking
    /// As for [`forward`](Self::forward).
    pub fn load_state<P>(&self, path: P) -> Pending<LoadStateOutput>
    where
        P: TryInto<TrainingPath>,
        Error: From<P::Error>,
    {
        self.load("TrainingClient.load_state", path.try_into().map_err(Error::from), false)
    }

    /// As [`load_state`](Self::load_state), with the saved optimizer state.
    ///
    /// # Errors
    /// As for [`load_state`](Self::load_state).
    ///
    /// # Blocking
    /// As for [`forward`](Self::forward).
    pub fn load_state_with_optimizer<P>(&self, path: P) -> Pending<LoadStateOutput>
    where
        P: TryInto<TrainingPath>,
        Error: From<P::Error>,
    {
        self.load("TrainingClient.load_state_with_optimizer", path.try_into().map_err(Error::from), true)
    }

    fn load(
        &self,
        verb: &'static str,
        path: Result<TrainingPath>,
        optimizer: bool,
    ) -> Pending<LoadStateOutput> {
        let path = match path {
            Ok(path) => path,
            Err(error) => return Pending::failed(verb, error),
        };
        self.submit_request(verb, Msg::LoadState, |ticket| SingleRequest {
            ticket,
            endpoint: &endpoint::LOAD_WEIGHTS,
            request_type: "LoadWeights",
            body: Box::new(move |model_id, seq_id| {
                json::encode(&json::LoadWeightsRequest::into_model(
                    model_id,
                    seq_id,
                    path.as_str(),
                    optimizer,
                ))
            }),
            read: |body| Ok(LoadStateOutput { path: body.read::<json::LoadWeightsResponse>()?.path }),
            named: None,
        })
    }
}
