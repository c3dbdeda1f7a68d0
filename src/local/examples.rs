//! Converts the data and the loss of a training request into the input of the network. Every error names the field of
//! the request and the reason.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::loss::LossArray;
use crate::types::{Datum, ForwardBackwardOutput, Loss, LossFn, LossGraph, LossValue, TensorData, Values};

use super::nn;

/// Limit of the tokens of one pass: a thousand sequences of half the context length. Clients split their data into
/// messages of 5 MB, which hold fewer tokens.
const MAX_TOKENS: usize = 1 << 20;

/// Limit of the numbers in the loss inputs of one pass. A sparse tensor counts with all its zeros, because it is
/// converted to a dense one; without this limit a few bytes could describe a tensor of any size.
const MAX_NUMBERS: usize = 4 * MAX_TOKENS;

/// A forward or forward-backward pass over data, ready to run.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) examples: Vec<nn::Example>,
    pub(super) loss: nn::Loss,
    /// Shape of each datum's targets, which is also that of its log-probabilities.
    shapes: Vec<Vec<usize>>,
    pub(super) backward: bool,
    /// True if another loss than the requested one is computed.
    pub(super) is_stand_in: bool,
}

/// Metric of a pass whose loss is a stand-in for `stable_reinforce`. The official SDK cannot read a result that has a metric
/// without a reduction after its only colon.
const STAND_IN: &str = "tinkex/stable_reinforce_is_cispo:max";

impl Pass {
    pub(super) fn new(
        data: &[Datum],
        loss: &Loss,
        custom: Option<Arc<LossGraph>>,
        backward: bool,
        config: &nn::ModelConfig,
        stands_in: bool,
    ) -> Result<Self, String> {
        if data.is_empty() {
            return Err("the request has no data".into());
        }
        let is_stand_in = loss.loss_fn == LossFn::StableReinforce;
        let loss = read_loss(loss, custom, stands_in)?;
        check_size(data, &loss)?;
        let one = |(i, it)| read_datum(it, &loss, config).map_err(|it| format!("data[{i}]{it}"));
        let read: Vec<_> = data.iter().enumerate().map(one).collect::<Result<_, _>>()?;
        let (examples, shapes) = read.into_iter().unzip();
        Ok(Pass { examples, loss, shapes, backward, is_stand_in })
    }

    /// Converts the output of the network into the response of the protocol.
    pub(super) fn output(&self, run: nn::RunOutput) -> ForwardBackwardOutput {
        let datum = |(logprobs, shape): (Vec<f32>, &Vec<usize>)| {
            let tensor =
                TensorData { values: Values::F32(logprobs), shape: Some(shape.clone()), sparse: None };
            BTreeMap::from([("logprobs".to_string(), tensor)])
        };
        let mut metrics = run.metrics;
        metrics.insert("loss:sum".into(), run.loss_sum);
        if self.is_stand_in {
            metrics.insert(STAND_IN.into(), 1.0);
        }
        ForwardBackwardOutput {
            loss_fn_output_type: "LossReturn".into(),
            loss_fn_outputs: run.logprobs.into_iter().zip(&self.shapes).map(datum).collect(),
            metrics,
            ..Default::default()
        }
    }
}

/// Reads a loss and its options, with defaults for missing ones (PROTOCOL §7). `custom` is the graph of a custom loss.
///
/// `stands_in` serves `stable_reinforce`, whose formula is not public, by CISPO: a policy gradient, too, whose ratios are
/// bounded.
fn read_loss(loss: &Loss, custom: Option<Arc<LossGraph>>, stands_in: bool) -> Result<nn::Loss, String> {
    const CLIP: [&str; 2] = ["clip_low_threshold", "clip_high_threshold"];
    if let Some(program) = custom {
        return Ok(nn::Loss::Custom(program));
    }
    let known: &[&str] = match loss.loss_fn {
        LossFn::CrossEntropy | LossFn::ImportanceSampling => &[],
        LossFn::StableReinforce if stands_in => &[],
        LossFn::Ppo | LossFn::Cispo | LossFn::Gspo => &CLIP,
        LossFn::Dro => &["beta"],
        LossFn::Custom { ref loss_id } => {
            return Err(format!("loss_fn_config: loss_id {loss_id:?} does not name a loss of this session"));
        }
        ref other => {
            let offered = "cross_entropy, importance_sampling, ppo, cispo, dro, gspo, custom";
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
    let option = |name: &str, default: f64| match loss.config.get(name) {
        Some(LossValue::Number(it)) => *it,
        _ => default,
    };
    let clip = |default_low: f64, default_high: f64| {
        let (lo, hi) = (option(CLIP[0], default_low), option(CLIP[1], default_high));
        if hi < lo {
            return Err(format!(
                "loss_fn_config: {} is {lo}, which is above {} ({hi}): set both so that low <= high",
                CLIP[0], CLIP[1]
            ));
        }
        Ok((lo, hi))
    };
    Ok(match loss.loss_fn {
        LossFn::ImportanceSampling => nn::Loss::ImportanceSampling,
        LossFn::Ppo => {
            let (lo, hi) = clip(0.8, 1.2)?;
            nn::Loss::Ppo { lo, hi }
        }
        LossFn::Cispo | LossFn::StableReinforce => {
            let (lo, hi) = clip(0.0, 4.0)?;
            nn::Loss::Cispo { lo, hi }
        }
        // The protocol specifies no defaults; these are PPO's.
        LossFn::Gspo => {
            let (lo, hi) = clip(0.8, 1.2)?;
            nn::Loss::Gspo { lo, hi }
        }
        // The protocol specifies no default; this one is used by another server of the protocol.
        LossFn::Dro => nn::Loss::Dro { beta: option("beta", 0.1) },
        _ => nn::Loss::CrossEntropy,
    })
}

/// Names of the inputs (`loss_fn_inputs`) that a loss reads.
fn input_names(loss: &nn::Loss) -> Vec<&str> {
    match loss {
        nn::Loss::CrossEntropy => vec!["target_tokens", "weights"],
        nn::Loss::Gspo { .. } => vec!["target_tokens", "logprobs", "advantages", "sequence_ratio_mask"],
        nn::Loss::Custom(graph) => {
            let own = graph.inputs()[1..].iter().map(|it| it.name.as_str());
            ["target_tokens"].into_iter().chain(own).collect()
        }
        _ => vec!["target_tokens", "logprobs", "advantages"],
    }
}

/// Refuses a pass that would take too much memory or time, before allocating anything for it.
fn check_size(data: &[Datum], loss: &nn::Loss) -> Result<(), String> {
    let wanted = input_names(loss);
    let (mut tokens, mut numbers) = (0usize, 0usize);
    for (i, datum) in data.iter().enumerate() {
        tokens = tokens.saturating_add(datum.model_input.len().unwrap_or(0));
        if MAX_TOKENS < tokens {
            let problem = format!("with this datum the pass has {tokens} tokens; the limit is {MAX_TOKENS}");
            return Err(format!("data[{i}].model_input: {problem}: send fewer data at once"));
        }
        for (name, tensor) in datum.loss_fn_inputs.iter().filter(|it| wanted.contains(&it.0.as_str())) {
            let shape = tensor.shape();
            let n = shape.iter().try_fold(1usize, |n, it| n.checked_mul(*it)).unwrap_or(usize::MAX);
            numbers = numbers.saturating_add(n);
            if MAX_NUMBERS < numbers {
                let problem =
                    format!("with a tensor of {shape:?} the pass has more than {MAX_NUMBERS} numbers");
                return Err(format!(
                    "data[{i}].loss_fn_inputs[{name:?}]: {problem}: send fewer data at once"
                ));
            }
        }
    }
    Ok(())
}

/// Reads one datum. Error texts start with the path within the datum, such as `.model_input`.
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
    let allows_k = match loss {
        nn::Loss::CrossEntropy => true,
        nn::Loss::Custom(graph) => graph.inputs()[0].rank == 2,
        _ => false,
    };
    let custom = matches!(loss, nn::Loss::Custom(_));
    let wanted = input_names(loss);
    // A custom loss reads the inputs that it names; other inputs are ignored.
    let unknown = |it: &&String| !custom && !wanted.contains(&it.as_str());
    if let Some(name) = datum.loss_fn_inputs.keys().find(unknown) {
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
        // A custom loss accepts only the number of dimensions that it declares; other losses also accept `[n, 1]`.
        [rows] if rows == n && !(custom && allows_k) => 1,
        [rows, k] if rows == n && 0 < k && (allows_k || (k == 1 && !custom)) => k,
        _ if allows_k => {
            let problem = if custom { format!("[{n}, K]") } else { format!("[{n}] or [{n}, K]") };
            return Err(at("target_tokens", format!("its shape is {shape:?}; it must be {problem}")));
        }
        _ => return Err(at("target_tokens", format!("its shape is {shape:?}; it must be [{n}]"))),
    };
    let targets = dense_integers(target_tokens).map_err(|it| at("target_tokens", it))?;
    let floats = |name: &str| -> Result<Option<Vec<f32>>, String> {
        let Some(tensor) = input(name) else { return Ok(None) };
        if tensor.shape().iter().product::<usize>() != n * k || tensor.rows() != n {
            let problem = format!("its shape is {:?}; that of the targets is {shape:?}", tensor.shape());
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
    match loss {
        nn::Loss::CrossEntropy => {
            example.weights = floats("weights")?.unwrap_or_else(|| vec![1.0; n * k]);
        }
        nn::Loss::Custom(program) => {
            for declared in &program.inputs()[1..] {
                let name = &declared.name;
                let missing = || at(name, format!("is missing; the loss {} needs it", program.name()));
                let tensor = input(name).ok_or_else(missing)?;
                let array = custom_input(tensor, declared.rank, n).map_err(|problem| at(name, problem))?;
                example.inputs.push(array);
            }
        }
        _ => {
            example.logprobs = required("logprobs")?;
            example.advantages = required("advantages")?;
        }
    }
    if let nn::Loss::Gspo { .. } = loss {
        // Without a mask, tokens with an advantage count: those of the prompt have none. If no token has one, the ratio
        // does not matter.
        let advantages = example.advantages.iter().map(|it| f32::from(u8::from(*it != 0.0)));
        let given = floats("sequence_ratio_mask")?;
        let is_given = given.is_some();
        example.mask = given.unwrap_or_else(|| advantages.collect());
        if is_given && example.mask.iter().all(|it| *it == 0.0) {
            return Err(at("sequence_ratio_mask", "is zero for every token".into()));
        }
    }
    // A target of weight 0 may be any filler value: it becomes token 0.
    for (i, target) in example.targets.iter_mut().enumerate() {
        if !(0..config.vocab as i64).contains(target) {
            if !weighted || example.weights[i] != 0.0 {
                let problem =
                    format!("[{i}] = {target} is not a token id of a vocabulary of {}", config.vocab);
                return Err(at("target_tokens", problem));
            }
            *target = 0;
        }
    }
    Ok((example, shape))
}

/// Reads an input of a custom loss. The number of its dimensions must be the declared one, and the first dimension must
/// be the number of tokens of the datum.
fn custom_input(tensor: &TensorData, rank: usize, n: usize) -> Result<LossArray, String> {
    let shape = tensor.shape();
    let fits = match shape[..] {
        [] => true,
        // Accept `[1]` for a scalar: some clients cannot write a tensor without dimensions.
        [1] if rank == 0 => true,
        [rows, ..] => rows == n && shape.len() == rank,
    };
    if !fits || (rank != 0 && shape.len() != rank) {
        let wanted = match rank {
            0 => "[]".to_string(),
            1 => format!("[{n}]"),
            _ => format!("[{n}, K]"),
        };
        return Err(format!("its shape is {shape:?}; this loss takes {wanted}"));
    }
    let values = match &tensor.values {
        Values::I64(it) => dense(it, tensor).into_iter().map(|it| it as f64).collect(),
        Values::F32(it) => dense(it, tensor).into_iter().map(f64::from).collect(),
    };
    Ok(LossArray { shape: if rank == 0 { Vec::new() } else { shape }, values })
}

/// Converts token ids to the network's type.
pub(super) fn token_ids(ids: &[i32], vocab: usize) -> Result<Vec<u32>, String> {
    let one = |(i, id): (usize, &i32)| match u32::try_from(*id) {
        Ok(id) if (id as usize) < vocab => Ok(id),
        _ => Err(format!("token {i} is {id}, which is not an id of a vocabulary of {vocab}")),
    };
    ids.iter().enumerate().map(one).collect()
}

fn dense_integers(tensor: &TensorData) -> Result<Vec<i64>, String> {
    match &tensor.values {
        Values::I64(it) => Ok(dense(it, tensor)),
        Values::F32(_) => Err("must hold integers".into()),
    }
}

fn dense_floats(tensor: &TensorData) -> Vec<f32> {
    match &tensor.values {
        Values::F32(it) => dense(it, tensor),
        Values::I64(it) => dense(&it.iter().map(|it| *it as f32).collect::<Vec<_>>(), tensor),
    }
}

/// Returns all values of a tensor, including the zeros of a sparse one. The indices were checked when the tensor was
/// read, and the size by [`check_size`].
fn dense<T: Copy + Default>(values: &[T], tensor: &TensorData) -> Vec<T> {
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
        Pass::new(data, &loss.into(), None, true, &nn::ModelConfig::nano(), false)
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
        let unweighted = pass(&[datum], LossFn::CrossEntropy).expect("a pass");
        assert_eq!(unweighted.examples[0].weights, [1.0, 1.0]);
        let loss = |it: Loss| pass(&[policy()], it).expect("a pass").loss;
        assert!(matches!(loss(LossFn::Ppo.into()), nn::Loss::Ppo { lo: 0.8, hi: 1.2 }));
        let cispo = loss(LossFn::Cispo.with("clip_high_threshold", 2.0));
        assert!(matches!(cispo, nn::Loss::Cispo { lo: 0.0, hi: 2.0 }));
        let masked = policy().with("sequence_ratio_mask", vec![0.0f32, 1.0]);
        let gspo = pass(&[masked], LossFn::Gspo).expect("a pass");
        assert!(matches!(gspo.loss, nn::Loss::Gspo { lo: 0.8, hi: 1.2 }));
        assert_eq!(gspo.examples[0].mask, [0.0, 1.0]);
    }

    #[test]
    fn a_sparse_tensor_is_converted_to_a_dense_one() {
        let sparse = Sparse { crow_indices: vec![0, 1, 2], col_indices: vec![1, 0] };
        let tensor = |values| TensorData { values, shape: Some(vec![2, 2]), sparse: Some(sparse.clone()) };
        let datum = Datum::new(ModelInput::from_ints([1, 2]))
            .with("target_tokens", tensor(Values::I64(vec![7, 8])))
            .with("weights", tensor(Values::F32(vec![0.5, 0.25])));
        let pass = pass(&[datum], LossFn::CrossEntropy).expect("a pass");
        let example = &pass.examples[0];
        assert_eq!((example.k, &example.targets[..]), (2, &[0, 7, 8, 0][..]));
        assert_eq!(example.weights, [0.0, 0.5, 0.25, 0.0]);
        let run = nn::RunOutput { loss_sum: 2.0, logprobs: vec![vec![-1.0; 4]], metrics: BTreeMap::new() };
        let output = pass.output(run);
        assert_eq!(output.loss_fn_outputs[0]["logprobs"].shape(), [2, 2]);
        assert_eq!(output.metrics["loss:sum"], 2.0);
    }

    /// A sparse tensor with one value.
    fn single_value(rows: usize, cols: usize, values: Values) -> TensorData {
        let mut crow_indices = vec![1; rows + 1];
        crow_indices[0] = 0;
        TensorData {
            values,
            shape: Some(vec![rows, cols]),
            sparse: Some(Sparse { crow_indices, col_indices: vec![0] }),
        }
    }

    #[test]
    fn a_small_sparse_tensor_of_a_huge_shape_is_refused() {
        let datum = |n: usize, cols: usize| {
            Datum::new(ModelInput::from_ints(vec![1; n]))
                .with("target_tokens", single_value(n, cols, Values::I64(vec![1])))
                .with("weights", single_value(n, cols, Values::F32(vec![1.0])))
        };
        let ce = |data: &[Datum]| pass(data, LossFn::CrossEntropy);
        assert_eq!(ce(&[datum(2, 4)]).expect("a pass").examples[0].k, 4);
        for cols in [1 << 42, 1 << 62, MAX_NUMBERS] {
            let error = ce(&[datum(1, 2), datum(1, cols)]).expect_err("a refusal");
            assert!(
                error.starts_with("data[1].loss_fn_inputs[\"target_tokens\"]: with a tensor of"),
                "{error}"
            );
        }
        // Each datum is small enough, but all together are too large.
        let data = vec![datum(2048, 100); 12];
        let error = ce(&data).expect_err("a refusal");
        assert!(error.starts_with("data[10].") && error.ends_with("send fewer data at once"), "{error}");
        // Inputs that the loss does not read are not checked.
        let inputs = [("logprobs", 1), ("w", 2)];
        let graph = LossGraph::trace("mine", &inputs, |it| (it.logprobs() * it.input("w").sum()).sum());
        let graph = Arc::new(graph.expect("a graph"));
        let custom = |datum: Datum| {
            let loss = LossFn::Custom { loss_id: "x".into() }.into();
            Pass::new(&[datum], &loss, Some(graph.clone()), true, &nn::ModelConfig::nano(), false)
        };
        let one = || Datum::new(ModelInput::from_ints([1])).with("target_tokens", vec![1i64]);
        let w = |cols| single_value(1, cols, Values::F32(vec![1.0]));
        let fine = custom(one().with("w", w(3)).with("weights", w(1 << 42))).expect("a pass");
        assert_eq!(fine.examples[0].inputs[0].shape, [1, 3]);
        let error = custom(one().with("w", w(1 << 42))).expect_err("a refusal");
        assert!(error.starts_with("data[0].loss_fn_inputs[\"w\"]"), "{error}");
        let error = custom(one().with("weights", w(3))).expect_err("a refusal");
        assert_eq!(error, "data[0].loss_fn_inputs[\"w\"]: is missing; the loss mine needs it");
        let long = vec![Datum::new(ModelInput::from_ints(vec![1; 2048])); 513];
        let error = ce(&long).expect_err("a refusal");
        assert!(error.starts_with("data[512].model_input: with this datum the pass has"), "{error}");
    }

    #[test]
    fn loss_options_beyond_the_range_of_32_bit_floats_are_kept() {
        let loss = |it: Loss| pass(&[policy()], it).expect("a pass").loss;
        let ppo = loss(LossFn::Ppo.with("clip_high_threshold", 1e39).with("clip_low_threshold", 1e-46));
        assert!(matches!(ppo, nn::Loss::Ppo { lo: 1e-46, hi: 1e39 }));
        assert!(matches!(loss(LossFn::Dro.with("beta", 1e-46)), nn::Loss::Dro { beta: 1e-46 }));
    }

    #[test]
    fn without_a_mask_the_tokens_with_an_advantage_count() {
        let datum = Datum::new(ModelInput::from_ints([1, 2, 3]))
            .with("target_tokens", vec![2i64, 3, 4])
            .with("logprobs", vec![0.0f32, -1.0, -2.0])
            .with("advantages", vec![0.0f32, 1.0, -0.5]);
        let read = pass(std::slice::from_ref(&datum), LossFn::Gspo).expect("a pass");
        assert_eq!(read.examples[0].mask, [0.0, 1.0, 1.0]);
        let read = pass(&[datum.with("advantages", vec![0.0f32; 3])], LossFn::Gspo).expect("a pass");
        assert_eq!(read.examples[0].mask, [0.0; 3]);
    }

    #[test]
    fn stable_reinforce_is_served_by_cispo_only_if_that_is_allowed_and_says_so() {
        let read = |stands_in| {
            let loss = LossFn::StableReinforce.into();
            Pass::new(&[policy()], &loss, None, true, &nn::ModelConfig::nano(), stands_in)
        };
        assert!(read(false).expect_err("a refusal").contains("is not offered here"));
        let pass = read(true).expect("a pass");
        assert!(matches!(pass.loss, nn::Loss::Cispo { lo: 0.0, hi: 4.0 }));
        let run = nn::RunOutput { loss_sum: 1.0, logprobs: vec![vec![0.0; 2]], metrics: BTreeMap::new() };
        let metrics = pass.output(run).metrics;
        assert_eq!(metrics[STAND_IN], 1.0);
        let reductions: Vec<_> = metrics.keys().map(|it| it.split(':').collect::<Vec<_>>()).collect();
        assert!(reductions.iter().all(|it| matches!(it[..], [_, "sum" | "max"])), "{metrics:?}");
    }

    #[test]
    fn a_low_clip_threshold_above_the_high_one_is_refused_with_both_values() {
        let refused = |loss: Loss| pass(&[policy()], loss).expect_err("a refusal");
        let both = refused(LossFn::Ppo.with("clip_low_threshold", 1.3).with("clip_high_threshold", 1.1));
        let expected = "clip_low_threshold is 1.3, which is above clip_high_threshold (1.1)";
        assert!(both.contains(expected), "{both}");
        let default_low = refused(LossFn::Gspo.with("clip_high_threshold", 0.5));
        assert!(default_low.contains("is 0.8, which is above clip_high_threshold (0.5)"), "{default_low}");
        let default_high = refused(LossFn::Cispo.with("clip_low_threshold", 5.0));
        assert!(default_high.contains("is 5, which is above clip_high_threshold (4)"), "{default_high}");
        let equal = LossFn::Ppo.with("clip_low_threshold", 1.0).with("clip_high_threshold", 1.0);
        assert!(pass(&[policy()], equal).is_ok());
    }

    #[test]
    fn every_error_names_the_field_and_the_reason() {
        let ppo = |datum: Datum| pass(&[policy(), datum], LossFn::Ppo).expect_err("a refusal");
        let long = ModelInput::from_ints(vec![1; 32_769]);
        let table = [
            (
                ppo(Datum { model_input: ModelInput::default(), ..policy() }),
                "data[1].model_input: has no tokens",
            ),
            (
                ppo(Datum { model_input: ModelInput::from_ints([1, 512]), ..policy() }),
                "data[1].model_input: token 1 is 512",
            ),
            (ppo(Datum { model_input: long, ..policy() }), "exceed the context window of 32768"),
            (
                ppo(policy().with("mask", vec![1.0f32, 1.0])),
                "data[1].loss_fn_inputs[\"mask\"]: this loss takes only",
            ),
            (
                ppo(policy().with("advantages", vec![1.0f32])),
                "data[1].loss_fn_inputs[\"advantages\"]: its shape is [1]",
            ),
            (ppo(policy().with("logprobs", vec![0.0, f32::NAN])), "[1] = NaN is not a finite number"),
            (ppo(policy().with("target_tokens", vec![1.0f32, 1.0])), "must hold integers"),
            (ppo(policy().with("target_tokens", vec![1i64, 512])), "[1] = 512 is not a token id"),
            (ppo(policy().with("target_tokens", vec![1i64])), "it must be [2]"),
            (pass(&[], LossFn::Ppo).expect_err("a refusal"), "no data"),
            (
                pass(&[policy()], LossFn::StableReinforce).expect_err("a refusal"),
                "\"stable_reinforce\" is not offered here",
            ),
            (
                pass(&[policy()], LossFn::Custom { loss_id: "x".into() }).expect_err("a refusal"),
                "loss_id \"x\" does not name a loss",
            ),
            (
                pass(&[policy().with("sequence_ratio_mask", vec![0.0f32; 2])], LossFn::Gspo)
                    .expect_err("a refusal"),
                "is zero for every token",
            ),
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
    fn the_target_of_weight_zero_may_be_any_filler_value() {
        let datum = Datum::new(ModelInput::from_ints([1, 2]))
            .with("target_tokens", vec![-100i64, 3])
            .with("weights", vec![0.0f32, 1.0]);
        assert_eq!(pass(&[datum], LossFn::CrossEntropy).expect("a pass").examples[0].targets, [0, 3]);
    }
}
