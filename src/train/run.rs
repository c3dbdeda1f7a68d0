//! A training run in a folder, which continues exactly where it stopped.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::checkpoint_log::{CheckpointLog, CheckpointRecord};
use super::log_file::file_error;
use super::logged_steps::LoggedSteps;
use super::metrics_log::{MetricValue, MetricsLog};
use super::resume::{self, Kind};
use super::run_lock::RunLock;
use crate::client::{RestClient, ServiceClient, TrainingClient};
use crate::error::{Error, Result};
use crate::pending::Pending;
use crate::types::{
    FromStateOptions, LoraConfig, ModelOptions, OptimizerConfig, SaveStateOutput,
    SaveWeightsForSamplerOutput, TrainingPath, Ttl,
};

/// Key of the renderer's name in the metadata of a training run, as the Tinker cookbook has it.
const RENDERER_NAME: &str = "renderer_name";

/// Settings of a [`Run`]. The default saves a checkpoint every 20 steps and keeps it for a week. End the literal with
/// `..Default::default()`: a minor version may add fields.
///
/// # Example: a state every step, and a whole checkpoint every 50 steps
/// ```
/// use tinkex::train::RunOptions;
/// use tinkex::types::LoraConfig;
///
/// let lora = LoraConfig { rank: 16, seed: Some(1), ..Default::default() };
/// let options = RunOptions { lora, save_every: 50, rolling_every: 1, ..Default::default() };
/// assert_eq!(options.batches_per_epoch, None);
/// ```
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The adapter of a new run. A resumed run has the adapter of its checkpoint.
    pub lora: LoraConfig,
    /// Weights that a new run begins with, with a new optimizer and the adapter of these weights in place of
    /// [`lora`](Self::lora). A resumed run has those of its checkpoint. Default none: a new adapter.
    pub start: Option<TrainingPath>,
    /// Metadata, optimizer and further fields of a new run. A resumed run gets the metadata and keeps its optimizer.
    pub model: ModelOptions,
    /// Name of the renderer that made the training data. It is stored as `renderer_name` in the metadata of the training
    /// run; a resumed run with another name is warned of. Default none.
    pub renderer_name: Option<String>,
    /// Steps between periodic checkpoints (state and weights to sample from); 0 for none. Default 20.
    pub save_every: u64,
    /// Saves weights to sample from with the state of periodic checkpoints; the final one always has them. Default true.
    pub sampler_weights: bool,
    /// Steps between rolling checkpoints (state only; each is deleted when the next checkpoint is recorded); 0 for none.
    /// Default 0.
    pub rolling_every: u64,
    /// Lifetime of periodic checkpoints. Default 7 days.
    pub ttl: Ttl,
    /// Lifetime of the final checkpoint. Default [`Ttl::Never`].
    pub final_ttl: Ttl,
    /// Lifetime of rolling checkpoints that are not deleted, for example because the process was killed. Default 2
    /// hours.
    pub rolling_ttl: Ttl,
    /// Number of steps of the run. With it, the last step is saved once, as the final checkpoint, which
    /// [`Run::checkpoint_if_due`] submits; without it, a last step after which a periodic checkpoint is due is saved a
    /// second time by [`Run::finish`]. A run that is opened again can have more steps. Default none.
    pub n_steps: Option<u64>,
    /// Batches in an epoch: with it, records have the `epoch` and the `batch` within the epoch as the cookbook writes
    /// them. Needed to resume such a run of the cookbook. Default none: one epoch.
    pub batches_per_epoch: Option<u64>,
    /// Contents of `config.json`. Default none: the file is not written.
    pub config: Option<Value>,
}

impl Default for RunOptions {
    fn default() -> Self {
        RunOptions {
            lora: LoraConfig::default(),
            start: None,
            model: ModelOptions::default(),
            renderer_name: None,
            save_every: 20,
            sampler_weights: true,
            rolling_every: 0,
            ttl: Ttl::After(Duration::from_secs(7 * 24 * 3600)),
            final_ttl: Ttl::Never,
            rolling_ttl: Ttl::After(Duration::from_secs(2 * 3600)),
            n_steps: None,
            batches_per_epoch: None,
            config: None,
        }
    }
}

/// A training run in a folder: its training client, `checkpoints.jsonl` and `metrics.jsonl`.
///
/// Opened again, it continues from the last recorded checkpoint with the weights and the optimizer state after exactly
/// the steps before [`next_step`](Run::next_step), and drops the metrics of later steps: a run that was killed neither
/// loses nor repeats a step. For that, call for each step, in this order: submit its passes and its update;
/// [`checkpoint_if_due`](Run::checkpoint_if_due), before anything of the next step is submitted;
/// [`log`](Run::log), once the step's results are there. A checkpoint is recorded after the server has confirmed it and
/// the metrics of all its steps are written. The batch of a step must be a function of the step alone.
///
/// # Example: a run that is opened twice
/// ```
/// # #[cfg(feature = "local")] {
/// # let server = tinkex::local::Server::start(Default::default())?;
/// # let service = tinkex::ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build()?;
/// # let folder = std::env::temp_dir().join(format!("tinkex-doc-run-{}", std::process::id()));
/// use tinkex::train::{Run, RunOptions};
/// use tinkex::types::{AdamParams, Datum, LossFn};
///
/// let options = RunOptions { save_every: 2, ..Default::default() };
/// for steps in [2, 4] {
///     let mut run = Run::open(&folder, &service, "tinkex/nano", &options)?;
///     while run.next_step() < steps {
///         let step = run.next_step();
///         let batch = vec![Datum::cross_entropy(&[1, 2], &[3, 4])];
///         let pass = run.training().forward_backward(batch, LossFn::CrossEntropy);
///         let update = run.training().optim_step(AdamParams { learning_rate: 1e-3, ..Default::default() });
///         run.checkpoint_if_due(step)?;
///         let loss = pass.wait()?.loss_per_token().unwrap_or(f64::NAN);
///         update.wait()?;
///         run.log(step, &[("train_mean_nll", loss.into())])?;
///     }
///     let record = run.finish()?;
///     assert_eq!((record.next_batch, record.is_final), (Some(steps), true));
/// }
/// # std::fs::remove_dir_all(&folder).unwrap();
/// # }
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Debug)]
pub struct Run {
    folder: PathBuf,
    options: RunOptions,
    training: TrainingClient,
    rest: RestClient,
    metrics: MetricsLog,
    checkpoints: CheckpointLog,
    /// The step that this process began with.
    first_step: u64,
    /// The next step: all before it are submitted.
    next_step: u64,
    logged: LoggedSteps,
    /// Saves that are not recorded yet, in the order of their submission.
    saves: VecDeque<Save>,
    /// Number of final checkpoints that were submitted.
    n_finals: u32,
    /// Rolling checkpoints to delete when the next checkpoint is recorded.
    superseded: Vec<TrainingPath>,
    _lock: RunLock,
}

impl Run {
    /// Opens the run in `folder`, which is created if necessary: with the last checkpoint of `checkpoints.jsonl` that
    /// still exists on the server, or as a new run of `base_model` if there is no record.
    ///
    /// The folder is locked (`flock` on the file `.lock`, which the system releases at the end of the process), so that
    /// two processes never write one run.
    ///
    /// # Errors
    /// A folder that another process uses ([`Config`](crate::ErrorKind::Config)) or that cannot be written; a broken
    /// record (the error names file and line); records of which no checkpoint exists any more
    /// ([`NotFound`](crate::ErrorKind::NotFound)); an error of the server.
    ///
    /// # Blocking
    /// As for [`create_lora_training_client`](ServiceClient::create_lora_training_client), once for each checkpoint that
    /// is tried.
    pub fn open(
        folder: impl AsRef<Path>,
        service: &ServiceClient,
        base_model: &str,
        options: &RunOptions,
    ) -> Result<Self> {
        let folder = folder.as_ref();
        std::fs::create_dir_all(folder).map_err(|error| file_error("create", folder, &error))?;
        let lock = RunLock::take(folder)?;
        let checkpoints = CheckpointLog::open(folder)?;
        let rest = service.create_rest_client();
        let mut model = options.model.clone();
        if let Some(name) = &options.renderer_name {
            let metadata = model.user_metadata.get_or_insert_default();
            metadata.insert(RENDERER_NAME.into(), name.clone());
        }
        let (training, first_step, superseded) = match resumed(service, &checkpoints, &model, options)? {
            Some((training, record, path)) => {
                warn_of_other_model(&training, base_model);
                warn_of_other_renderer(&rest, &path, options);
                let superseded = Vec::from_iter(record.is_rolling.then_some(path));
                (training, resume::next_step(record, options.batches_per_epoch)?, superseded)
            }
            None => (started(service, base_model, &model, options)?, 0, Vec::new()),
        };
        let metrics = MetricsLog::open(folder, first_step)?;
        if let Some(config) = &options.config {
            metrics.write_config(config)?;
        }
        Ok(Run {
            folder: folder.into(),
            options: options.clone(),
            training,
            rest,
            metrics,
            checkpoints,
            first_step,
            next_step: first_step,
            logged: LoggedSteps::before(first_step),
            saves: VecDeque::new(),
            n_finals: 0,
            superseded,
            _lock: lock,
        })
    }

    /// Folder of the run.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The client that trains the model.
    pub fn training(&self) -> &TrainingClient {
        &self.training
    }

    /// The records of the checkpoints, in the order of the file.
    pub fn checkpoints(&self) -> &[CheckpointRecord] {
        self.checkpoints.records()
    }

    /// The next step to do, from 0. After [`open`](Run::open), all steps before it are in the model;
    /// [`checkpoint_if_due`](Run::checkpoint_if_due) advances it.
    pub fn next_step(&self) -> u64 {
        self.next_step
    }

    /// Marks `step` as submitted, and submits a checkpoint if one is due after it. Call this for every step, directly
    /// after its update was submitted: operations of a training client run in the order of their submission, so the
    /// checkpoint contains this step and no later one. Does not wait for the server to save it; a later call records it
    /// (see [`log`](Run::log)).
    ///
    /// # Errors
    /// A `step` other than [`next_step`](Run::next_step); an earlier checkpoint that failed, which is then given up; a
    /// record that cannot be written, which is tried again by the next call.
    ///
    /// # Blocking
    /// For the deletion of a rolling checkpoint if a later one is recorded: one request.
    pub fn checkpoint_if_due(&mut self, step: u64) -> Result<()> {
        if step != self.next_step {
            let problem = format!(
                "is {step}, but the next step of the run is {}; steps are done in order",
                self.next_step
            );
            return Err(Error::invalid("step", problem));
        }
        self.next_step += 1;
        let RunOptions { save_every, rolling_every, n_steps, .. } = self.options;
        if let Some(kind) = resume::due(self.next_step, save_every, rolling_every, n_steps) {
            self.submit_save(kind);
        }
        self.record_confirmed()
    }

    /// Writes the metrics of a step, and records the checkpoints that are confirmed and whose steps all have their
    /// metrics written. Call this for each step, even without metrics, in any order: a checkpoint waits for the metrics
    /// of all steps that it contains, because a resumed run does not do these steps again.
    ///
    /// # Errors
    /// A `step` that was done before this process began, or is not submitted yet; otherwise as for [`MetricsLog::log`]
    /// and [`checkpoint_if_due`](Run::checkpoint_if_due).
    ///
    /// # Blocking
    /// As for [`checkpoint_if_due`](Run::checkpoint_if_due).
    pub fn log(&mut self, step: u64, row: &[(&str, MetricValue)]) -> Result<()> {
        if !(self.first_step..self.next_step).contains(&step) {
            let problem = format!(
                "is {step}, but this process has submitted the steps from {} to before {}",
                self.first_step, self.next_step
            );
            return Err(Error::invalid("step", problem));
        }
        self.metrics.log(step, row)?;
        self.logged.add(step);
        self.record_confirmed()
    }

    /// Writes `config.json` in place of an earlier one, for a program that knows only after
    /// [`open`](Run::open) that the run can begin. Otherwise [`RunOptions::config`] is enough.
    ///
    /// # Errors
    /// As for [`MetricsLog::write_config`].
    pub fn write_config(&self, config: &Value) -> Result<()> {
        self.metrics.write_config(config)
    }

    /// Submits a periodic checkpoint after the steps that are submitted, although none may be due, unless the last one
    /// contains the same steps. For a program that must stop: then wait for the steps, log them, and call
    /// [`record_checkpoints`](Run::record_checkpoints).
    ///
    /// # Errors
    /// As for [`checkpoint_if_due`](Run::checkpoint_if_due).
    ///
    /// # Blocking
    /// As for [`checkpoint_if_due`](Run::checkpoint_if_due).
    ///
    /// # Example: a run that stops after three steps
    /// ```
    /// # #[cfg(feature = "local")] {
    /// # let server = tinkex::local::Server::start(Default::default())?;
    /// # let service = tinkex::ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build()?;
    /// # let folder = std::env::temp_dir().join(format!("tinkex-doc-checkpoint-{}", std::process::id()));
    /// use tinkex::train::{Run, RunOptions};
    /// use tinkex::types::AdamParams;
    ///
    /// let mut run = Run::open(&folder, &service, "tinkex/nano", &RunOptions::default())?;
    /// for step in 0..3 {
    ///     run.training().optim_step(AdamParams::default()).wait()?;
    ///     run.checkpoint_if_due(step)?;
    ///     run.log(step, &[])?;
    /// }
    /// run.checkpoint()?;
    /// run.record_checkpoints()?;
    /// assert_eq!(run.checkpoints()[0].next_batch, Some(3));
    /// # std::fs::remove_dir_all(&folder).unwrap();
    /// # }
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub fn checkpoint(&mut self) -> Result<()> {
        let recorded = self.checkpoints.last_resumable().and_then(|record| record.next_batch);
        let last = self.saves.back().map(|save| save.n_done).or(recorded);
        if last != Some(self.next_step) {
            self.submit_save(Kind::Periodic);
        }
        self.record_confirmed()
    }

    /// Waits for all submitted checkpoints and records them.
    ///
    /// # Errors
    /// As for [`checkpoint_if_due`](Run::checkpoint_if_due); also a step that has not been logged: the checkpoints
    /// before it are recorded, and the call can be repeated once [`log`](Run::log) was called for it.
    ///
    /// # Blocking
    /// Until the server has saved them; each wait is bounded as [`Pending::wait`].
    pub fn record_checkpoints(&mut self) -> Result<()> {
        while let Some(save) = self.saves.front() {
            self.check_logged(save.n_done)?;
            self.record_first()?;
        }
        Ok(())
    }

    /// Ends the run: records all checkpoints, saves the one named `final`, and returns its record. A run that was
    /// finished at this step before, or whose last step was saved as the final checkpoint because
    /// [`n_steps`](RunOptions::n_steps) is set, is not saved again. A run that did further steps since is: its later
    /// final checkpoints are named `final_2`, `final_3` and so on, and the earlier ones stay.
    ///
    /// # Errors
    /// As for [`record_checkpoints`](Run::record_checkpoints).
    ///
    /// # Blocking
    /// As for [`record_checkpoints`](Run::record_checkpoints).
    pub fn finish(&mut self) -> Result<CheckpointRecord> {
        self.record_checkpoints()?;
        self.check_logged(self.next_step)?;
        let is_this =
            |record: &&CheckpointRecord| record.is_final && record.next_batch == Some(self.next_step);
        if let Some(record) = self.checkpoints.last_resumable().filter(is_this) {
            return Ok(record.clone());
        }
        self.submit_save(Kind::Final);
        self.record_first()
    }

    fn submit_save(&mut self, kind: Kind) {
        let mut record = resume::record(kind, self.next_step, self.options.batches_per_epoch);
        if kind == Kind::Final {
            // A name can be saved only once by a training client, and a save that failed may have taken it.
            self.n_finals += 1;
            record.name = resume::final_name(self.n_finals);
        }
        let ttl = match kind {
            Kind::Periodic => self.options.ttl,
            Kind::Rolling => self.options.rolling_ttl,
            Kind::Final => self.options.final_ttl,
        };
        let state = self.training.save_state(&record.name, ttl);
        let has_sampler = match kind {
            Kind::Periodic => self.options.sampler_weights,
            Kind::Rolling => false,
            Kind::Final => true,
        };
        let sampler = has_sampler.then(|| self.training.save_weights_for_sampler(&record.name, ttl));
        self.saves.push_back(Save { record, n_done: self.next_step, state: Some(state), sampler });
    }

    /// Refuses to record a state of `n_done` steps before the metrics of all of them are written.
    fn check_logged(&self, n_done: u64) -> Result<()> {
        let missing = self.logged.first_missing();
        if n_done <= missing {
            return Ok(());
        }
        let problem = format!(
            "{missing} has no metrics yet, and a checkpoint after {n_done} steps is recorded after those of all its \
             steps; call `log` for each step, even without metrics"
        );
        Err(Error::invalid("step", problem))
    }

    fn record_confirmed(&mut self) -> Result<()> {
        let is_ready = |save: &Save, n_logged| save.is_confirmed() && save.n_done <= n_logged;
        while self.saves.front().is_some_and(|save| is_ready(save, self.logged.first_missing())) {
            self.record_first()?;
        }
        Ok(())
    }

    /// Records the first of the saves. Waits for it. If the server could not save it, it is given up.
    fn record_first(&mut self) -> Result<CheckpointRecord> {
        let Some(save) = self.saves.front_mut() else {
            return Err(Error::closed("the run has no checkpoint to record"));
        };
        let record = match save.confirm() {
            Ok(()) => save.record.clone(),
            Err(error) => {
                self.saves.pop_front();
                return Err(error);
            }
        };
        // After a power failure, metrics of steps that are in a recorded state must be on the disk: these steps do not
        // run again.
        self.metrics.sync()?;
        self.checkpoints.append(record.clone())?;
        self.saves.pop_front();
        for path in std::mem::take(&mut self.superseded) {
            if let Err(error) = self.rest.delete_checkpoint_from_tinker_path(&path)
                && !error.is_not_found()
            {
                log::warn!("cannot delete the rolling checkpoint {path}, which expires by itself: {error}");
            }
        }
        if record.is_rolling {
            self.superseded.extend(record.state_path.clone());
        }
        Ok(record)
    }
}

/// A submitted checkpoint.
#[derive(Debug)]
struct Save {
    record: CheckpointRecord,
    /// The steps that it contains are those before this one.
    n_done: u64,
    state: Option<Pending<SaveStateOutput>>,
    sampler: Option<Pending<SaveWeightsForSamplerOutput>>,
}

impl Save {
    /// True if [`confirm`](Save::confirm) does not wait.
    fn is_confirmed(&self) -> bool {
        self.state.as_ref().is_none_or(Pending::is_done) && self.sampler.as_ref().is_none_or(Pending::is_done)
    }

    /// Waits until the server has saved everything, and puts the paths into the record.
    fn confirm(&mut self) -> Result<()> {
        if let Some(state) = self.state.take() {
            self.record.state_path = Some(state.wait()?.path);
        }
        if let Some(sampler) = self.sampler.take() {
            self.record.sampler_path = Some(sampler.wait()?.path);
        }
        Ok(())
    }
}

/// Creates a training client from the last record whose state still exists on the server. `None` if no record has a
/// state.
fn resumed<'a>(
    service: &ServiceClient,
    checkpoints: &'a CheckpointLog,
    model: &ModelOptions,
    options: &RunOptions,
) -> Result<Option<(TrainingClient, &'a CheckpointRecord, TrainingPath)>> {
    let from_state = FromStateOptions {
        restore_optimizer: true,
        user_metadata: model.user_metadata.clone(),
        ..Default::default()
    };
    let mut missing = None;
    for record in checkpoints.records().iter().rev() {
        let Some(path) = &record.state_path else { continue };
        // Before the server works for a record whose step is unknown.
        resume::next_step(record, options.batches_per_epoch)?;
        match service.create_training_client_from_state_with(path, &from_state) {
            Ok(training) => return Ok(Some((training, record, path.clone()))),
            // An expired or deleted checkpoint: an earlier one continues the run as exactly, only from further back.
            Err(error) if error.is_not_found() => {
                log::warn!(
                    "the checkpoint {path} does not exist any more, trying the one before it: {error}"
                );
                missing = missing.or(Some(error));
            }
            Err(error) => return Err(error),
        }
    }
    match missing {
        None => Ok(None),
        Some(error) => Err(error.adding(&format!(
            "; none of the checkpoints in {} exists any more: remove the file to begin anew",
            checkpoints.path().display()
        ))),
    }
}

/// Creates the training client of a new run.
fn started(
    service: &ServiceClient,
    base_model: &str,
    model: &ModelOptions,
    options: &RunOptions,
) -> Result<TrainingClient> {
    let Some(path) = &options.start else {
        return service.create_lora_training_client_with(base_model, options.lora, model);
    };
    let from_state = FromStateOptions {
        user_metadata: model.user_metadata.clone(),
        optimizer: Some(model.optimizer.clone()).filter(|optimizer| *optimizer != OptimizerConfig::default()),
        ..Default::default()
    };
    service.create_training_client_from_state_with(path, &from_state)
}

fn warn_of_other_model(training: &TrainingClient, base_model: &str) {
    if let Some(saved) = training.get_info().base_model.as_deref()
        && saved != base_model
    {
        log::warn!(
            "the run continues with {saved:?}, the base model of its checkpoint, not with {base_model:?}"
        );
    }
}

fn warn_of_other_renderer(rest: &RestClient, path: &TrainingPath, options: &RunOptions) {
    let Some(name) = &options.renderer_name else { return };
    match saved_renderer_name(rest, path) {
        Ok(Some(saved)) if saved != *name => {
            log::warn!(
                "the checkpoint {path} was trained with the renderer {saved:?}, the run uses {name:?}"
            );
        }
        Ok(_) => {}
        Err(error) => log::debug!("the renderer of {path} is unknown: {error}"),
    }
}

/// The name of the renderer that a checkpoint was trained with, from the metadata of its training run: `renderer_name`,
/// as the Tinker cookbook stores it. `None` if the run has none.
///
/// # Errors
/// A checkpoint that does not exist; a server that does not list training runs.
///
/// # Blocking
/// For one request.
pub fn saved_renderer_name(rest: &RestClient, path: &TrainingPath) -> Result<Option<String>> {
    Ok(rest.get_training_run_by_tinker_path(path)?.user_metadata.remove(RENDERER_NAME))
}
