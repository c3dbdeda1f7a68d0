//! Reinforcement learning: from rewarded samples to training data.
//!
//! A policy plays the same task several times ([`TrajectoryGroup`]); the [`advantages`] compare the rewards within the
//! group; [`assemble_training_data`] makes data for
//! [`LossFn::ImportanceSampling`](crate::types::LossFn::ImportanceSampling) and similar losses. See `examples/rl.rs`.

mod data;
mod group;
mod kl;
#[cfg(test)]
mod tests;
mod trajectory;

pub use data::{TrajectoryDatum, assemble_training_data, trajectory_data};
pub use group::{GroupFractions, advantages, group_fractions, remove_constant_reward_groups, split_list};
pub use kl::{KlFigures, incorporate_kl_penalty, kl_sample_train};
pub use trajectory::{Trajectory, TrajectoryGroup, Transition};
