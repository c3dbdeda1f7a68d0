//! Tests of training: batches, optimizer steps, and refused input.

use super::*;
use crate::loss::{LossArray, LossGraph};
use crate::types::AdamParams;

/// A batch of byte strings for next-token training.
fn texts(texts: &[&str]) -> Vec<Example> {
    let one = |text: &&str| {
        let bytes: Vec<u32> = text.bytes().map(u32::from).chain([256]).collect();
        Example {
            tokens: bytes[..bytes.len() - 1].to_vec(),
            targets: bytes[1..].iter().map(|&b| i64::from(b)).collect(),
            k: 1,
            weights: vec![1.0; bytes.len() - 1],
            ..Example::default()
        }
    };
    texts.iter().map(one).collect()
}

fn nano(rank: usize) -> Trainer {
    Trainer::new(Arc::new(Weights::seeded(&ModelConfig::nano(), 1)), everything(rank))
}

#[test]
fn sixty_steps_learn_a_few_short_texts() {
    let mut trainer = nano(8);
    let batch = texts(&["one two three", "a rose is a rose", "to be or not to be"]);
    let count: usize = batch.iter().map(|e| e.tokens.len()).sum();
    let adam = Adam { learning_rate: 5e-3, ..Adam::default() };
    let mut losses = Vec::new();
    for _ in 0..60 {
        losses.push(trainer.run(&batch, &Loss::CrossEntropy, true).unwrap().loss_sum / count as f64);
        trainer.adam_step(&adam).unwrap();
    }
    assert!((5.4..6.3).contains(&losses[0]), "a new model should know nothing: {}", losses[0]);
    assert!(losses[59] < 0.1 * losses[0], "{} {}", losses[0], losses[59]);
}

#[test]
fn fifty_steps_agree_with_a_plain_adamw() {
    let mut trainer = with_noise(&tiny(), 2);
    let adam = Adam {
        learning_rate: 3e-3,
        beta1: 0.8,
        beta2: 0.9,
        eps: 1e-6,
        weight_decay: 0.1,
        grad_clip_norm: 1.5,
    };
    let n = trainer.grads.len();
    let (mut p, mut m, mut v) =
        (trainer.model.params.iter().map(|&p| f64::from(p)).collect::<Vec<_>>(), vec![0.0; n], vec![0.0; n]);
    let mut rng = Rng::stream(2, 2);
    for step in 1..=50 {
        // The norm of some gradients is below the clip limit.
        Rng::stream(2, step).fill_uniform(&mut trainer.grads, 0.2 * rng.unit());
        let g: Vec<f64> = trainer.grads.iter().map(|&g| f64::from(g)).collect();
        let norm = g.iter().map(|g| g * g).sum::<f64>().sqrt();
        let factor = if norm > 1.5 { 1.5 / norm } else { 1.0 };
        for i in 0..n {
            let g = g[i] * factor;
            m[i] = 0.8 * m[i] + 0.2 * g;
            v[i] = 0.9 * v[i] + 0.1 * g * g;
            let (mean, square) =
                (m[i] / (1.0 - 0.8f64.powi(step as i32)), v[i] / (1.0 - 0.9f64.powi(step as i32)));
            p[i] -= 3e-3 * (mean / (square.sqrt() + 1e-6) + 0.1 * p[i]);
        }
        let output = trainer.adam_step(&adam).unwrap();
        assert!((output.grad_norm - norm).abs() < 1e-4 * norm);
        assert_eq!(output.step, step);
        assert!(trainer.grads.iter().all(|&g| g == 0.0));
    }
    for (ours, theirs) in trainer.model.params.iter().zip(&p) {
        assert!((f64::from(*ours) - theirs).abs() < 1e-5, "{ours} {theirs}");
    }
}

#[test]
fn a_step_without_gradients_changes_no_weight() {
    let mut trainer = with_noise(&tiny(), 2);
    let before = trainer.model.params.clone();
    assert_eq!(trainer.adam_step(&Adam::default()).unwrap().grad_norm, 0.0);
    assert_eq!(trainer.model.params, before);
}

#[test]
fn a_forward_run_gives_the_same_numbers_and_leaves_no_gradient() {
    let config = tiny();
    let mut trainer = with_noise(&config, 2);
    let batch = [weighted(&config, &mut Rng::stream(4, 4), 9, 1)];
    let forward = trainer.run(&batch, &Loss::CrossEntropy, false).unwrap();
    assert!(trainer.grads.iter().all(|&g| g == 0.0));
    assert_eq!(trainer.run(&batch, &Loss::CrossEntropy, true).unwrap(), forward);
}

#[test]
fn results_are_the_same_bits_for_any_number_of_threads() {
    let config = ModelConfig { layers: 2, ..ModelConfig::nano() };
    let mut rng = Rng::stream(6, 6);
    let batch: Vec<Example> = [300, 20, 140, 130, 60, 200].map(|n| weighted(&config, &mut rng, n, 1)).into();
    let run = |threads| {
        in_pool(threads, || {
            let mut trainer = with_noise(&config, 4);
            let output = trainer.run(&batch, &Loss::CrossEntropy, true).unwrap();
            let grads = trainer.grads.clone();
            let step = trainer.adam_step(&Adam { grad_clip_norm: 1.0, ..Adam::default() });
            (output, grads, step, trainer.model.params.clone())
        })
    };
    let one = run(1);
    assert_eq!(run(2), one);
    assert_eq!(run(3), one);
}

#[test]
fn layers_that_are_computed_again_give_the_same_bits() {
    let config = tiny();
    let mut rng = Rng::stream(6, 7);
    let batch: Vec<Example> = [150, 20].map(|n| weighted(&config, &mut rng, n, 1)).into();
    let run = |max_kept| {
        let mut trainer = with_noise(&config, 4);
        trainer.model.max_kept = max_kept;
        let output = trainer.run(&batch, &Loss::CrossEntropy, true).unwrap();
        (output, trainer.grads)
    };
    assert_eq!(run(0), run(usize::MAX));
}

#[test]
fn parts_that_are_switched_off_are_not_trained() {
    let config = tiny();
    let spec = LoraSpec { train_attn: false, train_unembed: false, ..everything(2) };
    let mut trainer = Trainer::new(Arc::new(Weights::seeded(&config, 1)), spec);
    let batch = [weighted(&config, &mut Rng::stream(4, 4), 9, 1)];
    trainer.run(&batch, &Loss::CrossEntropy, true).unwrap();
    assert!(trainer.grads.iter().any(|&g| g != 0.0));
    assert!(trainer.model.layout.tensors.iter().all(|t| t.name.contains(".mlp.")));
    let nothing = LoraSpec { rank: 0, ..everything(2) };
    let mut frozen = Trainer::new(Arc::new(Weights::seeded(&config, 1)), nothing);
    frozen.run(&batch, &Loss::CrossEntropy, true).unwrap();
    frozen.adam_step(&Adam::default()).unwrap();
}

#[test]
fn a_bad_datum_is_named_and_nothing_changes() {
    let config = tiny();
    let mut rng = Rng::stream(4, 5);
    let good = weighted(&config, &mut rng, 5, 1);
    let with = |change: &dyn Fn(&mut Example)| {
        let mut example = good.clone();
        change(&mut example);
        example
    };
    let cases = [
        (with(&|e| e.tokens[2] = 17), "token id 17"),
        (with(&|e| e.targets[2] = -1), "target id -1"),
        (with(&|e| e.targets[2] = 17), "target id 17"),
        (with(&|e| e.targets.truncate(4)), "4 targets"),
        (with(&|e| e.weights.truncate(4)), "4 weights"),
        (with(&|e| e.weights[0] = f32::NAN), "not finite"),
        (with(&|e| e.logprobs.push(0.0)), "1 logprobs"),
        (with(&|e| e.k = 0), "0 targets per position"),
        (with(&|e| *e = Example { k: 1, ..Example::default() }), "no tokens"),
        (weighted(&config, &mut rng, 161, 1), "at most 160"),
    ];
    let mut trainer = with_noise(&config, 2);
    for (bad, message) in cases {
        let error = trainer.run(&[good.clone(), bad], &Loss::CrossEntropy, true).unwrap_err();
        assert!(error.starts_with("data[1]: ") && error.contains(message), "{error}");
    }
    let error = trainer.run(&[good], &Loss::Dro { beta: 0.1 }, true).unwrap_err();
    assert!(error.contains("weights"), "{error}");
    assert!(trainer.run(&[], &Loss::CrossEntropy, true).is_err());
    assert!(trainer.grads.iter().all(|&g| g == 0.0));
}

/// `sum(logprobs · w)` as a custom loss.
fn custom() -> Loss {
    let inputs = [("logprobs", 1), ("w", 1)];
    let graph = LossGraph::trace("mine", &inputs, |graph| {
        let loss = (graph.logprobs() * graph.input("w")).sum();
        graph.metric("custom/x:mean", loss);
        loss
    });
    Loss::Custom(Arc::new(graph.unwrap()))
}

/// The same examples with inputs for [`custom`], which then equals the cross entropy.
fn negated(batch: &[Example]) -> Vec<Example> {
    let one = |e: &Example| {
        let values: Vec<f64> = e.weights.iter().map(|it| -f64::from(*it)).collect();
        let inputs = vec![LossArray { shape: vec![values.len()], values }];
        Example { weights: Vec::new(), inputs, ..e.clone() }
    };
    batch.iter().map(one).collect()
}

#[test]
fn a_custom_loss_has_the_gradients_of_the_same_loss_that_is_built_in() {
    let config = tiny();
    let mut rng = Rng::stream(4, 4);
    let batch: Vec<Example> = [9, 100, 3, 120, 90].map(|n| weighted(&config, &mut rng, n, 1)).into();
    let (mut ours, mut theirs) = (with_noise(&config, 2), with_noise(&config, 2));
    let own = ours.run(&negated(&batch), &custom(), true).unwrap();
    let built_in = theirs.run(&batch, &Loss::CrossEntropy, true).unwrap();
    assert!((own.loss_sum - built_in.loss_sum).abs() < 1e-6 * built_in.loss_sum.abs());
    assert_eq!(own.logprobs, built_in.logprobs);
    assert!((own.metrics["custom/x:mean"] - own.loss_sum / 5.0).abs() < 1e-9 * own.loss_sum.abs());
    let scale = theirs.grads.iter().fold(0.0f32, |a, g| a.max(g.abs()));
    for (a, b) in ours.grads.iter().zip(&theirs.grads) {
        assert!((a - b).abs() < 1e-5 * scale, "{a} {b}");
    }
    let forward = ours.run(&negated(&batch), &custom(), false).unwrap();
    assert_eq!((forward.loss_sum, &forward.metrics), (own.loss_sum, &own.metrics));
}

#[test]
fn a_custom_loss_that_fails_on_a_late_datum_leaves_the_gradients_as_they_were() {
    let config = tiny();
    let mut rng = Rng::stream(4, 5);
    // Each datum is a group, and eight groups are a wave (see `train::WAVE`). When datum 58 fails, the gradients of the
    // earlier datums have been added already.
    let batch: Vec<Example> = (0..60).map(|_| weighted(&config, &mut rng, 150, 1)).collect();
    let mut batch = negated(&batch);
    batch[58].inputs[0].values[3] = f64::NAN;
    let mut trainer = with_noise(&config, 2);
    trainer.run(&batch[..2], &custom(), true).unwrap();
    let before = trainer.grads.clone();
    let error = trainer.run(&batch, &custom(), true).unwrap_err();
    assert!(error.starts_with("data[58]: the loss mine is NaN"), "{error}");
    assert_eq!(trainer.grads, before);
}

/// An example for losses with advantages; every target has the same old log-probability.
fn policy(rng: &mut Rng, q: f32, advantages: &[f32]) -> Example {
    let mut e = weighted(&tiny(), rng, advantages.len(), 1);
    e.weights.clear();
    e.logprobs = vec![q; advantages.len()];
    e.advantages = advantages.to_vec();
    e
}

/// `sum(exp(−logprobs · w))` as a custom loss.
fn exponential() -> Loss {
    let inputs = [("logprobs", 1), ("w", 1)];
    let graph = LossGraph::trace("mine", &inputs, |it| (-(it.logprobs() * it.input("w"))).exp().sum());
    Loss::Custom(Arc::new(graph.unwrap()))
}

/// An example for [`exponential`] with the same `w` for all targets.
fn scaled(rng: &mut Rng, w: f64) -> Example {
    let e = weighted(&tiny(), rng, 4, 1);
    Example { weights: Vec::new(), inputs: vec![LossArray { shape: vec![4], values: vec![w; 4] }], ..e }
}

#[test]
fn a_loss_or_gradient_that_is_not_finite_fails_its_datum_and_leaves_the_gradients_as_they_were() {
    let mut rng = Rng::stream(4, 9);
    let rng = &mut rng;
    let masked = |e: Example| Example { mask: vec![1.0; e.tokens.len()], ..e };
    let (lo, hi) = (0.8, 1.2);
    let good = policy(rng, -3.0, &[1.0, 0.5]);
    let weights = |rng: &mut Rng, w: f32| Example { weights: vec![w; 5], ..weighted(&tiny(), rng, 5, 1) };
    let cases: Vec<(Loss, Example, Example)> = vec![
        // The ratio overflows f64 in the first case and f32 in the second.
        (Loss::ImportanceSampling, good.clone(), policy(rng, -800.0, &[0.0, 1.0, 1.0])),
        (Loss::ImportanceSampling, good.clone(), policy(rng, -100.0, &[1.0, 1.0, 1.0])),
        (Loss::Ppo { lo, hi }, good.clone(), policy(rng, -100.0, &[1.0, -1.0, 1.0])),
        (Loss::Cispo { lo: 0.0, hi: 1e300 }, good.clone(), policy(rng, -200.0, &[1.0, -1.0, 1.0])),
        (Loss::Dro { beta: 10.0 }, good.clone(), policy(rng, -3e38, &[1.0, -1.0, 1.0])),
        (Loss::Gspo { lo, hi }, masked(good), masked(policy(rng, -800.0, &[1.0, -1.0, 0.0]))),
        // In the next case the loss and its derivatives are finite, but the gradients of the adapter are not. In the
        // two cases after it, the loss overflows f64, and its derivatives overflow f32.
        (Loss::CrossEntropy, weights(rng, 0.5), weights(rng, 3e38)),
        (exponential(), scaled(rng, 0.1), scaled(rng, 1e3)),
        (exponential(), scaled(rng, 0.1), scaled(rng, 40.0)),
    ];
    for (loss, good, bad) in cases {
        let mut trainer = with_noise(&tiny(), 2);
        trainer.run(std::slice::from_ref(&good), &loss, true).unwrap();
        let before = trainer.grads.clone();
        let error = trainer.run(&[good, bad], &loss, true).unwrap_err();
        assert!(
            error.starts_with("data[1]: ") && error.contains("inf") | error.contains("finite"),
            "{error}"
        );
        assert_eq!(trainer.grads, before, "{error}");
    }
}

#[test]
fn a_failed_step_leaves_weights_moments_and_count_and_does_not_affect_the_next_step() {
    let (mut trainer, mut other) = (with_noise(&tiny(), 2), with_noise(&tiny(), 2));
    let mut rng = Rng::stream(4, 10);
    let batch = [weighted(&tiny(), &mut rng, 9, 1)];
    for trainer in [&mut trainer, &mut other] {
        trainer.run(&batch, &Loss::CrossEntropy, true).unwrap();
        trainer.adam_step(&Adam::default()).unwrap();
    }
    trainer.grads[3] = f32::NAN;
    assert!(trainer.adam_step(&Adam::default()).unwrap_err().contains("norm is NaN"));
    trainer.run(&batch, &Loss::CrossEntropy, true).unwrap();
    let huge = Adam { learning_rate: 1e300, ..Adam::default() };
    assert!(trainer.adam_step(&huge).unwrap_err().contains("not finite"));
    for trainer in [&mut trainer, &mut other] {
        trainer.run(&batch, &Loss::CrossEntropy, true).unwrap();
        assert_eq!(trainer.adam_step(&Adam::default()).unwrap().step, 2);
    }
    assert_eq!(trainer.model.params, other.model.params);
}

/// Passes and steps with settings and inputs of any size that a request may have: each gives finite numbers, or an error
/// that changes nothing.
#[test]
fn extreme_numbers_give_finite_results_or_an_error_that_changes_nothing() {
    const SIZES: [f64; 14] =
        [0.0, 1e-300, 1e-46, 1e-45, 1e-38, 1e-20, 1e-3, 1.0, 30.0, 1e4, 1e20, 3e38, 1e39, 1e300];
    let mut rng = Rng::stream(11, 4);
    let mut trainer = with_noise(&tiny(), 2);
    let (mut passes, mut steps) = ([0; 2], [0; 2]);
    for round in 0..400 {
        if round % 20 == 0 {
            trainer = with_noise(&tiny(), 2);
        }
        let any = |rng: &mut Rng| {
            let size = SIZES[(rng.next() % SIZES.len() as u64) as usize];
            if rng.next().is_multiple_of(2) { size } else { -size }
        };
        // A request with an infinite number is refused before it is run.
        let float = |rng: &mut Rng| (any(rng) as f32).clamp(f32::MIN, f32::MAX);
        let bounds = |rng: &mut Rng| {
            let (a, b) = (any(rng), any(rng));
            (a.min(b), a.max(b))
        };
        let (lo, hi) = bounds(&mut rng);
        let loss = match round % 7 {
            0 => Loss::CrossEntropy,
            1 => Loss::ImportanceSampling,
            2 => Loss::Ppo { lo, hi },
            3 => Loss::Cispo { lo, hi },
            4 => Loss::Dro { beta: any(&mut rng) },
            5 => Loss::Gspo { lo, hi },
            _ => exponential(),
        };
        let mut e = weighted(&tiny(), &mut rng, 4, 1);
        if loss.is_weighted() {
            e.weights.fill_with(|| float(&mut rng));
        } else {
            e.weights.clear();
        }
        match loss {
            Loss::CrossEntropy => {}
            Loss::Custom(_) => e.inputs = vec![LossArray { shape: vec![4], values: vec![any(&mut rng); 4] }],
            _ => {
                e.logprobs = (0..4).map(|_| float(&mut rng)).collect();
                e.advantages = (0..4).map(|_| float(&mut rng)).collect();
            }
        }
        if matches!(loss, Loss::Gspo { .. }) {
            e.mask = (0..4).map(|_| float(&mut rng)).collect();
        }
        let fine = |values: &[f32]| values.iter().all(|it| it.is_finite());
        let before = trainer.grads.clone();
        match trainer.run(&[e], &loss, true) {
            Ok(output) => {
                passes[0] += 1;
                assert!(output.loss_sum.is_finite() && fine(&output.logprobs[0]), "{round} {loss:?}");
                assert!(fine(&trainer.grads), "{round} {loss:?}");
            }
            Err(error) => {
                passes[1] += 1;
                assert!(trainer.grads == before, "{round} {loss:?} {error}");
            }
        }
        let settings = AdamParams {
            learning_rate: any(&mut rng).abs(),
            beta1: 1.0 - [1.0, 0.1, 1e-12][round % 3],
            beta2: 1.0 - [1e-16, 0.05, 1.0, 1e-9][round % 4],
            eps: any(&mut rng).abs(),
            weight_decay: any(&mut rng).abs(),
            grad_clip_norm: any(&mut rng).abs(),
        };
        let Ok(adam) = Adam::read(&settings) else { continue };
        let state =
            |it: &Trainer| (it.model.params.clone(), it.exp_avg.clone(), it.exp_avg_sq.clone(), it.step);
        let before = state(&trainer);
        match trainer.adam_step(&adam) {
            Ok(step) => {
                steps[0] += 1;
                let (params, exp_avg, exp_avg_sq, _) = state(&trainer);
                assert!(step.grad_norm.is_finite(), "{round} {adam:?}");
                assert!(fine(&params) && fine(&exp_avg) && fine(&exp_avg_sq), "{round} {adam:?}");
                assert!(exp_avg_sq.iter().all(|it| 0.0 <= *it), "{round} {adam:?}");
            }
            Err(error) => {
                steps[1] += 1;
                assert!(state(&trainer) == before, "{round} {adam:?} {error}");
            }
        }
    }
    // The test tries both outcomes.
    assert!(passes.iter().chain(&steps).all(|it| 5 <= *it), "{passes:?} {steps:?}");
}
