//! The computation of a loss, with its gradients by the log-probabilities.

use std::collections::{BTreeMap, HashSet};

use rayon::prelude::*;

use super::array::{Array, check_extent};
use super::plan::Op;
use super::{LossGraph, backward, forward};
use crate::error::{Error, Result};
use crate::types::{CustomLoss, Datum, DenseRoom, TensorData, Values};

/// The loss of one datum.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DatumLoss {
    pub(crate) loss: f64,
    /// By each log-probability, row-major.
    pub(crate) gradient: Vec<f64>,
    pub(crate) metrics: Vec<(String, f64)>,
}

/// How many values all steps of a loss may have together, for one datum: 512 MiB of them.
const MAX_VALUES: usize = 1 << 26;

impl LossGraph {
    /// Computes the loss here: its value, its derivative by each log-probability, and its metrics, each combined over the data
    /// in the way that its name says. `logprobs` has one slice for each datum, row-major, with as many values as its
    /// `target_tokens`. This happens on the thread at hand.
    ///
    /// # Errors
    /// A datum that lacks an input or has it with another number of dimensions, shapes that do not fit together, a loss that
    /// is not a single number; a loss or a gradient that is infinite or NaN, with the datum.
    ///
    /// # Example: what a gradient is
    /// ```
    /// use tinkex::types::{Datum, LossGraph};
    ///
    /// let graph = LossGraph::trace("squares", &[("logprobs", 1)], |it| it.logprobs().square().sum())?;
    /// let data = [Datum::cross_entropy(&[1], &[2, 3])];
    /// let loss = graph.evaluate(&data, &[&[-1.0, -2.0]])?;
    /// assert_eq!((loss.loss, &loss.gradients[0]), (5.0, &vec![-2.0, -4.0]));
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub fn evaluate(&self, data: &[Datum], logprobs: &[&[f32]]) -> Result<CustomLoss> {
        self.evaluate_shared(data, logprobs, false)
    }

    /// As [`evaluate`](Self::evaluate), if `parallel` with the data shared among the threads of the caller's rayon pool.
    pub(crate) fn evaluate_shared(
        &self,
        data: &[Datum],
        logprobs: &[&[f32]],
        parallel: bool,
    ) -> Result<CustomLoss> {
        if data.len() != logprobs.len() {
            let problem = format!("are those of {} data, not of {}", logprobs.len(), data.len());
            return Err(Error::invalid("logprobs", problem));
        }
        let one = |i: usize| {
            let path = format!("data[{i}]");
            let loss = self.evaluate_datum(&data[i], logprobs[i], &path)?;
            self.check_finite(&loss, &path).map(|()| loss)
        };
        let each: Vec<DatumLoss> = match parallel {
            true => (0..data.len()).into_par_iter().map(one).collect::<Result<_>>()?,
            false => (0..data.len()).map(one).collect::<Result<_>>()?,
        };
        let mut metrics: BTreeMap<String, f64> = BTreeMap::new();
        for (name, value) in each.iter().flat_map(|it| &it.metrics) {
            *metrics.entry(name.clone()).or_default() += value;
        }
        for (name, value) in &mut metrics {
            if name.ends_with(":mean") {
                *value /= data.len() as f64;
            }
        }
        Ok(CustomLoss {
            loss: each.iter().map(|it| it.loss).sum(),
            gradients: each.iter().map(|it| it.gradient.iter().map(|it| *it as f32).collect()).collect(),
            metrics,
        })
    }

    /// Refuses data for which the loss could not be computed, whatever their log-probabilities are.
    pub(crate) fn rehearse(&self, data: &[Datum]) -> Result<()> {
        // Nothing but the shapes decides.
        let mut fine = HashSet::new();
        for (i, datum) in data.iter().enumerate() {
            let path = format!("data[{i}]");
            self.check_room(datum, &path)?;
            let inputs = self.inputs.iter().skip(1).map(|it| datum.loss_fn_inputs[&it.name].shape());
            let targets = datum.loss_fn_inputs["target_tokens"].shape();
            let n = targets.iter().product();
            if fine.insert(std::iter::once(targets).chain(inputs).collect::<Vec<_>>()) {
                let inputs = self.arrays(datum, &vec![0.0; n], &path)?;
                self.values(inputs, MAX_VALUES).map_err(|it| Error::invalid(&path, it))?;
            }
        }
        Ok(())
    }

    /// The loss of one datum, named `path` in errors.
    pub(crate) fn evaluate_datum(&self, datum: &Datum, logprobs: &[f32], path: &str) -> Result<DatumLoss> {
        let inputs = self.arrays(datum, logprobs, path)?;
        self.compute(inputs).map_err(|it| Error::invalid(path, it))
    }

    /// Refuses a datum whose inputs are missing, are no tensors, or would take too much memory with their zeros written out.
    fn check_room(&self, datum: &Datum, path: &str) -> Result<()> {
        self.check(datum, path)?;
        let mut room = DenseRoom::of(datum.n_bytes());
        let others = self.inputs.iter().skip(1).map(|it| it.name.as_str());
        for name in std::iter::once("target_tokens").chain(others) {
            let tensor = &datum.loss_fn_inputs[name];
            let path = format!("{path}.loss_fn_inputs[{name:?}]");
            tensor.validate(&path)?;
            room.take(tensor, size_of::<f64>(), &path)?;
        }
        Ok(())
    }

    /// Refuses a loss, or a gradient in the type that is sent, that is infinite or no number.
    fn check_finite(&self, it: &DatumLoss, path: &str) -> Result<()> {
        if !it.loss.is_finite() {
            return Err(Error::invalid(
                path,
                format!("the loss {} is {}, not a finite number", self.name, it.loss),
            ));
        }
        match it.gradient.iter().position(|it| !(*it as f32).is_finite()) {
            Some(i) => {
                let gradient = it.gradient[i];
                let problem =
                    format!("the gradient of the loss {} by log-probability {i} is {gradient}", self.name);
                Err(Error::invalid(path, format!("{problem}, not a finite 32-bit number")))
            }
            None => Ok(()),
        }
    }

    /// The inputs of a datum, the log-probabilities first.
    fn arrays(&self, datum: &Datum, logprobs: &[f32], path: &str) -> Result<Vec<Array>> {
        self.check_room(datum, path)?;
        let shape = datum.loss_fn_inputs["target_tokens"].shape();
        if shape.iter().product::<usize>() != logprobs.len() {
            let problem = format!("{} log-probabilities for targets of shape {shape:?}", logprobs.len());
            return Err(Error::invalid(path, problem));
        }
        let first = Array { shape, values: logprobs.iter().map(|it| f64::from(*it)).collect() };
        let others = self.inputs.iter().skip(1).map(|it| array(&datum.loss_fn_inputs[&it.name]));
        Ok(std::iter::once(first).chain(others).collect())
    }

    /// The loss of the inputs in their order, each with as many dimensions as it was declared with.
    ///
    /// # Errors
    /// Which step failed, and of what.
    pub(crate) fn compute(&self, inputs: Vec<Array>) -> std::result::Result<DatumLoss, String> {
        self.compute_within(inputs, MAX_VALUES)
    }

    /// As [`compute`](Self::compute), with at most so many values in all steps together.
    pub(crate) fn compute_within(
        &self,
        inputs: Vec<Array>,
        max_values: usize,
    ) -> std::result::Result<DatumLoss, String> {
        let values = self.values(inputs, max_values)?;
        let gradient = self.gradient(&values)?;
        // That these are single numbers has been seen.
        let metrics = self.plan.metrics.iter().map(|(name, place)| (name.clone(), values[*place].sum()));
        Ok(DatumLoss { loss: values[self.plan.loss].sum(), gradient, metrics: metrics.collect() })
    }

    fn failed(&self, step: &str, problem: impl std::fmt::Display) -> String {
        format!("the loss {} cannot be computed: {step}: {problem}", self.name)
    }

    /// What every step gives.
    fn values(&self, mut inputs: Vec<Array>, max_values: usize) -> std::result::Result<Vec<Array>, String> {
        let mut values: Vec<Array> = Vec::with_capacity(self.plan.ops.len());
        let mut n_values = 0;
        for (i, op) in self.plan.ops.iter().enumerate() {
            let value = match op {
                // Each is read by one step.
                Op::Input(it) => {
                    let input = std::mem::take(&mut inputs[*it]);
                    check_extent(&input).map_err(|it| self.failed(&self.plan.names[i], it))?;
                    input
                }
                Op::Number(it) => Array::number(*it),
                Op::Call(call, operands) => {
                    let operands: Vec<&Array> = operands.iter().map(|it| &values[*it]).collect();
                    let failed = |it: String| self.failed(&self.plan.names[i], it);
                    // Before anything is allocated: small operands may meet in a large shape.
                    let size = forward::size(call, &operands).map_err(failed)?;
                    if max_values < size.saturating_add(n_values) {
                        return Err(failed(format!("takes too much memory: more than {max_values} values")));
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
        for (name, place) in &self.plan.metrics {
            let n = values[*place].values.len();
            if n != 1 {
                return Err(self.failed(name, format!("has {n} values; it must be one")));
            }
        }
        Ok(values)
    }

    /// From the loss back to the log-probabilities.
    fn gradient(&self, values: &[Array]) -> std::result::Result<Vec<f64>, String> {
        let plan = &self.plan;
        let mut gradients: Vec<Option<Array>> = vec![None; values.len()];
        gradients[plan.loss] = Some(Array::number(1.0));
        let mut by_logprobs: Option<Array> = None;
        for place in (0..=plan.loss).rev() {
            let Some(g) = gradients[place].take() else { continue };
            match &plan.ops[place] {
                Op::Input(0) => add(&mut by_logprobs, g),
                Op::Call(call, operands) => {
                    let arrays: Vec<&Array> = operands.iter().map(|it| &values[*it]).collect();
                    let all = backward::gradients(call, &arrays, &values[place], &g)
                        .map_err(|it| self.failed(&plan.names[place], it))?;
                    for (operand, gradient) in operands.iter().zip(all) {
                        if plan.differentiable[*operand] {
                            add(&mut gradients[*operand], gradient);
                        }
                    }
                }
                Op::Input(_) | Op::Number(_) => {}
            }
        }
        // The plan was refused if the loss did not depend on them.
        Ok(by_logprobs.map(|it| it.values).unwrap_or_default())
    }
}

fn add(sum: &mut Option<Array>, gradient: Array) {
    match sum {
        Some(it) => it.add(&gradient),
        None => *sum = Some(gradient),
    }
}

fn array(tensor: &TensorData) -> Array {
    let mut tensor = tensor.clone();
    tensor.make_dense();
    let shape = tensor.shape();
    let values = match tensor.values {
        Values::F32(it) => it.into_iter().map(f64::from).collect(),
        Values::I64(it) => it.into_iter().map(|it| it as f64).collect(),
    };
    Array { shape, values }
}
