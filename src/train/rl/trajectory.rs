//! Trajectories and their rewards.

use crate::error::{Error, Result};
use crate::train::loss_inputs::check_len;
use crate::types::{ModelInput, SampledSequence};

/// One turn of a policy: what it saw, what it did, and the reward.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Transition {
    /// The prompt: everything that the model saw, including earlier turns.
    pub observation: ModelInput,
    /// The sampled tokens.
    pub action: Vec<i32>,
    /// The log-probability of each sampled token, as the sampler reported it.
    pub logprobs: Vec<f32>,
    /// The server's id of the sampled sequence, for the provenance of the data.
    pub sequence_id: Option<String>,
    /// The reward of this turn.
    pub reward: f64,
    /// Leaves the action out of the training, as for an answer that could not be read, while the other turns are trained
    /// as usual. Default false.
    pub masked: bool,
}

/// The turns of one episode, in their order.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Trajectory {
    /// The turns.
    pub transitions: Vec<Transition>,
}

/// Several trajectories for the same task, whose rewards are compared with each other.
///
/// # Example: two answers to one question
/// ```
/// use tinkex::train::rl::{Trajectory, TrajectoryGroup, Transition, advantages};
/// use tinkex::types::ModelInput;
///
/// let question = ModelInput::from_ints([1, 2]);
/// let right = Transition::new(question.clone(), vec![7], vec![-0.5], 1.0)?;
/// let wrong = Transition::new(question, vec![8], vec![-1.5], 0.0)?;
/// let group = TrajectoryGroup::new([Trajectory::new([right]), Trajectory::new([wrong])]);
/// assert_eq!(group.total_rewards()?, [1.0, 0.0]);
/// assert_eq!(advantages(&group)?, [0.5, -0.5]);
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct TrajectoryGroup {
    /// The trajectories.
    pub trajectories: Vec<Trajectory>,
    /// For each trajectory, the reward that is added to those of its turns, such as one that depends on the other
    /// trajectories.
    pub group_rewards: Vec<f64>,
}

impl Transition {
    /// A turn of tokens that were sampled after an observation.
    ///
    /// # Errors
    /// Not as many log-probabilities as tokens, or a reward that is not a finite number.
    pub fn new(observation: ModelInput, action: Vec<i32>, logprobs: Vec<f32>, reward: f64) -> Result<Self> {
        let transition = Transition { observation, action, logprobs, reward, ..Default::default() };
        transition.check("transition")?;
        Ok(transition)
    }

    /// A turn of a sampled sequence, with its id.
    ///
    /// # Errors
    /// As for [`new`](Self::new); also a sequence without log-probabilities.
    pub fn sampled(observation: ModelInput, sequence: &SampledSequence, reward: f64) -> Result<Self> {
        let Some(logprobs) = &sequence.logprobs else {
            return Err(Error::invalid("sequence.logprobs", "are missing; the server did not report them"));
        };
        let transition = Transition::new(observation, sequence.tokens.clone(), logprobs.clone(), reward)?;
        Ok(Transition { sequence_id: sequence.sequence_id.clone(), ..transition })
    }

    /// Leaves the action out of the training.
    #[must_use]
    pub fn masked(mut self) -> Self {
        self.masked = true;
        self
    }

    /// Refuses values that do not fit together; the fields are public.
    pub(super) fn check(&self, path: &str) -> Result<()> {
        check_len(format!("{path}.logprobs"), self.logprobs.len(), self.action.len(), "token of the action")?;
        check_reward(self.reward, format!("{path}.reward"))
    }
}

impl Trajectory {
    /// An episode of turns.
    pub fn new(transitions: impl Into<Vec<Transition>>) -> Self {
        Trajectory { transitions: transitions.into() }
    }
}

impl TrajectoryGroup {
    /// A group without further rewards.
    pub fn new(trajectories: impl Into<Vec<Trajectory>>) -> Self {
        let trajectories = trajectories.into();
        TrajectoryGroup { group_rewards: vec![0.0; trajectories.len()], trajectories }
    }

    /// Sets the reward that each trajectory gets in addition to those of its turns.
    #[must_use]
    pub fn with_group_rewards(mut self, rewards: impl Into<Vec<f64>>) -> Self {
        self.group_rewards = rewards.into();
        self
    }

    /// The reward of each trajectory: the sum of those of its turns and its group reward.
    ///
    /// # Errors
    /// Not as many group rewards as trajectories, or a reward that is not a finite number.
    pub fn total_rewards(&self) -> Result<Vec<f64>> {
        check_len("group_rewards", self.group_rewards.len(), self.trajectories.len(), "trajectory")?;
        let total = |(i, (trajectory, group_reward)): (usize, (&Trajectory, &f64))| {
            check_reward(*group_reward, format!("group_rewards[{i}]"))?;
            let mut sum = 0.0;
            for (j, transition) in trajectory.transitions.iter().enumerate() {
                check_reward(transition.reward, format!("trajectories[{i}].transitions[{j}].reward"))?;
                sum += transition.reward;
            }
            Ok(sum + group_reward)
        };
        self.trajectories.iter().zip(&self.group_rewards).enumerate().map(total).collect()
    }
}

fn check_reward(reward: f64, path: String) -> Result<()> {
    if reward.is_finite() {
        Ok(())
    } else {
        Err(Error::invalid(path, format!("{reward} is not a finite number")))
    }
}
