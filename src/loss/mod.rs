//! Loss functions of three kinds: named losses that the server computes (`loss_fn`), graphs of tensor operations that
//! the server or the client computes (`graph`), and losses that a function of the caller computes (`custom_loss`). To
//! train with a loss that the client computes, `linear` makes the data of a forward and a backward pass.

mod custom_loss;
mod graph;
pub(crate) mod linear;
mod loss_fn;
mod regularizer;

pub use custom_loss::CustomLoss;
#[cfg(feature = "local")]
pub(crate) use graph::LossArray;
#[cfg(feature = "ffi")]
pub(crate) use graph::MAX_NODES;
pub(crate) use graph::Node;
pub use graph::{LossGraph, LossHandle, LossInput, LossMask, LossOperand, LossTensor, LossTrace};
pub use loss_fn::{Loss, LossFn, LossValue};
pub use regularizer::{
    Center, Distance, EntropyGoal, KlDirection, Measured, Regularizer, Regularizers, TermReduction,
};
