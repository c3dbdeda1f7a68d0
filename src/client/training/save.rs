//! Saves of a training client: training states, weights to sample from, exported files. Also makes sampling clients
//! from saved weights.

use super::submit::{Named, SingleRequest};
use super::{Msg, TrainingClient};
use crate::client::create::{self, CreatedSampler};
use crate::client::{SamplingClient, SamplingSource, from_server};
use crate::error::{Error, Result};
use crate::http::endpoint;
use crate::pending::Pending;
use crate::session::missing_in_answer;
use crate::types::{
    SamplerKind, SaveStateOptions, SaveStateOutput, SaveWeightsExternalOutput, SaveWeightsForSamplerOutput,
    SaveWeightsOptions, Ttl, check_name, check_recipients,
};
use crate::wire::json;

impl TrainingClient {
    /// Saves weights and optimizer state as a checkpoint with a name (PROTOCOL §3.3 #15).
    ///
    /// # Errors
    /// Through the [`Pending`]: a name that is not a valid path segment, such as one with a slash, or a time to live
    /// out of range (nothing is sent); a name that exists already
    /// ([`ErrorKind::Conflict`](crate::ErrorKind::Conflict)), or another error of the server.
    ///
    /// # Blocking
    /// As for [`forward`](Self::forward).
    pub fn save_state(&self, name: &str, ttl: Ttl) -> Pending<SaveStateOutput> {
        self.save_state_with(name, &SaveStateOptions { ttl, ..Default::default() })
    }

    /// As [`save_state`](Self::save_state), with metadata, or with permission to replace a checkpoint of the same name.
    ///
    /// # Errors
    /// As for [`save_state`](Self::save_state); with `overwrite`, an existing name is not an error.
    ///
    /// # Blocking
    /// As for [`forward`](Self::forward).
    ///
    /// # Example: overwrite the last state
    /// ```
    /// # #[cfg(feature = "local")] {
    /// # let server = tinkex::local::Server::start(Default::default())?;
    /// # let service = tinkex::ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build()?;
    /// # let training = service.create_lora_training_client("tinkex/nano", Default::default())?;
    /// use tinkex::types::SaveStateOptions;
    ///
    /// let options = SaveStateOptions { overwrite: true, ..Default::default() };
    /// let first = training.save_state_with("newest", &options).wait()?.path;
    /// let second = training.save_state_with("newest", &options).wait()?.path;
    /// assert_eq!(first, second);
    /// # }
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub fn save_state_with(&self, name: &str, options: &SaveStateOptions) -> Pending<SaveStateOutput> {
        const VERB: &str = "TrainingClient.save_state";
        let ttl_seconds = match check_name(name).and_then(|()| options.ttl.seconds()) {
            Ok(seconds) => seconds,
            Err(error) => return Pending::failed(VERB, error),
        };
        let request = json::SaveWeightsRequest {
            path: Some(name.to_string()),
            ttl_seconds,
            overwrite: options.overwrite,
            user_metadata: options.user_metadata.clone(),
            ..Default::default()
        };
        self.submit_request(VERB, Msg::SaveState, |ticket| SingleRequest {
            ticket,
            endpoint: &endpoint::SAVE_WEIGHTS,
            request_type: "SaveWeights",
            body: Box::new(move |model_id, seq_id| {
                let (model_id, seq_id) = (model_id.into(), Some(seq_id));
                json::encode(&json::SaveWeightsRequest { model_id, seq_id, ..request })
            }),
            read: |body| {
                let reply: json::SaveWeightsResponse = body.read()?;
                Ok(SaveStateOutput { path: from_server(reply.path.parse())? })
            },
            named: Some(Named {
                name: name.to_string(),
                result: |model_id, name| {
                    let path = format!("tinker://{model_id}/weights/{name}").parse();
                    Ok(SaveStateOutput { path: from_server(path)? })
                },
            }),
        })
    }

    /// Saves the weights for sampling, with a name (PROTOCOL §3.3 #17).
    ///
    /// # Errors
    /// As for [`save_state`](Self::save_state).
    ///
    /// # Blocking
    /// As for [`forward`](Self::forward).
    pub fn save_weights_for_sampler(&self, name: &str, ttl: Ttl) -> Pending<SaveWeightsForSamplerOutput> {
        self.save_weights_for_sampler_with(name, &SaveWeightsOptions { ttl, ..Default::default() })
    }

    /// As [`save_weights_for_sampler`](Self::save_weights_for_sampler), with metadata.
    ///
    /// # Errors
    /// As for [`save_state`](Self::save_state).
    ///
    /// # Blocking
    /// As for [`forward`](Self::forward).
    pub fn save_weights_for_sampler_with(
        &self,
        name: &str,
        options: &SaveWeightsOptions,
    ) -> Pending<SaveWeightsForSamplerOutput> {
        const VERB: &str = "TrainingClient.save_weights_for_sampler";
        let ttl_seconds = match check_name(name).and_then(|()| options.ttl.seconds()) {
            Ok(seconds) => seconds,
            Err(error) => return Pending::failed(VERB, error),
        };
        let request = json::SaveWeightsForSamplerRequest {
            path: Some(name.to_string()),
            ttl_seconds,
            user_metadata: options.user_metadata.clone(),
            ..Default::default()
        };
        self.save_for_sampler(VERB, request).and_then(|reply| {
            let path = reply.path.ok_or_else(|| missing_in_answer("the path of the weights"))?;
            Ok(SaveWeightsForSamplerOutput { path: from_server(path.parse())? })
        })
    }

    /// Exports the weights, with a name, as files of Hugging Face PEFT for download (PROTOCOL §3.3 #18). With
    /// recipients, at most ten public keys of the age encryption tool, each file is encrypted for them and its name
    /// ends with `.age`.
    ///
    /// # Errors
    /// As for [`save_state`](Self::save_state); too many recipients or an empty one (nothing is sent); a server without
    /// the endpoint.
    ///
    /// # Blocking
    /// As for [`forward`](Self::forward).
    ///
    /// # Example: an export for one day and one recipient
    /// ```no_run
    /// # fn example(training: tinkex::TrainingClient) -> tinkex::Result<()> {
    /// use std::time::Duration;
    /// use tinkex::types::Ttl;
    ///
    /// let day = Ttl::After(Duration::from_secs(24 * 3600));
    /// let saved = training.save_weights_external("release", day, &["age1example"]).wait()?;
    /// println!("{}: {:?} bytes", saved.path, saved.size_bytes);
    /// # Ok(())
    /// # }
    /// ```
    pub fn save_weights_external(
        &self,
        name: &str,
        ttl: Ttl,
        age_encryption_recipients: &[&str],
    ) -> Pending<SaveWeightsExternalOutput> {
        const VERB: &str = "TrainingClient.save_weights_external";
        let checked = check_name(name).and_then(|()| check_recipients(age_encryption_recipients));
        let ttl_seconds = match checked.and_then(|()| ttl.seconds()) {
            Ok(seconds) => seconds,
            Err(error) => return Pending::failed(VERB, error),
        };
        let recipients = age_encryption_recipients.iter().map(|key| key.to_string()).collect::<Vec<_>>();
        let request = json::SaveWeightsExternalRequest {
            path: name.to_string(),
            ttl_seconds,
            age_encryption_recipients: Some(recipients).filter(|recipients| !recipients.is_empty()),
            ..Default::default()
        };
        self.submit_request(VERB, Msg::SaveExternal, |ticket| SingleRequest {
            ticket,
            endpoint: &endpoint::SAVE_WEIGHTS_EXTERNAL,
            request_type: "SaveWeightsExternal",
            body: Box::new(move |model_id, seq_id| {
                let (model_id, seq_id) = (model_id.into(), Some(seq_id));
                json::encode(&json::SaveWeightsExternalRequest { model_id, seq_id, ..request })
            }),
            read: |body| {
                let reply: json::SaveWeightsExternalResponse = body.read()?;
                let path = reply.path.ok_or_else(|| missing_in_answer("the path of the files"))?;
                Ok(SaveWeightsExternalOutput {
                    path: from_server(path.parse())?,
                    size_bytes: reply.size_bytes,
                })
            },
            named: None,
        })
    }

    /// Saves a snapshot of the current weights without a name, and makes a client that samples from it.
    ///
    /// # Errors
    /// An error of the server, no connection, a closed client.
    ///
    /// # Blocking
    /// Until the server has saved the weights, which it does after all operations submitted before; at most
    /// `Timeouts::operation`.
    pub fn save_weights_and_get_sampling_client(&self) -> Result<SamplingClient> {
        self.save_weights_and_get_sampling_client_with(SamplerKind::Snapshot)
    }

    /// As [`save_weights_and_get_sampling_client`](Self::save_weights_and_get_sampling_client), where `kind` chooses
    /// between a snapshot and a sampler whose weights are updated by later saves of the same kind.
    ///
    /// # Errors
    /// As for [`save_weights_and_get_sampling_client`](Self::save_weights_and_get_sampling_client).
    ///
    /// # Blocking
    /// As for [`save_weights_and_get_sampling_client`](Self::save_weights_and_get_sampling_client).
    pub fn save_weights_and_get_sampling_client_with(&self, kind: SamplerKind) -> Result<SamplingClient> {
        const VERB: &str = "TrainingClient.save_weights_and_get_sampling_client";
        let seq_id = self.session().next_sampling_session_seq_id();
        let request = json::SaveWeightsForSamplerRequest {
            sampling_session_seq_id: Some(seq_id),
            kind,
            ..Default::default()
        };
        let reply = self.save_for_sampler(VERB, request).wait()?;
        let sampling_session_id =
            reply.sampling_session_id.ok_or_else(|| missing_in_answer("the id of the sampling session"))?;
        let base_model = self.inner.info.base_model.clone();
        SamplingClient::start_with_base_model(
            self.inner.owner.clone(),
            CreatedSampler { sampling_session_id, base_model },
        )
    }

    /// Makes a client that samples from saved weights, in the session of this model.
    ///
    /// # Errors
    /// A path that is not the path of weights for sampling (nothing is sent), a checkpoint that does not exist, no
    /// connection, a closed client.
    ///
    /// # Blocking
    /// For one or two requests, each retried for at most `Timeouts::submit`. Does not wait for operations submitted
    /// before.
    ///
    /// # Example: sample from saved weights
    /// ```
    /// # #[cfg(feature = "local")] {
    /// # let server = tinkex::local::Server::start(Default::default())?;
    /// # let service = tinkex::ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build()?;
    /// # let training = service.create_lora_training_client("tinkex/nano", Default::default())?;
    /// use tinkex::types::{ModelInput, SamplingParams, Ttl};
    ///
    /// let saved = training.save_weights_for_sampler("final", Ttl::Never).wait()?;
    /// let sampler = training.create_sampling_client(&saved.path)?;
    /// let params = SamplingParams { max_tokens: Some(4), ..Default::default() };
    /// sampler.sample(&ModelInput::from_ints([72]), 1, &params).wait()?;
    /// # }
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub fn create_sampling_client<M>(&self, path: M) -> Result<SamplingClient>
    where
        M: TryInto<SamplingSource>,
        Error: From<M::Error>,
    {
        const VERB: &str = "TrainingClient.create_sampling_client";
        let source = path.try_into()?;
        let (session, cancel) = (self.session(), &self.inner.actor.cancel);
        session.check_open()?;
        let (ticket, pending) = session.ticket(VERB, cancel);
        // The id is always known, because the model was created in the session.
        let session_id = session.id().ok_or_else(|| missing_in_answer("the id of the session"))?;
        create::spawn_sampler(session.clone(), session_id, create::NewSampler { source, ticket });
        SamplingClient::start_at(self.inner.owner.clone(), pending.wait()?, 0)
    }

    fn save_for_sampler(
        &self,
        verb: &'static str,
        request: json::SaveWeightsForSamplerRequest,
    ) -> Pending<json::SaveWeightsForSamplerResponse> {
        let named = request.path.clone().map(|name| Named {
            name,
            result: |model_id, name| {
                let path = Some(format!("tinker://{model_id}/{name}"));
                Ok(json::SaveWeightsForSamplerResponse { path, ..Default::default() })
            },
        });
        self.submit_request(verb, Msg::SaveWeights, |ticket| SingleRequest {
            ticket,
            endpoint: &endpoint::SAVE_WEIGHTS_FOR_SAMPLER,
            request_type: "SaveWeightsForSampler",
            body: Box::new(move |model_id, seq_id| {
                let (model_id, seq_id) = (model_id.into(), Some(seq_id));
                json::encode(&json::SaveWeightsForSamplerRequest { model_id, seq_id, ..request })
            }),
            read: json::ResultBody::read,
            named,
        })
    }
}
