//! Loss functions: those of the server, graphs of tensor operations, and losses that the caller computes.

mod custom_loss;
mod graph;
pub(crate) mod linear;
mod loss_fn;

pub use custom_loss::CustomLoss;
#[cfg(feature = "local")]
pub(crate) use graph::LossArray;
pub(crate) use graph::Node;
pub use graph::{LossGraph, LossHandle, LossInput, LossMask, LossOperand, LossTensor, LossTrace};
pub use loss_fn::{Loss, LossFn, LossValue};
