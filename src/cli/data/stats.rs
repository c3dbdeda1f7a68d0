//! `tinkex data stats`.

use serde_json::json;
use tinkex::chat::Example;

use super::Files;
use crate::connection::App;
use crate::examples::{DataFormat, Fate, TooLong, n_inputs, n_targets, read};
use crate::failure::Failure;

/// Figures of some examples.
#[derive(Debug, Default, PartialEq)]
struct Counts {
    /// Number of tokens of each example, as long as it was before it was cut.
    lengths: Vec<usize>,
    n_tokens: usize,
    /// Those that go through the model in an epoch, and those that are learned.
    n_inputs: usize,
    n_trained: usize,
    n_truncated: usize,
    n_dropped: usize,
}

impl Counts {
    fn add(&mut self, example: &Example) {
        self.n_tokens += example.n_tokens();
        self.n_inputs += n_inputs(example);
        self.n_trained += n_targets(example);
        self.lengths.push(example.n_tokens());
    }
}

pub(super) fn run(mut files: Files, app: &App) -> Result<(), Failure> {
    // What is too long is counted. Unless it is said what becomes of it, it stops a training.
    let is_refused = files.options.too_long.is_none();
    files.options.too_long.get_or_insert(TooLong::Truncate);
    let lines = read(&files.files, &files.options)?;
    let encoder = files.encoder(app, &lines)?;
    let mut counts = Counts::default();
    // Pairs: ties, and those of which an answer is too long.
    let mut n_left_out = 0;
    for record in &lines.records {
        if lines.format == DataFormat::Preference {
            match encoder.pair(&lines, record)? {
                Some((chosen, rejected)) => {
                    counts.add(&chosen);
                    counts.add(&rejected);
                }
                None => n_left_out += 1,
            }
            continue;
        }
        let encoded = encoder.encode(&lines, record)?;
        encoded.examples.iter().for_each(|example| counts.add(example));
        match encoded.fate {
            Fate::Kept => {}
            Fate::Truncated { n_tokens } => {
                counts.n_truncated += 1;
                counts.lengths.pop();
                counts.lengths.push(n_tokens);
            }
            Fate::Dropped { n_tokens } => {
                counts.n_dropped += 1;
                counts.lengths.push(n_tokens);
            }
        }
    }
    let n_dropped_pairs = if n_left_out == 0 { 0 } else { n_left_out - lines.n_ties };
    counts.lengths.sort_unstable();
    let at = |q: f64| quantile(&counts.lengths, q);
    let quantiles = [("min", 0.0), ("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)];
    let lengths: serde_json::Map<_, _> =
        quantiles.iter().map(|(name, q)| ((*name).to_owned(), json!(at(*q)))).collect();
    let n_too_long = counts.n_truncated + counts.n_dropped + n_dropped_pairs;
    let json = json!({
        "format": lines.format.name(),
        "files": lines.files.len(),
        "lines": lines.records.len(),
        "examples": counts.lengths.len() - counts.n_dropped,
        "tokens": counts.n_tokens,
        "epoch_tokens": counts.n_inputs,
        "trained_tokens": counts.n_trained,
        "lengths": lengths,
        "max_length": encoder.max_length,
        "too_long": n_too_long,
        "truncated": counts.n_truncated,
        "dropped": counts.n_dropped + n_dropped_pairs,
        "ties": lines.n_ties,
        "template": encoder.template_name,
    });
    let shown_lengths: Vec<String> = quantiles.iter().map(|(name, q)| format!("{name} {}", at(*q))).collect();
    let max = encoder.max_length.map_or("unknown".to_owned(), |max| max.to_string());
    let mut rows = vec![
        ("format", lines.format.name().to_owned()),
        ("lines", lines.records.len().to_string()),
        ("examples", (counts.lengths.len() - counts.n_dropped).to_string()),
        ("tokens", counts.n_tokens.to_string()),
        ("tokens in an epoch", counts.n_inputs.to_string()),
        ("trained tokens", counts.n_trained.to_string()),
        ("lengths", shown_lengths.join(", ")),
        ("max length", max),
    ];
    if is_refused {
        let remark = if n_too_long == 0 { "" } else { ", which train refuses without --too-long" };
        rows.push(("too long", format!("{n_too_long}{remark}")));
    } else {
        rows.push(("truncated", counts.n_truncated.to_string()));
        rows.push(("dropped", (counts.n_dropped + n_dropped_pairs).to_string()));
    }
    if lines.format == DataFormat::Preference {
        rows.push(("ties", lines.n_ties.to_string()));
    }
    if !encoder.template_name.is_empty() {
        rows.push(("template", encoder.template_name.clone()));
    }
    app.out.properties(rows, json)
}

/// The smallest length that at least this part of the examples does not exceed; 0 without examples.
fn quantile(sorted: &[usize], q: f64) -> usize {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_lengths_that_occur() {
        let lengths: Vec<usize> = (1..=100).collect();
        for (q, expected) in [(0.0, 1), (0.5, 50), (0.9, 90), (0.99, 99), (1.0, 100)] {
            assert_eq!(quantile(&lengths, q), expected, "{q}");
        }
        assert_eq!(quantile(&[7], 0.5), 7);
        assert_eq!(quantile(&[], 0.5), 0);
    }
}
