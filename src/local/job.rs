//! Jobs of the engine thread, and the data that they carry.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::age::Recipient;
use super::checkpoint::{CheckpointId, Kind, Meta};
use super::engine::Base;
use super::examples::Pass;
use super::futures::Ticket;
use super::nn::{Adam, LoraSpec};
use super::sampling::{Sample, Slot};
use super::schedule::{Cell, Concurrency};

/// A job of the engine thread. Without a ticket no client waits for its result.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) ticket: Option<Ticket>,
    pub(super) work: Work,
}

impl Job {
    /// Says whether the job may run at the same time as other jobs.
    pub(super) fn concurrency(&self) -> Concurrency {
        match &self.work {
            Work::Sample { .. } => Concurrency::Shared,
            Work::Create { .. } | Work::LoadSampler { .. } | Work::DropSlots { .. } => Concurrency::Immediate,
            // An unload without a ticket belongs to a session that has ended, so it need not wait. An unload with a
            // ticket was requested by a client; it runs after the client's earlier requests.
            Work::Unload { .. } if self.ticket.is_none() => Concurrency::Immediate,
            _ => Concurrency::Exclusive,
        }
    }

    /// The slot that the job sets, or whose weights it reads.
    pub(super) fn cell(&self) -> Option<Cell> {
        match &self.work {
            // The address is unique while a job holds the slot.
            Work::Sample { slot, .. } | Work::Snapshot { slot, .. } => Some(Arc::as_ptr(slot) as Cell),
            _ => None,
        }
    }
}

#[derive(Debug)]
pub(super) enum Work {
    /// Makes a model, from a checkpoint if one is given.
    Create {
        model_id: String,
        base: Arc<dyn Base>,
        spec: LoraSpec,
        from: Option<Load>,
    },
    /// Loads a checkpoint into a model.
    Load {
        model_id: String,
        load: Load,
    },
    Pass {
        model_id: String,
        pass: Box<Pass>,
        /// Counts the bytes of the pass as waiting until the pass is done.
        waiting: Counted,
    },
    OptimStep {
        model_id: String,
        adam: Adam,
    },
    /// Writes a model's weights and optimizer as a checkpoint, for training.
    Save {
        model_id: String,
        save: Save,
    },
    /// Writes a model's weights as a checkpoint, for sampling or for download.
    SaveSampler {
        model_id: String,
        save: Save,
    },
    /// Takes a snapshot of a model's weights for a sampler that has no checkpoint.
    Snapshot {
        model_id: String,
        slot: Slot,
        sampler_id: String,
    },
    /// Reads a sampler's weights.
    LoadSampler {
        slot: Slot,
        checkpoint: CheckpointId,
        base: Arc<dyn Base>,
    },
    /// Drops the weights of samplers whose session has ended.
    DropSlots {
        slots: Vec<Slot>,
    },
    Sample {
        slot: Slot,
        sample: Box<Sample>,
        /// Counts the bytes of the sample until it is done.
        waiting: Counted,
    },
    Unload {
        model_id: String,
    },
    /// An invalid request: does nothing and fails with this error. It keeps its place in the queue like a valid
    /// request. A model's requests are numbered and run in this order, so later ones would wait for a missing number.
    Refused {
        error: String,
    },
}

impl Work {
    /// Name of the work in the trace.
    pub(super) fn verb(&self) -> &'static str {
        match self {
            Work::Create { from: None, .. } => "create_model",
            Work::Create { .. } | Work::Load { .. } => "load_weights",
            Work::Pass { pass, .. } if pass.backward => "forward_backward",
            Work::Pass { .. } => "forward",
            Work::OptimStep { .. } => "optim_step",
            Work::Save { .. } => "save_weights",
            Work::SaveSampler { save, .. } if save.checkpoint.kind == Kind::External => {
                "save_weights_external"
            }
            Work::SaveSampler { .. } | Work::Snapshot { .. } => "save_weights_for_sampler",
            Work::LoadSampler { .. } => "create_sampling_session",
            Work::DropSlots { .. } => "drop_slots",
            Work::Sample { .. } => "sample",
            Work::Unload { .. } => "unload_model",
            Work::Refused { .. } => "refused",
        }
    }
}

/// An amount that is counted in a total until this value is dropped, such as the bytes of a pass in those of all waiting
/// passes. While the total is too large, the engine refuses requests that would add to it.
#[derive(Debug)]
pub(super) struct Counted {
    amount: usize,
    all: Arc<AtomicUsize>,
}

impl Counted {
    pub(super) fn count(amount: usize, all: &Arc<AtomicUsize>) -> Self {
        all.fetch_add(amount, Ordering::Relaxed);
        Counted { amount, all: all.clone() }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.all.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

#[derive(Debug)]
pub(super) struct Load {
    pub(super) checkpoint: CheckpointId,
    pub(super) optimizer: bool,
}

#[derive(Debug)]
pub(super) struct Save {
    pub(super) checkpoint: CheckpointId,
    pub(super) meta: Meta,
    pub(super) overwrite: bool,
    /// Keys that the files are encrypted for; none if they are not encrypted.
    pub(super) recipients: Vec<Recipient>,
}
