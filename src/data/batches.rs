//! The order of the examples.

use crate::error::{Error, Result};

/// Splits `n` examples into batches, in another order in each epoch.
///
/// The order is a function of the seed and the epoch alone, the same on all platforms and in all versions: a
/// Fisher–Yates shuffle of 0..n from the last position down to the second, where each position i exchanges with
/// position `r * (i + 1) / 2^64`, rounded down. The numbers r come from SplitMix64, whose state begins as f(f(seed) +
/// epoch), where f(x) is its first number from the state x.
/// So a run continues at any step without a saved state.
///
/// # Example: continue after three steps
/// ```
/// use tinkex::data::Batches;
///
/// let batches = Batches::new(10, 4, 0)?;
/// assert_eq!(batches.n_batches(), 2);
/// let all: Vec<_> = batches.from_step(0).take(5).collect();
/// let rest: Vec<_> = batches.from_step(3).take(2).collect();
/// assert_eq!(all[3..], rest[..]);
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batches {
    n: usize,
    batch_size: usize,
    seed: u64,
    keep_last: bool,
}

/// One batch of an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Batch {
    /// The epoch, from 0.
    pub epoch: u64,
    /// The number of the batch within the epoch, from 0.
    pub batch: usize,
    /// The indices of its examples.
    pub indices: Vec<usize>,
}

impl Batches {
    /// Batches of `batch_size` of `n` examples. The last examples of an epoch that do not fill a batch are left out; see
    /// [`keep_last`](Self::keep_last).
    ///
    /// # Errors
    /// `InvalidInput` if the batch size is 0, or larger than `n`.
    pub fn new(n: usize, batch_size: usize, seed: u64) -> Result<Self> {
        if batch_size == 0 {
            return Err(Error::invalid("batch_size", "must be at least 1"));
        }
        if n < batch_size {
            let problem = format!("a batch of {batch_size} cannot be filled from {n} examples");
            return Err(Error::invalid("batch_size", problem));
        }
        Ok(Batches { n, batch_size, seed, keep_last: false })
    }

    /// Sets whether the last batch of an epoch is kept if it is smaller than the others.
    #[must_use]
    pub fn keep_last(mut self, keep: bool) -> Self {
        self.keep_last = keep;
        self
    }

    /// Number of batches of an epoch.
    pub fn n_batches(&self) -> usize {
        if self.keep_last { self.n.div_ceil(self.batch_size) } else { self.n / self.batch_size }
    }

    /// The batches of one epoch.
    pub fn epoch(&self, epoch: u64) -> impl Iterator<Item = Batch> + use<> {
        self.starting(epoch, 0).take(self.n_batches())
    }

    /// The batches from a step on, counted from 0 over all epochs. They do not end.
    pub fn from_step(&self, step: u64) -> EpochBatches {
        let per_epoch = self.n_batches() as u64;
        self.starting(step / per_epoch, (step % per_epoch) as usize)
    }

    fn starting(&self, epoch: u64, batch: usize) -> EpochBatches {
        EpochBatches { batches: *self, epoch, batch, order: order(self.n, self.seed, epoch) }
    }
}

/// Endless batches, made by [`Batches::from_step`].
#[derive(Clone, Debug)]
pub struct EpochBatches {
    batches: Batches,
    epoch: u64,
    batch: usize,
    order: Vec<usize>,
}

impl Iterator for EpochBatches {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        if self.batch == self.batches.n_batches() {
            self.epoch = self.epoch.wrapping_add(1);
            self.batch = 0;
            self.order = order(self.batches.n, self.batches.seed, self.epoch);
        }
        let start = self.batch * self.batches.batch_size;
        let end = self.batches.n.min(start + self.batches.batch_size);
        let batch = Batch { epoch: self.epoch, batch: self.batch, indices: self.order[start..end].to_vec() };
        self.batch += 1;
        Some(batch)
    }
}

/// Splits the indices of `n` examples into those of a test set, `n_test` of them, and those to train on. The choice
/// depends on the seed alone; both lists are sorted.
///
/// # Errors
/// `InvalidInput` if nothing would be left to train on.
///
/// # Example: two of five examples are kept for a test
/// ```
/// let (test, train) = tinkex::data::split_test(5, 2, 0)?;
/// assert_eq!((test.len(), train.len()), (2, 3));
/// # Ok::<(), tinkex::Error>(())
/// ```
pub fn split_test(n: usize, n_test: usize, seed: u64) -> Result<(Vec<usize>, Vec<usize>)> {
    if n <= n_test {
        let problem = format!("{n_test} of {n} examples for the test leave nothing to train on");
        return Err(Error::invalid("n_test", problem));
    }
    // An epoch that no run reaches, so that the choice says nothing about the order of training.
    let mut test = order(n, seed, u64::MAX);
    let mut train = test.split_off(n_test);
    test.sort_unstable();
    train.sort_unstable();
    Ok((test, train))
}

/// The permutation of 0..n of a seed and an epoch.
fn order(n: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut seed = seed;
    let mut state = split_mix(&mut seed).wrapping_add(epoch);
    // Neighbouring epochs must not share a shifted stream of numbers.
    state = split_mix(&mut state);
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        let j = (u128::from(split_mix(&mut state)) * (i as u128 + 1)) >> 64;
        order.swap(i, j as usize);
    }
    order
}

/// The next number of SplitMix64.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
