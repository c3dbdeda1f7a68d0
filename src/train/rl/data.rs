//! Training data of trajectories.

use super::{Trajectory, TrajectoryGroup, advantages};
use crate::error::Result;
use crate::types::{Chunk, Datum, ModelInput, Origin, Provenance, ProvenanceSpan, TensorData};

/// A datum of a trajectory, and the targets that the policy sampled.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct TrajectoryDatum {
    /// The datum, with `target_tokens`, `logprobs` and `advantages`, for
    /// [`LossFn::ImportanceSampling`](crate::types::LossFn::ImportanceSampling) and losses with the same inputs.
    pub datum: Datum,
    /// For each target, true if it is a sampled token that is trained, and false if it is part of an observation.
    pub mask: Vec<bool>,
}

/// The data of a trajectory, with one advantage for all its sampled tokens.
///
/// While each observation begins with all tokens so far, the turns become one datum; an observation that begins
/// otherwise begins a new one. Tokens of observations and of masked turns have the advantage 0; those of observations
/// have the log-probability 0. All inputs are shifted by one, as the targets are. If all turns of a datum have a
/// `sequence_id`, the datum has the provenance of its tokens. A sequence of fewer than two tokens, from which nothing
/// can be learned, makes no datum.
///
/// # Errors
/// `InvalidInput` with the path `transitions[i]` for a turn with another number of log-probabilities than of tokens, and
/// for an observation with an image whose number of tokens is unknown.
///
/// # Example: two turns that become one datum
/// ```
/// use tinkex::train::rl::{Trajectory, Transition, trajectory_data};
/// use tinkex::types::ModelInput;
///
/// let first = Transition::new(ModelInput::from_ints([1, 2]), vec![3], vec![-0.5], 0.0)?;
/// let second = Transition::new(ModelInput::from_ints([1, 2, 3, 4]), vec![5], vec![-1.0], 1.0)?;
/// let data = trajectory_data(&Trajectory::new([first, second]), 2.0)?;
/// assert_eq!(data.len(), 1);
/// let inputs = &data[0].datum.loss_fn_inputs;
/// assert_eq!(inputs["target_tokens"].as_i64(), Some(&[2, 3, 4, 5][..]));
/// assert_eq!(inputs["advantages"].as_f32(), Some(&[0.0, 2.0, 0.0, 2.0][..]));
/// assert_eq!(inputs["logprobs"].as_f32(), Some(&[0.0, -0.5, 0.0, -1.0][..]));
/// # Ok::<(), tinkex::Error>(())
/// ```
pub fn trajectory_data(trajectory: &Trajectory, advantage: f64) -> Result<Vec<TrajectoryDatum>> {
    let mut data = Vec::new();
    let mut sequence = Sequence::default();
    for (i, transition) in trajectory.transitions.iter().enumerate() {
        transition.check(&format!("transitions[{i}]"))?;
        let observation = flat(&transition.observation)?;
        if !observation.starts_with(&sequence.elements) {
            data.extend(std::mem::take(&mut sequence).datum());
        }
        let new = observation[sequence.elements.len()..].to_vec();
        let n_new = new.iter().map(Element::len).sum();
        sequence.add_spans(transition.sequence_id.as_deref(), n_new, transition.action.len());
        sequence.elements.extend(new);
        sequence.add_rows(&vec![0.0; n_new], 0.0, false);
        sequence.elements.extend(transition.action.iter().copied().map(Element::Token));
        let trained = !transition.masked;
        sequence.add_rows(&transition.logprobs, if trained { advantage as f32 } else { 0.0 }, trained);
    }
    data.extend(sequence.datum());
    Ok(data)
}

/// The data of all trajectories of groups, with the [`advantages`] of their groups.
///
/// # Errors
/// As for [`advantages`] and [`trajectory_data`].
pub fn assemble_training_data(groups: &[TrajectoryGroup]) -> Result<Vec<TrajectoryDatum>> {
    let mut data = Vec::new();
    for group in groups {
        for (trajectory, advantage) in group.trajectories.iter().zip(advantages(group)?) {
            data.extend(trajectory_data(trajectory, advantage)?);
        }
    }
    Ok(data)
}

/// A token of text, or a whole image, or other chunk, and its number of tokens.
#[derive(Clone, PartialEq)]
enum Element {
    Token(i32),
    Other(Chunk, usize),
}

impl Element {
    fn len(&self) -> usize {
        match self {
            Element::Token(_) => 1,
            Element::Other(_, n) => *n,
        }
    }
}

fn flat(input: &ModelInput) -> Result<Vec<Element>> {
    let mut elements = Vec::new();
    for chunk in &input.chunks {
        match chunk {
            Chunk::EncodedText { tokens } => elements.extend(tokens.iter().copied().map(Element::Token)),
            other => {
                let n = ModelInput { chunks: vec![other.clone()] }.len()?;
                elements.push(Element::Other(other.clone(), n));
            }
        }
    }
    Ok(elements)
}

/// The sequence of a datum. Rows and spans belong to all its tokens.
#[derive(Default)]
struct Sequence {
    elements: Vec<Element>,
    logprobs: Vec<f32>,
    advantages: Vec<f32>,
    mask: Vec<bool>,
    spans: Vec<ProvenanceSpan>,
    /// True if a turn has no id, so that the origin of its tokens is unknown.
    unknown_origin: bool,
}

impl Sequence {
    fn add_rows(&mut self, logprobs: &[f32], advantage: f32, trained: bool) {
        self.logprobs.extend(logprobs);
        self.advantages.resize(self.logprobs.len(), advantage);
        self.mask.resize(self.logprobs.len(), trained);
    }

    /// Adds the origin of the next tokens: the end of the prompt of a sampled sequence, and its tokens.
    fn add_spans(&mut self, id: Option<&str>, n_new: usize, n_sampled: usize) {
        let Some(id) = id else {
            // A turn without tokens needs no origin.
            self.unknown_origin |= 0 < n_new + n_sampled;
            return;
        };
        let offset = self.logprobs.len() as u64;
        self.spans.push(ProvenanceSpan::prompt(id, offset, n_new as u64));
        self.spans.push(ProvenanceSpan::sampled(id, 0, n_sampled as u64));
        self.spans.retain(|span| 0 < span.length);
    }

    /// The datum of the sequence, and `None` if it has fewer than two tokens.
    fn datum(mut self) -> Option<TrajectoryDatum> {
        // Images at the end are no targets and have nothing to predict.
        while let Some(Element::Other(_, n)) = self.elements.last() {
            let kept = self.logprobs.len() - n;
            self.unknown_origin |= 0 < *n;
            self.logprobs.truncate(kept);
            self.advantages.truncate(kept);
            self.mask.truncate(kept);
            self.elements.pop();
        }
        if self.logprobs.len() < 2 {
            return None;
        }
        let mut targets: Vec<i64> = Vec::with_capacity(self.logprobs.len());
        for element in &self.elements {
            match element {
                Element::Token(id) => targets.push(i64::from(*id)),
                Element::Other(_, n) => targets.resize(targets.len() + n, 0),
            }
        }
        let provenance = self.provenance();
        self.elements.pop();
        let mut datum = Datum::new(model_input(self.elements))
            .with("target_tokens", TensorData::from(targets[1..].to_vec()))
            .with("logprobs", self.logprobs[1..].to_vec())
            .with("advantages", self.advantages[1..].to_vec());
        datum.provenance = provenance;
        Some(TrajectoryDatum { datum, mask: self.mask[1..].to_vec() })
    }

    /// The origin of the input, which leaves out the last token, and of the targets, which leave out the first. `None`
    /// if it is unknown, or if no target was sampled.
    fn provenance(&self) -> Option<Provenance> {
        if self.unknown_origin {
            return None;
        }
        let (mut input, mut targets) = (self.spans.clone(), self.spans.clone());
        let last = input.last_mut()?;
        last.length -= 1;
        let first = targets.first_mut()?;
        first.offset += 1;
        first.length -= 1;
        input.retain(|span| 0 < span.length);
        targets.retain(|span| 0 < span.length);
        let sampled = targets.iter().any(|span| span.origin == Origin::Sampled);
        sampled.then(|| Provenance::new(input, targets))
    }
}

fn model_input(elements: Vec<Element>) -> ModelInput {
    elements.into_iter().fold(ModelInput::default(), |input, element| match element {
        Element::Token(id) => input.append_int(id),
        Element::Other(chunk, _) => input.with_chunk(chunk),
    })
}
