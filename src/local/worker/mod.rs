//! The engine thread: owns the models and takes jobs from the queue, one after the other. [`schedule`](super::schedule)
//! and [`shares`](super::shares) decide which job is next.
//!
//! The computation runs on a private thread pool, and the engine thread waits for it. A job moves its model into the
//! pool and back, so a panic in a job loses only that model. Samples are different: the engine thread starts a sample
//! on the pool, as a task, and goes on to the next job, so samples run concurrently. For an exclusive job, such as a
//! training pass, the tasks pause and return from the pool; after it the engine thread gives them back to the pool. So
//! an exclusive job waits for steps of samples, never for whole samples. Quick jobs run on a second pool with one thread,
//! so that they do not wait for running samples.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use rayon::ThreadPool;
use serde::Serialize;
use serde_json::{Value, json};

use crate::wire::json::{
    CreateModelResponse, LoadWeightsResponse, OptimStepResponse, SaveWeightsExternalResponse,
    SaveWeightsForSamplerResponse, SaveWeightsResponse, UnloadModelResponse,
};
use crate::wire::sample::encode_sample_response;
use crate::wire::train::encode_forward_backward_output;

use super::catalogue::Catalogue;
use super::checkpoint::{ADAPTER, Kind, OPTIMIZER, Store, StoreError};
use super::engine::{Base, Trainer};
use super::futures::{Futures, Outcome, Ticket};
use super::job::{Counted, Job, Load, Save, Work};
use super::nn::{LoraSpec, shown};
use super::queue::{Next, Queue};
use super::sampling::{Sample, Slot, Weights as SlotWeights};
use super::snapshots::{Snapshot, Snapshots};

/// Limit of the concurrent samples on a pool of `threads` threads. It is large enough to keep the threads busy, and not
/// larger, because each running sample has keys and values in memory.
pub(super) fn max_concurrent_samples(threads: usize) -> usize {
    (4 * threads).clamp(32, 64)
}

/// State of the engine thread.
pub(super) struct Worker {
    pub(super) store: Arc<Store>,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) snapshots: Arc<Snapshots>,
    pub(super) futures: Arc<Futures>,
    pub(super) pool: ThreadPool,
    /// One thread for quick jobs, so that they do not wait for samples.
    pub(super) quick_pool: ThreadPool,
    /// Texts of the panics of both pools.
    pub(super) panics: PanicTexts,
    pub(super) stop: Arc<AtomicBool>,
    /// Models by id. A model that could not be loaded, or that was lost in a panic, is replaced by the text of the
    /// error.
    pub(super) trainers: HashMap<String, Result<Box<dyn Trainer>, String>>,
    /// Limit of the memory of base weights, adapters and passes together, by estimate.
    pub(super) max_memory: u64,
    /// Bytes of the base weights that are in memory.
    pub(super) base_memory: u64,
}

impl Worker {
    /// Runs jobs until the queue is closed or the server stops.
    pub(super) fn run(mut self, queue: &Arc<Queue>) {
        let _guard = CloseOnDrop { futures: self.futures.clone(), queue: queue.clone() };
        loop {
            let next = queue.next();
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            match next {
                Next::End => break,
                Next::Resume(runners) => (0..runners).for_each(|_| self.spawn_runner(queue)),
                Next::SamplePanicked(id) => {
                    self.futures.finish(&id, Outcome::server(self.panics.next_text()))
                }
                Next::Run(job) => match *job {
                    Job { ticket, work: Work::Sample { slot, sample, waiting } } => {
                        let running =
                            RunningSample { queue: queue.clone(), id: String::new(), _waiting: waiting };
                        self.sample(running, ticket, slot, sample);
                    }
                    Job { ticket, work } => {
                        if let Some(ticket) = &ticket {
                            ticket.mark_started();
                        }
                        let outcome = self.run_job(work);
                        self.finish(ticket, outcome);
                    }
                },
            }
        }
    }

    fn finish(&self, ticket: Option<Ticket>, outcome: Outcome) {
        match (ticket, outcome) {
            (Some(ticket), outcome) => self.futures.finish(&ticket.id, outcome),
            (None, Outcome::Failed { error, .. }) => log::warn!("the embedded engine: {error}"),
            (None, _) => {}
        }
    }

    /// Runs tasks of samples on a thread of the pool.
    fn spawn_runner(&self, queue: &Arc<Queue>) {
        let queue = queue.clone();
        self.pool.spawn(move || queue.run_tasks());
    }

    /// Starts a task on the pool that computes a sample and sets its result. A sample that was cancelled in the queue
    /// already has a result and is not started.
    fn sample(&self, mut running: RunningSample, ticket: Option<Ticket>, slot: Slot, sample: Box<Sample>) {
        let queue = running.queue.clone();
        let Some(ticket) = ticket.filter(|it| !it.cancelled.load(Ordering::Relaxed)) else { return };
        running.id.clone_from(&ticket.id);
        let (futures, stop, snapshots) = (self.futures.clone(), self.stop.clone(), self.snapshots.clone());
        queue.start_task(Box::new(move |slice| {
            let running = running;
            ticket.mark_started();
            let weights = slot.lock().clone();
            let sampler = match &weights {
                SlotWeights::Base(base) => Ok(base.clone().untrained()),
                SlotWeights::Ready(it) => snapshots.sampler(it).map_err(Outcome::server),
                SlotWeights::Failed(error) => Err(Outcome::server(error.as_str())),
                SlotWeights::None => Err(Outcome::user("the weights of this sampler were never saved")),
            };
            let finish = move |outcome| futures.finish(&running.id, outcome);
            let sampler = match sampler {
                Ok(it) => it,
                Err(outcome) => return finish(outcome),
            };
            let cancelled = move || ticket.cancelled.load(Ordering::Relaxed) || stop.load(Ordering::Relaxed);
            let done = move |result| {
                finish(match result {
                    Ok(response) => Outcome::Sample(encode_sample_response(&response).into()),
                    Err(error) => Outcome::user(error),
                });
            };
            sample.run(sampler, Box::new(cancelled), done, slice);
        }));
        self.spawn_runner(&queue);
    }

    /// Runs `work` on a pool and waits for it. The error is the text of its panic.
    fn on_pool<T: Send + 'static>(
        &self,
        pool: &ThreadPool,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        let (send, receive) = bounded(1);
        pool.spawn(move || {
            // Sending fails only if the engine thread, which waits for the result, has ended.
            let _ = send.send(work());
        });
        receive.recv().map_err(|_| self.panics.next_text())
    }

    fn run_job(&mut self, work: Work) -> Outcome {
        match work {
            Work::Create { model_id, base, spec, from } => self.create(model_id, base, spec, from),
            Work::Load { model_id, load } => {
                let store = self.store.clone();
                self.with_trainer(&model_id, move |trainer| load_into(trainer, &store, &load))
            }
            Work::Pass { model_id, pass, waiting: _waiting } => {
                let room = self.room_for_pass(&model_id);
                self.with_trainer(&model_id, move |trainer| {
                    match trainer.run(&pass.examples, &pass.loss, pass.backward, room) {
                        Ok(run) => Outcome::Pass(encode_forward_backward_output(&pass.output(run)).into()),
                        Err(error) => Outcome::user(error),
                    }
                })
            }
            Work::OptimStep { model_id, adam } => self.with_trainer(&model_id, move |trainer| {
                let step = match trainer.adam_step(&adam) {
                    Ok(it) => it,
                    Err(error) => {
                        let kept = "the weights are unchanged, the gradients were cleared";
                        return Outcome::user(format!("{error}; {kept}"));
                    }
                };
                // The prefix `tinkex/` avoids a clash: programs merge these metrics into their own log rows, which have
                // a `step` and a `learning_rate`.
                let metrics = [
                    ("grad_norm", json!(step.grad_norm)),
                    ("tinkex/learning_rate", json!(adam.learning_rate)),
                    ("tinkex/step", json!(step.step)),
                ];
                let metrics =
                    metrics.into_iter().map(|(name, it): (&str, Value)| (name.into(), it)).collect();
                answer(&OptimStepResponse { metrics })
            }),
            Work::Save { model_id, save } => {
                let store = self.store.clone();
                self.with_trainer(&model_id, move |trainer| {
                    let files = trainer.adapter_bytes().and_then(|it| Ok((it, trainer.optimizer_bytes()?)));
                    let (adapter, optimizer) = match files {
                        Ok(it) => it,
                        Err(error) => return Outcome::server(error),
                    };
                    write(&store, &save, &[(ADAPTER, adapter), (OPTIMIZER, optimizer)], || {
                        answer(&SaveWeightsResponse { path: save.checkpoint.uri() })
                    })
                })
            }
            Work::SaveSampler { model_id, save } => {
                let store = self.store.clone();
                self.with_trainer(&model_id, move |trainer| {
                    let adapter = match trainer.adapter_bytes() {
                        Ok(it) => it,
                        Err(error) => return Outcome::server(error),
                    };
                    write(&store, &save, &[(ADAPTER, adapter)], || {
                        let path = Some(save.checkpoint.uri());
                        if save.checkpoint.kind != Kind::External {
                            let response = SaveWeightsForSamplerResponse { path, sampling_session_id: None };
                            return answer(&response);
                        }
                        let run = store.of_run(&save.checkpoint.run_id);
                        let size_bytes =
                            run.iter().find(|it| it.checkpoint == save.checkpoint).map(|it| it.size_bytes);
                        answer(&SaveWeightsExternalResponse { path, size_bytes })
                    })
                })
            }
            Work::Snapshot { model_id, slot, sampler_id } => {
                let (snapshots, id) = (self.snapshots.clone(), model_id.clone());
                self.with_trainer(&model_id, move |trainer| match snapshots.of_model(&id, trainer) {
                    Ok(snapshot) => {
                        *slot.lock() = SlotWeights::Ready(snapshot);
                        let sampling_session_id = Some(sampler_id);
                        answer(&SaveWeightsForSamplerResponse { path: None, sampling_session_id })
                    }
                    Err(error) => failed(error),
                })
            }
            Work::LoadSampler { slot, checkpoint, base } => {
                let (snapshots, store) = (self.snapshots.clone(), self.store.clone());
                self.fill_slot(&slot, move || snapshots.of_checkpoint(&store, &checkpoint, &base))
            }
            Work::DropSlots { slots } => {
                drop(slots);
                answer(&json!({}))
            }
            Work::Unload { model_id } => {
                self.trainers.remove(&model_id);
                answer(&UnloadModelResponse { model_id })
            }
            Work::Refused { error } => Outcome::user(error),
            // Never reached: `run` starts samples without this function.
            Work::Sample { .. } => Outcome::server("internal error: a sample was queued as an exclusive job"),
        }
    }

    /// Sets the weights of a slot to the result of `make`. If `make` fails, samples from this slot fail with the same
    /// error.
    fn fill_slot(
        &self,
        slot: &Slot,
        make: impl FnOnce() -> Result<Arc<Snapshot>, String> + Send + 'static,
    ) -> Outcome {
        *slot.lock() = match self.on_pool(&self.quick_pool, make).and_then(|it| it) {
            Ok(it) => SlotWeights::Ready(it),
            Err(error) => SlotWeights::Failed(error),
        };
        answer(&json!({}))
    }

    fn create(
        &mut self,
        model_id: String,
        base: Arc<dyn Base>,
        spec: LoraSpec,
        from: Option<Load>,
    ) -> Outcome {
        if let Err(error) = self.check_memory(&*base, &spec) {
            self.trainers.insert(model_id, Err(error.clone()));
            return Outcome::user(error);
        }
        let (store, catalogue, id) = (self.store.clone(), self.catalogue.clone(), model_id.clone());
        let loads = from.is_some();
        let made = self.on_pool(&self.quick_pool, move || {
            catalogue.runs.write(&id);
            let mut trainer = base.trainer(spec);
            let loaded = from.map(|it| load_into(&mut *trainer, &store, &it));
            match loaded {
                Some(Outcome::Failed { error, category }) => Err((error, category)),
                _ => Ok(trainer),
            }
        });
        let trainer = made.unwrap_or_else(|error| Err((error, "server")));
        let outcome = match &trainer {
            Err((error, category)) => Outcome::Failed { error: error.clone(), category },
            Ok(_) if loads => answer(&LoadWeightsResponse { path: None, model_id: Some(model_id.clone()) }),
            Ok(_) => answer(&CreateModelResponse { model_id: Some(model_id.clone()) }),
        };
        self.trainers.insert(model_id, trainer.map_err(|it| it.0));
        outcome
    }

    /// Bytes that base weights and adapters take all the time.
    fn fixed_memory(&self) -> u64 {
        let adapters = self.trainers.values().flatten().map(|it| it.memory());
        adapters.sum::<u64>().saturating_add(self.base_memory)
    }

    /// Refuses an adapter for which there is not enough memory.
    fn check_memory(&self, base: &dyn Base, spec: &LoraSpec) -> Result<(), String> {
        let (needed, taken) = (base.adapter_memory(spec), self.fixed_memory());
        let free = self.max_memory.saturating_sub(taken);
        if needed <= free {
            return Ok(());
        }
        let n = self.trainers.values().flatten().count();
        Err(format!(
            "lora_config.rank: an adapter of rank {} for this model needs {} of memory, {} of {} are free (base models \
             and {n} other adapters take {}): use a lower rank, unload models, or raise Options::max_memory_bytes",
            spec.rank,
            shown(needed),
            shown(free),
            shown(self.max_memory),
            shown(taken),
        ))
    }

    /// Bytes that a pass of a model may take. Other models keep buffers for their next passes; they are freed if they
    /// take more than half of what is left.
    fn room_for_pass(&mut self, model_id: &str) -> u64 {
        let left = self.max_memory.saturating_sub(self.fixed_memory());
        let others = self.trainers.iter_mut().filter(|it| it.0 != model_id);
        let mut others: Vec<_> = others.filter_map(|it| it.1.as_mut().ok()).collect();
        let idle = others.iter_mut().map(|it| it.idle_memory()).sum::<u64>();
        if left / 2 < idle {
            others.iter_mut().for_each(|it| it.drop_idle());
            return left;
        }
        left - idle
    }

    /// Runs `work` on a model. The model is moved into the pool and back; if `work` panics, the model is lost.
    fn with_trainer(
        &mut self,
        model_id: &str,
        work: impl FnOnce(&mut dyn Trainer) -> Outcome + Send + 'static,
    ) -> Outcome {
        let mut trainer = match self.trainers.remove(model_id) {
            Some(Ok(it)) => it,
            Some(Err(why)) => {
                self.trainers.insert(model_id.into(), Err(why.clone()));
                return Outcome::server(format!("model {model_id} cannot be used: {why}"));
            }
            None => return Outcome::user(format!("model {model_id} is not loaded")),
        };
        let worked = self.on_pool(&self.pool, move || {
            let outcome = work(&mut *trainer);
            (trainer, outcome)
        });
        let (trainer, outcome) = match worked {
            Ok((trainer, outcome)) => (Ok(trainer), outcome),
            Err(why) => {
                let error = format!("{why}; model {model_id} is lost; continue from its last checkpoint");
                (Err(why), Outcome::server(error))
            }
        };
        self.trainers.insert(model_id.into(), trainer);
        outcome
    }
}

/// Fails all pending requests and drops paused samples when the engine thread ends, even if it ends by a panic.
struct CloseOnDrop {
    futures: Arc<Futures>,
    queue: Arc<Queue>,
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.futures.close("the engine has stopped");
        self.queue.end();
    }
}

/// Counts a sample as running until this value is dropped.
struct RunningSample {
    queue: Arc<Queue>,
    id: String,
    _waiting: Counted,
}

impl Drop for RunningSample {
    fn drop(&mut self) {
        let panicked = std::thread::panicking().then(|| std::mem::take(&mut self.id));
        self.queue.sample_ended(panicked);
    }
}

/// Texts of panics in the pools. The engine thread notices a panic when a value that the job owned is dropped. The
/// pool's panic handler receives the text shortly after that, so `next_text` waits for it.
pub(super) struct PanicTexts {
    send: Sender<String>,
    receive: Receiver<String>,
}

impl PanicTexts {
    pub(super) fn new() -> Self {
        let (send, receive) = unbounded();
        PanicTexts { send, receive }
    }

    /// Sender for the pools' panic handlers.
    pub(super) fn sender(&self) -> Sender<String> {
        self.send.clone()
    }

    /// Text of a panic that was noticed. Call it once for each panic.
    fn next_text(&self) -> String {
        let said = self.receive.recv_timeout(Duration::from_secs(5));
        format!("the engine panicked: {}", said.unwrap_or_else(|_| "see the program's standard error".into()))
    }
}

fn answer(body: &impl Serialize) -> Outcome {
    match serde_json::to_vec(body) {
        Ok(it) => Outcome::Json(it.into()),
        Err(error) => Outcome::server(error.to_string()),
    }
}

fn failed(error: StoreError) -> Outcome {
    match error {
        StoreError::Missing(_) | StoreError::Exists(_) | StoreError::Full(_) => Outcome::user(error.text()),
        StoreError::Disk(text) | StoreError::Busy(text) => Outcome::server(text),
    }
}

fn write(store: &Store, save: &Save, files: &[(&str, Vec<u8>)], then: impl FnOnce() -> Outcome) -> Outcome {
    let Save { checkpoint, meta, overwrite, recipients } = save;
    let saved = if recipients.is_empty() {
        store.save(checkpoint, meta, files, *overwrite)
    } else {
        store.save_encrypted(checkpoint, meta, files, recipients)
    };
    match saved {
        Ok(()) => then(),
        Err(error) => failed(error),
    }
}

/// Loads a checkpoint: reads all files before changing anything.
fn load_into(trainer: &mut dyn Trainer, store: &Store, load: &Load) -> Outcome {
    let names: &[&str] = if load.optimizer { &[ADAPTER, OPTIMIZER] } else { &[ADAPTER] };
    let mut files = match store.read(&load.checkpoint, names) {
        Ok((_, files)) => files.into_iter(),
        Err(error) => return failed(error),
    };
    let (adapter, optimizer) = (files.next().unwrap_or_default(), files.next());
    let uri = load.checkpoint.uri();
    let loaded = trainer.load_adapter(&adapter).and_then(|()| match optimizer {
        Some(bytes) => trainer.load_optimizer(&bytes),
        None => Ok(()),
    });
    match loaded {
        Ok(()) => answer(&LoadWeightsResponse { path: Some(uri), model_id: None }),
        Err(error) => Outcome::user(format!("{uri} does not fit this model: {error}")),
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests;
