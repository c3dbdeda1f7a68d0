//! The operations of [`engine`], on the processor, by the network of [`nn`](super::nn).

use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::engine::{self, Answered, Cancelled, Engine, Opened};
use super::nn::{
    Adam, Example, Generate, Loaded, LoraSpec, Loss, ModelConfig, PrefixCache, RunOutput, Sampler,
    StepOutput, Stop, TimeSlice, Trainer, Weights, new_adapter_bytes,
};

/// The processor, with all threads of the pool that calls it.
#[derive(Debug, Default)]
pub(crate) struct Cpu {
    /// The prompts that samplers of all models have read.
    prompts: Arc<PrefixCache>,
}

/// A model in memory or in mapped files.
#[derive(Debug)]
struct Base {
    weights: Arc<Weights>,
    prompts: Arc<PrefixCache>,
    untrained: OnceLock<Arc<Sampler>>,
}

/// An adapter with the model that it belongs to.
#[derive(Debug)]
struct Training {
    base: Arc<Base>,
    spec: LoraSpec,
    trainer: Trainer,
}

impl Cpu {
    fn base(&self, weights: Weights) -> Arc<Base> {
        let prompts = self.prompts.clone();
        Arc::new(Base { weights: Arc::new(weights), prompts, untrained: OnceLock::new() })
    }
}

impl Base {
    fn untrained(&self) -> &Arc<Sampler> {
        self.untrained.get_or_init(|| Arc::new(Sampler::base(self.weights.clone(), self.prompts.clone())))
    }
}

impl Engine for Cpu {
    fn seeded(&self, config: &ModelConfig, seed: u64) -> Arc<dyn engine::Base> {
        self.base(Weights::seeded(config, seed))
    }

    fn open(&self, folder: &Path) -> Result<Opened, String> {
        let Loaded { weights, family, eos, fingerprint } = Loaded::open(folder)?;
        Ok(Opened { base: self.base(weights), family, eos, fingerprint })
    }
}

impl engine::Base for Base {
    fn config(&self) -> &ModelConfig {
        self.weights.config()
    }

    fn memory(&self) -> u64 {
        self.weights.owned_bytes()
    }

    fn adapter_memory(&self, spec: &LoraSpec) -> u64 {
        new_adapter_bytes(&self.weights, spec)
    }

    fn trainer(self: Arc<Self>, spec: LoraSpec) -> Box<dyn engine::Trainer> {
        let trainer = Trainer::new(self.weights.clone(), spec.clone());
        Box::new(Training { base: self, spec, trainer })
    }

    fn sampler(self: Arc<Self>, spec: &LoraSpec, params: Vec<f32>) -> Arc<dyn engine::Sampler> {
        Arc::new(Sampler::adapted(spec, params, Base::untrained(&self)))
    }

    fn untrained(self: Arc<Self>) -> Arc<dyn engine::Sampler> {
        Base::untrained(&self).clone()
    }
}

impl engine::Trainer for Training {
    fn base(&self) -> Arc<dyn engine::Base> {
        self.base.clone()
    }

    fn spec(&self) -> &LoraSpec {
        &self.spec
    }

    fn run(
        &mut self,
        batch: &[Example],
        loss: &Loss,
        backward: bool,
        max_memory: u64,
    ) -> Result<RunOutput, String> {
        self.trainer.max_pass_bytes = max_memory;
        self.trainer.run(batch, loss, backward)
    }

    fn memory(&self) -> u64 {
        self.trainer.adapter_memory()
    }

    fn idle_memory(&mut self) -> u64 {
        self.trainer.idle_memory()
    }

    fn drop_idle(&mut self) {
        self.trainer.drop_idle();
    }

    fn adam_step(&mut self, settings: &Adam) -> Result<StepOutput, String> {
        self.trainer.adam_step(settings)
    }

    fn params(&self) -> Vec<f32> {
        self.trainer.params().to_vec()
    }

    fn adapter_bytes(&self) -> Result<Vec<u8>, String> {
        self.trainer.adapter_bytes()
    }

    fn optimizer_bytes(&self) -> Result<Vec<u8>, String> {
        self.trainer.optimizer_bytes()
    }

    fn load_adapter(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.trainer.load_adapter(bytes)
    }

    fn load_optimizer(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.trainer.load_optimizer(bytes)
    }
}

impl engine::Sampler for Sampler {
    fn submit(
        self: Arc<Self>,
        request: &Generate,
        stop: Box<Stop<'static>>,
        cancelled: Cancelled,
        answered: Answered,
        slice: &dyn TimeSlice,
    ) {
        Sampler::submit(&self, request, stop, cancelled, answered, slice);
    }
}
