//! Tests of the network: against an independent reference, and of its training, its sampling and its files.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test may fail by panicking.

mod folders;
mod gradients;
mod memory;
mod persistence;
mod prompts;
mod reference;
mod sampling;
mod training;

use super::rng::Rng;
use super::rope::RopeScaling;
use super::*;
use std::sync::Arc;

/// A model that is small enough for difference quotients of all its parameters.
fn tiny() -> ModelConfig {
    ModelConfig {
        vocab: 17,
        live_vocab: 17,
        hidden: 16,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 6,
        mlp: 24,
        rope_theta: 100.0,
        rope_scaling: RopeScaling::None,
        norm_eps: 1e-5,
        max_len: 160,
        tied_head: false,
    }
}

fn everything(rank: usize) -> LoraSpec {
    LoraSpec { rank, seed: 5, train_attn: true, train_mlp: true, train_unembed: true }
}

/// A trainer whose B matrices are not zero, so that no gradient is zero.
fn with_noise(config: &ModelConfig, rank: usize) -> Trainer {
    let mut trainer = Trainer::new(Arc::new(Weights::seeded(config, 1)), everything(rank));
    let mut noise = vec![0.0; trainer.model.params.len()];
    Rng::stream(8, 8).fill_uniform(&mut noise, 0.5 / rank as f64);
    for (p, noise) in trainer.model.params.iter_mut().zip(noise) {
        *p += noise;
    }
    trainer
}

/// An example of random tokens with fractional weights.
fn weighted(config: &ModelConfig, rng: &mut Rng, len: usize, k: usize) -> Example {
    let vocab = config.vocab as u64;
    Example {
        tokens: (0..len).map(|_| (rng.next() % vocab) as u32).collect(),
        targets: (0..len * k).map(|_| (rng.next() % vocab) as i64).collect(),
        k,
        weights: (0..len * k).map(|_| rng.unit() as f32).collect(),
        ..Example::default()
    }
}

/// Runs a closure in a new pool with this many threads.
fn in_pool<R: Send>(threads: usize, body: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(body)
}

/// A request for one sample.
fn request(prompt: &[u32]) -> Generate {
    Generate {
        prompt: prompt.to_vec(),
        num_samples: 1,
        max_tokens: 40,
        temperature: 1.0,
        top_k: -1,
        top_p: 1.0,
        seed: 11,
        stop_tokens: Vec::new(),
        prompt_logprobs: false,
        topk_prompt_logprobs: 0,
        topk_sample_logprobs: 0,
        alternatives: 0,
        targets: Vec::new(),
    }
}

/// Answers a request, apart from all others.
fn generate(sampler: &Sampler, req: &Generate) -> Generated {
    sampler.generate(req, &mut |_, _| false, &|| false).unwrap()
}
