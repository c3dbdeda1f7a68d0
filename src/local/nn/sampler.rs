//! Sampling from a snapshot of a model.

use super::batch::{Batch, Member};
use super::choose::{Chooser, top};
use super::decode::{Decoder, Row, Segment, StepScratch, Threads};
use super::head::log_sum_exp;
use super::lora::{Layout, LoraSpec};
use super::pass::{MAX_KEPT, Model, Workspace};
use super::rng::Rng;
use super::running::{Running, Stop};
use super::team::Team;
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

/// Limits of the workspaces kept for later requests: their number; the length of the prompt, above which a workspace is
/// dropped; and the number of decoding buffers of each.
const MAX_IDLE: usize = 8;
const MAX_IDLE_ROWS: usize = 512;
const MAX_IDLE_STEPS: usize = 16;

/// A copy of a model at one moment, which continues prompts. Any number of threads may use it at the same time.
#[derive(Debug)]
pub(crate) struct Sampler {
    /// Base and adapter, not merged, for the forward pass of prompts.
    model: Model,
    /// Base and adapter merged, for generating tokens.
    decoder: Decoder,
    idle: Arc<Idle>,
    batch: Batch,
}

/// Unused workspaces, shared by all samplers of a base model.
type Idle = Mutex<Vec<(Workspace, Vec<StepScratch>)>>;

/// The shape of an adapter: everything but its parameters.
#[derive(Clone, Debug)]
pub(crate) struct AdapterShape {
    base: Arc<Weights>,
    layout: Arc<Layout>,
    scale: f32,
}

impl AdapterShape {
    /// The weights that the adapter belongs to.
    pub(crate) fn base(&self) -> &Arc<Weights> {
        &self.base
    }
}

/// Two shapes are equal if they belong to the same base model and have the same scale and the same matrices. The
/// parameters of one then fit the other.
impl PartialEq for AdapterShape {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.base, &other.base)
            && self.scale == other.scale
            && self.layout.tensors == other.layout.tensors
    }
}

impl Trainer {
    /// The adapter's shape and current parameters.
    pub(crate) fn adapter(&self) -> (AdapterShape, &[f32]) {
        let Model { base, layout, params, scale, .. } = &self.model;
        (AdapterShape { base: base.clone(), layout: layout.clone(), scale: *scale }, params)
    }

    /// The model as it is now, ready for sampling; later steps do not change it.
    #[cfg(test)]
    pub(crate) fn sampler(&self) -> Sampler {
        Sampler::new(self.model.clone())
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
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Generated {
    /// One continuation per sample.
    pub sequences: Vec<GeneratedSequence>,
    /// The log-probability of each prompt token, given the tokens before it; `None` for the first.
    pub prompt_logprobs: Option<Vec<Option<f32>>>,
    /// The likeliest tokens at each prompt position, likeliest first; `None` for the first position.
    pub topk_prompt_logprobs: Option<Vec<Option<TopLogprobs>>>,
    /// The alternatives drawn at the prompt positions after the first, in the order of the positions.
    pub alternatives: TopLogprobs,
    /// The log-probabilities of the targets.
    pub targets: Vec<f32>,
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

/// The scores of a prompt, for [`Generated`].
#[derive(Debug, Default)]
struct PromptScores {
    logprobs: Vec<Option<f32>>,
    top: Vec<Option<TopLogprobs>>,
    alternatives: TopLogprobs,
    targets: Vec<f32>,
}

/// What a request wants of the scores of its prompt.
#[derive(Clone, Copy, Debug)]
struct Wants {
    logprobs: bool,
    top: bool,
}

impl Wants {
    fn new(req: &Generate) -> Wants {
        Wants { logprobs: req.prompt_logprobs, top: 0 < req.topk_prompt_logprobs }
    }

    fn join(self, sequences: Vec<GeneratedSequence>, scores: PromptScores) -> Generated {
        Generated {
            sequences,
            prompt_logprobs: self.logprobs.then_some(scores.logprobs),
            topk_prompt_logprobs: self.top.then_some(scores.top),
            alternatives: scores.alternatives,
            targets: scores.targets,
        }
    }
}

impl Sampler {
    /// A sampler of the untrained model.
    pub(crate) fn base(base: Arc<Weights>) -> Sampler {
        let none = LoraSpec { rank: 0, seed: 0, train_attn: false, train_mlp: false, train_unembed: false };
        Sampler::new(Model::new(base, &none))
    }

    /// A sampler of the base model with an adapter. Parts that the adapter does not change are shared with `untrained`.
    pub(crate) fn merged(shape: &AdapterShape, params: Vec<f32>, untrained: &Sampler) -> Sampler {
        let AdapterShape { base, layout, scale } = shape.clone();
        let model = Model { base, layout, params, scale, max_kept: MAX_KEPT };
        let decoder = Decoder::new(&model, Some(&untrained.decoder));
        Sampler { model, decoder, idle: untrained.idle.clone(), batch: Batch::default() }
    }

    /// True if another sampler has the same adapter.
    #[cfg(test)]
    pub(crate) fn same_weights(&self, other: &Sampler) -> bool {
        self.model.params == other.model.params
    }

    fn new(model: Model) -> Sampler {
        let decoder = Decoder::new(&model, None);
        Sampler { model, decoder, idle: Arc::default(), batch: Batch::default() }
    }

    /// Continues a prompt on this thread, or together with other requests on the thread that generates theirs. Calls
    /// `stop` after every token; the sample ends if it returns true. Calls `cancelled` before every step. Calls `done`
    /// with the result, or with an error: the request does not fit the model, it was cancelled (`"cancelled"`), or the
    /// logits are not finite.
    pub(crate) fn submit(
        &self,
        req: &Generate,
        stop: Box<Stop<'static>>,
        cancelled: impl Fn() -> bool + Send + 'static,
        done: impl FnOnce(Result<Generated, String>) + Send + 'static,
    ) {
        let wants = Wants::new(req);
        match self.read(req, &cancelled) {
            Err(error) => done(Err(error)),
            Ok((running, scores)) => {
                let done = move |it: Result<Vec<GeneratedSequence>, String>| {
                    done(it.map(|it| wants.join(it, scores)))
                };
                let (cancelled, done) = (Box::new(cancelled), Box::new(done));
                self.batch.join(self, Member { running, stop, cancelled, done });
            }
        }
    }

    /// Continues a prompt, apart from all other requests.
    #[cfg(test)]
    pub(crate) fn generate(
        &self,
        req: &Generate,
        stop: &mut (dyn FnMut(usize, &[u32]) -> bool + Send),
        cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Result<Generated, String> {
        let (running, scores) = self.read(req, cancelled)?;
        let mut result = Err(String::new());
        let done = Box::new(|it| result = it);
        let (stop, cancelled) = (Box::new(stop), Box::new(cancelled));
        super::batch::run(self, vec![Member { running, stop, cancelled, done }]);
        result.map(|it| Wants::new(req).join(it, scores))
    }

    /// Reads the prompt of a request.
    fn read(&self, req: &Generate, cancelled: &dyn Fn() -> bool) -> Result<(Running, PromptScores), String> {
        let chooser = Chooser { temperature: req.temperature, top_k: req.top_k, top_p: req.top_p };
        chooser.check()?;
        self.check(&req.prompt)?;
        if cancelled() {
            return Err(CANCELLED.to_owned());
        }
        let (mut workspace, mut scratch) = self.idle.lock().pop().unwrap_or_default();
        let (prefix, scores) = self.prefill(req, &mut workspace)?;
        let running = self.begin(req, prefix, &mut scratch);
        if req.prompt.len() <= MAX_IDLE_ROWS {
            scratch.truncate(MAX_IDLE_STEPS);
            let mut idle = self.idle.lock();
            if idle.len() < MAX_IDLE {
                idle.push((workspace, scratch));
            }
        }
        Ok((running, scores))
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

    /// Runs the forward pass of the prompt without its last token, which is the input of the first decoding step. Each
    /// row fills the cache and scores the token after it.
    fn prefill(&self, req: &Generate, workspace: &mut Workspace) -> Result<(Segment, PromptScores), String> {
        let base = &self.model.base;
        let mut prefix = Segment::new(base, 0);
        let mut scores = PromptScores { logprobs: vec![None], top: vec![None], ..Default::default() };
        let (vocab, count) = (base.config.vocab, req.topk_prompt_logprobs);
        let rows = &req.prompt[..req.prompt.len() - 1];
        if rows.is_empty() {
            return Ok((prefix, scores));
        }
        // Alternatives are drawn from all tokens, with a stream of random numbers that no sample uses.
        let chooser = Chooser { temperature: req.temperature, top_k: -1, top_p: 1.0 };
        let mut rng = Rng::stream(req.seed, u64::MAX);
        let mut targets = req.targets.iter().peekable();
        let mut failure = None;
        let mut scratch = vec![0.0; vocab];
        let mut score = |start: usize, logits: &mut [f32]| {
            let tokens = &req.prompt[start + 1..];
            for (i, (row, &target)) in (start..).zip(logits.chunks_exact(vocab).zip(tokens)) {
                let log_sum = log_sum_exp(row, &mut scratch);
                scores.logprobs.push(Some(row[target as usize] - log_sum));
                let best = top(row, count).into_iter().map(|(id, logit)| (id as u32, logit - log_sum));
                scores.top.push((count > 0).then(|| best.collect()));
                while let Some((_, id)) = targets.next_if(|it| it.0 <= i) {
                    scores.targets.push(row[*id as usize] - log_sum);
                }
                for _ in 0..req.alternatives {
                    match chooser.choose(row, &mut rng, &mut scratch) {
                        Ok(it) => scores.alternatives.push(it),
                        Err(error) => failure = Some(error),
                    }
                }
            }
        };
        let wanted = req.prompt_logprobs || count > 0 || req.alternatives > 0 || !req.targets.is_empty();
        let fill = |layer: usize, a: &super::layer::Activations| prefix.fill(base, layer, rows.len(), a);
        workspace.prompt(&self.model, rows, fill, wanted.then_some(&mut score));
        match failure {
            Some(error) => Err(error),
            None => Ok((prefix, scores)),
        }
    }

    /// Runs the last token of the prompt, whose logits give the first token of each sample.
    fn begin(&self, req: &Generate, prefix: Segment, scratch: &mut Vec<StepScratch>) -> Running {
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
        Running::new(req, (max, max_alive), prefix, begun, first)
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

/// Error of a cancelled request.
pub(super) const CANCELLED: &str = "cancelled";
