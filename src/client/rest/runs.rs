//! What the server offers, training runs, samplers.

use serde::Deserialize;

use super::RestClient;
use super::listing::{Listing, Source};
use crate::client::asking::Ask;
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
        let it: TrainingRunsResponse = json::response(body)?;
        Ok(Page { items: it.training_runs, cursor: it.cursor })
    },
    key: |it| &it.training_run_id,
};

impl RestClient {
    /// Whether the server is up (PROTOCOL §3.1 #5): what it says of itself, usually `ok`. Needs no valid credential.
    ///
    /// # Errors
    /// No connection, or a server that is not well.
    ///
    /// # Blocking
    /// For one request; see [`RestClient`].
    pub fn healthz(&self) -> Result<String> {
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Health {
            status: String,
        }
        let ask = Ask::new(&endpoint::HEALTHZ, endpoint::HEALTHZ.path());
        self.asker.run_unprepared("RestClient.healthz", |it| Ok(it.json::<Health>(&ask)?.status))
    }

    /// What the server offers (PROTOCOL §3.1 #6).
    ///
    /// # Errors
    /// As for [`RestClient`]; an account that cannot pay is refused with [`Billing`](crate::ErrorKind::Billing).
    ///
    /// # Blocking
    /// For one request; see [`RestClient`].
    pub fn get_server_capabilities(&self) -> Result<ServerCapabilities> {
        const VERB: &str = "RestClient.get_server_capabilities";
        let ask = Ask::new(&endpoint::SERVER_CAPABILITIES, endpoint::SERVER_CAPABILITIES.path());
        self.asker.json::<ServerCapabilitiesResponse>(VERB, ask).map(Into::into)
    }

    /// The training runs, page by page; 20 at a time unless told otherwise (PROTOCOL §3.5 #28). See [`Listing`].
    pub fn list_training_runs(&self) -> Listing<TrainingRun> {
        Listing::new(&self.asker, RUNS, Some(self.scope))
    }

    /// One training run.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound), and as for [`RestClient`].
    ///
    /// # Blocking
    /// For one request; see [`RestClient`].
    pub fn get_training_run(&self, training_run_id: &str) -> Result<TrainingRun> {
        self.training_run("RestClient.get_training_run", training_run_id)
    }

    /// The training run that saved a checkpoint.
    ///
    /// # Errors
    /// A path that is none (nothing is sent), and as for [`get_training_run`](Self::get_training_run).
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
        self.asker.json(verb, Ask::new(&endpoint::TRAINING_RUN, query.text()))
    }

    /// The base model and the adapter of a checkpoint, also of a public one of somebody else (PROTOCOL §3.5 #35).
    ///
    /// # Errors
    /// A path that is none (nothing is sent), [`NotFound`](crate::ErrorKind::NotFound), and as for [`RestClient`].
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
        let ask = Ask::json(&endpoint::WEIGHTS_INFO, endpoint::WEIGHTS_INFO.path(), &request)?;
        self.asker.json::<json::WeightsInfoResponse>(VERB, ask).map(Into::into)
    }

    /// One sampling session (PROTOCOL §3.4 #27).
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound), and as for [`RestClient`].
    ///
    /// # Blocking
    /// For one request; see [`RestClient`].
    pub fn get_sampler(&self, sampler_id: &str) -> Result<SamplerInfo> {
        let path = endpoint::SAMPLER.path_with(&[&url::segment("sampler_id", sampler_id)?]);
        self.asker.json("RestClient.get_sampler", Ask::new(&endpoint::SAMPLER, path))
    }
}
