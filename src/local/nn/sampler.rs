//! Sampling from a snapshot of a model.

use super::batch::{self, Batch, Member};
use super::choose::Chooser;
use super::decode::{Decoder, Row, StepScratch, Threads};
use super::lora::LoraSpec;
use super::pass::Model;
use super::prefix_cache::{Found, PrefixCache};
use super::prompt::{CHUNK, PromptScratch, VisitLogits};
use super::prompt_scores::{PromptScores, Scorer};
use super::running::{Running, Stop};
use super::segment::{BLOCK, Segment};
use super::team::Team;
use super::time_slice::TimeSlice;
#[cfg(test)]
use super::train::Trainer;
use super::weights::Weights;
use parking_lot::Mutex;
use rayon::prelude::*;
use std::sync::Arc;

/// Largest number of samples for which all threads compute each product of a decoding step together.
const TOGETHER: usize = 8;

/// Smallest and largest number of samples that one task of a larger step handles: each weight is read from memory once
/// for all of them.
const STEP_SAMPLES: (usize, usize) = (4, 16);

/// Limit of the bytes of keys and values that one request caches. It limits the number of samples that are generated at
/// the same time; each counts with its largest length.
const MAX_CACHE: usize = 32 << 20;

/// Limits of the workspaces kept for later requests: their number; their size, above which a workspace is dropped; and the
/// number of decoding buffers of each.
const MAX_IDLE: usize = 8;
const MAX_IDLE_BYTES: usize = 4 << 20;
const MAX_IDLE_STEPS: usize = 16;

/// A copy of a model at one moment, which continues prompts. Any number of threads may use it at the same time.
#[derive(Debug)]
pub(crate) struct Sampler {
    model: Model,
    decoder: Decoder,
    idle: Arc<Idle>,
    cache: Arc<PrefixCache>,
    /// Number of this sampler in the cache.
    owner: u64,
    batch: Batch,
}

/// A prompt that is being read.
#[derive(Debug)]
pub(super) struct Reading {
    req: Arc<Generate>,
    /// The blocks that are read or were in the cache.
    found: Found,
    scorer: Scorer,
    /// True if the logits are wanted.
    has_scores: bool,
    /// Number of tokens of the prompt in `found`.
    n_read: usize,
}

/// A request whose prompt is being read, in one time slice or several.
struct Beginning {
    sampler: Arc<Sampler>,
    reading: Reading,
    stop: Box<Stop<'static>>,
    cancelled: Box<dyn Fn() -> bool + Send>,
    done: Box<dyn FnOnce(Result<Generated, String>) + Send>,
}

impl Beginning {
    /// Reads chunks until the prompt is read, and joins the batch of the sampler. Pauses between two chunks if `slice` is
    /// over: a long prompt takes seconds.
    fn run(mut self, slice: &dyn TimeSlice) {
        let sampler = self.sampler.clone();
        let goes_on = sampler.with_workspace(|workspace, _| {
            while !(self.cancelled)() {
                if !sampler.read_chunk(&mut self.reading, workspace) {
                    return false;
                }
                if slice.is_over() {
                    return true;
                }
            }
            false
        });
        if (self.cancelled)() {
            return (self.done)(Err(CANCELLED.to_owned()));
        }
        if goes_on {
            return slice.pause(Box::new(move |slice| self.run(slice)));
        }
        let Beginning { reading, stop, cancelled, done, .. } = self;
        match sampler.with_workspace(|_, scratch| sampler.begin(reading, scratch)) {
            Err(error) => done(Err(error)),
            Ok((running, scores)) => {
                let done =
                    move |it: Result<Vec<GeneratedSequence>, String>| done(it.map(|it| scores.join(it)));
                batch::join(&sampler, Member { running, stop, cancelled, done: Box::new(done) }, slice);
            }
        }
    }
}

/// Unused workspaces, shared by all samplers of a base model.
type Idle = Mutex<Vec<(PromptScratch, Vec<StepScratch>)>>;

#[cfg(test)]
impl Trainer {
    /// The model as it is now, ready for sampling; later steps do not change it.
    pub(crate) fn sampler(&self) -> Sampler {
        let model = self.model.clone();
        Sampler::new(Decoder::new(&model, None), model, Arc::default(), Arc::default())
    }
}

/// A request: the prompt and the sampling settings.
#[derive(Clone, Debug)]
pub(crate) struct Generate {
    /// The token ids to continue, at least one.
    pub prompt: Vec<u32>,
    /// Number of continuations.
    pub num_samples: usize,
    /// Largest number of tokens of a continuation. It also ends when the whole sequence reaches the model's limit.
    pub max_tokens: usize,
    /// Temperature; zero takes the likeliest token.
    pub temperature: f32,
    /// Draw only among this many of the likeliest tokens; zero or less for all.
    pub top_k: i64,
    /// Draw only among the likeliest tokens that together reach this probability: as few as possible, and at least one.
    pub top_p: f32,
    /// Seed of the random numbers. Each sample has its own stream of this seed, so it does not depend on the number of
    /// samples.
    pub seed: u64,
    /// Ids that end a continuation. The id that ended it is part of it.
    pub stop_tokens: Vec<u32>,
    /// Return the log-probability of each prompt token.
    pub prompt_logprobs: bool,
    /// Number of likeliest tokens to report at each prompt position.
    pub topk_prompt_logprobs: usize,
    /// Number of likeliest tokens to report at each drawn token.
    pub topk_sample_logprobs: usize,
    /// Number of tokens to draw at each prompt position after the first.
    pub alternatives: usize,
    /// Pairs of a row and a token id, in the order of the rows; the log-probability of each id is returned. Row `i`
    /// predicts the token at prompt position `i + 1`.
    pub targets: Vec<(usize, u32)>,
}

/// The likeliest token ids at one position with their log-probabilities, likeliest first.
pub(crate) type TopLogprobs = Vec<(u32, f32)>;

/// Result of [`Sampler::submit`].
#[derive(Clone, Debug)]
pub(crate) struct Generated {
    /// One continuation per sample.
    pub sequences: Vec<GeneratedSequence>,
    /// Number of tokens of the prompt whose keys and values were found in the cache of prompts.
    pub cached: usize,
    /// The log-probability of each prompt token, given the tokens before it; `None` for the first.
    pub prompt_logprobs: Option<Vec<Option<f32>>>,
    /// The likeliest tokens at each prompt position, likeliest first; `None` for the first position.
    pub topk_prompt_logprobs: Option<Vec<Option<TopLogprobs>>>,
    /// The alternatives drawn at the prompt positions after the first, in the order of the positions.
    pub alternatives: TopLogprobs,
    /// The log-probabilities of the targets.
    pub targets: Vec<f32>,
}

/// Results are equal if the same was generated and scored, however much of the prompt was in the cache.
#[cfg(test)]
impl PartialEq for Generated {
    fn eq(&self, other: &Generated) -> bool {
        let scores = |it: &Generated| (it.prompt_logprobs.clone(), it.topk_prompt_logprobs.clone());
        self.sequences == other.sequences
            && scores(self) == scores(other)
            && self.alternatives == other.alternatives
            && self.targets == other.targets
    }
}

/// One continuation.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct GeneratedSequence {
    /// The drawn ids, a stop token included.
    pub tokens: Vec<u32>,
    /// The log-probability of each token under the model itself: at temperature 1, without `top_k` and `top_p`.
    pub logprobs: Vec<f32>,
    /// The likeliest tokens at each position, if requested.
    pub top: Vec<TopLogprobs>,
    /// True if a stop token or the caller ended the continuation, false if it reached its largest length.
    pub stopped: bool,
}

impl Sampler {
    /// A sampler of the untrained model. `cache` holds the prompts of all samplers that are given the same.
    pub(crate) fn base(base: Arc<Weights>, cache: Arc<PrefixCache>) -> Sampler {
        let none = LoraSpec { rank: 0, seed: 0, train_attn: false, train_mlp: false, train_unembed: false };
        let model = Model::new(base, &none);
        Sampler::new(Decoder::new(&model, None), model, Arc::default(), cache)
    }

    /// A sampler of the base model with the parameters of an adapter. Parts that the adapter does not change are shared
    /// with `untrained`.
    pub(crate) fn adapted(spec: &LoraSpec, params: Vec<f32>, untrained: &Sampler) -> Sampler {
        let model = Model::with_params(untrained.model.base.clone(), spec, params);
        let decoder = Decoder::new(&model, Some(&untrained.decoder));
        Sampler::new(decoder, model, untrained.idle.clone(), untrained.cache.clone())
    }

    fn new(decoder: Decoder, model: Model, idle: Arc<Idle>, cache: Arc<PrefixCache>) -> Sampler {
        let owner = cache.owner();
        Sampler { model, decoder, idle, cache, owner, batch: Batch::default() }
    }

    /// Continues a prompt on this thread, or together with other requests on the thread that generates theirs, and pauses
    /// when `slice` is over. Calls `stop` after every token; the sample ends if it returns true. Calls `cancelled` before
    /// every chunk of the prompt and every step. Calls `done` with the result, or with an error: the request does not fit the model, it was
    /// cancelled (`"cancelled"`), or the logits are not finite.
    pub(crate) fn submit(
        self: &Arc<Self>,
        req: &Generate,
        stop: Box<Stop<'static>>,
        cancelled: impl Fn() -> bool + Send + 'static,
        done: impl FnOnce(Result<Generated, String>) + Send + 'static,
        slice: &dyn TimeSlice,
    ) {
        let reading = match self.open(req) {
            Ok(reading) => reading,
            Err(error) => return done(Err(error)),
        };
        let (cancelled, done) = (Box::new(cancelled), Box::new(done));
        Beginning { sampler: self.clone(), reading, stop, cancelled, done }.run(slice);
    }

    /// Continues a prompt, apart from all other requests.
    #[cfg(test)]
    pub(crate) fn generate(
        &self,
        req: &Generate,
        stop: &mut (dyn FnMut(usize, &[u32]) -> bool + Send),
        cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Result<Generated, String> {
        let mut reading = self.open(req)?;
        let (running, scores) = self.with_workspace(|workspace, scratch| {
            loop {
                if cancelled() {
                    return Err(CANCELLED.to_owned());
                }
                if !self.read_chunk(&mut reading, workspace) {
                    return self.begin(reading, scratch);
                }
            }
        })?;
        let mut result = Err(String::new());
        let done = Box::new(|it| result = it);
        let (stop, cancelled) = (Box::new(stop), Box::new(cancelled));
        batch::run(self, vec![Member { running, stop, cancelled, done }]);
        result.map(|it| scores.join(it))
    }

    /// Checks a request, and takes from the cache what it has of the prompt, unless the request wants the scores there.
    pub(super) fn open(&self, req: &Generate) -> Result<Reading, String> {
        let chooser = Chooser { temperature: req.temperature, top_k: req.top_k, top_p: req.top_p };
        chooser.check()?;
        self.check(&req.prompt)?;
        let mut found = self.cache.find(self.owner, &req.prompt[..req.prompt.len() - 1]);
        let scored = Scorer::first_row(req).map(|row| row / BLOCK);
        if let Some(block) = scored {
            found.truncate(block);
        }
        let req = Arc::new(req.clone());
        Ok(Reading {
            n_read: found.len(),
            scorer: Scorer::new(&req, found.len()),
            has_scores: scored.is_some(),
            found,
            req,
        })
    }

    /// Calls a function with buffers, which later requests use again.
    fn with_workspace<T>(&self, work: impl FnOnce(&mut PromptScratch, &mut Vec<StepScratch>) -> T) -> T {
        let (mut workspace, mut scratch) = self.idle.lock().pop().unwrap_or_default();
        let result = work(&mut workspace, &mut scratch);
        if workspace.bytes() <= MAX_IDLE_BYTES {
            scratch.truncate(MAX_IDLE_STEPS);
            let mut idle = self.idle.lock();
            if idle.len() < MAX_IDLE {
                idle.push((workspace, scratch));
            }
        }
        result
    }

    pub(super) fn batch(&self) -> &Batch {
        &self.batch
    }

    /// The logits after each token, computed as those of a prompt.
    #[cfg(test)]
    pub(super) fn logits(&self, tokens: &[u32]) -> Vec<f32> {
        let mut all = Vec::new();
        let mut visit = |logits: &[f32]| all.extend_from_slice(logits);
        self.decoder.read(&self.model, &[], tokens, Some(&mut visit), &mut PromptScratch::default());
        all
    }

    /// Number of token ids.
    pub(super) fn vocab(&self) -> usize {
        self.model.base.config.vocab
    }

    fn check(&self, prompt: &[u32]) -> Result<(), String> {
        let c = self.model.base.config();
        if prompt.is_empty() {
            return Err("the prompt is empty".to_owned());
        }
        if prompt.len() > c.max_len {
            return Err(format!(
                "the prompt has {} tokens, the model takes at most {}",
                prompt.len(),
                c.max_len
            ));
        }
        match prompt.iter().find(|&&id| id as usize >= c.vocab) {
            Some(id) => Err(format!("token id {id} is outside the vocabulary of {}", c.vocab)),
            None => Ok(()),
        }
    }

    /// Reads the next chunk of a prompt without its last token, which is the input of the first decoding step. Returns
    /// false once nothing is left.
    pub(super) fn read_chunk(&self, reading: &mut Reading, workspace: &mut PromptScratch) -> bool {
        let Reading { req, found, scorer, has_scores, n_read } = reading;
        let rest = &req.prompt[*n_read..req.prompt.len() - 1];
        let chunk = &rest[..CHUNK.min(rest.len())];
        if !chunk.is_empty() {
            let vocab = self.vocab();
            let mut visit = |logits: &[f32]| scorer.add(logits, vocab);
            let visit: Option<&mut VisitLogits<'_>> = if *has_scores { Some(&mut visit) } else { None };
            let read = self.decoder.read(&self.model, &found.blocks, chunk, visit, workspace);
            self.cache.add(self.owner, found, chunk, read, &self.model.base);
            *n_read += chunk.len();
        }
        chunk.len() < rest.len()
    }

    /// Runs the last token of the prompt, whose logits give the first token of each sample.
    fn begin(
        &self,
        reading: Reading,
        scratch: &mut Vec<StepScratch>,
    ) -> Result<(Running, PromptScores), String> {
        let Reading { req, found, scorer, .. } = reading;
        let (scores, prefix) = (scorer.finish()?, found.blocks);
        let base = &self.model.base;
        let c = &base.config;
        let max = if req.num_samples == 0 { 0 } else { req.max_tokens.min(c.max_len - req.prompt.len()) };
        let mut begun = Segment::new(base, req.prompt.len() - 1);
        let mut first = vec![0.0; c.vocab];
        if let Some(&token) = req.prompt.last()
            && 0 < max
        {
            let row = Row { prefix: &prefix, own: &mut begun, token };
            self.step(&mut [row], &mut first, scratch);
        }
        let max_alive = (MAX_CACHE / Segment::bytes(base, max).max(1)).max(STEP_SAMPLES.0);
        Ok((Running::new(&req, (max, max_alive), prefix, begun, first), scores))
    }

    /// Feeds one token to each sample, on several threads. The results of a sample do not depend on the other samples, nor
    /// on how the samples are divided among the threads.
    pub(super) fn step<'a>(
        &'a self,
        rows: &mut [Row<'_>],
        logits: &mut [f32],
        scratch: &mut Vec<StepScratch>,
    ) {
        if rows.is_empty() {
            return;
        }
        let vocab = self.model.base.config.vocab;
        // With few samples, all threads compute each product together: each then reads only its part of the weights.
        // Weights in files are always read once for all samples.
        let together = self.decoder.is_direct() || rows.len() <= TOGETHER;
        let share = rows.len().div_ceil(rayon::current_num_threads());
        let portion = if together { rows.len() } else { share.clamp(STEP_SAMPLES.0, STEP_SAMPLES.1) };
        let portions = rows.len().div_ceil(portion);
        scratch.resize_with(scratch.len().max(portions), StepScratch::default);
        if together && let Some(s) = scratch.first_mut() {
            let mut step =
                |threads: Threads<'_, 'a>| self.decoder.step(&self.model, rows, logits, threads, s);
            return match rayon::current_num_threads() {
                1 => step(Threads::One),
                _ if self.decoder.is_small() => Team::run(|team| step(Threads::Team(team))),
                _ => step(Threads::Pool),
            };
        }
        rows.par_chunks_mut(portion)
            .zip(logits.par_chunks_mut(portion * vocab))
            .zip(scratch)
            .for_each(|((rows, logits), s)| self.decoder.step(&self.model, rows, logits, Threads::One, s));
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.cache.forget(self.owner);
    }
}

/// Error of a cancelled request.
pub(super) const CANCELLED: &str = "cancelled";
