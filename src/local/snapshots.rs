//! Snapshots: copies of adapters. A sampler uses a snapshot as its weights.
//!
//! A program that samples after every optimizer step takes a snapshot after each step, and releases all of them only at
//! the end of its session. Therefore the adapter parameters of all snapshots are in a scratch file. Only the most
//! recently used snapshots are also in memory, as samplers whose adapter is merged with the base model.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use super::checkpoint::{ADAPTER, CheckpointId, Store, StoreError};
use super::engine::{Base, Sampler, Trainer};
use super::nn::LoraSpec;
use super::room::Room;
use super::scratch::{Part, Scratch};

/// A copy of an adapter at one moment. Dropping it frees its part of the scratch file.
#[derive(Debug)]
pub(super) struct Snapshot {
    number: u64,
    base: Arc<dyn Base>,
    spec: LoraSpec,
    numbers: Part,
    ready: Arc<Ready>,
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        self.ready.forget(self.number);
    }
}

/// Source of an adapter. A new snapshot is compared with the latest one from the same source: if they are equal, the
/// latest one is used again.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Origin {
    Model(String),
    /// One save of a checkpoint, by its save id.
    Save(u64),
}

/// All snapshots of a server.
#[derive(Debug)]
pub(super) struct Snapshots {
    scratch: Scratch,
    ready: Arc<Ready>,
    latest: Mutex<HashMap<Origin, Weak<Snapshot>>>,
    made: AtomicU64,
}

impl Snapshots {
    /// Creates the collection. Its scratch file is in `folder` and takes space from `room`; at most `max` samplers are in
    /// memory.
    pub(super) fn new(folder: PathBuf, max: usize, room: &Arc<Room>) -> Self {
        Snapshots {
            scratch: Scratch::new(folder, room.clone()),
            ready: Arc::new(Ready { max: max.max(1), samplers: Mutex::default() }),
            latest: Mutex::default(),
            made: AtomicU64::new(0),
        }
    }

    /// Takes a snapshot of a model. If the model has not changed since its last snapshot, returns that one.
    ///
    /// # Errors
    /// The scratch file cannot be written, or would exceed the limit of the disk space.
    pub(super) fn of_model(
        &self,
        model_id: &str,
        trainer: &dyn Trainer,
    ) -> Result<Arc<Snapshot>, StoreError> {
        self.keep(Origin::Model(model_id.into()), trainer)
    }

    /// Makes a snapshot of a checkpoint as it is on disk now. If the latest snapshot of the same save still exists,
    /// returns that one.
    pub(super) fn of_checkpoint(
        &self,
        store: &Store,
        checkpoint: &CheckpointId,
        base: &Arc<dyn Base>,
    ) -> Result<Arc<Snapshot>, String> {
        let save_id = store.meta(checkpoint).map_err(StoreError::text)?.save_id;
        // Checkpoints of earlier versions have no save id, which is read as 0. Read the files of such a checkpoint each
        // time, because the id does not tell whether it was replaced.
        if let Some(known) = self.latest(&Origin::Save(save_id)).filter(|_| save_id != 0) {
            return Ok(known);
        }
        let (meta, files) = store.read(checkpoint, &[ADAPTER]).map_err(StoreError::text)?;
        let mut trainer = base.clone().trainer(meta.spec());
        trainer
            .load_adapter(files.first().map_or(&[], |it| it))
            .map_err(|it| format!("{} does not fit its base model: {it}", checkpoint.uri()))?;
        self.keep(Origin::Save(meta.save_id), &*trainer).map_err(StoreError::text)
    }

    fn latest(&self, origin: &Origin) -> Option<Arc<Snapshot>> {
        self.latest.lock().get(origin)?.upgrade()
    }

    fn keep(&self, origin: Origin, trainer: &dyn Trainer) -> Result<Arc<Snapshot>, StoreError> {
        let (base, spec, params) = (trainer.base(), trainer.spec(), trainer.params());
        let mut bytes = Vec::with_capacity(4 * params.len());
        params.iter().for_each(|it| bytes.extend_from_slice(&it.to_le_bytes()));
        if let Some(known) = self.latest(&origin)
            && Arc::ptr_eq(&known.base, &base)
            && known.spec.fits(spec)
            && known.numbers.read()? == bytes
        {
            return Ok(known);
        }
        let snapshot = Arc::new(Snapshot {
            number: self.made.fetch_add(1, Ordering::Relaxed),
            base,
            spec: spec.clone(),
            numbers: self.scratch.put(&bytes)?,
            ready: self.ready.clone(),
        });
        let mut latest = self.latest.lock();
        if latest.len().is_multiple_of(64) {
            latest.retain(|_, it| it.strong_count() != 0);
        }
        latest.insert(origin, Arc::downgrade(&snapshot));
        Ok(snapshot)
    }

    /// Sampler of a snapshot. If it is not in memory, it is made by merging the adapter with the base model.
    pub(super) fn sampler(&self, snapshot: &Snapshot) -> Result<Arc<dyn Sampler>, String> {
        let cell = self.ready.cell(snapshot.number);
        // Only one of several concurrent callers makes the sampler; the others wait for it.
        let made = cell.get_or_init(|| {
            let bytes = snapshot.numbers.read().map_err(StoreError::text)?;
            let params = bytes.as_chunks::<4>().0.iter().map(|it| f32::from_le_bytes(*it)).collect();
            Ok(snapshot.base.clone().sampler(&snapshot.spec, params))
        });
        if made.is_err() {
            self.ready.forget(snapshot.number);
        }
        made.clone()
    }
}

type Cell = Arc<OnceLock<Result<Arc<dyn Sampler>, String>>>;

/// The samplers that are in memory, by the number of their snapshot, the most recently used last.
#[derive(Debug)]
struct Ready {
    max: usize,
    samplers: Mutex<Vec<(u64, Cell)>>,
}

impl Ready {
    /// Cell for the sampler of a snapshot. A new cell is empty until the sampler is made.
    fn cell(&self, number: u64) -> Cell {
        let mut samplers = self.samplers.lock();
        let known = samplers.iter().position(|it| it.0 == number).map(|i| samplers.remove(i).1);
        let cell = known.unwrap_or_default();
        samplers.push((number, cell.clone()));
        let unused = (self.max < samplers.len()).then(|| samplers.remove(0));
        drop(samplers);
        // Free the memory outside the lock.
        drop(unused);
        cell
    }

    fn forget(&self, number: u64) {
        let mut samplers = self.samplers.lock();
        let gone = samplers.iter().position(|it| it.0 == number).map(|i| samplers.remove(i));
        drop(samplers);
        drop(gone);
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;
    use crate::local::cpu::Cpu;
    use crate::local::engine::Engine;
    use crate::local::nn::ModelConfig;

    fn trainer(base: &Arc<dyn Base>, seed: u64) -> Box<dyn Trainer> {
        let spec = LoraSpec { rank: 2, seed, train_attn: true, train_mlp: true, train_unembed: false };
        base.clone().trainer(spec)
    }

    #[test]
    fn all_snapshots_can_be_sampled_from_while_few_are_in_memory() {
        let folder = std::env::temp_dir().join(format!("tinkex-snapshots-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let base = Cpu::default().seeded(&ModelConfig::nano(), 0);
        let snapshots = Snapshots::new(folder.clone(), 2, &Arc::new(Room::unlimited()));
        let kept: Vec<_> =
            (0..5).map(|i| snapshots.of_model("m", &*trainer(&base, i)).expect("a snapshot")).collect();
        let ready = || snapshots.ready.samplers.lock().iter().map(|it| it.0).collect::<Vec<_>>();
        assert!(ready().is_empty(), "no snapshot is merged before it is sampled from");
        let first = snapshots.sampler(&kept[0]).expect("a sampler");
        kept.iter().for_each(|it| drop(snapshots.sampler(it).expect("a sampler")));
        assert_eq!(ready(), [3, 4]);
        snapshots.sampler(&kept[3]).expect("a sampler");
        let again = snapshots.sampler(&kept[0]).expect("a sampler");
        assert_eq!(ready(), [3, 0], "the most recently used stay");
        assert!(!Arc::ptr_eq(&first, &again));
        let numbers = |i: usize| kept[i].numbers.read().expect("the numbers");
        assert!(numbers(0) == numbers(0) && numbers(0) != numbers(3), "each snapshot keeps its own adapter");
        drop(kept);
        assert!(ready().is_empty(), "samplers are dropped with their snapshots");
        std::fs::remove_dir_all(&folder).expect("cleaning up");
    }

    #[test]
    fn a_model_that_has_not_changed_shares_its_snapshot() {
        let folder = std::env::temp_dir().join(format!("tinkex-sharing-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let base = Cpu::default().seeded(&ModelConfig::nano(), 0);
        let snapshots = Snapshots::new(folder.clone(), 2, &Arc::new(Room::unlimited()));
        let of = |model: &str, seed| snapshots.of_model(model, &*trainer(&base, seed)).expect("a snapshot");
        let a = of("m", 1);
        assert!(Arc::ptr_eq(&a, &of("m", 1)));
        assert!(!Arc::ptr_eq(&a, &of("m", 2)) && !Arc::ptr_eq(&a, &of("n", 1)));
        std::fs::remove_dir_all(&folder).expect("cleaning up");
    }
}
