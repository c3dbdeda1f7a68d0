//! The keys and values of prompts that were read, for later prompts that begin with the same tokens.

use super::segment::{BLOCK, Segment};
use super::weights::Weights;
use parking_lot::Mutex;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Limit of the bytes of keys and values that the cache of an engine holds.
const MAX_BYTES: usize = 64 << 20;

/// A cache of the blocks of prompts, for all samplers of an engine. A block depends on all tokens before it, so the
/// blocks of a sampler form a tree: a block is found by its own tokens and the block before it. The tokens themselves are
/// compared. The blocks that were used least recently are removed first, of one prompt the last first.
#[derive(Debug)]
pub(crate) struct PrefixCache {
    max_bytes: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    blocks: HashMap<Key, Entry>,
    /// The keys of all blocks, in the order in which they are removed.
    order: BTreeMap<Age, Key>,
    bytes: usize,
    /// The largest number of a block, of a use and of an owner so far.
    count: u64,
}

/// Owner, number of the block before (0 if there is none), and tokens of a block.
type Key = (u64, u64, Box<[u32]>);

/// Number of the last use; position; number of the block.
type Age = (u64, Reverse<usize>, u64);

#[derive(Debug)]
struct Entry {
    age: Age,
    bytes: usize,
    segment: Arc<Segment>,
}

/// The blocks of a prompt that the cache has, or has now.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub(super) blocks: Vec<Arc<Segment>>,
    /// The number of each.
    numbers: Vec<u64>,
    /// The number of this use. Blocks that are added later get the same, so that none is older than those after it.
    used: u64,
}

impl Found {
    /// Number of tokens in the blocks.
    pub(super) fn len(&self) -> usize {
        self.blocks.iter().map(|it| it.len).sum()
    }

    /// Keeps the first `count` blocks.
    pub(super) fn truncate(&mut self, count: usize) {
        self.blocks.truncate(count);
        self.numbers.truncate(count);
    }
}

impl Default for PrefixCache {
    fn default() -> Self {
        PrefixCache::new(MAX_BYTES)
    }
}

impl PrefixCache {
    pub(super) fn new(max_bytes: usize) -> Self {
        PrefixCache { max_bytes, inner: Mutex::default() }
    }

    /// A number for a sampler.
    pub(super) fn owner(&self) -> u64 {
        self.inner.lock().next()
    }

    /// The blocks of a prompt from its start, as far as the cache has them. Its last block may be shorter than
    /// [`BLOCK`]; it is found if another prompt ended with the same block.
    pub(super) fn find(&self, owner: u64, tokens: &[u32]) -> Found {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let mut found = Found { used: inner.next(), ..Found::default() };
        let mut before = 0;
        for tokens in tokens.chunks(BLOCK) {
            let key: Key = (owner, before, tokens.into());
            let Some(entry) = inner.blocks.get_mut(&key) else { break };
            inner.order.remove(&entry.age);
            entry.age.0 = found.used;
            inner.order.insert(entry.age, key);
            before = entry.age.2;
            found.blocks.push(entry.segment.clone());
            found.numbers.push(before);
        }
        found
    }

    /// Adds the blocks of the next tokens of a prompt. A block that the cache has already, because another request added
    /// it meanwhile, is taken from there.
    pub(super) fn add(
        &self,
        owner: u64,
        found: &mut Found,
        tokens: &[u32],
        read: Vec<Segment>,
        weights: &Weights,
    ) {
        let mut removed = Vec::new();
        let mut inner = self.inner.lock();
        for (tokens, segment) in tokens.chunks(BLOCK).zip(read) {
            let bytes = Segment::bytes(weights, segment.len);
            let number = inner.next();
            let key: Key = (owner, found.numbers.last().copied().unwrap_or(0), tokens.into());
            if let Some(known) = inner.blocks.get(&key) {
                found.blocks.push(known.segment.clone());
                found.numbers.push(known.age.2);
                continue;
            }
            let segment = Arc::new(segment);
            let age = (found.used, Reverse(segment.start), number);
            found.blocks.push(segment.clone());
            found.numbers.push(number);
            inner.bytes += bytes;
            inner.order.insert(age, key.clone());
            inner.blocks.insert(key, Entry { age, bytes, segment });
        }
        while self.max_bytes < inner.bytes
            && let Some((_, key)) = inner.order.pop_first()
            && let Some(entry) = inner.blocks.remove(&key)
        {
            inner.bytes -= entry.bytes;
            removed.push(entry);
        }
        drop(inner);
        // Free the memory outside the lock.
        drop(removed);
    }

    /// Removes the blocks of a sampler.
    pub(super) fn forget(&self, owner: u64) {
        let mut inner = self.inner.lock();
        let gone: Vec<Entry> = inner.blocks.extract_if(|key, _| key.0 == owner).map(|it| it.1).collect();
        for entry in &gone {
            inner.order.remove(&entry.age);
            inner.bytes -= entry.bytes;
        }
        drop(inner);
        // Free the memory outside the lock.
        drop(gone);
    }

    /// The bytes that the cache holds.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.inner.lock().bytes
    }
}

impl Inner {
    fn next(&mut self) -> u64 {
        self.count += 1;
        self.count
    }
}
