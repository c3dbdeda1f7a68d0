//! How likely a model finds the answers of the data.

use tinkex::chat::Reduction;
use tinkex::train::{bits_per_byte, mean_nll, sequence_logprobs};
use tinkex::types::Datum;

use super::{Figures, Subject};
use crate::examples::Fate;
use crate::failure::Failure;
use crate::sample::Progress;

/// How many data are scored at the same time.
pub(super) const AT_ONCE: usize = 64;

/// Each trained token counts the same, whatever example it is in.
pub(super) fn measure(subject: &Subject<'_>) -> Result<Figures, Failure> {
    let mut data: Vec<Datum> = Vec::new();
    let (mut n_truncated, mut n_dropped) = (0, 0);
    for record in &subject.lines.records {
        let encoded = subject.encoder.encode(subject.lines, record)?;
        match encoded.fate {
            Fate::Kept => {}
            Fate::Truncated { .. } => n_truncated += 1,
            Fate::Dropped { .. } => n_dropped += 1,
        }
        for example in encoded.examples {
            data.push(example.datum(None, Reduction::Sum)?);
        }
    }
    if 0 < n_truncated + n_dropped {
        let model = subject.model;
        subject
            .app
            .note(&format!("note: {model}: {n_truncated} examples were cut, {n_dropped} were left out"));
    }
    let mut logprobs = Vec::with_capacity(data.len());
    let mut progress = Progress::new(subject.app);
    for some in data.chunks(AT_ONCE) {
        logprobs.extend(sequence_logprobs(some, &subject.sampler)?);
        progress.say(subject.app, || format!("{}: {} of {}", subject.model, logprobs.len(), data.len()));
    }
    progress.end();
    let weights: Vec<&[f32]> = data.iter().map(weights).collect();
    let nll = mean_nll(&logprobs, &weights)?;
    let bits = match subject.encoder.tokenizer() {
        Some(tokenizer) => {
            let targets: Vec<Vec<i32>> = data.iter().map(targets).collect();
            bits_per_byte(&logprobs, &weights, &targets, tokenizer)?
        }
        None => None,
    };
    let n_tokens: usize = weights.iter().map(|weights| weights.iter().filter(|it| 0.0 < **it).count()).sum();
    Ok(Figures(vec![
        ("NLL", nll, 4),
        ("Bits per byte", bits, 4),
        ("Perplexity", nll.map(f64::exp), 3),
        ("Examples", Some(data.len() as f64), 0),
        ("Tokens", Some(n_tokens as f64), 0),
    ]))
}

fn weights(datum: &Datum) -> &[f32] {
    datum.loss_fn_inputs.get("weights").and_then(|it| it.as_f32()).unwrap_or_default()
}

fn targets(datum: &Datum) -> Vec<i32> {
    let ids = datum.loss_fn_inputs.get("target_tokens").and_then(|it| it.as_i64()).unwrap_or_default();
    ids.iter().map(|id| i32::try_from(*id).unwrap_or_default()).collect()
}

/// The log-probability of the trained tokens of each datum.
pub(super) fn sums(data: &[Datum], logprobs: &[Vec<f32>]) -> Vec<f64> {
    let sum = |(datum, logprobs): (&Datum, &Vec<f32>)| {
        let trained = weights(datum).iter().zip(logprobs).filter(|(weight, _)| 0.0 < **weight);
        trained.map(|(_, logprob)| f64::from(*logprob)).sum()
    };
    data.iter().zip(logprobs).map(sum).collect()
}

/// The number of trained tokens of a datum.
pub(super) fn n_trained(datum: &Datum) -> usize {
    weights(datum).iter().filter(|weight| 0.0 < **weight).count()
}
