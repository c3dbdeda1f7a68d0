//! Advantages and figures of groups of trajectories.

use super::TrajectoryGroup;
use crate::error::{Error, Result};

/// A total reward of at least this much is good.
const GOOD: f64 = 0.5;

/// The advantage of each trajectory of a group: its total reward without the mean of the group. It is not divided by the
/// standard deviation.
///
/// # Errors
/// As for [`TrajectoryGroup::total_rewards`].
pub fn advantages(group: &TrajectoryGroup) -> Result<Vec<f64>> {
    let rewards = group.total_rewards()?;
    let mean = rewards.iter().sum::<f64>() / rewards.len() as f64;
    Ok(rewards.iter().map(|reward| reward - mean).collect())
}

/// Removes the groups whose trajectories all have the same total reward, because their advantages are 0. If there are no
/// others, the first group stays, so that a step has data.
///
/// # Errors
/// As for [`TrajectoryGroup::total_rewards`], with the path `groups[i]`.
pub fn remove_constant_reward_groups(groups: Vec<TrajectoryGroup>) -> Result<Vec<TrajectoryGroup>> {
    let mut differ: Vec<bool> = rewards(&groups)?.iter().map(|rewards| !all_same(rewards)).collect();
    if !differ.contains(&true)
        && let Some(first) = differ.first_mut()
    {
        *first = true;
    }
    Ok(groups.into_iter().zip(differ).filter(|(_, differ)| *differ).map(|(group, _)| group).collect())
}

/// The shares of the groups of a batch by their rewards.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct GroupFractions {
    /// Groups whose trajectories have different total rewards: only these are learned from.
    pub frac_mixed: f64,
    /// Groups with one total reward, of at least 0.5.
    pub frac_all_good: f64,
    /// Groups with one total reward, below 0.5.
    pub frac_all_bad: f64,
}

/// The shares of mixed, all good and all bad groups; all are 0 without groups.
///
/// # Errors
/// As for [`remove_constant_reward_groups`].
pub fn group_fractions(groups: &[TrajectoryGroup]) -> Result<GroupFractions> {
    let mut fractions = GroupFractions::default();
    let share = 1.0 / groups.len() as f64;
    for rewards in rewards(groups)? {
        if !all_same(&rewards) {
            fractions.frac_mixed += share;
        } else if rewards.first().is_some_and(|reward| GOOD <= *reward) {
            fractions.frac_all_good += share;
        } else {
            fractions.frac_all_bad += share;
        }
    }
    Ok(fractions)
}

/// Splits a batch into `n` parts of about the same size, for several updates in one step. The parts are those of the
/// cookbook.
///
/// # Errors
/// `n` is 0 or greater than the number of items.
///
/// # Example: three parts of five items
/// ```
/// use tinkex::train::rl::split_list;
///
/// assert_eq!(split_list(&[1, 2, 3, 4, 5], 3)?, [&[1][..], &[2, 3], &[4, 5]]);
/// assert!(split_list(&[1], 2).is_err());
/// # Ok::<(), tinkex::Error>(())
/// ```
pub fn split_list<T>(items: &[T], n: usize) -> Result<Vec<&[T]>> {
    if n == 0 || items.len() < n {
        return Err(Error::invalid("n", format!("{} items cannot be split into {n} parts", items.len())));
    }
    // Rounded down from a float, as NumPy's `linspace` is, so that the parts equal those of the cookbook.
    let width = items.len() as f64 / n as f64;
    let edge = |i: usize| if i == n { items.len() } else { (i as f64 * width) as usize };
    Ok((0..n).map(|i| &items[edge(i)..edge(i + 1)]).collect())
}

/// The total rewards of each group.
fn rewards(groups: &[TrajectoryGroup]) -> Result<Vec<Vec<f64>>> {
    let of_group = |(i, group): (usize, &TrajectoryGroup)| {
        group.total_rewards().map_err(|error| match error.violation() {
            Some(violation) => {
                Error::invalid(format!("groups[{i}].{}", violation.path), violation.problem.clone())
            }
            None => error,
        })
    };
    groups.iter().enumerate().map(of_group).collect()
}

fn all_same(rewards: &[f64]) -> bool {
    rewards.windows(2).all(|pair| pair[0] == pair[1])
}
