//! Tests of the estimates of memory, and of passes within a limit.

use super::super::memory::{Plan, group_bytes};
use super::super::train::WAVE;
use super::*;

/// A trainer of a model with 512 components, eight layers and 8 192 tokens.
fn mid(rank: usize) -> Trainer {
    let config = ModelConfig {
        vocab: 8192,
        live_vocab: 8192,
        hidden: 512,
        layers: 8,
        heads: 8,
        kv_heads: 4,
        head_dim: 64,
        mlp: 1536,
        ..ModelConfig::nano()
    };
    Trainer::new(Arc::new(Weights::seeded(&config, 1)), everything(rank))
}

fn nano(rank: usize) -> Trainer {
    Trainer::new(Arc::new(Weights::seeded(&ModelConfig::nano(), 1)), everything(rank))
}

fn batch(trainer: &Trainer, lengths: &[usize]) -> Vec<Example> {
    let mut rng = Rng::stream(3, 9);
    lengths.iter().map(|n| weighted(&trainer.model.base.config, &mut rng, *n, 1)).collect()
}

#[test]
fn the_estimate_of_a_group_is_what_its_buffers_take() {
    for (mut trainer, lengths) in [
        (nano(8), vec![700]),
        (nano(64), vec![20, 31, 40]),
        (mid(16), vec![300]),
        (with_noise(&tiny(), 3), vec![90, 1]),
    ] {
        for (backward, max_kept) in [(false, usize::MAX), (true, usize::MAX), (true, 0)] {
            trainer.model.max_kept = max_kept;
            trainer.drop_idle();
            let batch = batch(&trainer, &lengths);
            trainer.run(&batch, &Loss::CrossEntropy, backward).unwrap();
            let config = &trainer.model.base.config;
            let attention =
                4 * super::super::attention::pass_scratch_len(config, lengths.iter().copied(), backward)
                    as u64;
            let estimate = group_bytes(&trainer.model, &lengths, backward, max_kept);
            let taken = trainer.idle_memory() + attention;
            let off = estimate as f64 / taken as f64 - 1.0;
            assert!((-0.01..0.03).contains(&off), "{lengths:?} {backward} {max_kept}: {estimate} {taken}");
        }
    }
}

#[test]
fn a_pass_with_less_memory_runs_fewer_groups_at_once_then_computes_layers_again_and_is_refused_at_last() {
    let trainer = nano(8);
    let groups = vec![vec![200]; 20];
    let one = |max_kept| group_bytes(&trainer.model, &[200], true, max_kept);
    let (all, least) = (one(usize::MAX), one(0));
    assert!(least < all, "{least} {all}");
    let plan = |limit| Plan::new(&trainer.model, &groups, true, limit).map(|it| (it.at_once, it.max_kept));
    let kept = trainer.model.max_kept;
    assert_eq!(plan(u64::MAX), Ok((WAVE, kept)));
    assert_eq!(plan(8 * all), Ok((WAVE, kept)));
    assert_eq!(plan(8 * all - 1), Ok((7, kept)));
    assert_eq!(plan(all), Ok((1, kept)));
    assert_eq!(plan(all - 1), Ok(((all - 1) as usize / least as usize, 0)));
    assert_eq!(plan(least), Ok((1, 0)));
    assert_eq!(plan(least - 1), Err((0, least)));
    // The largest group decides.
    let mut groups = groups;
    groups[3] = vec![400];
    let bytes = group_bytes(&trainer.model, &[400], true, 0);
    let refused = Plan::new(&trainer.model, &groups, true, bytes - 1);
    assert_eq!(refused, Err((3, bytes)));
}

#[test]
fn the_limit_of_memory_changes_no_bit_of_a_result() {
    let config = tiny();
    let batch = {
        let mut rng = Rng::stream(6, 7);
        (0..12).map(|_| weighted(&config, &mut rng, 90, 1)).collect::<Vec<_>>()
    };
    let run = |limit: Option<u64>| -> Result<(RunOutput, Vec<f32>), String> {
        let mut trainer = with_noise(&config, 4);
        trainer.max_pass_bytes = limit.unwrap_or(u64::MAX);
        let output = trainer.run(&batch, &Loss::CrossEntropy, true)?;
        Ok((output, trainer.grads))
    };
    let free = run(None);
    let model = with_noise(&config, 4).model;
    let (all, least) =
        (group_bytes(&model, &[90, 90], true, usize::MAX), group_bytes(&model, &[90, 90], true, 0));
    for limit in [3 * all, all, least] {
        assert!(run(Some(limit)) == free, "{limit}");
    }
    let error = run(Some(1 << 10)).unwrap_err();
    assert!(error.starts_with("data[0]: a pass over 180 tokens needs "));
}

#[test]
fn a_refused_pass_leaves_the_gradients_and_the_next_pass_runs() {
    let mut trainer = nano(8);
    let (short, long) = (batch(&trainer, &[40]), batch(&trainer, &[40, 40, 3000]));
    trainer.run(&short, &Loss::CrossEntropy, true).unwrap();
    let before = trainer.grads.clone();
    trainer.max_pass_bytes = 8 << 20;
    let error = trainer.run(&long, &Loss::CrossEntropy, true).unwrap_err();
    assert!(error.starts_with("data[2]: a pass over 3000 tokens needs "), "{error}");
    assert!(error.contains(" MiB of memory, 8.0 MiB are free: send a shorter sequence"), "{error}");
    assert!(trainer.grads == before);
    trainer.run(&short, &Loss::CrossEntropy, true).unwrap();
    assert!(trainer.grads != before);
}
