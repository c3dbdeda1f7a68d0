//! REST calls about the server's status and capabilities, training runs and samplers.

use serde::Deserialize;

use super::RestClient;
use super::listing::{Listing, Source};
use crate::client::blocking_call::RestRequest;
use crate::error::{Error, Result};
use crate::http::endpoint;
use crate::types::{CheckpointPath, Page, SamplerInfo, ServerCapabilities, TrainingRun, WeightsInfo};
use crate::wire::json::{self, ServerCapabilitiesResponse, TrainingRunsResponse};
use crate::wire::url::{self, Query};

const RUNS: Source<TrainingRun> = Source {
    verb: "RestClient.list_training_runs",
    endpoint: &endpoint::TRAINING_RUNS,
    limit: 20,
    read: |body| {
        let response: TrainingRunsResponse = json::response(body)?;
        Ok(Page { items: response.training_runs, cursor: response.cursor })
    },
    key: |run| &run.training_run_id,
};

impl RestClient {
    /// Checks the server's health and returns the status that it reports, usually `ok` (PROTOCOL §3.1 #5). Needs no
    /// valid credential.
    ///
    /// # Errors
    /// No connection, or a server that answers with an error.
    ///
    /// # Blocking
    /// For one request; see [`RestClient`].
    pub fn healthz(&self) -> Result<String> {
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Health {
            status: String,
        }
        let request = RestRequest::new(&endpoint::HEALTHZ, endpoint::HEALTHZ.path());
        self.caller.run_without_flags("RestClient.healthz", |call| Ok(call.json::<Health>(&request)?.status))
    }

    /// Reads the server's capabilities, such as its models (PROTOCOL §3.1 #6).
    ///
    /// # Errors
    /// As for [`RestClient`]. If the account cannot pay, this call does not wait: it fails with
    /// [`Billing`](crate::ErrorKind::Billing).
    ///
    /// # Blocking
    /// For one request; see [`RestClient`].
    pub fn get_server_capabilities(&self) -> Result<ServerCapabilities> {
        const VERB: &str = "RestClient.get_server_capabilities";
        let request = RestRequest::new(&endpoint::SERVER_CAPABILITIES, endpoint::SERVER_CAPABILITIES.path());
        self.caller.json::<ServerCapabilitiesResponse>(VERB, request).map(Into::into)
    }

    /// Lists the training runs, by default in pages of 20 (PROTOCOL §3.5 #28). See [`Listing`].
    pub fn list_training_runs(&self) -> Listing<TrainingRun> {
        Listing::new(&self.caller, RUNS, Some(self.scope))
    }

    /// Reads one training run.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound), and as for [`RestClient`].
    ///
    /// # Blocking
    /// For one request; see [`RestClient`].
    pub fn get_training_run(&self, training_run_id: &str) -> Result<TrainingRun> {
        self.training_run("RestClient.get_training_run", training_run_id)
    }

    /// Reads the training run that saved a checkpoint.
    ///
    /// # Errors
    /// A malformed path (nothing is sent), and as for [`get_training_run`](Self::get_training_run).
    ///
    /// # Blocking
    /// For one request; see [`RestClient`].
    pub fn get_training_run_by_tinker_path<P>(&self, path: P) -> Result<TrainingRun>
    where
        P: TryInto<CheckpointPath>,
        Error: From<P::Error>,
    {
        let path = path.try_into()?;
        self.training_run("RestClient.get_training_run_by_tinker_path", path.run_id())
    }

    fn training_run(&self, verb: &'static str, id: &str) -> Result<TrainingRun> {
        let path = endpoint::TRAINING_RUN.path_with(&[&url::segment("training_run_id", id)?]);
        let query = Query::on(path).with("access_scope", self.scope.as_str());
        self.caller.json(verb, RestRequest::new(&endpoint::TRAINING_RUN, query.text()))
    }

    /// Reads the base model of a checkpoint and the rank and the layers of its adapter. It may be a public checkpoint
    /// of another owner (PROTOCOL §3.5 #35).
    ///
    /// # Errors
    /// A malformed path (nothing is sent), [`NotFound`](crate::ErrorKind::NotFound), and as for [`RestClient`].
    ///
    /// # Blocking
    /// For one request; see [`RestClient`].
    pub fn get_weights_info_by_tinker_path<P>(&self, path: P) -> Result<WeightsInfo>
    where
        P: TryInto<CheckpointPath>,
        Error: From<P::Error>,
    {
        const VERB: &str = "RestClient.get_weights_info_by_tinker_path";
        let path = path.try_into()?;
        let request = json::WeightsInfoRequest { tinker_path: path.as_str().into() };
        let request = RestRequest::json(&endpoint::WEIGHTS_INFO, endpoint::WEIGHTS_INFO.path(), &request)?;
        self.caller.json::<json::WeightsInfoResponse>(VERB, request).map(Into::into)
    }

    /// Reads one sampling session (PROTOCOL §3.4 #27).
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound), and as for [`RestClient`].
    ///
    /// # Blocking
    /// For one request; see [`RestClient`].
    pub fn get_sampler(&self, sampler_id: &str) -> Result<SamplerInfo> {
        let path = endpoint::SAMPLER.path_with(&[&url::segment("sampler_id", sampler_id)?]);
        self.caller.json("RestClient.get_sampler", RestRequest::new(&endpoint::SAMPLER, path))
    }
}
