//! The scores of the tokens of a prompt: what a request wants to know of the logits at its positions.

use super::choose::{Chooser, top};
use super::head::log_sum_exp;
use super::rng::Rng;
use super::sampler::{Generate, Generated, GeneratedSequence, TopLogprobs};
use std::sync::Arc;

/// The scores of a prompt, for [`Generated`].
#[derive(Debug)]
pub(super) struct PromptScores {
    cached: usize,
    logprobs: Option<Vec<Option<f32>>>,
    top: Option<Vec<Option<TopLogprobs>>>,
    alternatives: TopLogprobs,
    targets: Vec<f32>,
}

impl PromptScores {
    /// The result of a request.
    pub(super) fn join(self, sequences: Vec<GeneratedSequence>) -> Generated {
        Generated {
            sequences,
            cached: self.cached,
            prompt_logprobs: self.logprobs,
            topk_prompt_logprobs: self.top,
            alternatives: self.alternatives,
            targets: self.targets,
        }
    }
}

/// Computes the scores of a prompt from the logits after its tokens.
#[derive(Debug)]
pub(super) struct Scorer {
    req: Arc<Generate>,
    /// The row of the next logits.
    row: usize,
    /// Alternatives are drawn from all tokens, with a stream of random numbers that no sample uses.
    chooser: Chooser,
    rng: Rng,
    /// Number of targets that are scored.
    n_targets: usize,
    scratch: Vec<f32>,
    scores: PromptScores,
    failure: Option<String>,
}

impl Scorer {
    /// The first row of the prompt whose logits a request needs, if it needs any.
    pub(super) fn first_row(req: &Generate) -> Option<usize> {
        let all = req.prompt_logprobs || 0 < req.topk_prompt_logprobs || 0 < req.alternatives;
        let targets = req.targets.first().map(|it| it.0);
        if all { Some(0) } else { targets }.filter(|row| row + 1 < req.prompt.len())
    }

    /// The logits come from `row` on. The tokens before it were found in the cache.
    pub(super) fn new(req: &Arc<Generate>, row: usize) -> Self {
        let scores = PromptScores {
            cached: row,
            logprobs: req.prompt_logprobs.then(|| vec![None]),
            top: (0 < req.topk_prompt_logprobs).then(|| vec![None]),
            alternatives: Vec::new(),
            targets: Vec::new(),
        };
        Scorer {
            req: req.clone(),
            row,
            chooser: Chooser { temperature: req.temperature, top_k: -1, top_p: 1.0 },
            rng: Rng::stream(req.seed, u64::MAX),
            n_targets: 0,
            scratch: Vec::new(),
            scores,
            failure: None,
        }
    }

    /// Adds the logits of the next rows, each of `vocab` numbers.
    pub(super) fn add(&mut self, logits: &[f32], vocab: usize) {
        let Scorer { req, scores, .. } = self;
        self.scratch.resize(vocab, 0.0);
        for row in logits.chunks_exact(vocab) {
            let log_sum = log_sum_exp(row, &mut self.scratch);
            if let Some(list) = &mut scores.logprobs {
                list.push(Some(row[req.prompt[self.row + 1] as usize] - log_sum));
            }
            if let Some(list) = &mut scores.top {
                let best = top(row, req.topk_prompt_logprobs).into_iter();
                list.push(Some(best.map(|(id, logit)| (id as u32, logit - log_sum)).collect()));
            }
            while let Some((_, id)) = req.targets.get(self.n_targets).filter(|it| it.0 <= self.row) {
                scores.targets.push(row[*id as usize] - log_sum);
                self.n_targets += 1;
            }
            for _ in 0..req.alternatives {
                match self.chooser.choose(row, &mut self.rng, &mut self.scratch) {
                    Ok(it) => scores.alternatives.push(it),
                    Err(error) => self.failure = Some(error),
                }
            }
            self.row += 1;
        }
    }

    /// The scores.
    ///
    /// # Errors
    /// Logits were not finite.
    pub(super) fn finish(self) -> Result<PromptScores, String> {
        match self.failure {
            Some(error) => Err(error),
            None => Ok(self.scores),
        }
    }
}
