//! Tests of saving and loading the adapter and the optimizer.

use super::*;

fn batch() -> Vec<Example> {
    vec![weighted(&tiny(), &mut Rng::stream(9, 1), 12, 1)]
}

/// Trains one more step; returns the parameters after it.
fn advance(trainer: &mut Trainer) -> Vec<f32> {
    trainer.run(&batch(), &Loss::CrossEntropy, true).unwrap();
    trainer.adam_step(&Adam { learning_rate: 1e-2, ..Adam::default() }).unwrap();
    trainer.model.params.clone()
}

#[test]
fn training_continues_with_the_same_bits_after_weights_and_optimizer_are_restored() {
    let mut first = with_noise(&tiny(), 2);
    (0..3).for_each(|_| drop(advance(&mut first)));
    let (adapter, optimizer) = (first.adapter_bytes().unwrap(), first.optimizer_bytes().unwrap());
    let mut other = Trainer::new(Arc::new(Weights::seeded(&tiny(), 1)), everything(2));
    other.load_adapter(&adapter).unwrap();
    assert_eq!(other.model.params, first.model.params);
    other.load_optimizer(&optimizer).unwrap();
    let next = advance(&mut first);
    assert_eq!(advance(&mut other), next);

    let mut weights_only = Trainer::new(Arc::new(Weights::seeded(&tiny(), 1)), everything(2));
    weights_only.load_adapter(&adapter).unwrap();
    assert_ne!(advance(&mut weights_only), next);
}

#[test]
fn loading_weights_resets_gradients_and_optimizer() {
    let mut used = with_noise(&tiny(), 2);
    let start = used.adapter_bytes().unwrap();
    let mut fresh = with_noise(&tiny(), 2);
    advance(&mut used);
    used.run(&batch(), &Loss::CrossEntropy, true).unwrap();
    used.load_adapter(&start).unwrap();
    assert_eq!(advance(&mut used), advance(&mut fresh));
}

#[test]
fn files_of_another_shape_are_refused_and_change_nothing() {
    let mut trainer = with_noise(&tiny(), 2);
    let before = trainer.model.params.clone();
    let rank = with_noise(&tiny(), 3);
    let deep = with_noise(&ModelConfig { layers: 3, ..tiny() }, 2);
    let shallow = with_noise(&ModelConfig { layers: 1, ..tiny() }, 2);
    let error = trainer.load_adapter(&rank.adapter_bytes().unwrap()).unwrap_err();
    assert!(error.contains("has shape [3, "), "{error}");
    let error = trainer.load_adapter(&deep.adapter_bytes().unwrap()).unwrap_err();
    assert!(error.contains("layers.2.") && error.contains("does not belong"), "{error}");
    let error = trainer.load_adapter(&shallow.adapter_bytes().unwrap()).unwrap_err();
    assert!(error.contains("layers.1.") && error.contains("missing"), "{error}");
    assert!(trainer.load_adapter(b"nonsense").unwrap_err().contains("safetensors"));
    for other in [&rank, &deep, &shallow] {
        assert!(trainer.load_optimizer(&other.optimizer_bytes().unwrap()).is_err());
    }
    assert!(trainer.load_optimizer(&trainer.adapter_bytes().unwrap()).unwrap_err().contains("step"));
    assert_eq!(trainer.model.params, before);
}

#[test]
fn weights_that_are_not_finite_are_neither_saved_nor_loaded() {
    let mut trainer = with_noise(&tiny(), 2);
    let mut broken = with_noise(&tiny(), 2);
    let (mut adapter, mut optimizer) = (broken.adapter_bytes().unwrap(), broken.optimizer_bytes().unwrap());
    for bytes in [&mut adapter, &mut optimizer] {
        let end = bytes.len() - 4;
        bytes[end..].copy_from_slice(&f32::NAN.to_le_bytes());
    }
    let before = trainer.model.params.clone();
    assert!(trainer.load_adapter(&adapter).unwrap_err().contains("holds NaN at"));
    assert!(trainer.load_optimizer(&optimizer).unwrap_err().contains("holds NaN at"));
    assert_eq!(trainer.model.params, before);
    broken.exp_avg_sq[1] = f32::INFINITY;
    assert!(broken.adapter_bytes().is_ok());
    assert!(broken.optimizer_bytes().unwrap_err().contains("holds inf at 1"));
    broken.model.params[2] = f32::NAN;
    assert!(broken.adapter_bytes().unwrap_err().contains("holds NaN at 2"));
}
