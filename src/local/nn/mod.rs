//! The network: a decoder-only transformer in f32 with a low-rank adapter, its gradients, its optimizer and its
//! sampler. The matrix products are in [`super::kernel`].
//!
//! The modules, from the bottom up: [`linear`], [`ops`] and [`attention`] are operations with their backward passes;
//! [`layer`] joins them; [`head`] turns hidden rows into log-probabilities and their gradients; [`loss`] holds the
//! losses of single tokens and [`sequence_loss`] those of whole sequences; [`pass`] runs a group of sequences through
//! all layers; [`train`] runs a batch and [`adam`] updates the parameters; [`memory`] estimates what these take.
//! [`sampler`] answers sampling requests, with [`prompt`], which reads a prompt, [`prefix_cache`], which keeps the keys
//! and values of prompts, and [`decode`], which generates one token at a time; for a small model, [`team`] lets two
//! threads share its products. Results have the same bits for any number of threads.

mod adam;
mod attention;
mod batch;
mod choose;
mod config;
mod decode;
mod example;
mod folder;
mod folder_config;
mod head;
mod head_norm;
mod layer;
mod linear;
mod lora;
mod loss;
mod matrix;
mod memory;
mod ops;
mod pass;
mod persist;
mod prefix_cache;
mod prompt;
mod prompt_scores;
mod rng;
mod rope;
mod running;
mod sampler;
mod segment;
mod sequence_loss;
mod team;
mod time_slice;
mod train;
mod weights;

pub(crate) use adam::{Adam, StepOutput};
pub(crate) use config::ModelConfig;
pub(crate) use example::Example;
pub(crate) use folder::Loaded;
pub(crate) use lora::LoraSpec;
pub(crate) use loss::Loss;
pub(crate) use memory::{new_adapter_bytes, shown};
pub(crate) use prefix_cache::PrefixCache;
pub(crate) use running::Stop;
pub(crate) use sampler::{Generate, Generated, GeneratedSequence, Sampler};
pub(crate) use time_slice::{Rest, TimeSlice};
pub(crate) use train::{RunOutput, Trainer};
pub(crate) use weights::Weights;

#[cfg(test)]
mod tests;
