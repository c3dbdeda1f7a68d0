//! Checkpoints: lists, deletion, visibility, lifetimes, downloads, copies.

use std::mem;
use std::time::{Duration, SystemTime};

use super::RestClient;
use super::listing::{Listing, Source};
use crate::client::blocking_call::RestRequest;
use crate::client::from_server;
use crate::error::{Error, Result};
use crate::http::headers::uuid4;
use crate::http::{Answer, Endpoint, endpoint};
use crate::http_date;
use crate::session::missing_in_answer;
use crate::types::{
    ArchiveUrl, Checkpoint, CheckpointPath, CheckpointPlan, CopyOptions, ExternalPath, ExternalWeightsUrls,
    Page, SignedUrl, Timestamp, Ttl,
};
use crate::wire::json::{self, CheckpointsResponse};
use crate::wire::url;

const USER_CHECKPOINTS: Source<Checkpoint> = Source {
    verb: "RestClient.list_user_checkpoints",
    endpoint: &endpoint::CHECKPOINTS,
    limit: 100,
    read: |body| {
        let response: CheckpointsResponse = json::response(body)?;
        Ok(Page { items: response.checkpoints, cursor: response.cursor })
    },
    key: |checkpoint| &checkpoint.tinker_path,
};

/// Time for which the download address of an archive is assumed to be valid if the server does not report it.
const ARCHIVE_LIFE: Duration = Duration::from_secs(15 * 60);

/// URL path of an endpoint for a checkpoint.
fn path_of(endpoint: &Endpoint, path: &CheckpointPath) -> Result<String> {
    let run = url::segment("path", path.run_id())?;
    let id = url::segments("path", &path.checkpoint_id())?;
    Ok(endpoint.path_with(&[&run, &id]))
}

impl RestClient {
    /// Lists all checkpoints of one training run (PROTOCOL §3.5 #29).
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound), and as for [`RestClient`].
    ///
    /// # Blocking
    /// For one request; see [`RestClient`].
    pub fn list_checkpoints(&self, training_run_id: &str) -> Result<Vec<Checkpoint>> {
        self.checkpoints_of("RestClient.list_checkpoints", training_run_id)
    }

    fn checkpoints_of(&self, verb: &'static str, training_run_id: &str) -> Result<Vec<Checkpoint>> {
        let run = url::segment("training_run_id", training_run_id)?;
        let request =
            RestRequest::new(&endpoint::RUN_CHECKPOINTS, endpoint::RUN_CHECKPOINTS.path_with(&[&run]));
        Ok(self.caller.json::<CheckpointsResponse>(verb, request)?.checkpoints)
    }

    /// Lists the checkpoints of all training runs of the caller, newest first, by default in pages of 100. If the
    /// server reports the length of the list, the caller may delete checkpoints during the iteration. See [`Listing`].
    pub fn list_user_checkpoints(&self) -> Listing<Checkpoint> {
        Listing::new(&self.caller, USER_CHECKPOINTS, None)
    }

    /// Deletes a checkpoint, given its run and its id within the run, such as `weights/step-10` (PROTOCOL §3.5 #30).
    ///
    /// # Errors
    /// A malformed id (nothing is sent), [`NotFound`](crate::ErrorKind::NotFound), and as for [`RestClient`].
    /// `NotFound` can also come from a retry: the first attempt deleted the checkpoint, but its answer was lost.
    ///
    /// # Blocking
    /// For one request; see [`RestClient`].
    pub fn delete_checkpoint(&self, training_run_id: &str, checkpoint_id: &str) -> Result<()> {
        self.delete("RestClient.delete_checkpoint", &CheckpointPath::of(training_run_id, checkpoint_id)?)
    }

    /// Deletes a checkpoint, given its path.
    ///
    /// # Errors
    /// As for [`delete_checkpoint`](Self::delete_checkpoint).
    ///
    /// # Blocking
    /// For one request; see [`RestClient`].
    pub fn delete_checkpoint_from_tinker_path<P>(&self, path: P) -> Result<()>
    where
        P: TryInto<CheckpointPath>,
        Error: From<P::Error>,
    {
        self.delete("RestClient.delete_checkpoint_from_tinker_path", &path.try_into()?)
    }

    /// Deletes several checkpoints one after the other and returns the result for each. After a failure, the remaining
    /// checkpoints are still deleted.
    ///
    /// # Blocking
    /// For one request per checkpoint; see [`RestClient`]. Once the client is closed, no further request is sent.
    pub fn delete_checkpoints(
        &self,
        paths: impl IntoIterator<Item = CheckpointPath>,
    ) -> Vec<(CheckpointPath, Result<()>)> {
        paths
            .into_iter()
            .map(|path| {
                let result = self.delete("RestClient.delete_checkpoints", &path);
                (path, result)
            })
            .collect()
    }

    /// Plans which checkpoints of a training run to delete so that the newest `n` of each type stay. Nothing is
    /// deleted: pass the plan's [`paths_to_delete`](CheckpointPlan::paths_to_delete) to
    /// [`delete_checkpoints`](Self::delete_checkpoints). Public checkpoints, and checkpoints whose time, type or path
    /// is not known, always stay.
    ///
    /// # Errors
    /// As for [`list_checkpoints`](Self::list_checkpoints).
    ///
    /// # Blocking
    /// For one request; see [`RestClient`].
    ///
    /// # Example: keep the last two
    /// ```
    /// # #[cfg(feature = "testing")] {
    /// # use tinkex::{testing::FakeServer, types::{LoraConfig, Ttl}};
    /// # let server = FakeServer::new();
    /// # let service = server.in_memory().build()?;
    /// # let training = service.create_lora_training_client("fake/model", LoraConfig::default())?;
    /// # for step in 0..5 { training.save_state(&format!("step-{step}"), Ttl::Never).wait()?; }
    /// let rest = service.create_rest_client();
    /// let plan = rest.keep_last(training.model_id(), 2)?;
    /// println!("would delete {:?}", plan.paths_to_delete());
    /// for (path, done) in rest.delete_checkpoints(plan.paths_to_delete()) {
    ///     done?;
    ///     println!("deleted {path}");
    /// }
    /// assert_eq!(rest.list_user_checkpoints().count(), 2);
    /// # }
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub fn keep_last(&self, training_run_id: &str, n: usize) -> Result<CheckpointPlan> {
        const VERB: &str = "RestClient.keep_last";
        Ok(CheckpointPlan::keep_last(self.checkpoints_of(VERB, training_run_id)?, n))
    }

    fn delete(&self, verb: &'static str, path: &CheckpointPath) -> Result<()> {
        const ENDPOINT: &Endpoint = &endpoint::DELETE_CHECKPOINT;
        let request = RestRequest::new(ENDPOINT, path_of(ENDPOINT, path)?);
        self.caller.empty(verb, request)
    }

    /// Makes a checkpoint public (PROTOCOL §3.5 #31).
    ///
    /// # Errors
    /// A malformed path (nothing is sent), [`NotFound`](crate::ErrorKind::NotFound) also for a checkpoint of another
    /// owner, [`Conflict`](crate::ErrorKind::Conflict) if it is public already, and as for [`RestClient`].
    ///
    /// # Blocking
    /// For one request; see [`RestClient`].
    pub fn publish_checkpoint_from_tinker_path<P>(&self, path: P) -> Result<()>
    where
        P: TryInto<CheckpointPath>,
        Error: From<P::Error>,
    {
        const VERB: &str = "RestClient.publish_checkpoint_from_tinker_path";
        const ENDPOINT: &Endpoint = &endpoint::PUBLISH_CHECKPOINT;
        let path = path_of(ENDPOINT, &path.try_into()?)?;
        // Do not retry after 409: the checkpoint is public already.
        let request = RestRequest::new(ENDPOINT, path).final_on(&[409]);
        self.caller.empty(VERB, request)
    }

    /// Makes a checkpoint private.
    ///
    /// # Errors
    /// As for [`publish_checkpoint_from_tinker_path`](Self::publish_checkpoint_from_tinker_path), with a conflict if it
    /// is private already.
    ///
    /// # Blocking
    /// For one request; see [`RestClient`].
    pub fn unpublish_checkpoint_from_tinker_path<P>(&self, path: P) -> Result<()>
    where
        P: TryInto<CheckpointPath>,
        Error: From<P::Error>,
    {
        const VERB: &str = "RestClient.unpublish_checkpoint_from_tinker_path";
        const ENDPOINT: &Endpoint = &endpoint::UNPUBLISH_CHECKPOINT;
        let path = path_of(ENDPOINT, &path.try_into()?)?;
        let request = RestRequest::new(ENDPOINT, path).final_on(&[409]);
        self.caller.empty(VERB, request)
    }

    /// Sets the lifetime of a checkpoint; [`Ttl::Never`] keeps it until it is deleted (PROTOCOL §3.5 #32).
    ///
    /// # Errors
    /// A malformed path, a lifetime out of range (nothing is sent), [`NotFound`](crate::ErrorKind::NotFound), and as
    /// for [`RestClient`].
    ///
    /// # Blocking
    /// For one request; see [`RestClient`].
    pub fn set_checkpoint_ttl_from_tinker_path<P>(&self, path: P, ttl: Ttl) -> Result<()>
    where
        P: TryInto<CheckpointPath>,
        Error: From<P::Error>,
    {
        const VERB: &str = "RestClient.set_checkpoint_ttl_from_tinker_path";
        const ENDPOINT: &Endpoint = &endpoint::CHECKPOINT_TTL;
        let path = path_of(ENDPOINT, &path.try_into()?)?;
        let body = json::CheckpointTtlRequest { ttl_seconds: ttl.seconds()? };
        self.caller.empty(VERB, RestRequest::json(ENDPOINT, path, &body)?)
    }

    /// Returns the download addresses of exported weights (PROTOCOL §3.5 #33).
    ///
    /// # Errors
    /// A path that is not the path of exported weights (nothing is sent), [`NotFound`](crate::ErrorKind::NotFound), and
    /// as for [`RestClient`].
    ///
    /// # Blocking
    /// For one request; see [`RestClient`].
    pub fn get_external_weights_urls<P>(&self, path: P) -> Result<ExternalWeightsUrls>
    where
        P: TryInto<ExternalPath>,
        Error: From<P::Error>,
    {
        const VERB: &str = "RestClient.get_external_weights_urls";
        const ENDPOINT: &Endpoint = &endpoint::EXTERNAL_WEIGHTS_URLS;
        let request = RestRequest::new(ENDPOINT, path_of(ENDPOINT, &path.try_into()?.into())?);
        self.caller.run(VERB, |call| {
            let mut response: ExternalWeightsUrls = call.json(&request)?;
            for url in response.urls.values_mut() {
                *url = call.server_url(url)?;
            }
            Ok(response)
        })
    }

    /// Returns the download address of a checkpoint's archive (PROTOCOL §3.5 #34). Nothing is downloaded. Not all
    /// servers make archives; the Tinker service currently does not.
    ///
    /// # Errors
    /// A malformed path (nothing is sent), [`NotFound`](crate::ErrorKind::NotFound) also from a server without
    /// archives, and as for [`RestClient`].
    ///
    /// # Blocking
    /// For one or two requests, which are repeated for at most `Timeouts::submit` while the server makes the archive.
    pub fn get_checkpoint_archive_url<P>(&self, path: P) -> Result<ArchiveUrl>
    where
        P: TryInto<CheckpointPath>,
        Error: From<P::Error>,
    {
        const ENDPOINT: &Endpoint = &endpoint::CHECKPOINT_ARCHIVE;
        let path: CheckpointPath = path.try_into()?;
        let request_to = |path: String| {
            let mut request = RestRequest::new(ENDPOINT, path);
            request.call.takes_redirect = true;
            request
        };
        let mut first = request_to(path_of(ENDPOINT, &path)?);
        let mut second = None;
        if let CheckpointPath::Sampler(sampler) = &path {
            // Some servers use paths of sampler weights without `sampler_weights/`. First send the path as the caller
            // wrote it. If the answer is 404, send the path of the other kind, with or without this segment.
            let (run, name) =
                (url::segment("path", sampler.run_id())?, url::segment("path", sampler.name())?);
            let mut bare = request_to(ENDPOINT.path_with(&[&run, &name]));
            if sampler.is_short() {
                mem::swap(&mut first, &mut bare);
            }
            second = Some(bare);
        }
        self.caller.run("RestClient.get_checkpoint_archive_url", |call| {
            let answer = match (call.answer(&first), &second) {
                (Err(error), Some(second)) if error.http_status() == Some(404) => call.answer(second)?,
                (result, _) => result?,
            };
            let archive = archive(&answer)?;
            Ok(ArchiveUrl { url: call.server_url(&archive.url)?, ..archive })
        })
    }

    /// Copies a checkpoint into a project and returns the path of the copy (PROTOCOL §3.5 #36). The copy has the same
    /// kind as the original and shares its storage. It belongs to a new training run, which cannot be trained.
    ///
    /// # Errors
    /// A malformed path, no project, a lifetime out of range (nothing is sent);
    /// [`Permission`](crate::ErrorKind::Permission), [`NotFound`](crate::ErrorKind::NotFound), and as for
    /// [`RestClient`].
    ///
    /// # Blocking
    /// For one request; see [`RestClient`]. The request has an idempotency key: the server makes only one copy, even
    /// after retries.
    pub fn copy_weights<P>(&self, path: P, options: &CopyOptions) -> Result<CheckpointPath>
    where
        P: TryInto<CheckpointPath>,
        Error: From<P::Error>,
    {
        self.copy("RestClient.copy_weights", path.try_into()?, options)
    }

    pub(in crate::client) fn copy(
        &self,
        verb: &'static str,
        path: CheckpointPath,
        options: &CopyOptions,
    ) -> Result<CheckpointPath> {
        let project = options.destination_project_id.clone().filter(|id| !id.is_empty());
        let project = project.or_else(|| self.caller.session().config.project_id.clone());
        let problem = "is missing: set the project here, in the builder or in TINKER_PROJECT_ID";
        let body = json::CopyWeightsRequest {
            destination_project_id: project
                .ok_or_else(|| Error::invalid("destination_project_id", problem))?,
            source_path: path.as_str().into(),
            ttl_seconds: options.ttl.seconds()?,
        };
        let mut request = RestRequest::json(&endpoint::COPY_WEIGHTS, endpoint::COPY_WEIGHTS.path(), &body)?
            .final_on(&[403]);
        request.call.key = Some(uuid4());
        if let Some(token) = &options.weights_access_token {
            let token = token.checked()?;
            self.caller.session().http.hide(token);
            request.call = request.call.header(crate::types::AccessToken::HEADER, token.expose());
        }
        self.caller.run(verb, |call| {
            let copied: json::CopyWeightsResponse = call.json(&request)?;
            from_server(copied.tinker_path.parse())
        })
    }
}

/// Reads the address of an archive from a redirect or a JSON body.
fn archive(answer: &Answer) -> Result<ArchiveUrl> {
    let archive = match answer.header("location") {
        Some(url) => ArchiveUrl {
            url: SignedUrl::new(url),
            expires: answer.header("expires").and_then(http_date::parse).map(Timestamp::from),
        },
        None if answer.status == 200 => json::response(&answer.body)?,
        None => return Err(missing_in_answer("the address of the archive")),
    };
    if archive.url.expose().is_empty() {
        return Err(missing_in_answer("the address of the archive"));
    }
    let expires = archive.expires.unwrap_or_else(|| (SystemTime::now() + ARCHIVE_LIFE).into());
    Ok(ArchiveUrl { expires: Some(expires), ..archive })
}
