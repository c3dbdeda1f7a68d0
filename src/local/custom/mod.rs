//! Losses that a client wrote: a graph of tensor operations (PROTOCOL §9.6), checked when it is made and evaluated for each
//! datum, with its derivatives by the log-probabilities.
//!
//! [`graph`] reads a graph, [`calls`] knows the functions; [`tape`] computes and [`reverse`] goes back. Tensors have at most
//! two dimensions and are computed in `f64`, whatever their declared precision.

mod args;
mod calls;
mod graph;
mod reduce;
mod reverse;
mod shape;
mod tape;
mod tensor;

use std::collections::BTreeMap;

use serde_json::Value as Json;

use args::{Args, Value};
use graph::{Arg, Node};
use tape::Tape;

pub(crate) use tensor::{Kind, Tensor};

/// Why a call fails.
#[derive(Debug)]
enum Fault {
    /// Whatever the data are.
    Always(String),
    /// With these data: their sizes, their kinds, their numbers.
    Data(String),
}

impl Fault {
    fn always(text: impl Into<String>) -> Self {
        Fault::Always(text.into())
    }

    fn data(text: impl Into<String>) -> Self {
        Fault::Data(text.into())
    }

    fn named(self, node: &Node) -> Self {
        let place = |text: String| format!("node {} ({}): {text}", node.name, node.target);
        match self {
            Fault::Always(it) => Fault::Always(place(it)),
            Fault::Data(it) => Fault::Data(place(it)),
        }
    }

    fn text(self) -> String {
        match self {
            Fault::Always(it) | Fault::Data(it) => it,
        }
    }
}

/// What a loss is given.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Input {
    pub(crate) name: String,
    /// How many dimensions it has.
    pub(crate) rank: usize,
}

#[derive(Debug)]
struct Output {
    loss: usize,
    metrics: Vec<(String, usize)>,
}

/// A loss, ready to be evaluated.
#[derive(Debug)]
pub(crate) struct Program {
    name: String,
    inputs: Vec<Input>,
    nodes: Vec<Node>,
    output: Output,
}

/// What a loss is for one datum.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Evaluated {
    pub(crate) loss: f64,
    /// Its derivatives by the log-probabilities; empty if they were not asked for.
    pub(crate) slopes: Vec<f64>,
    pub(crate) metrics: BTreeMap<String, f64>,
}

impl Program {
    /// Reads and checks a loss.
    ///
    /// # Errors
    /// What is wrong with it, and in which node.
    pub(crate) fn read(name: &str, inputs: &[Json], graph: &Json) -> Result<Self, String> {
        let program = graph::read(name, graph::inputs(inputs)?, graph)?;
        program.rehearse()?;
        Ok(program)
    }

    /// What the loss is given: first the log-probabilities.
    pub(crate) fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    /// Evaluates the loss once, to find what is wrong with it whatever the data are.
    fn rehearse(&self) -> Result<(), String> {
        let size = |rank: usize| [4, 3][..rank].to_vec();
        let like = |it: &Input| Tensor::filled(Kind::Float, size(it.rank), -0.5);
        let mut tape = Tape::default();
        let found = self.forward(&mut tape, self.inputs.iter().map(like).collect());
        match found {
            Err(Fault::Always(text)) if !tape.uncertain => Err(text),
            _ => Ok(()),
        }
    }

    /// The loss of a datum, and with `backward` its derivatives.
    ///
    /// # Errors
    /// The data do not suit the loss, or their loss is no number.
    pub(crate) fn evaluate(&self, inputs: Vec<Tensor>, backward: bool) -> Result<Evaluated, String> {
        let fail = |text: String| format!("the custom loss {:?}: {text}", self.name);
        let mut tape = Tape::default();
        let (loss, metrics) = self.forward(&mut tape, inputs).map_err(|it| fail(it.text()))?;
        let slopes = if backward { tape.slopes(loss, 0) } else { Vec::new() };
        let loss = tape.get(loss).data[0];
        if !loss.is_finite() {
            return Err(fail(format!("is {loss}")));
        }
        if let Some(i) = slopes.iter().position(|it| !it.is_finite()) {
            return Err(fail(format!("its derivative by logprobs[{i}] is {}", slopes[i])));
        }
        let metric = |(key, id): (&String, usize)| (key.clone(), tape.get(id).data[0]);
        let keys = self.output.metrics.iter().map(|it| &it.0);
        Ok(Evaluated { loss, slopes, metrics: keys.zip(metrics).map(metric).collect() })
    }

    /// Computes the loss and its metrics; the log-probabilities are entry 0 of the tape.
    fn forward(&self, tape: &mut Tape, inputs: Vec<Tensor>) -> Result<(usize, Vec<usize>), Fault> {
        let mut values: Vec<Value> = Vec::with_capacity(self.inputs.len() + self.nodes.len());
        for (i, it) in inputs.into_iter().enumerate() {
            values.push(Value::Tensor(if i == 0 { tape.variable(it)? } else { tape.constant(it)? }));
        }
        for node in &self.nodes {
            let given = node.args.iter().map(|it| resolve(it, &values)).collect();
            let named = node.kwargs.iter().map(|(key, it)| (key.clone(), resolve(it, &values))).collect();
            values.push((node.call)(tape, Args::new(given, named)).map_err(|it| it.named(node))?);
        }
        let scalar = |tape: &mut Tape, what: &str, at: usize| {
            let id = args::tensor(tape, values[at].clone(), what)?;
            match &tape.get(id).shape[..] {
                [] => Ok(id),
                shape => Err(Fault::always(format!("{what} must be a scalar, its shape is {shape:?}"))),
            }
        };
        let loss = scalar(tape, "the loss", self.output.loss)?;
        let one = |(key, at): &(String, usize)| scalar(tape, &format!("the metric {key}"), *at);
        let metrics = self.output.metrics.iter().map(one).collect::<Result<_, _>>()?;
        Ok((loss, metrics))
    }
}

fn resolve(arg: &Arg, values: &[Value]) -> Value {
    match arg {
        Arg::Ref(at) => values[*at].clone(),
        Arg::Value(it) => it.clone(),
        Arg::Many(all) => Value::Many(all.iter().map(|it| resolve(it, values)).collect()),
        Arg::Dict(all) => {
            Value::Dict(all.iter().map(|(key, it)| (key.clone(), resolve(it, values))).collect())
        }
        Arg::Slice(parts) => Value::Slice(Box::new(parts.each_ref().map(|it| resolve(it, values)))),
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests;
