//! Compares gradients with difference quotients of the reference model.

use super::reference::Reference;
use super::*;

/// The loss of a batch by the reference model, after `nudged.1` was added to the parameter with the index `nudged.0`;
/// and the log-probabilities of all targets.
fn reference(trainer: &Trainer, batch: &[Example], loss: &Loss, nudged: (usize, f64)) -> (f64, Vec<f64>) {
    let tensor = |name: &str| {
        let t = trainer.model.layout.tensors.iter().find(|t| t.name == name)?;
        let mut values: Vec<f64> =
            trainer.model.params[t.range.clone()].iter().map(|&v| f64::from(v)).collect();
        if t.range.contains(&nudged.0) {
            values[nudged.0 - t.range.start] += nudged.1;
        }
        Some(values)
    };
    let model = Reference {
        weights: &trainer.model.base,
        rank: trainer.model.layout.tensors[0].rows,
        tensor: &tensor,
    };
    let (mut total, mut targets) = (0.0, Vec::new());
    for e in batch {
        let logprobs = model.logprobs(&e.tokens);
        for (i, &target) in e.targets.iter().enumerate() {
            let lp = logprobs[i / e.k][target as usize];
            targets.push(lp);
            total += match loss {
                Loss::CrossEntropy => -f64::from(e.weights[i]) * lp,
                Loss::ImportanceSampling => {
                    -(lp - f64::from(e.logprobs[i])).exp() * f64::from(e.advantages[i])
                }
                _ => unreachable!("the per-token tests cover the other losses"),
            };
        }
    }
    (total, targets)
}

/// Compares every gradient of a batch (or every `stride`-th one) with a central difference quotient.
fn assert_gradients(trainer: &mut Trainer, batch: &[Example], loss: &Loss, stride: usize) {
    let output = trainer.run(batch, loss, true).unwrap();
    let (expected, targets) = reference(trainer, batch, loss, (usize::MAX, 0.0));
    assert!((output.loss_sum - expected).abs() < 1e-3 * expected.abs(), "{} {expected}", output.loss_sum);
    for (ours, theirs) in output.logprobs.iter().flatten().zip(&targets) {
        assert!((f64::from(*ours) - theirs).abs() < 1e-4, "{ours} {theirs}");
    }
    let h = 1e-5;
    for tensor in &trainer.model.layout.tensors {
        let largest = trainer.grads[tensor.range.clone()].iter().fold(0.0f32, |a, g| a.max(g.abs()));
        assert!(largest > 0.0, "{} has no gradient", tensor.name);
        for i in tensor.range.clone().step_by(stride) {
            let (up, down) =
                (reference(trainer, batch, loss, (i, h)).0, reference(trainer, batch, loss, (i, -h)).0);
            let (ours, theirs) = (f64::from(trainer.grads[i]), (up - down) / (2.0 * h));
            // Allow a difference of one percent; for small gradients, 1e-4 of the largest gradient of the tensor.
            let allowed = 0.01 * theirs.abs() + 1e-4 * f64::from(largest);
            let at = i - tensor.range.start;
            assert!((ours - theirs).abs() < allowed, "{}[{at}]: {ours} {theirs}", tensor.name);
        }
    }
}

#[test]
fn every_adapter_gradient_agrees_with_a_difference_quotient_of_the_reference() {
    let config = tiny();
    let mut trainer = with_noise(&config, 2);
    let mut rng = Rng::stream(3, 3);
    let batch = [weighted(&config, &mut rng, 7, 1), weighted(&config, &mut rng, 4, 1)];
    assert_gradients(&mut trainer, &batch, &Loss::CrossEntropy, 1);
}

#[test]
fn gradients_are_right_across_blocks_of_attention_and_with_a_tied_head() {
    let config = ModelConfig { tied_head: true, layers: 1, hidden: 8, ..tiny() };
    let mut trainer = with_noise(&config, 2);
    let mut rng = Rng::stream(3, 4);
    let batch = [weighted(&config, &mut rng, 150, 1), weighted(&config, &mut rng, 65, 1)];
    assert_gradients(&mut trainer, &batch, &Loss::CrossEntropy, 29);
}

#[test]
fn gradients_are_right_for_several_targets_per_position() {
    let config = tiny();
    let mut trainer = with_noise(&config, 2);
    let mut rng = Rng::stream(3, 5);
    let batch = [weighted(&config, &mut rng, 5, 3), weighted(&config, &mut rng, 3, 1)];
    assert_gradients(&mut trainer, &batch, &Loss::CrossEntropy, 13);
}

#[test]
fn the_gradients_of_a_policy_loss_agree_with_the_reference() {
    let config = tiny();
    let mut trainer = with_noise(&config, 2);
    let mut rng = Rng::stream(3, 6);
    let mut example = weighted(&config, &mut rng, 6, 1);
    example.weights.clear();
    example.logprobs = (0..6).map(|_| -3.0 + rng.unit() as f32).collect();
    example.advantages = (0..6).map(|_| 2.0 * rng.unit() as f32 - 1.0).collect();
    assert_gradients(&mut trainer, &[example], &Loss::ImportanceSampling, 13);
}

#[test]
fn gradients_accumulate_over_calls_and_sequences_do_not_see_each_other() {
    let config = tiny();
    let mut rng = Rng::stream(3, 7);
    let batch: Vec<Example> = [9, 100, 3, 120, 90].map(|n| weighted(&config, &mut rng, n, 1)).into();
    let (mut together, mut apart) = (with_noise(&config, 2), with_noise(&config, 2));
    let whole = together.run(&batch, &Loss::CrossEntropy, true).unwrap();
    for (i, example) in batch.iter().enumerate() {
        let one = apart.run(std::slice::from_ref(example), &Loss::CrossEntropy, true).unwrap();
        for (a, b) in one.logprobs[0].iter().zip(&whole.logprobs[i]) {
            assert!((a - b).abs() < 1e-4);
        }
    }
    let scale = together.grads.iter().fold(0.0f32, |a, g| a.max(g.abs()));
    for (a, b) in together.grads.iter().zip(&apart.grads) {
        assert!((a - b).abs() < 1e-4 * scale, "{a} {b}");
    }
}
