//! The network: a decoder-only transformer in f32 with a low-rank adapter, its gradients, its optimizer and its
//! sampler, on the products of [`super::kernel`].
//!
//! From the bottom up: [`linear`], [`ops`] and [`attention`] are operations with their backward passes; [`layer`]
//! joins them; [`head`] turns hidden rows into log-probabilities and losses; [`sequence_loss`] holds the losses of
//! whole sequences; [`pass`] runs a group of sequences; [`train`] runs a batch and [`adam`] updates the parameters.
//! [`decode`] generates one token at a time, driven by [`sampler`]. Results have the same bits for any number of
//! threads.

mod adam;
mod attention;
mod choose;
mod config;
mod decode;
mod example;
mod head;
mod layer;
mod linear;
mod lora;
mod loss;
mod ops;
mod pass;
mod persist;
mod rng;
mod sampler;
mod sequence_loss;
mod train;
mod weights;

pub(crate) use adam::Adam;
pub(crate) use config::ModelConfig;
pub(crate) use example::Example;
pub(crate) use lora::LoraSpec;
pub(crate) use loss::Loss;
pub(crate) use sampler::{AdapterShape, Generate, GeneratedSequence, Sampler};
pub(crate) use train::{RunOutput, Trainer};
pub(crate) use weights::Weights;

#[cfg(test)]
mod tests;
