//! Saving: states to go on from, weights to sample from, files to use elsewhere.

use super::submit::{Ask, Named};
use super::{Msg, TrainingClient};
use crate::client::create::{self, CreatedSampler};
use crate::client::{SamplingClient, SamplingSource, from_server};
use crate::error::{Error, Result};
use crate::http::endpoint;
use crate::pending::Pending;
use crate::session::incomplete;
use crate::types::{
    SamplerKind, SaveStateOptions, SaveStateOutput, SaveWeightsExternalOutput, SaveWeightsForSamplerOutput,
    SaveWeightsOptions, Ttl, check_name, check_recipients,
};
use crate::wire::json;

impl TrainingClient {
    /// Saves weights and optimizer state under a name (PROTOCOL §3.3 #15).
    ///
    /// # Errors
    /// Through the [`Pending`]: a name that cannot be a part of a path, such as one with a slash, or a time to live out of range
    /// (nothing is sent); a name that is taken ([`ErrorKind::Conflict`](crate::ErrorKind::Conflict)), or what the server says.
    ///
    /// # Blocking
    /// As for [`forward`](Self::forward).
    pub fn save_state(&self, name: &str, ttl: Ttl) -> Pending<SaveStateOutput> {
        self.save_state_with(name, &SaveStateOptions { ttl, ..Default::default() })
    }

    /// As [`save_state`](Self::save_state), with metadata, or replacing a checkpoint of the same name.
    ///
    /// # Errors
    /// As for [`save_state`](Self::save_state); a name that is taken only without `overwrite`.
    ///
    /// # Blocking
    /// As for [`forward`](Self::forward).
    ///
    /// # Example: the newest state under one name
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
            Ok(it) => it,
            Err(error) => return Pending::failed(VERB, error),
        };
        let request = json::SaveWeightsRequest {
            path: Some(name.to_string()),
            ttl_seconds,
            overwrite: options.overwrite,
            user_metadata: options.user_metadata.clone(),
            ..Default::default()
        };
        self.ask(VERB, Msg::SaveState, |ticket| Ask {
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

    /// Saves the weights under a name, to sample from (PROTOCOL §3.3 #17).
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
            Ok(it) => it,
            Err(error) => return Pending::failed(VERB, error),
        };
        let request = json::SaveWeightsForSamplerRequest {
            path: Some(name.to_string()),
            ttl_seconds,
            user_metadata: options.user_metadata.clone(),
            ..Default::default()
        };
        self.save_for_sampler(VERB, request).and_then(|reply| {
            let path = reply.path.ok_or_else(|| incomplete("the path of the weights"))?;
            Ok(SaveWeightsForSamplerOutput { path: from_server(path.parse())? })
        })
    }

    /// Saves the weights under a name in the files of Hugging Face PEFT, to be downloaded and used elsewhere (PROTOCOL §3.3
    /// #18). With recipients of the age encryption tool, at most ten public keys, each file is encrypted for them and its
    /// name ends with `.age`.
    ///
    /// # Errors
    /// As for [`save_state`](Self::save_state); too many recipients or an empty one (nothing is sent); a server that does
    /// not offer it.
    ///
    /// # Blocking
    /// As for [`forward`](Self::forward).
    ///
    /// # Example: for a day, for one reader
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
        let fine = check_name(name).and_then(|()| check_recipients(age_encryption_recipients));
        let ttl_seconds = match fine.and_then(|()| ttl.seconds()) {
            Ok(it) => it,
            Err(error) => return Pending::failed(VERB, error),
        };
        let recipients = age_encryption_recipients.iter().map(|it| it.to_string()).collect::<Vec<_>>();
        let request = json::SaveWeightsExternalRequest {
            path: name.to_string(),
            ttl_seconds,
            age_encryption_recipients: Some(recipients).filter(|it| !it.is_empty()),
            ..Default::default()
        };
        self.ask(VERB, Msg::SaveExternal, |ticket| Ask {
            ticket,
            endpoint: &endpoint::SAVE_WEIGHTS_EXTERNAL,
            request_type: "SaveWeightsExternal",
            body: Box::new(move |model_id, seq_id| {
                let (model_id, seq_id) = (model_id.into(), Some(seq_id));
                json::encode(&json::SaveWeightsExternalRequest { model_id, seq_id, ..request })
            }),
            read: |body| {
                let reply: json::SaveWeightsExternalResponse = body.read()?;
                let path = reply.path.ok_or_else(|| incomplete("the path of the files"))?;
                Ok(SaveWeightsExternalOutput {
                    path: from_server(path.parse())?,
                    size_bytes: reply.size_bytes,
                })
            },
            named: None,
        })
    }

    /// Freezes the weights as they are now, without a name, and makes a client that samples from them.
    ///
    /// # Errors
    /// What the server says, no connection, a closed client.
    ///
    /// # Blocking
    /// Until the server saved the weights, behind all operations submitted before; at most `Timeouts::operation`.
    pub fn save_weights_and_get_sampling_client(&self) -> Result<SamplingClient> {
        self.save_weights_and_get_sampling_client_with(SamplerKind::Snapshot)
    }

    /// As [`save_weights_and_get_sampling_client`](Self::save_weights_and_get_sampling_client), frozen or moving along with
    /// later saves of the same kind.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Blocking
    /// As there.
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
            reply.sampling_session_id.ok_or_else(|| incomplete("the id of the sampling session"))?;
        let base_model = self.inner.info.base_model.clone();
        SamplingClient::start_asking(
            self.inner.owner.clone(),
            CreatedSampler { sampling_session_id, base_model },
        )
    }

    /// Makes a client that samples from weights that were saved under a name, in the session of this model.
    ///
    /// # Errors
    /// A path that holds no weights to sample from (nothing is sent), a checkpoint that does not exist, no connection, a
    /// closed client.
    ///
    /// # Blocking
    /// For one or two requests, each repeated for at most `Timeouts::submit`. Operations submitted before are not waited for.
    ///
    /// # Example: sample from what was just saved
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
        // A model is made within a session, so that there is one.
        let session_id = session.id().ok_or_else(|| incomplete("the id of the session"))?;
        create::sampler(session.clone(), session_id, create::Sampler { source, ticket });
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
        self.ask(verb, Msg::SaveWeights, |ticket| Ask {
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
