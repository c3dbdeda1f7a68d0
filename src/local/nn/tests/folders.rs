//! Models of folders, against what transformers, PEFT and PyTorch compute with them (`tests/golden/engine.py`).

use super::super::pass::Workspace;
use super::*;
use safetensors::tensor::{Dtype, SafeTensors};
use std::path::PathBuf;

const MODELS: [&str; 3] = ["llama", "qwen2", "qwen3"];

/// In their files, and copied into memory.
const STORAGES: [usize; 2] = [0, usize::MAX];

fn folder(model: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/engine").join(model)
}

/// A file of tensors by name.
struct Expected(Vec<u8>);

impl Expected {
    fn open(model: &str) -> Expected {
        Expected(std::fs::read(folder(model).join("expected.safetensors")).unwrap())
    }

    fn file(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).unwrap()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let file = self.file();
        let tensor = file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(tensor.dtype(), Dtype::F32, "{name}");
        tensor.data().as_chunks::<4>().0.iter().map(|it| f32::from_le_bytes(*it)).collect()
    }

    /// Values, or none if there are none.
    fn optional(&self, name: &str) -> Vec<f32> {
        if self.file().names().contains(&name) { self.floats(name) } else { Vec::new() }
    }

    fn ints(&self, name: &str) -> Vec<i64> {
        let file = self.file();
        let tensor = file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(tensor.dtype(), Dtype::I64, "{name}");
        tensor.data().as_chunks::<8>().0.iter().map(|it| i64::from_le_bytes(*it)).collect()
    }

    fn tokens(&self, i: usize) -> Vec<u32> {
        self.ints(&format!("tokens.{i}")).iter().map(|id| *id as u32).collect()
    }

    /// Names that begin with a prefix, without it.
    fn after(&self, prefix: &str) -> Vec<String> {
        let file = self.file();
        file.names().iter().filter_map(|it| it.strip_prefix(prefix)).map(str::to_owned).collect()
    }

    fn example(&self, loss: &str, i: usize) -> Example {
        let tokens = self.tokens(i);
        let targets = self.ints(&format!("{loss}.targets.{i}"));
        Example {
            k: targets.len() / tokens.len(),
            targets,
            weights: self.optional(&format!("{loss}.weights.{i}")),
            logprobs: self.optional(&format!("{loss}.logprobs.{i}")),
            advantages: self.optional(&format!("{loss}.advantages.{i}")),
            mask: self.optional(&format!("{loss}.sequence_ratio_mask.{i}")),
            tokens,
            ..Example::default()
        }
    }
}

pub(super) fn open(model: &str, max_owned: usize) -> Arc<Weights> {
    Arc::new(Loaded::open_with(&folder(model), max_owned).unwrap().weights)
}

/// A trainer with the adapter that PEFT saved.
pub(super) fn adapted(model: &str, base: &Arc<Weights>) -> Trainer {
    let unembed = !base.config.tied_head;
    let spec = LoraSpec { rank: 4, seed: 0, train_attn: true, train_mlp: true, train_unembed: unembed };
    let mut trainer = Trainer::new(base.clone(), spec);
    let adapter = std::fs::read(folder(model).join("adapter/adapter_model.safetensors")).unwrap();
    trainer.load_adapter(&adapter).unwrap();
    trainer
}

/// The logits by the forward pass of training, and by reading the tokens as a prompt.
fn logits(trainer: &Trainer, tokens: &[u32]) -> [Vec<f32>; 2] {
    [Workspace::default().logits(&trainer.model, tokens), trainer.sampler().logits(tokens)]
}

/// The Euclidean distance of two vectors, as a part of the length of the second.
fn distance(ours: &[f32], theirs: &[f32]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let square = |of: &mut dyn Iterator<Item = f32>| of.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    let apart = square(&mut ours.iter().zip(theirs).map(|(a, b)| a - b));
    apart / square(&mut theirs.iter().copied())
}

fn furthest(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn logits_of_a_folder_are_those_of_transformers_with_and_without_an_adapter() {
    for model in MODELS {
        let expected = Expected::open(model);
        for storage in STORAGES {
            let base = open(model, storage);
            let plain = Trainer::new(base.clone(), everything(1));
            let adapted = adapted(model, &base);
            for i in 0..2 {
                let tokens = expected.tokens(i);
                for (trainer, name) in [(&plain, "logits"), (&adapted, "adapted")] {
                    for (way, ours) in logits(trainer, &tokens).iter().enumerate() {
                        let far = furthest(ours, &expected.floats(&format!("{name}.{i}")));
                        assert!(far < 1e-4, "{model} {storage} {i} {name} {way}: {far}");
                    }
                }
            }
        }
    }
}

#[test]
fn losses_and_gradients_of_a_folder_are_those_of_pytorch() {
    let (lo, hi) = (0.8, 1.2);
    let losses = [
        ("cross_entropy", Loss::CrossEntropy),
        ("cross_entropy_k", Loss::CrossEntropy),
        ("importance_sampling", Loss::ImportanceSampling),
        ("ppo", Loss::Ppo { lo, hi }),
        ("cispo", Loss::Cispo { lo: 0.0, hi: 4.0 }),
        ("dro", Loss::Dro { beta: 0.1 }),
        ("gspo", Loss::Gspo { lo, hi }),
    ];
    for model in MODELS {
        let expected = Expected::open(model);
        for storage in STORAGES {
            let base = open(model, storage);
            for (name, loss) in &losses {
                let mut trainer = adapted(model, &base);
                let batch = [expected.example(name, 0), expected.example(name, 1)];
                let output = trainer.run(&batch, loss, true).unwrap();
                let theirs = f64::from(expected.floats(&format!("{name}.loss"))[0]);
                let apart = (output.loss_sum - theirs).abs() / theirs.abs();
                assert!(apart < 1e-4, "{model} {storage} {name}: {} {theirs}", output.loss_sum);
                let grads = expected.after(&format!("{name}.grad."));
                assert!(4 <= grads.len(), "{model} {name}");
                for tensor in grads {
                    let known = trainer.model.layout.tensors.iter().find(|it| it.name == tensor).unwrap();
                    let theirs = expected.floats(&format!("{name}.grad.{tensor}"));
                    let apart = distance(&trainer.grads[known.range.clone()], &theirs);
                    assert!(apart < 1e-3, "{model} {storage} {name} {tensor}: {apart}");
                }
            }
        }
    }
}

#[test]
fn steps_of_the_optimizer_are_those_of_pytorch() {
    let adam = Adam { learning_rate: 1e-2, ..Adam::default() };
    for model in MODELS {
        let expected = Expected::open(model);
        let mut trainer = adapted(model, &open(model, 0));
        let batch = [expected.example("cross_entropy", 0), expected.example("cross_entropy", 1)];
        for step in ["adamw.", "adamw2."] {
            trainer.run(&batch, &Loss::CrossEntropy, true).unwrap();
            trainer.adam_step(&adam).unwrap();
            for tensor in expected.after(step) {
                let known = trainer.model.layout.tensors.iter().find(|it| it.name == tensor).unwrap();
                let apart = distance(
                    &trainer.model.params[known.range.clone()],
                    &expected.floats(&format!("{step}{tensor}")),
                );
                assert!(apart < 1e-4, "{model} {step}{tensor}: {apart}");
            }
        }
    }
}

#[test]
fn samples_of_a_folder_have_the_probabilities_of_transformers() {
    for model in MODELS {
        let expected = Expected::open(model);
        let vocab = 96;
        for storage in STORAGES {
            let sampler = adapted(model, &open(model, storage)).sampler();
            let tokens = expected.tokens(1);
            let generate = |prompt: &[u32], max_tokens: usize, num_samples: usize, temperature: f32| {
                let request = Generate {
                    prompt: prompt.to_vec(),
                    num_samples,
                    max_tokens,
                    temperature,
                    top_k: -1,
                    top_p: 1.0,
                    seed: 3,
                    stop_tokens: vec![],
                    prompt_logprobs: true,
                    topk_prompt_logprobs: 0,
                    topk_sample_logprobs: vocab,
                    alternatives: 0,
                    targets: vec![],
                };
                sampler.generate(&request, &mut |_, _| false, &|| false).unwrap()
            };
            for n in [1, 7, tokens.len()] {
                let all = expected.floats("adapted.1");
                let row = &all[(n - 1) * vocab..][..vocab];
                let total = row.iter().map(|v| f64::from(*v).exp()).sum::<f64>().ln() as f32;
                for (id, logprob) in &generate(&tokens[..n], 1, 1, 1.0).sequences[0].top[0] {
                    let theirs = row[*id as usize] - total;
                    assert!((logprob - theirs).abs() < 1e-4, "{model} {storage} {n}: {logprob} {theirs}");
                }
            }
            // What the cache gives is what a pass over the whole text gives.
            let generated = generate(&tokens, 30, 5, 1.0);
            for sequence in &generated.sequences {
                let mut whole = tokens.clone();
                whole.extend(&sequence.tokens);
                let scored = generate(&whole, 1, 1, 0.0).prompt_logprobs.unwrap();
                let scored: Vec<f32> = scored[tokens.len()..].iter().map(|it| it.unwrap()).collect();
                let far = furthest(&sequence.logprobs, &scored);
                assert!(far < 1e-4, "{model} {storage}: {far}");
            }
            // A sample is the same alone and among others.
            assert_eq!(
                generate(&tokens, 30, 1, 1.0).sequences[0],
                generated.sequences[0],
                "{model} {storage}"
            );
        }
    }
}

#[test]
fn old_spellings_of_the_configuration_give_the_same_model() {
    for model in MODELS {
        let copy = std::env::temp_dir().join(format!("tinkex-old-{model}-{}", std::process::id()));
        std::fs::create_dir_all(&copy).unwrap();
        for entry in std::fs::read_dir(folder(model)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                std::fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
            }
        }
        std::fs::rename(copy.join("config.old.json"), copy.join("config.json")).unwrap();
        let (old, new) = (Loaded::open(&copy).unwrap(), Loaded::open(&folder(model)).unwrap());
        assert_eq!(old.weights.config, new.weights.config);
        assert_eq!((old.fingerprint, old.eos), (new.fingerprint, vec![2]));
        std::fs::remove_dir_all(&copy).unwrap();
    }
}
