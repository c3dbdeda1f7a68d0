//! Checkpoints: lists, ends, permissions, copies.

use std::mem;
use std::time::{Duration, SystemTime};

use super::RestClient;
use super::listing::{Listing, Source};
use crate::client::asking::Ask;
use crate::client::from_server;
use crate::error::{Error, Result};
use crate::http::headers::uuid4;
use crate::http::{Answer, Endpoint, endpoint};
use crate::http_date;
use crate::session::incomplete;
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
        let it: CheckpointsResponse = json::response(body)?;
        Ok(Page { items: it.checkpoints, cursor: it.cursor })
    },
    key: |it| &it.tinker_path,
};

/// How long the address of an archive is good if the server does not say.
const ARCHIVE_LIFE: Duration = Duration::from_secs(15 * 60);

/// The path of an endpoint of a checkpoint.
fn path_of(endpoint: &Endpoint, path: &CheckpointPath) -> Result<String> {
    let run = url::segment("path", path.run_id())?;
    let id = url::segments("path", &path.checkpoint_id())?;
    Ok(endpoint.path_with(&[&run, &id]))
}

impl RestClient {
    /// All checkpoints of one training run (PROTOCOL §3.5 #29).
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
        let ask = Ask::new(&endpoint::RUN_CHECKPOINTS, endpoint::RUN_CHECKPOINTS.path_with(&[&run]));
        Ok(self.asker.json::<CheckpointsResponse>(verb, ask)?.checkpoints)
    }

    /// The checkpoints of all of the caller's training runs, newest first, page by page; 100 at a time unless told
    /// otherwise. They may be deleted during the walk if the server says how many there are. See [`Listing`].
    pub fn list_user_checkpoints(&self) -> Listing<Checkpoint> {
        Listing::new(&self.asker, USER_CHECKPOINTS, None)
    }

    /// Deletes a checkpoint, by its run and its id within it, such as `weights/step-10` (PROTOCOL §3.5 #30).
    ///
    /// # Errors
    /// An id of another form (nothing is sent), [`NotFound`](crate::ErrorKind::NotFound), and as for [`RestClient`]. If an
    /// earlier attempt did delete it and its answer was lost, the checkpoint is gone and the call says `NotFound`.
    ///
    /// # Blocking
    /// For one request; see [`RestClient`].
    pub fn delete_checkpoint(&self, training_run_id: &str, checkpoint_id: &str) -> Result<()> {
        self.delete("RestClient.delete_checkpoint", &CheckpointPath::of(training_run_id, checkpoint_id)?)
    }

    /// Deletes a checkpoint.
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

    /// Deletes several checkpoints, one after the other, and says of each whether it is gone. One that cannot be deleted does
    /// not hold up the others.
    ///
    /// # Blocking
    /// For one request each; see [`RestClient`]. After the client was closed, the rest is not sent.
    pub fn delete_checkpoints(
        &self,
        paths: impl IntoIterator<Item = CheckpointPath>,
    ) -> Vec<(CheckpointPath, Result<()>)> {
        let delete = |it: &CheckpointPath| self.delete("RestClient.delete_checkpoints", it);
        paths
            .into_iter()
            .map(|it| {
                let done = delete(&it);
                (it, done)
            })
            .collect()
    }

    /// Which checkpoints of a training run to delete so that the newest `n` of each type stay. Nothing is deleted: give the
    /// plan's [`paths_to_delete`](CheckpointPlan::paths_to_delete) to [`delete_checkpoints`](Self::delete_checkpoints).
    /// Public checkpoints stay, and so do those of which the server does not say when they were saved.
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
        let ask = Ask::new(ENDPOINT, path_of(ENDPOINT, path)?);
        self.asker.done(verb, ask)
    }

    /// Lets everybody read a checkpoint (PROTOCOL §3.5 #31).
    ///
    /// # Errors
    /// A path that is none (nothing is sent), [`NotFound`](crate::ErrorKind::NotFound) also for a checkpoint of somebody
    /// else, [`Conflict`](crate::ErrorKind::Conflict) if it is public already, and as for [`RestClient`].
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
        // A conflict is the answer here, not something that passes.
        let ask = Ask::new(ENDPOINT, path).final_on(&[409]);
        self.asker.done(VERB, ask)
    }

    /// Lets nobody else read a checkpoint any more.
    ///
    /// # Errors
    /// As for [`publish_checkpoint_from_tinker_path`](Self::publish_checkpoint_from_tinker_path), with a conflict if it is
    /// private already.
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
        let ask = Ask::new(ENDPOINT, path).final_on(&[409]);
        self.asker.done(VERB, ask)
    }

    /// Says how long a checkpoint is kept; [`Ttl::Never`] keeps it until it is deleted (PROTOCOL §3.5 #32).
    ///
    /// # Errors
    /// A path that is none, a time out of range (nothing is sent), [`NotFound`](crate::ErrorKind::NotFound), and as for
    /// [`RestClient`].
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
        let request = json::CheckpointTtlRequest { ttl_seconds: ttl.seconds()? };
        self.asker.done(VERB, Ask::json(ENDPOINT, path, &request)?)
    }

    /// Where the files of exported weights can be read (PROTOCOL §3.5 #33).
    ///
    /// # Errors
    /// A path of another kind (nothing is sent), [`NotFound`](crate::ErrorKind::NotFound), and as for [`RestClient`].
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
        let ask = Ask::new(ENDPOINT, path_of(ENDPOINT, &path.try_into()?.into())?);
        self.asker.run(VERB, |it| {
            let mut found: ExternalWeightsUrls = it.json(&ask)?;
            for url in found.urls.values_mut() {
                *url = it.named(url)?;
            }
            Ok(found)
        })
    }

    /// Where the archive of a checkpoint can be read, on servers that make one; the Tinker service of today does not
    /// (PROTOCOL §3.5 #34). Nothing is downloaded.
    ///
    /// # Errors
    /// A path that is none (nothing is sent), [`NotFound`](crate::ErrorKind::NotFound) also from a server that makes no
    /// archives, and as for [`RestClient`].
    ///
    /// # Blocking
    /// For one or two requests; a server that is still making the archive is asked again for at most `Timeouts::submit`.
    pub fn get_checkpoint_archive_url<P>(&self, path: P) -> Result<ArchiveUrl>
    where
        P: TryInto<CheckpointPath>,
        Error: From<P::Error>,
    {
        const ENDPOINT: &Endpoint = &endpoint::CHECKPOINT_ARCHIVE;
        let path: CheckpointPath = path.try_into()?;
        let ask = |path: String| {
            let mut ask = Ask::new(ENDPOINT, path);
            ask.call.takes_redirect = true;
            ask
        };
        let mut first = ask(path_of(ENDPOINT, &path)?);
        let mut second = None;
        if let CheckpointPath::Sampler(it) = &path {
            // Some servers know the weights of samplers by their names alone, and say their paths accordingly.
            let (run, name) = (url::segment("path", it.run_id())?, url::segment("path", it.name())?);
            let mut bare = ask(ENDPOINT.path_with(&[&run, &name]));
            if it.is_short() {
                mem::swap(&mut first, &mut bare);
            }
            second = Some(bare);
        }
        self.asker.run("RestClient.get_checkpoint_archive_url", |it| {
            let answer = match (it.answer(&first), &second) {
                (Err(error), Some(second)) if error.http_status() == Some(404) => it.answer(second)?,
                (result, _) => result?,
            };
            let found = archive(&answer)?;
            Ok(ArchiveUrl { url: it.named(&found.url)?, ..found })
        })
    }

    /// Copies a checkpoint into a project: storage is shared, the copy keeps its kind and belongs to a run of its own that
    /// cannot be trained (PROTOCOL §3.5 #36). Returns where the copy is.
    ///
    /// # Errors
    /// A path that is none, no project, a time out of range (nothing is sent); [`Permission`](crate::ErrorKind::Permission),
    /// [`NotFound`](crate::ErrorKind::NotFound), and as for [`RestClient`].
    ///
    /// # Blocking
    /// For one request, which the server carries out once however often it is repeated; see [`RestClient`].
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
        let project = options.destination_project_id.clone().filter(|it| !it.is_empty());
        let project = project.or_else(|| self.asker.session().config.project_id.clone());
        let problem = "is not known: name the project here, in the builder or in TINKER_PROJECT_ID";
        let request = json::CopyWeightsRequest {
            destination_project_id: project
                .ok_or_else(|| Error::invalid("destination_project_id", problem))?,
            source_path: path.as_str().into(),
            ttl_seconds: options.ttl.seconds()?,
        };
        let mut ask =
            Ask::json(&endpoint::COPY_WEIGHTS, endpoint::COPY_WEIGHTS.path(), &request)?.final_on(&[403]);
        ask.call.key = Some(uuid4());
        if let Some(token) = &options.weights_access_token {
            let token = token.checked()?;
            self.asker.session().http.hide(token);
            ask.call = ask.call.header(crate::types::AccessToken::HEADER, token.expose());
        }
        self.asker.run(verb, |it| {
            let copied: json::CopyWeightsResponse = it.json(&ask)?;
            from_server(copied.tinker_path.parse())
        })
    }
}

/// Reads the address of an archive, which comes as a redirect or as JSON.
fn archive(answer: &Answer) -> Result<ArchiveUrl> {
    let url = match answer.header("location") {
        Some(url) => ArchiveUrl {
            url: SignedUrl::new(url),
            expires: answer.header("expires").and_then(http_date::parse).map(Timestamp::from),
        },
        None if answer.status == 200 => json::response(&answer.body)?,
        None => return Err(incomplete("the address of the archive")),
    };
    if url.url.expose().is_empty() {
        return Err(incomplete("the address of the archive"));
    }
    let expires = url.expires.unwrap_or_else(|| (SystemTime::now() + ARCHIVE_LIFE).into());
    Ok(ArchiveUrl { expires: Some(expires), ..url })
}
