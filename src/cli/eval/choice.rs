//! Whether a model finds the better one of two answers more likely.

use tinkex::chat::Reduction;
use tinkex::train::sequence_logprobs;

use super::nll::{AT_ONCE, n_trained, sums};
use super::{Figures, Subject};
use crate::failure::Failure;
use crate::sample::Progress;

pub(super) fn measure(subject: &Subject<'_>) -> Result<Figures, Failure> {
    // Chosen and rejected answers in turn.
    let mut data = Vec::new();
    for record in &subject.lines.records {
        if let Some((chosen, rejected)) = subject.encoder.pair(subject.lines, record)? {
            data.push(chosen.datum(None, Reduction::Sum)?);
            data.push(rejected.datum(None, Reduction::Sum)?);
        }
    }
    if data.is_empty() {
        return Err(Failure::text("no pair is left to compare"));
    }
    let mut logprobs = Vec::with_capacity(data.len());
    let mut progress = Progress::new(subject.app);
    for some in data.chunks(AT_ONCE) {
        logprobs.extend(sequence_logprobs(some, &subject.sampler)?);
        progress.say(subject.app, || format!("{}: {} of {}", subject.model, logprobs.len(), data.len()));
    }
    progress.end();
    let sums = sums(&data, &logprobs);
    let n_pairs = data.len() / 2;
    let mean = |sum: f64, i: usize| sum / n_trained(&data[i]).max(1) as f64;
    let pairs = || sums.chunks_exact(2).enumerate();
    let right = pairs().filter(|(_, pair)| pair[1] < pair[0]).count();
    let right_by_token = pairs().filter(|(i, pair)| mean(pair[1], 2 * i + 1) < mean(pair[0], 2 * i)).count();
    let margin: f64 = pairs().map(|(_, pair)| pair[0] - pair[1]).sum();
    let part = |n: usize| Some(n as f64 / n_pairs as f64);
    Ok(Figures(vec![
        ("Accuracy", part(right), 4),
        ("Accuracy per token", part(right_by_token), 4),
        ("Margin", Some(margin / n_pairs as f64), 4),
        ("Pairs", Some(n_pairs as f64), 0),
        ("Ties", Some(subject.lines.n_ties as f64), 0),
    ]))
}
