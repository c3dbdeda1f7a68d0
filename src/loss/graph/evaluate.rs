//! Evaluation of a loss: its value, its gradient with respect to the log-probabilities, and its metrics.

use std::collections::{BTreeMap, HashSet};

use rayon::prelude::*;

use super::array::{Array, check_extent};
use super::plan::Op;
use super::{LossGraph, backward, forward};
use crate::error::{Error, Result};
use crate::loss::CustomLoss;
use crate::types::{Datum, DenseRoom, TensorData, Values};

/// Loss of one datum.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DatumLoss {
    pub(crate) loss: f64,
    /// Derivative with respect to each log-probability, row-major.
    pub(crate) gradient: Vec<f64>,
    pub(crate) metrics: Vec<(String, f64)>,
}

impl DatumLoss {
    fn gradient_f32(&self) -> Vec<f32> {
        self.gradient.iter().map(|value| *value as f32).collect()
    }
}

/// Largest total number of values of all operations for one datum: 2^26 values of 8 bytes are 512 MiB.
const MAX_VALUES: usize = 1 << 26;

impl LossGraph {
    /// Computes the loss on the caller's thread: its value, its derivative with respect to each log-probability, and
    /// its metrics. A metric is averaged over the data if its name ends with `:mean`, and summed if it ends with
    /// `:sum`. `logprobs` has one slice for each datum, row-major, with one value for each element of `target_tokens`.
    ///
    /// # Errors
    /// A datum that lacks an input or has an input with a wrong number of dimensions, shapes that cannot be broadcast
    /// together, a loss that is not a single number, a loss or a gradient that is infinite or NaN. The error names the
    /// datum.
    ///
    /// # Example: value and gradient of a loss
    /// ```
    /// use tinkex::types::{Datum, LossGraph};
    ///
    /// let graph = LossGraph::trace("squares", &[("logprobs", 1)], |trace| trace.logprobs().square().sum())?;
    /// let data = [Datum::cross_entropy(&[1], &[2, 3])];
    /// let loss = graph.evaluate(&data, &[&[-1.0, -2.0]])?;
    /// assert_eq!((loss.loss, &loss.gradients[0]), (5.0, &vec![-2.0, -4.0]));
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub fn evaluate(&self, data: &[Datum], logprobs: &[&[f32]]) -> Result<CustomLoss> {
        self.evaluate_shared(data, logprobs, false)
    }

    /// As [`evaluate`](Self::evaluate). If `parallel` is true, computes the data in parallel on the rayon pool of the
    /// calling thread.
    pub(crate) fn evaluate_shared(
        &self,
        data: &[Datum],
        logprobs: &[&[f32]],
        parallel: bool,
    ) -> Result<CustomLoss> {
        if data.len() != logprobs.len() {
            let problem = format!("has {} slices for {} data", logprobs.len(), data.len());
            return Err(Error::invalid("logprobs", problem));
        }
        let datum_loss = |i: usize| {
            let path = format!("data[{i}]");
            let loss = self.evaluate_datum(&data[i], logprobs[i], &path)?;
            self.check_finite(&loss, &path).map(|()| loss)
        };
        let losses: Vec<DatumLoss> = if parallel {
            (0..data.len()).into_par_iter().map(datum_loss).collect::<Result<_>>()?
        } else {
            (0..data.len()).map(datum_loss).collect::<Result<_>>()?
        };
        let mut metrics: BTreeMap<String, f64> = BTreeMap::new();
        for (name, value) in losses.iter().flat_map(|loss| &loss.metrics) {
            *metrics.entry(name.clone()).or_default() += value;
        }
        for (name, value) in &mut metrics {
            if name.ends_with(":mean") {
                *value /= data.len() as f64;
            }
        }
        Ok(CustomLoss {
            loss: losses.iter().map(|loss| loss.loss).sum(),
            gradients: losses.iter().map(DatumLoss::gradient_f32).collect(),
            metrics,
        })
    }

    /// Refuses data for which the loss cannot be computed. Computes it with log-probabilities of 0, before the forward
    /// pass has returned the real ones.
    pub(crate) fn rehearse(&self, data: &[Datum]) -> Result<()> {
        // An operation fails only because of shapes, so each combination of shapes is tried once.
        let mut checked = HashSet::new();
        for (i, datum) in data.iter().enumerate() {
            let path = format!("data[{i}]");
            self.check_room(datum, &path)?;
            let inputs = self.inputs.iter().skip(1).map(|input| datum.loss_fn_inputs[&input.name].shape());
            let targets = datum.loss_fn_inputs["target_tokens"].shape();
            let n = targets.iter().product();
            if checked.insert(std::iter::once(targets).chain(inputs).collect::<Vec<_>>()) {
                let inputs = self.arrays(datum, &vec![0.0; n], &path)?;
                self.values(inputs, MAX_VALUES).map_err(|problem| Error::invalid(&path, problem))?;
            }
        }
        Ok(())
    }

    /// Computes the loss of one datum. `path` is the path of the datum in errors.
    pub(crate) fn evaluate_datum(&self, datum: &Datum, logprobs: &[f32], path: &str) -> Result<DatumLoss> {
        let inputs = self.arrays(datum, logprobs, path)?;
        self.compute(inputs).map_err(|problem| Error::invalid(path, problem))
    }

    /// Refuses a datum whose inputs are missing, inconsistent, or too large to make dense.
    fn check_room(&self, datum: &Datum, path: &str) -> Result<()> {
        self.check(datum, path)?;
        let mut room = DenseRoom::of(datum.n_bytes());
        let others = self.inputs.iter().skip(1).map(|input| input.name.as_str());
        for name in std::iter::once("target_tokens").chain(others) {
            let tensor = &datum.loss_fn_inputs[name];
            let path = format!("{path}.loss_fn_inputs[{name:?}]");
            tensor.validate(&path)?;
            room.take(tensor, size_of::<f64>(), &path)?;
        }
        Ok(())
    }

    /// Refuses a loss or a gradient that is infinite or NaN. A gradient must be finite as a 32-bit float, because it is
    /// sent as such.
    fn check_finite(&self, loss: &DatumLoss, path: &str) -> Result<()> {
        if !loss.loss.is_finite() {
            let problem = format!("the loss {} is {}, not a finite number", self.name, loss.loss);
            return Err(Error::invalid(path, problem));
        }
        match loss.gradient.iter().position(|value| !(*value as f32).is_finite()) {
            Some(i) => {
                let problem = format!(
                    "the gradient of the loss {} with respect to log-probability {i} is {}, not a finite 32-bit float",
                    self.name, loss.gradient[i]
                );
                Err(Error::invalid(path, problem))
            }
            None => Ok(()),
        }
    }

    /// Converts the log-probabilities and the inputs of a datum to arrays, in the order of the graph's inputs.
    fn arrays(&self, datum: &Datum, logprobs: &[f32], path: &str) -> Result<Vec<Array>> {
        self.check_room(datum, path)?;
        let shape = datum.loss_fn_inputs["target_tokens"].shape();
        if shape.iter().product::<usize>() != logprobs.len() {
            let problem = format!("has {} log-probabilities for targets of shape {shape:?}", logprobs.len());
            return Err(Error::invalid(path, problem));
        }
        let first = Array { shape, values: logprobs.iter().map(|logprob| f64::from(*logprob)).collect() };
        let others = self.inputs.iter().skip(1).map(|input| array(&datum.loss_fn_inputs[&input.name]));
        Ok(std::iter::once(first).chain(others).collect())
    }

    /// Computes the loss. `inputs` are in the order of the graph's inputs and have their numbers of dimensions.
    ///
    /// # Errors
    /// A text with the name of the node that failed and the reason.
    pub(crate) fn compute(&self, inputs: Vec<Array>) -> std::result::Result<DatumLoss, String> {
        self.compute_within(inputs, MAX_VALUES)
    }

    /// As [`compute`](Self::compute), but fails if all operations together need more than `max_values` values.
    pub(crate) fn compute_within(
        &self,
        inputs: Vec<Array>,
        max_values: usize,
    ) -> std::result::Result<DatumLoss, String> {
        let values = self.values(inputs, max_values)?;
        let gradient = self.gradient(&values)?;
        // `values` checked that the loss and the metrics are single numbers.
        let metrics = self.plan.metrics.iter().map(|(name, index)| (name.clone(), values[*index].sum()));
        Ok(DatumLoss { loss: values[self.plan.loss].sum(), gradient, metrics: metrics.collect() })
    }

    fn failed(&self, node: &str, problem: impl std::fmt::Display) -> String {
        format!("the loss {} cannot be computed: {node}: {problem}", self.name)
    }

    /// Computes the results of all operations.
    fn values(&self, mut inputs: Vec<Array>, max_values: usize) -> std::result::Result<Vec<Array>, String> {
        let mut values: Vec<Array> = Vec::with_capacity(self.plan.ops.len());
        let mut n_values = 0;
        for (i, op) in self.plan.ops.iter().enumerate() {
            let value = match op {
                // The input can be moved out: the plan has at most one operation for each input.
                Op::Input(input) => {
                    let input = std::mem::take(&mut inputs[*input]);
                    check_extent(&input).map_err(|problem| self.failed(&self.plan.names[i], problem))?;
                    input
                }
                Op::Number(number) => Array::number(*number),
                Op::Call(call, operands) => {
                    let operands: Vec<&Array> = operands.iter().map(|operand| &values[*operand]).collect();
                    let failed = |problem: String| self.failed(&self.plan.names[i], problem);
                    // Check the size before allocating: small operands may broadcast to a large shape.
                    let size = forward::size(call, &operands).map_err(failed)?;
                    if max_values < size.saturating_add(n_values) {
                        return Err(failed(format!("needs too much memory: more than {max_values} values")));
                    }
                    forward::value(call, &operands).map_err(failed)?
                }
            };
            n_values += value.values.len();
            values.push(value);
        }
        let shape = &values[self.plan.loss].shape;
        if !shape.is_empty() {
            return Err(self.failed("the loss", format!("has the shape {shape:?}; it must be one number")));
        }
        for (name, index) in &self.plan.metrics {
            let n = values[*index].values.len();
            if n != 1 {
                return Err(self.failed(name, format!("has {n} values; it must be one")));
            }
        }
        Ok(values)
    }

    /// Computes the gradient of the loss with respect to the log-probabilities, from the last operation to the first.
    fn gradient(&self, values: &[Array]) -> std::result::Result<Vec<f64>, String> {
        let plan = &self.plan;
        let mut gradients: Vec<Option<Array>> = vec![None; values.len()];
        gradients[plan.loss] = Some(Array::number(1.0));
        let mut by_logprobs: Option<Array> = None;
        for i in (0..=plan.loss).rev() {
            let Some(g) = gradients[i].take() else { continue };
            match &plan.ops[i] {
                Op::Input(0) => add(&mut by_logprobs, g),
                Op::Call(call, operands) => {
                    let arrays: Vec<&Array> = operands.iter().map(|operand| &values[*operand]).collect();
                    let by_operand = backward::gradients(call, &arrays, &values[i], &g)
                        .map_err(|problem| self.failed(&plan.names[i], problem))?;
                    for (operand, gradient) in operands.iter().zip(by_operand) {
                        if plan.differentiable[*operand] {
                            add(&mut gradients[*operand], gradient);
                        }
                    }
                }
                Op::Input(_) | Op::Number(_) => {}
            }
        }
        // Always `Some`: a plan whose loss does not depend on the log-probabilities is refused.
        Ok(by_logprobs.map(|gradient| gradient.values).unwrap_or_default())
    }
}

fn add(sum: &mut Option<Array>, gradient: Array) {
    match sum {
        Some(sum) => sum.add(&gradient),
        None => *sum = Some(gradient),
    }
}

fn array(tensor: &TensorData) -> Array {
    let mut tensor = tensor.clone();
    tensor.make_dense();
    let shape = tensor.shape();
    let values = match tensor.values {
        Values::F32(values) => values.into_iter().map(f64::from).collect(),
        Values::I64(values) => values.into_iter().map(|value| value as f64).collect(),
    };
    Array { shape, values }
}
