//! A sampling request whose prompt was read: its samples, and the choice of their next tokens.

use super::choose::{Chooser, top};
use super::head::log_sum_exp;
use super::rng::Rng;
use super::sampler::{Generate, GeneratedSequence};
use super::segment::Segment;
use std::ops::Range;
use std::sync::Arc;

/// Says whether a sample ends with its last token. Its arguments are the index of the sample and its tokens so far.
pub(crate) type Stop<'a> = dyn FnMut(usize, &[u32]) -> bool + Send + 'a;

/// A token with its log-probability, or the reason why none can be chosen.
pub(super) type Chosen = Result<(u32, f32), String>;

/// The choice of the next token of a sample.
#[derive(Debug)]
pub(super) struct Choice<'a> {
    chooser: Chooser,
    rng: &'a mut Rng,
    logits: &'a [f32],
}

impl Choice<'_> {
    /// `scratch` has room for the logits.
    pub(super) fn choose(self, scratch: &mut [f32]) -> Chosen {
        self.chooser.choose(self.logits, self.rng, scratch)
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct Running {
    chooser: Chooser,
    /// Largest number of tokens of a sample.
    max: usize,
    /// Largest number of samples that are generated at the same time.
    max_alive: usize,
    topk: usize,
    stop_tokens: Vec<u32>,
    /// The keys and values of the prompt without its last token, which all samples share.
    pub(super) prefix: Vec<Arc<Segment>>,
    /// Those of the last token of the prompt, of which each sample continues a copy, and the logits after it.
    begun: Segment,
    first: Vec<f32>,
    rngs: Vec<Rng>,
    waiting: Range<usize>,
    alive: Vec<usize>,
    /// The keys and values of each sample, and its next input.
    pub(super) own: Vec<Segment>,
    pub(super) tokens: Vec<u32>,
    sequences: Vec<GeneratedSequence>,
    buffer: Vec<f32>,
}

impl Running {
    /// A request with the logits after its prompt. The samples begin with the first [`advance`](Self::advance).
    pub(super) fn new(
        req: &Generate,
        (max, max_alive): (usize, usize),
        prefix: Vec<Arc<Segment>>,
        begun: Segment,
        first: Vec<f32>,
    ) -> Running {
        Running {
            chooser: Chooser { temperature: req.temperature, top_k: req.top_k, top_p: req.top_p },
            max,
            max_alive,
            topk: req.topk_sample_logprobs,
            stop_tokens: req.stop_tokens.clone(),
            prefix,
            begun,
            rngs: (0..req.num_samples as u64).map(|i| Rng::stream(req.seed, i)).collect(),
            waiting: if max == 0 { 0..0 } else { 0..req.num_samples },
            alive: Vec::new(),
            own: Vec::new(),
            tokens: Vec::new(),
            sequences: vec![GeneratedSequence::default(); req.num_samples],
            buffer: vec![0.0; first.len()],
            first,
        }
    }

    /// The choices of the next token of each sample, from its logits, `[alive, vocab]`.
    pub(super) fn choices<'a>(&'a mut self, logits: &'a [f32]) -> impl Iterator<Item = Choice<'a>> {
        // The samples are in the order of their numbers.
        let mut alive = self.alive.iter().peekable();
        let rngs = self.rngs.iter_mut().enumerate();
        let rngs = rngs.filter_map(move |(i, rng)| alive.next_if(|it| **it == i).map(|_| rng));
        let rows = logits.chunks_exact(self.first.len());
        rngs.zip(rows).map(|(rng, logits)| Choice { chooser: self.chooser, rng, logits })
    }

    /// Appends the chosen tokens to the samples, whose logits are `[alive, vocab]`, and starts samples in the place of
    /// those that have ended: the results of a sample do not depend on others. Returns true if all have ended.
    ///
    /// # Errors
    /// The logits are not finite.
    pub(super) fn advance(
        &mut self,
        logits: &[f32],
        chosen: impl Iterator<Item = Chosen>,
        stop: &mut Stop<'_>,
    ) -> Result<bool, String> {
        let vocab = self.first.len();
        let mut kept = 0;
        for (slot, chosen) in (0..self.alive.len()).zip(chosen) {
            let i = self.alive[slot];
            let logits = Some(&logits[slot * vocab..][..vocab]);
            let Some(token) = self.append(i, logits, chosen?, stop) else { continue };
            self.own.swap(kept, slot);
            self.alive[kept] = i;
            self.tokens[kept] = token;
            kept += 1;
        }
        self.own.truncate(kept);
        self.alive.truncate(kept);
        self.tokens.truncate(kept);
        while self.alive.len() < self.max_alive
            && let Some(i) = self.waiting.next()
        {
            let first = Choice { chooser: self.chooser, rng: &mut self.rngs[i], logits: &self.first };
            let chosen = first.choose(&mut self.buffer)?;
            if let Some(token) = self.append(i, None, chosen, stop) {
                self.alive.push(i);
                self.own.push(self.begun.clone());
                self.tokens.push(token);
            }
        }
        Ok(self.alive.is_empty())
    }

    /// Appends a token to a sample, chosen from the logits after the prompt if none are given. Returns it if the sample
    /// goes on.
    fn append(
        &mut self,
        i: usize,
        logits: Option<&[f32]>,
        (token, logprob): (u32, f32),
        stop: &mut Stop<'_>,
    ) -> Option<u32> {
        let sequence = &mut self.sequences[i];
        sequence.tokens.push(token);
        sequence.logprobs.push(logprob);
        if 0 < self.topk {
            let logits = logits.unwrap_or(&self.first);
            let log_sum = log_sum_exp(logits, &mut self.buffer);
            let best = top(logits, self.topk).into_iter();
            sequence.top.push(best.map(|(id, logit)| (id as u32, logit - log_sum)).collect());
        }
        sequence.stopped = self.stop_tokens.contains(&token) || stop(i, &sequence.tokens);
        let ends = sequence.stopped || sequence.tokens.len() == self.max;
        (!ends).then_some(token)
    }

    /// The samples, when all have ended.
    pub(super) fn into_sequences(self) -> Vec<GeneratedSequence> {
        self.sequences
    }
}
