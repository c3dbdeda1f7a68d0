//! Trains with a loss that the client computes, by means of the server's cross-entropy (PROTOCOL §9.6).
//!
//! Such a loss takes two passes. A forward pass returns the log-probabilities `logp`. The client computes its loss and
//! the gradient `g` of the loss with respect to `logp`. A backward pass of cross-entropy, `−Σ w·logp`, with the weights
//! `w = −g` then has the same gradient `g`.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::types::{Datum, DenseRoom, ForwardBackwardOutput, TensorData, Values};

use super::CustomLoss;

/// Makes the data of the backward pass if `gradients` are given, otherwise the data of the forward pass. Each datum
/// keeps only two of its inputs: targets and weights. In the backward pass the weights are the negative gradients.
pub(crate) fn data(data: &[Datum], gradients: Option<&[Vec<f32>]>) -> Vec<Datum> {
    let linear = |(i, datum): (usize, &Datum)| {
        let inputs = &datum.loss_fn_inputs;
        let shape = inputs.get("target_tokens").map(TensorData::shape).unwrap_or_default();
        let weights = match gradients {
            Some(gradients) => dense(gradients[i].iter().map(|value| -value).collect(), shape),
            None => match inputs.get("weights") {
                Some(weights) => weights.clone(),
                None => dense(vec![0.0; n_elements(&shape)], shape),
            },
        };
        let targets = inputs.get("target_tokens").cloned();
        let targets = targets.map(|targets| ("target_tokens".to_string(), targets)).into_iter();
        Datum {
            model_input: datum.model_input.clone(),
            loss_fn_inputs: targets.chain([("weights".to_string(), weights)]).collect(),
            provenance: datum.provenance.clone(),
        }
    };
    data.iter().enumerate().map(linear).collect()
}

/// For sparse targets, takes the memory of the weights, log-probabilities and gradients from the memory limit `room`,
/// because these three are dense even then. Fails if too little memory is left.
pub(crate) fn check_room(data: &[Datum], room: &mut DenseRoom) -> Result<()> {
    for (i, datum) in data.iter().enumerate() {
        if let Some(targets) = datum.loss_fn_inputs.get("target_tokens") {
            let path = format!("data[{i}].loss_fn_inputs[\"target_tokens\"]");
            room.take(targets, 3 * size_of::<f32>(), &path)?;
        }
    }
    Ok(())
}

/// For each datum of the forward pass `forward`, an upper limit of its size in bytes in both passes. One limit serves
/// both, because both passes are split into requests at the same data. The weights count at least 4 bytes for each
/// target: they may be sparse in the forward pass, but have a value for each target in the backward pass.
pub(crate) fn sizes(forward: &[Datum]) -> Vec<usize> {
    let size = |datum: &Datum| {
        let weights = datum.loss_fn_inputs.get("weights").map_or(0, TensorData::n_bytes);
        datum.n_bytes() - weights + weights.max(size_of::<f32>() * n_targets(datum))
    };
    forward.iter().map(size).collect()
}

fn dense(values: Vec<f32>, shape: Vec<usize>) -> TensorData {
    TensorData { values: Values::F32(values), shape: Some(shape), sparse: None }
}

fn n_elements(shape: &[usize]) -> usize {
    shape.iter().product()
}

fn n_targets(datum: &Datum) -> usize {
    datum.n_targets().unwrap_or(0)
}

/// Returns the log-probabilities that the server reported for each datum.
pub(crate) fn logprobs<'a>(data: &[Datum], output: &'a ForwardBackwardOutput) -> Result<Vec<&'a [f32]>> {
    let of_datum = |(i, datum)| match output.logprobs(i) {
        Some(logprobs) if logprobs.len() == n_targets(datum) => Ok(logprobs),
        Some(logprobs) => {
            let problem = format!("{} log-probabilities for {} targets", logprobs.len(), n_targets(datum));
            Err(Error::decode(format!("loss_fn_outputs[{i}]: {problem}")))
        }
        None => Err(Error::decode(format!("loss_fn_outputs[{i}]: the server reports no log-probabilities"))),
    };
    data.iter().enumerate().map(of_datum).collect()
}

/// Refuses a loss that is infinite or NaN, and gradients that do not fit the data.
pub(crate) fn check(data: &[Datum], loss: &CustomLoss) -> Result<()> {
    if !loss.loss.is_finite() {
        return Err(Error::invalid("loss", format!("{} is not a finite number", loss.loss)));
    }
    if loss.gradients.len() != data.len() {
        let problem = format!("has gradients of {} data instead of {}", loss.gradients.len(), data.len());
        return Err(Error::invalid("gradients", problem));
    }
    for (i, (gradient, datum)) in loss.gradients.iter().zip(data).enumerate() {
        if gradient.len() != n_targets(datum) {
            let problem = format!("has {} values for {} targets", gradient.len(), n_targets(datum));
            return Err(Error::invalid(format!("gradients[{i}]"), problem));
        }
        if let Some(j) = gradient.iter().position(|value| !value.is_finite()) {
            let problem = format!("{} is not a finite number", gradient[j]);
            return Err(Error::invalid(format!("gradients[{i}][{j}]"), problem));
        }
    }
    Ok(())
}

/// Makes the result of the call from the output of the backward pass: sets `loss:sum` to the custom loss, moves the
/// server's value to `surrogate_loss:sum`, and adds the custom `metrics` and `n_tokens`.
pub(crate) fn output(
    mut output: ForwardBackwardOutput,
    loss: f64,
    metrics: BTreeMap<String, f64>,
    n_tokens: f64,
) -> ForwardBackwardOutput {
    output.n_loss_tokens = Some(n_tokens);
    if let Some(surrogate) = output.metrics.remove("loss:sum") {
        output.metrics.insert("surrogate_loss:sum".into(), surrogate);
    }
    output.metrics.extend(metrics);
    output.metrics.insert("loss:sum".into(), loss);
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datum() -> Datum {
        Datum::cross_entropy(&[1], &[2, 3]).with("advantages", vec![1.0f32, 2.0])
    }

    #[test]
    fn data_have_only_targets_and_weights_which_are_the_negative_gradients() {
        let mut bare = datum();
        bare.loss_fn_inputs.remove("weights");
        let names = |datum: &Datum| datum.loss_fn_inputs.keys().cloned().collect::<Vec<_>>();
        let weights = |datum: &Datum| datum.loss_fn_inputs["weights"].as_f32().map(<[f32]>::to_vec);
        let forward = data(&[datum(), bare], None);
        assert_eq!(names(&forward[0]), ["target_tokens", "weights"]);
        assert_eq!(
            (weights(&forward[0]), weights(&forward[1])),
            (Some(vec![1.0, 1.0]), Some(vec![0.0, 0.0]))
        );
        let backward = data(&[datum()], Some(&[vec![0.5, -2.0]]));
        assert_eq!(weights(&backward[0]), Some(vec![-0.5, 2.0]));
        assert_eq!(backward[0].model_input, datum().model_input);
    }

    #[test]
    fn the_size_of_a_datum_is_its_size_in_the_larger_pass() {
        let mut weightless = datum();
        weightless.loss_fn_inputs.remove("weights");
        let mut sparse = weightless.clone().with("weights", vec![0.0f32; 2]);
        sparse.loss_fn_inputs.insert(
            "weights".into(),
            TensorData {
                values: Values::F32(vec![]),
                shape: Some(vec![2, 1]),
                sparse: Some(crate::types::Sparse { crow_indices: vec![0; 3], col_indices: vec![] }),
            },
        );
        // `bare` is tokens, targets and advantages. The weights of two targets add 8 bytes if missing or dense, and 24
        // bytes of indices if sparse.
        let bare = 2 * 4 + 2 * 8 + 2 * 4;
        assert_eq!(sizes(&[weightless, datum(), sparse]), [bare + 8, bare + 8, bare + 24]);
    }

    #[test]
    fn gradients_that_do_not_fit_the_data_are_refused() {
        let path = |gradients| {
            let error = check(&[datum()], &CustomLoss::new(0.0, gradients)).expect_err("a refusal");
            error.violation().expect("a path").path.clone()
        };
        check(&[datum()], &CustomLoss::new(7.0, vec![vec![0.0, 1.0]])).expect("gradients that fit");
        for loss in [f64::NAN, f64::INFINITY] {
            let error =
                check(&[datum()], &CustomLoss::new(loss, vec![vec![0.0, 1.0]])).expect_err("a refusal");
            assert_eq!(error.violation().expect("a path").path, "loss");
        }
        assert_eq!(path(vec![]), "gradients");
        assert_eq!(path(vec![vec![1.0]]), "gradients[0]");
        assert_eq!(path(vec![vec![1.0, f32::NAN]]), "gradients[0][1]");
    }

    #[test]
    fn missing_log_probabilities_or_a_wrong_number_of_them_are_refused() {
        let output = |values: Option<Vec<f32>>| ForwardBackwardOutput {
            loss_fn_outputs: vec![
                values.map(|logprobs| ("logprobs".to_string(), logprobs.into())).into_iter().collect(),
            ],
            ..Default::default()
        };
        let good = output(Some(vec![-1.0, -2.0]));
        assert_eq!(logprobs(&[datum()], &good).expect("all of them"), [[-1.0, -2.0]]);
        for wrong in [output(None), output(Some(vec![-1.0])), ForwardBackwardOutput::default()] {
            logprobs(&[datum()], &wrong).expect_err("a refusal");
        }
    }

    #[test]
    fn the_result_reports_the_custom_loss_and_its_metrics() {
        let metrics = |all: &[(&str, f64)]| -> BTreeMap<String, f64> {
            all.iter().map(|(name, value)| (name.to_string(), *value)).collect()
        };
        let of = |server: &[(&str, f64)]| {
            let server = ForwardBackwardOutput { metrics: metrics(server), ..Default::default() };
            output(server, 7.0, metrics(&[("mine:mean", 1.0)]), 2.0).metrics
        };
        assert_eq!(
            of(&[("loss:sum", 3.0), ("x:max", 2.0)]),
            metrics(&[("loss:sum", 7.0), ("surrogate_loss:sum", 3.0), ("x:max", 2.0), ("mine:mean", 1.0)])
        );
        assert_eq!(of(&[]), metrics(&[("loss:sum", 7.0), ("mine:mean", 1.0)]));
    }
}
