//! Divergence of the policy from its sampler and from a reference model.

use super::TrajectoryDatum;
use crate::error::{Error, Result};
use crate::train::loss_inputs::{check_len, floats};

/// Estimates over the sampled tokens of a batch, in nats per token.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct KlFigures {
    /// `mean(s − t)` of the log-probabilities of the sampler `s` and of the trained model `t`: KL(sampler ‖ model).
    pub kl_sample_train_v1: f64,
    /// `mean((s − t)²) / 2`: as above, never negative and with less variance.
    pub kl_sample_train_v2: f64,
    /// `−mean(s)`: the entropy of the sampler.
    pub entropy: f64,
}

/// Compares the log-probabilities of the sampler with those of the trained model, over the tokens that the mask selects.
/// `logprobs` are those that a pass reported for each datum,
/// [`ForwardBackwardOutput::logprobs`](crate::types::ForwardBackwardOutput::logprobs). `None` if no token is selected.
///
/// With the log-probabilities of the model after the update, from [`sequence_logprobs`](crate::train::sequence_logprobs),
/// the figures tell how far the update went.
///
/// # Errors
/// Lists that are not as long as the data or their targets.
pub fn kl_sample_train<L: AsRef<[f32]>>(
    data: &[TrajectoryDatum],
    logprobs: &[L],
) -> Result<Option<KlFigures>> {
    let rows = rows(data, logprobs)?;
    let pairs: Vec<(f64, f64)> = rows
        .iter()
        .flat_map(|row| row.sampled.iter().zip(row.other).zip(row.mask))
        .filter(|(_, selected)| **selected)
        .map(|((sampled, other), _)| (f64::from(*sampled), f64::from(*other)))
        .collect();
    if pairs.is_empty() {
        return Ok(None);
    }
    let mean = |value: fn(f64, f64) -> f64| {
        pairs.iter().map(|(sampled, other)| value(*sampled, *other)).sum::<f64>() / pairs.len() as f64
    };
    Ok(Some(KlFigures {
        kl_sample_train_v1: mean(|sampled, other| sampled - other),
        kl_sample_train_v2: 0.5 * mean(|sampled, other| (sampled - other).powi(2)),
        entropy: -mean(|sampled, _| sampled),
    }))
}

/// Adds a penalty on the divergence from a base model to the advantages. Returns the mean difference of the
/// log-probabilities, an estimate of KL(policy ‖ base), or `None` if the mask selects no token; then nothing changes.
///
/// Each selected token gets `coefficient · (mean − d)`, where `d` is the log-probability of the sampler without that of
/// the base model, and `mean` the mean of `d` over all selected tokens of the batch. If `discount` is above 0, each
/// position gets the sum of its own penalty and the later ones of its datum, each multiplied by `discount` for each
/// position in between.
///
/// `base_logprobs` come from [`sequence_logprobs`](crate::train::sequence_logprobs) with a sampler of the base model.
///
/// # Errors
/// Lists that are not as long as the data or their targets; a coefficient that is not a finite number, a discount
/// outside of 0 to 1, and selected tokens with an infinite log-probability. The data are unchanged then.
pub fn incorporate_kl_penalty<L: AsRef<[f32]>>(
    data: &mut [TrajectoryDatum],
    base_logprobs: &[L],
    coefficient: f64,
    discount: f64,
) -> Result<Option<f64>> {
    if !coefficient.is_finite() {
        return Err(Error::invalid("coefficient", format!("{coefficient} is not a finite number")));
    }
    if !(0.0..=1.0).contains(&discount) {
        return Err(Error::invalid("discount", format!("{discount} is not in 0..=1")));
    }
    let (mut differences, mut sum, mut n) = (Vec::with_capacity(data.len()), 0.0, 0);
    for (i, row) in rows(data, base_logprobs)?.iter().enumerate() {
        let mut of_datum = Vec::with_capacity(row.mask.len());
        for (j, selected) in row.mask.iter().enumerate() {
            let difference = selected.then(|| f64::from(row.sampled[j]) - f64::from(row.other[j]));
            if difference.is_some_and(|difference| !difference.is_finite()) {
                let problem = "the difference of the log-probabilities is not a finite number";
                return Err(Error::invalid(format!("base_logprobs[{i}][{j}]"), problem));
            }
            sum += difference.unwrap_or(0.0);
            n += usize::from(*selected);
            of_datum.push(difference);
        }
        differences.push(of_datum);
    }
    if n == 0 {
        return Ok(None);
    }
    let mean = sum / n as f64;
    let mut all_advantages = Vec::with_capacity(data.len());
    for (i, (datum, differences)) in data.iter().zip(&differences).enumerate() {
        let mut advantages = floats(&datum.datum, "advantages", &format!("data[{i}]"))?;
        check_len(format!("data[{i}].advantages"), advantages.len(), differences.len(), "target")?;
        let mut later = 0.0;
        for (advantage, difference) in advantages.iter_mut().zip(differences).rev() {
            let own = difference.map_or(0.0, |difference| coefficient * (mean - difference));
            later = own + discount * later;
            *advantage = (f64::from(*advantage) + later) as f32;
        }
        all_advantages.push(advantages);
    }
    for (datum, advantages) in data.iter_mut().zip(all_advantages) {
        datum.datum.loss_fn_inputs.insert("advantages".into(), advantages.into());
    }
    Ok(Some(mean))
}

/// The log-probabilities of a datum by its sampler and by another model.
struct Row<'a> {
    sampled: Vec<f32>,
    other: &'a [f32],
    mask: &'a [bool],
}

fn rows<'a, L: AsRef<[f32]>>(data: &'a [TrajectoryDatum], logprobs: &'a [L]) -> Result<Vec<Row<'a>>> {
    check_len("logprobs", logprobs.len(), data.len(), "datum")?;
    let row = |(i, (datum, other)): (usize, (&'a TrajectoryDatum, &'a L))| {
        let sampled = floats(&datum.datum, "logprobs", &format!("data[{i}]"))?;
        let other = other.as_ref();
        check_len(format!("data[{i}].mask"), datum.mask.len(), sampled.len(), "target")?;
        check_len(format!("logprobs[{i}]"), other.len(), sampled.len(), "target")?;
        Ok(Row { sampled, other, mask: &datum.mask })
    };
    data.iter().zip(logprobs).enumerate().map(row).collect()
}
