#![allow(clippy::unwrap_used)]

use super::*;
use crate::error::Result;
use crate::types::{Chunk, ImageFormat, LossFn, ModelInput, ProvenanceSpan, SampledSequence};

fn turn(observation: &[i32], action: &[i32], reward: f64) -> Transition {
    let logprobs = action.iter().map(|id| -(*id as f32) / 10.0).collect();
    Transition::new(ModelInput::from_ints(observation), action.to_vec(), logprobs, reward).unwrap()
}

fn with_id(mut turn: Transition, id: &str) -> Transition {
    turn.sequence_id = Some(id.into());
    turn
}

/// A group of one trajectory of one turn for each reward.
fn group(rewards: &[f64]) -> TrajectoryGroup {
    let one = |reward: &f64| Trajectory::new([turn(&[1], &[2], *reward)]);
    TrajectoryGroup::new(rewards.iter().map(one).collect::<Vec<_>>())
}

fn row(datum: &TrajectoryDatum, name: &str) -> Vec<f32> {
    datum.datum.loss_fn_inputs[name].as_f32().unwrap().to_vec()
}

fn targets(datum: &TrajectoryDatum) -> Vec<i64> {
    datum.datum.loss_fn_inputs["target_tokens"].as_i64().unwrap().to_vec()
}

fn path<T: std::fmt::Debug>(result: Result<T>) -> String {
    result.unwrap_err().violation().unwrap().path.clone()
}

#[test]
fn an_advantage_is_the_total_reward_without_the_mean_of_the_group() {
    assert_eq!(advantages(&group(&[1.0, 0.0, 0.0, 3.0])).unwrap(), [0.0, -1.0, -1.0, 2.0]);
    let steps = Trajectory::new([turn(&[1], &[2], 0.25), turn(&[1, 2], &[3], 0.5)]);
    let group = TrajectoryGroup::new([steps, Trajectory::default()]).with_group_rewards([1.25, 1.0]);
    assert_eq!(group.total_rewards().unwrap(), [2.0, 1.0]);
    assert_eq!(advantages(&group).unwrap(), [0.5, -0.5]);
    assert_eq!(advantages(&TrajectoryGroup::default()).unwrap(), [0.0; 0]);
}

#[test]
fn groups_of_one_reward_are_removed_and_the_first_stays_if_there_are_no_others() {
    let kept = |groups: &[TrajectoryGroup]| {
        let groups = remove_constant_reward_groups(groups.to_vec()).unwrap();
        groups.iter().map(|group| group.total_rewards().unwrap()).collect::<Vec<_>>()
    };
    let (mixed, good, bad) = (group(&[0.0, 1.0]), group(&[1.0, 1.0]), group(&[0.0, 0.0]));
    assert_eq!(kept(&[good.clone(), mixed.clone(), bad.clone()]), [[0.0, 1.0]]);
    assert_eq!(kept(&[bad.clone(), good.clone()]), [[0.0, 0.0]]);
    assert_eq!(kept(&[]), [[0.0; 2]; 0]);
    let fractions = group_fractions(&[good, mixed, bad, group(&[0.5])]).unwrap();
    assert_eq!(fractions, GroupFractions { frac_mixed: 0.25, frac_all_good: 0.5, frac_all_bad: 0.25 });
    assert_eq!(group_fractions(&[]).unwrap(), GroupFractions::default());
}

#[test]
fn rewards_that_are_no_numbers_or_do_not_fit_are_refused_with_their_path() {
    let mut broken = group(&[0.0, 1.0]);
    broken.trajectories[1].transitions[0].reward = f64::NAN;
    assert_eq!(path(broken.total_rewards()), "trajectories[1].transitions[0].reward");
    assert_eq!(
        path(group_fractions(&[group(&[1.0]), broken])),
        "groups[1].trajectories[1].transitions[0].reward"
    );
    assert_eq!(path(group(&[1.0]).with_group_rewards([]).total_rewards()), "group_rewards");
    let infinite = group(&[1.0]).with_group_rewards([f64::INFINITY]);
    assert_eq!(path(infinite.total_rewards()), "group_rewards[0]");
    let short = Transition::new(ModelInput::from_ints([1]), vec![2, 3], vec![-0.5], 0.0);
    assert_eq!(path(short), "transition.logprobs");
    let bare = SampledSequence { tokens: vec![2], ..Default::default() };
    assert_eq!(path(Transition::sampled(ModelInput::from_ints([1]), &bare, 0.0)), "sequence.logprobs");
    let mut changed = turn(&[1], &[2], 0.0);
    changed.logprobs.clear();
    assert_eq!(path(trajectory_data(&Trajectory::new([changed]), 1.0)), "transitions[0].logprobs");
}

#[test]
fn turns_that_extend_the_sequence_become_one_datum_and_others_begin_a_new_one() {
    let trajectory = Trajectory::new([
        turn(&[1, 2], &[3, 4], 0.0),
        turn(&[1, 2, 3, 4, 5], &[6], 0.0),
        turn(&[7, 8], &[9], 1.0),
    ]);
    let data = trajectory_data(&trajectory, 1.5).unwrap();
    assert_eq!(data.len(), 2);
    assert_eq!(data[0].datum.model_input, ModelInput::from_ints([1, 2, 3, 4, 5]));
    assert_eq!(targets(&data[0]), [2, 3, 4, 5, 6]);
    assert_eq!(row(&data[0], "logprobs"), [0.0, -0.3, -0.4, 0.0, -0.6]);
    assert_eq!(row(&data[0], "advantages"), [0.0, 1.5, 1.5, 0.0, 1.5]);
    assert_eq!(data[0].mask, [false, true, true, false, true]);
    assert_eq!((targets(&data[1]), row(&data[1], "advantages")), (vec![8, 9], vec![0.0, 1.5]));
    for datum in &data {
        datum.datum.validate("d").unwrap();
        // The mask is not sent: the loss refuses other inputs than its own.
        LossFn::ImportanceSampling.check(&datum.datum, "d").unwrap();
    }
}

#[test]
fn masked_turns_keep_their_place_and_have_no_advantage() {
    let trajectory = Trajectory::new([
        turn(&[1], &[2], 0.0).masked(),
        turn(&[1, 2], &[3], 0.0),
        turn(&[1, 2, 3], &[], 0.0),
    ]);
    let data = trajectory_data(&trajectory, -2.0).unwrap();
    assert_eq!(data.len(), 1);
    assert_eq!(row(&data[0], "logprobs"), [-0.2, -0.3]);
    assert_eq!(row(&data[0], "advantages"), [0.0, -2.0]);
    assert_eq!(data[0].mask, [false, true]);
    for empty in [vec![], vec![turn(&[], &[], 0.0)], vec![turn(&[1], &[], 0.0)]] {
        assert_eq!(trajectory_data(&Trajectory::new(empty), 1.0).unwrap(), []);
    }
}

#[test]
fn the_origin_of_each_token_is_known_if_all_turns_have_an_id() {
    let first = with_id(turn(&[1, 2], &[3, 4], 0.0), "a");
    let second = with_id(turn(&[1, 2, 3, 4, 5], &[6], 0.0), "b");
    let data = trajectory_data(&Trajectory::new([first.clone(), second]), 1.0).unwrap();
    let provenance = data[0].datum.provenance.clone().unwrap();
    assert_eq!(
        provenance.model_input,
        [
            ProvenanceSpan::prompt("a", 0, 2),
            ProvenanceSpan::sampled("a", 0, 2),
            ProvenanceSpan::prompt("b", 4, 1)
        ]
    );
    assert_eq!(
        provenance.loss_fn_inputs,
        [
            ProvenanceSpan::prompt("a", 1, 1),
            ProvenanceSpan::sampled("a", 0, 2),
            ProvenanceSpan::prompt("b", 4, 1),
            ProvenanceSpan::sampled("b", 0, 1)
        ]
    );
    data[0].datum.validate("d").unwrap();
    // One turn without an id leaves the origin of its datum unknown, but not that of the next datum.
    let unknown = turn(&[1, 2, 3, 4, 5], &[6], 0.0);
    let other = with_id(turn(&[9], &[8], 0.0), "c");
    let data = trajectory_data(&Trajectory::new([first, unknown, other]), 1.0).unwrap();
    let known: Vec<bool> = data.iter().map(|datum| datum.datum.provenance.is_some()).collect();
    assert_eq!(known, [false, true]);
}

#[test]
fn an_image_in_an_observation_keeps_its_place() {
    let image = Chunk::Image { data: vec![1], format: ImageFormat::Png, expected_tokens: Some(2) };
    let seen = ModelInput::from_ints([1]).with_chunk(image.clone()).append_int(2);
    let first = Transition::new(seen.clone(), vec![3], vec![-0.3], 0.0).unwrap();
    let second = Transition::new(seen.append_int(3), vec![4], vec![-0.4], 0.0).unwrap();
    let data = trajectory_data(&Trajectory::new([first, second]), 1.0).unwrap();
    assert_eq!(data.len(), 1);
    assert_eq!(targets(&data[0]), [0, 0, 2, 3, 4]);
    assert_eq!(row(&data[0], "advantages"), [0.0, 0.0, 0.0, 1.0, 1.0]);
    assert_eq!(data[0].datum.model_input.chunks[1], image);
    data[0].datum.validate("d").unwrap();
}

#[test]
fn groups_become_data_with_the_advantages_of_their_group() {
    let data = assemble_training_data(&[group(&[1.0, 0.0]), group(&[4.0])]).unwrap();
    let advantages: Vec<Vec<f32>> = data.iter().map(|datum| row(datum, "advantages")).collect();
    assert_eq!(advantages, [[0.5], [-0.5], [0.0]]);
}

#[test]
fn parts_are_those_of_linspace() {
    let sizes = |n_items: usize, n: usize| {
        let items: Vec<usize> = (0..n_items).collect();
        let parts = split_list(&items, n).unwrap();
        assert_eq!(parts.concat(), items);
        parts.iter().map(|part| part.len()).collect::<Vec<_>>()
    };
    for (n_items, n, expected) in [
        (4, 1, vec![4]),
        (5, 2, vec![2, 3]),
        (5, 3, vec![1, 2, 2]),
        (7, 4, vec![1, 2, 2, 2]),
        (3, 3, vec![1, 1, 1]),
    ] {
        assert_eq!(sizes(n_items, n), expected, "{n_items} / {n}");
    }
    // 11 · (30 / 22) is a little less than 15 as a float: NumPy's edge is 14, and so is this one.
    assert_eq!(sizes(30, 22)[..11].iter().sum::<usize>(), 14);
    assert_eq!(path(split_list(&[1, 2], 0)), "n");
    assert_eq!(path(split_list(&[1, 2], 3)), "n");
}

/// Data of one sequence: the first target was observed, the two others were sampled with the log-probabilities −0.3, −0.4.
fn sampled() -> Vec<TrajectoryDatum> {
    trajectory_data(&Trajectory::new([turn(&[1, 2], &[3, 4], 0.0)]), 1.0).unwrap()
}

fn assert_close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-6, "{found} instead of {expected}");
}

#[test]
fn divergence_and_entropy_are_means_over_the_sampled_tokens() {
    let figures = kl_sample_train(&sampled(), &[[-9.0, -0.5, -0.3]]).unwrap().unwrap();
    // The differences are 0.2 and −0.1.
    assert_close(figures.kl_sample_train_v1, 0.05);
    assert_close(figures.kl_sample_train_v2, 0.5 * (0.04 + 0.01) / 2.0);
    assert_close(figures.entropy, 0.35);
    assert_eq!(kl_sample_train(&[], &[] as &[[f32; 1]]).unwrap(), None);
    assert_eq!(path(kl_sample_train(&sampled(), &[] as &[[f32; 1]])), "logprobs");
    assert_eq!(path(kl_sample_train(&sampled(), &[[0.0]])), "logprobs[0]");
}

#[test]
fn a_penalty_moves_the_advantages_of_sampled_tokens_towards_the_base_model() {
    let penalized = |discount| {
        let mut data = sampled();
        let mean = incorporate_kl_penalty(&mut data, &[[-9.0, -0.5, -0.3]], 2.0, discount).unwrap().unwrap();
        assert_close(mean, 0.05);
        row(&data[0], "advantages")
    };
    // 2 · (0.05 − 0.2) = −0.3 and 2 · (0.05 + 0.1) = 0.3.
    for (discount, expected) in [(0.0, [0.0, 0.7, 1.3]), (0.5, [-0.075, 0.85, 1.3]), (1.0, [0.0, 1.0, 1.3])] {
        for (found, expected) in penalized(discount).iter().zip(expected) {
            assert_close(f64::from(*found), expected);
        }
    }
}

#[test]
fn a_refused_penalty_changes_nothing() {
    let refused = |base: [f32; 3], coefficient, discount| {
        let mut data = sampled();
        let path = path(incorporate_kl_penalty(&mut data, &[base], coefficient, discount));
        assert_eq!(data, sampled());
        path
    };
    let base = [-9.0, -0.5, -0.3];
    assert_eq!(refused(base, f64::NAN, 0.0), "coefficient");
    assert_eq!(refused(base, 1.0, 1.5), "discount");
    assert_eq!(refused([-9.0, -0.5, f32::NEG_INFINITY], 1.0, 0.0), "base_logprobs[0][2]");
    let mut masked = sampled();
    masked[0].mask.fill(false);
    assert_eq!(incorporate_kl_penalty(&mut masked, &[base], 1.0, 0.0).unwrap(), None);
}
