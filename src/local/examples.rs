//! From the data and the loss of a request to what the network takes, with every refusal saying where and why.

use std::collections::BTreeMap;

use crate::types::{Datum, ForwardBackwardOutput, Loss, LossFn, LossValue, TensorData, Values};

use super::nn;

/// A pass over data, ready to run.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) examples: Vec<nn::Example>,
    pub(super) loss: nn::Loss,
    /// For each datum the shape of its targets, which is the shape of its log-probabilities.
    shapes: Vec<Vec<usize>>,
    pub(super) backward: bool,
}

impl Pass {
    pub(super) fn new(
        data: &[Datum],
        loss: &Loss,
        backward: bool,
        config: &nn::ModelConfig,
    ) -> Result<Self, String> {
        if data.is_empty() {
            return Err("the request has no data".into());
        }
        let loss = read_loss(loss)?;
        let one = |(i, it)| read_datum(it, &loss, config).map_err(|it| format!("data[{i}]{it}"));
        let read: Vec<_> = data.iter().enumerate().map(one).collect::<Result<_, _>>()?;
        let (examples, shapes) = read.into_iter().unzip();
        Ok(Pass { examples, loss, shapes, backward })
    }

    /// What the run reports, in the protocol's words.
    pub(super) fn output(&self, run: nn::RunOutput) -> ForwardBackwardOutput {
        let datum = |(logprobs, shape): (Vec<f32>, &Vec<usize>)| {
            let tensor =
                TensorData { values: Values::F32(logprobs), shape: Some(shape.clone()), sparse: None };
            BTreeMap::from([("logprobs".to_string(), tensor)])
        };
        ForwardBackwardOutput {
            loss_fn_output_type: "LossReturn".into(),
            loss_fn_outputs: run.logprobs.into_iter().zip(&self.shapes).map(datum).collect(),
            metrics: BTreeMap::from([("loss:sum".to_string(), run.loss_sum)]),
        }
    }
}

/// The loss with its options, those left out at their defaults (PROTOCOL §7).
fn read_loss(loss: &Loss) -> Result<nn::Loss, String> {
    const CLIP: [&str; 2] = ["clip_low_threshold", "clip_high_threshold"];
    let known: &[&str] = match loss.loss_fn {
        LossFn::CrossEntropy | LossFn::ImportanceSampling => &[],
        LossFn::Ppo | LossFn::Cispo => &CLIP,
        LossFn::Dro => &["beta"],
        ref other => {
            let offered = "cross_entropy, importance_sampling, ppo, cispo, dro";
            return Err(format!(
                "loss_fn: {other:?} is not offered here; use one of {offered}",
                other = other.as_str()
            ));
        }
    };
    for (name, value) in &loss.config {
        if !known.contains(&name.as_str()) {
            let offered = if known.is_empty() { "none".into() } else { known.join(", ") };
            return Err(format!(
                "loss_fn_config: {} has no option {name:?} (it has {offered})",
                loss.loss_fn
            ));
        }
        if !matches!(value, LossValue::Number(it) if it.is_finite()) {
            return Err(format!("loss_fn_config[{name:?}] must be a finite number"));
        }
    }
    let option = |name: &str, default: f32| match loss.config.get(name) {
        Some(LossValue::Number(it)) => *it as f32,
        _ => default,
    };
    let clip = |lo, hi| (option(CLIP[0], lo), option(CLIP[1], hi));
    Ok(match loss.loss_fn {
        LossFn::ImportanceSampling => nn::Loss::ImportanceSampling,
        LossFn::Ppo => {
            let (lo, hi) = clip(0.8, 1.2);
            nn::Loss::Ppo { lo, hi }
        }
        LossFn::Cispo => {
            let (lo, hi) = clip(0.0, 4.0);
            nn::Loss::Cispo { lo, hi }
        }
        // The protocol leaves the default open; this is what another server takes.
        LossFn::Dro => nn::Loss::Dro { beta: option("beta", 0.1) },
        _ => nn::Loss::CrossEntropy,
    })
}

/// Reads one datum. An error continues the path of the datum.
fn read_datum(
    datum: &Datum,
    loss: &nn::Loss,
    config: &nn::ModelConfig,
) -> Result<(nn::Example, Vec<usize>), String> {
    let ids =
        datum.model_input.to_ints().map_err(|_| ".model_input: this model reads text only".to_string())?;
    let tokens = token_ids(&ids, config.vocab).map_err(|it| format!(".model_input: {it}"))?;
    let n = tokens.len();
    if n == 0 {
        return Err(".model_input: has no tokens".into());
    }
    if config.max_len < n {
        return Err(format!(".model_input: {n} tokens exceed the context window of {}", config.max_len));
    }
    let weighted = matches!(loss, nn::Loss::CrossEntropy);
    let wanted: &[&str] =
        if weighted { &["target_tokens", "weights"] } else { &["target_tokens", "logprobs", "advantages"] };
    if let Some(name) = datum.loss_fn_inputs.keys().find(|it| !wanted.contains(&it.as_str())) {
        return Err(format!(
            ".loss_fn_inputs[{name:?}]: this loss takes only {}; remove it before sending",
            wanted.join(", ")
        ));
    }
    let input = |name: &str| datum.loss_fn_inputs.get(name);
    let at = |name: &str, problem: String| format!(".loss_fn_inputs[{name:?}]: {problem}");
    let target_tokens = input("target_tokens").ok_or_else(|| at("target_tokens", "is missing".into()))?;
    let shape = target_tokens.shape();
    let k = match shape[..] {
        [rows] if rows == n => 1,
        [rows, k] if rows == n && 0 < k && (weighted || k == 1) => k,
        _ if weighted => {
            let problem = format!("its shape is {shape:?}; it must be [{n}] or [{n}, K]");
            return Err(at("target_tokens", problem));
        }
        _ => return Err(at("target_tokens", format!("its shape is {shape:?}; it must be [{n}]"))),
    };
    let targets = dense_integers(target_tokens).map_err(|it| at("target_tokens", it))?;
    let floats = |name: &str| -> Result<Option<Vec<f32>>, String> {
        let Some(tensor) = input(name) else { return Ok(None) };
        if tensor.shape().iter().product::<usize>() != n * k || tensor.rows() != n {
            let problem = format!("its shape is {:?} where the targets have {shape:?}", tensor.shape());
            return Err(at(name, problem));
        }
        let values = dense_floats(tensor);
        match values.iter().position(|it| !it.is_finite()) {
            Some(i) => Err(at(name, format!("[{i}] = {} is not a finite number", values[i]))),
            None => Ok(Some(values)),
        }
    };
    let required = |name: &str| floats(name)?.ok_or_else(|| at(name, "is missing".into()));
    let mut example = nn::Example { tokens, targets, k, ..nn::Example::default() };
    if weighted {
        example.weights = floats("weights")?.unwrap_or_else(|| vec![1.0; n * k]);
    } else {
        example.logprobs = required("logprobs")?;
        example.advantages = required("advantages")?;
    }
    // A place of weight 0 may hold any filler as its target.
    for (i, target) in example.targets.iter_mut().enumerate() {
        if !(0..config.vocab as i64).contains(target) {
            let factor = if weighted { example.weights[i] } else { example.advantages[i] };
            if !weighted || factor != 0.0 {
                let problem = format!("[{i}] = {target} is no token id of a vocabulary of {}", config.vocab);
                return Err(at("target_tokens", problem));
            }
            *target = 0;
        }
    }
    Ok((example, shape))
}

/// Token ids as the network takes them.
pub(super) fn token_ids(ids: &[i32], vocab: usize) -> Result<Vec<u32>, String> {
    let one = |(i, it): (usize, &i32)| match u32::try_from(*it) {
        Ok(id) if (id as usize) < vocab => Ok(id),
        _ => Err(format!("token {i} is {it}, which is no id of a vocabulary of {vocab}")),
    };
    ids.iter().enumerate().map(one).collect()
}

fn dense_integers(tensor: &TensorData) -> Result<Vec<i64>, String> {
    match &tensor.values {
        Values::I64(it) => Ok(spread(it, tensor)),
        Values::F32(_) => Err("must hold integers".into()),
    }
}

fn dense_floats(tensor: &TensorData) -> Vec<f32> {
    match &tensor.values {
        Values::F32(it) => spread(it, tensor),
        Values::I64(it) => spread(&it.iter().map(|it| *it as f32).collect::<Vec<_>>(), tensor),
    }
}

/// The values of a tensor in their places, zero where a sparse one lists none. Its indices were checked when it was
/// read.
fn spread<T: Copy + Default>(values: &[T], tensor: &TensorData) -> Vec<T> {
    let (Some(sparse), Some(&[rows, cols])) = (&tensor.sparse, tensor.shape.as_deref()) else {
        return values.to_vec();
    };
    let mut out = vec![T::default(); rows * cols];
    for (row, ends) in sparse.crow_indices.windows(2).enumerate() {
        for i in ends[0] as usize..ends[1] as usize {
            out[row * cols + sparse.col_indices[i] as usize] = values[i];
        }
    }
    out
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;
    use crate::types::{ModelInput, Sparse};

    fn pass(data: &[Datum], loss: impl Into<Loss>) -> Result<Pass, String> {
        Pass::new(data, &loss.into(), true, &nn::ModelConfig::nano())
    }

    fn policy() -> Datum {
        Datum::new(ModelInput::from_ints([1, 2]))
            .with("target_tokens", vec![2i64, 3])
            .with("logprobs", vec![-1.0f32, -2.0])
            .with("advantages", vec![1.0f32, 0.5])
    }

    #[test]
    fn missing_weights_are_one_and_options_have_their_defaults() {
        let datum = Datum::new(ModelInput::from_ints([1, 2])).with("target_tokens", vec![2i64, 3]);
        let pass_ = pass(&[datum], LossFn::CrossEntropy).expect("a pass");
        assert_eq!(pass_.examples[0].weights, [1.0, 1.0]);
        assert_eq!(pass(&[policy()], LossFn::Ppo).expect("a pass").loss, nn::Loss::Ppo { lo: 0.8, hi: 1.2 });
        let cispo = pass(&[policy()], LossFn::Cispo.with("clip_high_threshold", 2.0)).expect("a pass");
        assert_eq!(cispo.loss, nn::Loss::Cispo { lo: 0.0, hi: 2.0 });
    }

    #[test]
    fn a_sparse_tensor_is_spread_over_its_shape() {
        let sparse = Sparse { crow_indices: vec![0, 1, 2], col_indices: vec![1, 0] };
        let tensor = |values| TensorData { values, shape: Some(vec![2, 2]), sparse: Some(sparse.clone()) };
        let datum = Datum::new(ModelInput::from_ints([1, 2]))
            .with("target_tokens", tensor(Values::I64(vec![7, 8])))
            .with("weights", tensor(Values::F32(vec![0.5, 0.25])));
        let pass = pass(&[datum], LossFn::CrossEntropy).expect("a pass");
        let example = &pass.examples[0];
        assert_eq!((example.k, &example.targets[..]), (2, &[0, 7, 8, 0][..]));
        assert_eq!(example.weights, [0.0, 0.5, 0.25, 0.0]);
        let run = nn::RunOutput { loss_sum: 2.0, logprobs: vec![vec![-1.0; 4]] };
        let output = pass.output(run);
        assert_eq!(output.loss_fn_outputs[0]["logprobs"].shape(), [2, 2]);
        assert_eq!(output.metrics["loss:sum"], 2.0);
    }

    #[test]
    fn every_refusal_names_the_place_and_the_reason() {
        let ce = |datum: Datum| pass(&[policy(), datum], LossFn::Ppo).expect_err("a refusal");
        let long = ModelInput::from_ints(vec![1; 2049]);
        let table = [
            (
                ce(Datum { model_input: ModelInput::default(), ..policy() }),
                "data[1].model_input: has no tokens",
            ),
            (
                ce(Datum { model_input: ModelInput::from_ints([1, 512]), ..policy() }),
                "data[1].model_input: token 1 is 512",
            ),
            (ce(Datum { model_input: long, ..policy() }), "exceed the context window of 2048"),
            (
                ce(policy().with("mask", vec![1.0f32, 1.0])),
                "data[1].loss_fn_inputs[\"mask\"]: this loss takes only",
            ),
            (
                ce(policy().with("advantages", vec![1.0f32])),
                "data[1].loss_fn_inputs[\"advantages\"]: its shape is [1]",
            ),
            (ce(policy().with("logprobs", vec![0.0, f32::NAN])), "[1] = NaN is not a finite number"),
            (ce(policy().with("target_tokens", vec![1.0f32, 1.0])), "must hold integers"),
            (ce(policy().with("target_tokens", vec![1i64, 512])), "[1] = 512 is no token id"),
            (ce(policy().with("target_tokens", vec![1i64])), "it must be [2]"),
            (pass(&[], LossFn::Ppo).expect_err("a refusal"), "no data"),
            (pass(&[policy()], LossFn::Gspo).expect_err("a refusal"), "\"gspo\" is not offered here"),
            (
                pass(&[policy()], LossFn::Ppo.with("beta", 1.0)).expect_err("a refusal"),
                "ppo has no option \"beta\"",
            ),
            (
                pass(&[policy()], LossFn::Dro.with("beta", "x")).expect_err("a refusal"),
                "must be a finite number",
            ),
        ];
        for (text, expected) in table {
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn a_filler_target_of_no_weight_is_harmless() {
        let datum = Datum::new(ModelInput::from_ints([1, 2]))
            .with("target_tokens", vec![-100i64, 3])
            .with("weights", vec![0.0f32, 1.0]);
        assert_eq!(pass(&[datum], LossFn::CrossEntropy).expect("a pass").examples[0].targets, [0, 3]);
    }
}
