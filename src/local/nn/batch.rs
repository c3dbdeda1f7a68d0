//! Generates the samples of several requests together: each step computes one token of every sample, so that the weights
//! are read once for all of them. Between two steps requests join, and the driver, which generates, may pause.

use super::decode::{Row, StepScratch};
use super::running::{Choice, Chosen, Running, Stop};
use super::sampler::{CANCELLED, GeneratedSequence, Sampler};
use super::time_slice::TimeSlice;
use parking_lot::Mutex;
use rayon::prelude::*;
use std::sync::Arc;

/// Number of logits from which on several threads choose the tokens.
const MIN_PARALLEL: usize = 1 << 14;

/// Receives the samples of a request, or the reason why there are none.
type Done<'a> = Box<dyn FnOnce(Result<Vec<GeneratedSequence>, String>) + Send + 'a>;

/// A request in a batch.
#[allow(missing_debug_implementations)] // Closures have no `Debug`.
pub(super) struct Member<'a> {
    pub(super) running: Running,
    pub(super) stop: Box<Stop<'a>>,
    /// Says whether nobody waits for the samples any more.
    pub(super) cancelled: Box<dyn Fn() -> bool + Send + 'a>,
    pub(super) done: Done<'a>,
}

/// The requests that join the batch of a sampler.
#[derive(Default)]
pub(super) struct Batch {
    inner: Mutex<Joining>,
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Joining {
    members: Vec<Member<'static>>,
    /// True while the batch has a driver.
    runs: bool,
}

/// Buffers of a batch.
#[derive(Debug, Default)]
struct Buffers {
    /// The logits of all samples, in the order of the members.
    logits: Vec<f32>,
    scratch: Vec<StepScratch>,
}

/// Generates the samples of a batch. While it is paused, it waits as the rest of a time slice.
struct Driver {
    sampler: Arc<Sampler>,
    members: Vec<Member<'static>>,
    buffers: Buffers,
    ended: bool,
}

/// Adds a request to the batch of a sampler. If no other request runs, this thread generates the samples of all requests
/// that join, in this time slice and later ones.
pub(super) fn join(sampler: &Arc<Sampler>, member: Member<'static>, slice: &dyn TimeSlice) {
    {
        let mut inner = sampler.batch().inner.lock();
        inner.members.push(member);
        if std::mem::replace(&mut inner.runs, true) {
            return;
        }
    }
    let sampler = sampler.clone();
    let driver = Driver { sampler, members: Vec::new(), buffers: Buffers::default(), ended: false };
    // The prompt was read in this slice.
    if slice.is_over() { driver.pause(slice) } else { driver.run(slice) }
}

impl Driver {
    fn run(mut self, slice: &dyn TimeSlice) {
        let mut goes_on = self.add_joining();
        while goes_on {
            turn(&self.sampler, &mut self.members, &mut self.buffers);
            goes_on = self.add_joining();
            if goes_on && slice.is_over() {
                return self.pause(slice);
            }
        }
    }

    fn pause(self, slice: &dyn TimeSlice) {
        slice.pause(Box::new(move |slice| self.run(slice)));
    }

    /// Adds the requests that have joined. Returns false if no request is left; the driver has ended then.
    fn add_joining(&mut self) -> bool {
        let mut inner = self.sampler.batch().inner.lock();
        self.members.append(&mut inner.members);
        self.ended = self.members.is_empty();
        inner.runs = !self.ended;
        inner.runs
    }
}

/// If the driver is dropped before its end, by a panic or because the engine stops, drops the requests that have joined:
/// nobody would generate them.
impl Drop for Driver {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let mut inner = self.sampler.batch().inner.lock();
        inner.runs = false;
        let members = std::mem::take(&mut inner.members);
        drop(inner);
        drop(members);
    }
}

/// Generates the samples of some requests on this thread and those of its pool.
#[cfg(test)]
pub(super) fn run(sampler: &Sampler, mut members: Vec<Member<'_>>) {
    let mut buffers = Buffers::default();
    while !members.is_empty() {
        turn(sampler, &mut members, &mut buffers);
    }
}

/// Chooses the next token of every sample, hands over the requests that are done, and computes the logits after the
/// chosen tokens.
fn turn(sampler: &Sampler, members: &mut Vec<Member<'_>>, buffers: &mut Buffers) {
    let vocab = sampler.vocab();
    let mut chosen = chosen(members, &buffers.logits, vocab).into_iter();
    let (mut i, mut at) = (0, 0);
    while let Some(member) = members.get_mut(i) {
        let count = member.running.own.len();
        let logits = &buffers.logits[at..][..count * vocab];
        at += count * vocab;
        let own = chosen.by_ref().take(count).collect::<Vec<_>>().into_iter();
        let over = if (member.cancelled)() {
            Err(CANCELLED.to_owned())
        } else {
            member.running.advance(logits, own, &mut *member.stop)
        };
        let result = match over {
            Ok(false) => {
                i += 1;
                continue;
            }
            Ok(true) => Ok(()),
            Err(error) => Err(error),
        };
        let Member { running, done, .. } = members.remove(i);
        done(result.map(|()| running.into_sequences()));
    }
    let mut rows = Vec::new();
    for member in members.iter_mut() {
        let Running { prefix, own, tokens, .. } = &mut member.running;
        let samples = own.iter_mut().zip(&*tokens);
        rows.extend(samples.map(|(own, token)| Row { prefix, own, token: *token }));
    }
    buffers.logits.resize(rows.len() * vocab, 0.0);
    sampler.step(&mut rows, &mut buffers.logits, &mut buffers.scratch);
}

/// The next tokens of all samples, in the order of the members.
fn chosen(members: &mut [Member<'_>], logits: &[f32], vocab: usize) -> Vec<Chosen> {
    let mut at = 0;
    let mut choices = Vec::new();
    for member in members {
        let size = member.running.own.len() * vocab;
        choices.extend(member.running.choices(&logits[at..][..size]));
        at += size;
    }
    let choose = |scratch: &mut Vec<f32>, choice: Choice<'_>| choice.choose(scratch);
    let scratch = || vec![0.0; vocab];
    if at < MIN_PARALLEL {
        let mut scratch = scratch();
        return choices.into_iter().map(|it| choose(&mut scratch, it)).collect();
    }
    choices.into_par_iter().map_init(scratch, choose).collect()
}
