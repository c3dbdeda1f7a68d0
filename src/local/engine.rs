//! The place of the numbers: everything of the embedded engine that depends on where and how a model is computed stands
//! behind these traits. The rest of `local` - the server, the queue, the files of checkpoints - knows nothing else.
//!
//! [`Cpu`](super::cpu::Cpu) is the one implementation. A second one, for a GPU, would be a module beside `nn` with the
//! operations below, about twenty, and a line in [`Server::start`](super::Server::start) that chooses between the two. Its
//! weights, adapters, gradients, moments and caches may stay on the device: only token ids, log-probabilities, metrics,
//! and the bytes of checkpoints and snapshots pass through these traits. They are operations on a whole model, not on its
//! layers: a device that has to be asked for each layer would spend its time in waiting.
//!
//! Two rules that callers rely on: a failed operation changes nothing, unless its text says otherwise; and the samples of
//! a request depend on its seed and its weights only, never on what else runs.

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use super::nn::{
    Adam, Example, Generate, Generated, LoraSpec, Loss, ModelConfig, RunOutput, StepOutput, Stop, TimeSlice,
};

/// Opens models.
pub(super) trait Engine: Debug + Send + Sync {
    /// A model with weights that depend only on a seed: the same on every machine and in every version.
    fn seeded(&self, config: &ModelConfig, seed: u64) -> Arc<dyn Base>;

    /// The model of a folder in the format of the Hugging Face libraries.
    ///
    /// # Errors
    /// A file is missing or not readable, or the model has something that is not supported. The text names the file and
    /// the value.
    fn open(&self, folder: &Path) -> Result<Opened, String>;
}

/// The model of a folder.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) base: Arc<dyn Base>,
    /// The family of the model: `llama`, `qwen2` or `qwen3`.
    pub(super) family: String,
    /// The tokens that end an answer.
    pub(super) eos: Vec<u32>,
    /// Tells the weights from others: a checkpoint of an adapter fits only those that it was trained on.
    pub(super) fingerprint: u64,
}

/// The frozen weights of a model. Any number of adapters are trained and sampled from over one of them.
pub(super) trait Base: Debug + Send + Sync {
    fn config(&self) -> &ModelConfig;

    /// Bytes of the weights that are in memory, without mapped files.
    fn memory(&self) -> u64;

    /// Bytes that a new adapter needs, by estimate.
    fn adapter_memory(&self, spec: &LoraSpec) -> u64;

    /// A new adapter for training. Before its first step it does not change the output of the model.
    fn trainer(self: Arc<Self>, spec: LoraSpec) -> Box<dyn Trainer>;

    /// The model with the parameters of an adapter (see [`Trainer::params`]), ready for sampling.
    fn sampler(self: Arc<Self>, spec: &LoraSpec, params: Vec<f32>) -> Arc<dyn Sampler>;

    /// The model without an adapter, ready for sampling. It is made once.
    fn untrained(self: Arc<Self>) -> Arc<dyn Sampler>;
}

/// An adapter that is being trained, with its gradients and its optimizer.
pub(super) trait Trainer: Debug + Send {
    fn base(&self) -> Arc<dyn Base>;

    fn spec(&self) -> &LoraSpec;

    /// Computes the loss of a batch and the log-probabilities of its targets. With `backward`, adds the adapter's
    /// gradients to those accumulated since the last step. `max_memory` is the limit of the bytes of the pass, by estimate.
    ///
    /// # Errors
    /// A datum does not fit the model, the loss or the memory, or its loss or gradient is not finite; the text names the
    /// index of the datum. Gradients that were accumulated before stay as they were.
    fn run(
        &mut self,
        batch: &[Example],
        loss: &Loss,
        backward: bool,
        max_memory: u64,
    ) -> Result<RunOutput, String>;

    /// Bytes that the adapter takes all the time, by estimate.
    fn memory(&self) -> u64;

    /// Bytes of the buffers that are kept for the next pass.
    fn idle_memory(&mut self) -> u64;

    /// Frees the buffers that are kept for the next pass.
    fn drop_idle(&mut self);

    /// Applies an optimizer step with the accumulated gradients, and clears them.
    ///
    /// # Errors
    /// The result of the step would not be finite. Then the weights, the moments and the step count stay unchanged, and
    /// the gradients are cleared.
    fn adam_step(&mut self, settings: &Adam) -> Result<StepOutput, String>;

    /// The adapter's current parameters in one vector. Equal adapters have equal bits in it.
    fn params(&self) -> Vec<f32>;

    /// The adapter as safetensors under the names that PEFT uses.
    fn adapter_bytes(&self) -> Result<Vec<u8>, String>;

    /// The moments and the step count of the optimizer as safetensors.
    fn optimizer_bytes(&self) -> Result<Vec<u8>, String>;

    /// Replaces the adapter, clears the accumulated gradients and resets the optimizer.
    ///
    /// # Errors
    /// The bytes are not safetensors with exactly the names and shapes of this adapter.
    fn load_adapter(&mut self, bytes: &[u8]) -> Result<(), String>;

    /// Replaces the moments and the step count of the optimizer.
    ///
    /// # Errors
    /// The bytes are not the optimizer state of an adapter with these names and shapes.
    fn load_optimizer(&mut self, bytes: &[u8]) -> Result<(), String>;
}

/// Says whether nobody waits for an answer any more.
pub(super) type Cancelled = Box<dyn Fn() -> bool + Send>;

/// Receives the answer to a request, or the reason why there is none.
pub(super) type Answered = Box<dyn FnOnce(Result<Generated, String>) + Send>;

/// A model at one moment, which continues prompts. Any number of threads may use it at the same time.
pub(super) trait Sampler: Debug + Send + Sync {
    /// Continues a prompt on this thread, or together with other requests on the thread that generates theirs, and pauses
    /// when `slice` is over. Calls `stop` after every token; the sample ends if it returns true. Calls `cancelled` before
    /// every step. Calls `answered` with the result, or with an error: the request does not fit the model, it was
    /// cancelled (`"cancelled"`), or the logits are not finite.
    fn submit(
        self: Arc<Self>,
        request: &Generate,
        stop: Box<Stop<'static>>,
        cancelled: Cancelled,
        answered: Answered,
        slice: &dyn TimeSlice,
    );
}
