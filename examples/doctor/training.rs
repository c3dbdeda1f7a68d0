//! Passes, updates and saving.

use std::collections::BTreeMap;
use std::time::Duration;

use tinkex::types::{
    AdamParams, CustomLoss, Datum, ForwardBackwardOutput, LoraConfig, Loss, LossFn, ModelInput,
    SaveStateOptions, Ttl,
};
use tinkex::{Error, ErrorKind, TrainingClient};

use super::patient::{Found, Patient, Trouble, fine, ignored, told, wrong};
use super::{Check, core, endpoint, option};

/// What is saved ends by itself, should deleting it fail.
pub(super) const ONE_HOUR: Ttl = Ttl::After(Duration::from_secs(3600));

pub(super) fn checks() -> Vec<Check> {
    vec![
        core("get_info", |it| {
            let client = it.training()?;
            match client.get_info().base_model.as_deref() {
                Some(name) => told(name),
                None => told("the server does not say the base model"),
            }
        }),
        core("forward", |it| passed(it.training()?.forward(vec![datum()], LossFn::CrossEntropy).wait()?, 1)),
        core("forward_backward", |it| supervised(it, vec![datum()])),
        core("forward_backward, several data", |it| {
            supervised(it, vec![datum(), Datum::cross_entropy(&[72], &[105]), datum()])
        }),
        option("forward_backward, importance_sampling", &["importance_sampling", "loss_fn"], |it| {
            policy(it, LossFn::ImportanceSampling.into())
        }),
        option("forward_backward, ppo", &["ppo", "loss_fn"], |it| policy(it, LossFn::Ppo.into())),
        option("forward_backward, ppo with options", &["ppo", "loss_fn", "threshold"], |it| {
            let options = LossFn::Ppo.with("clip_low_threshold", 0.8).with("clip_high_threshold", 1.2);
            policy(it, options)
        }),
        option("forward_backward, cispo", &["cispo", "loss_fn"], |it| policy(it, LossFn::Cispo.into())),
        option("forward_backward, dro", &["dro", "loss_fn"], |it| policy(it, LossFn::Dro.into())),
        option("forward_backward, gspo", &["gspo", "loss_fn", "sequence_ratio_mask"], |it| {
            let datum = sampled().with("sequence_ratio_mask", vec![1.0f32; 3]);
            passed(it.training()?.forward_backward(vec![datum], LossFn::Gspo).wait()?, 1)
        }),
        core("optim_step", |it| {
            one_step(&it.training()?)?;
            fine()
        }),
        option("optim_step, weight_decay", &["weight_decay"], |it| {
            update(it, AdamParams { weight_decay: 0.01, ..Default::default() })
        }),
        option("optim_step, grad_clip_norm", &["grad_clip_norm"], |it| {
            update(it, AdamParams { grad_clip_norm: 1.0, ..Default::default() })
        }),
        core("forward_backward and optim_step, several in flight", |it| {
            let client = it.training()?;
            let steps: Vec<_> = (0..3)
                .map(|_| {
                    let pass = client.forward_backward(vec![datum()], LossFn::CrossEntropy);
                    (pass, client.optim_step(AdamParams::default()))
                })
                .collect();
            for (pass, update) in steps {
                passed(pass.wait()?, 1)?;
                update.wait()?;
            }
            fine()
        }),
        core("train_step", |it| {
            let step = it.training()?.train_step(vec![datum()], LossFn::CrossEntropy, AdamParams::default());
            passed(step.wait()?.0, 1)
        }),
        core("forward_backward_custom", |it| {
            let pass = it.training()?.forward_backward_custom(vec![datum()], |_, logprobs| {
                let loss = -logprobs.iter().flat_map(|it| it.iter()).map(|it| f64::from(*it)).sum::<f64>();
                let gradients = logprobs.iter().map(|it| vec![-1.0; it.len()]).collect();
                Ok::<_, Error>(CustomLoss::new(loss, gradients))
            });
            passed(pass.wait()?, 1)
        }),
        core("save_state", |it| {
            let saved = it.training()?.save_state(&it.name(), Ttl::Never).wait()?;
            it.litter(&saved.path);
            it.made().state = Some(saved.path.clone());
            told(saved.path.as_str())
        }),
        option("save_state, ttl", &["ttl"], |it| {
            let saved = it.training()?.save_state(&it.name(), ONE_HOUR).wait()?;
            it.litter(&saved.path);
            fine()
        }),
        option("save_state_with, overwrite and user_metadata", &["overwrite", "user_metadata"], |it| {
            let name = it.name();
            let save = || {
                let metadata = BTreeMap::from([("made_by".into(), "doctor".into())]);
                let options =
                    SaveStateOptions { overwrite: true, user_metadata: Some(metadata), ttl: ONE_HOUR };
                it.training()?.save_state_with(&name, &options).wait().map_err(Trouble::from)
            };
            it.litter(&save()?.path);
            match save() {
                Ok(saved) => {
                    it.litter(&saved.path);
                    fine()
                }
                // It was asked to replace what is there.
                Err(Trouble::Refused(error)) if *error.kind() == ErrorKind::Conflict => {
                    ignored(format!("a save that exists is not replaced: {}", error.message()))
                }
                // A server that saves under another name fails at replacing, and at nothing else.
                Err(Trouble::Refused(error)) if error.http_status() == Some(500) => {
                    it.give_up_training();
                    it.litter(&it.training()?.save_state(&it.name(), ONE_HOUR).wait()?.path);
                    ignored(format!("a save that exists is not replaced: {}", error.message()))
                }
                Err(other) => Err(other),
            }
        }),
        endpoint("save_weights_external", |it| {
            let saved = it.training()?.save_weights_external(&it.name(), ONE_HOUR, &[]).wait()?;
            it.litter(&saved.path);
            told(saved.path.as_str())
        }),
        core("save_weights_for_sampler", |it| {
            let saved = it.training()?.save_weights_for_sampler(&it.name(), Ttl::Never).wait()?;
            it.litter(&saved.path);
            it.made().weights = Some(saved.path.clone());
            told(saved.path.as_str())
        }),
        option("save_weights_for_sampler, ttl", &["ttl"], |it| {
            let saved = it.training()?.save_weights_for_sampler(&it.name(), ONE_HOUR).wait()?;
            it.litter(&saved.path);
            fine()
        }),
        core("save_weights_and_get_sampling_client", |it| {
            let sampler = it.training()?.save_weights_and_get_sampling_client()?;
            let logprobs = sampler.compute_logprobs(&ModelInput::from_ints([72, 105])).wait()?;
            sampler.close();
            match logprobs.len() {
                2 => fine(),
                n => wrong(format!("{n} log-probabilities of 2 tokens")),
            }
        }),
        // Loading is the first thing that a model does, or nothing.
        core("load_state", |it| {
            let client = it.new_training(shape())?;
            client.load_state(&it.state()?).wait()?;
            one_step(&client)?;
            it.discard(&client);
            fine()
        }),
        core("load_state_with_optimizer", |it| {
            let client = it.new_training(shape())?;
            client.load_state_with_optimizer(&it.state()?).wait()?;
            one_step(&client)?;
            it.discard(&client);
            fine()
        }),
    ]
}

/// The shape of every model that is to have the same state.
pub(super) fn shape() -> LoraConfig {
    LoraConfig { rank: 8, ..Default::default() }
}

/// Token ids below 256 exist in every vocabulary.
pub(super) fn datum() -> Datum {
    Datum::cross_entropy(&[72, 105, 33], &[32, 72, 105])
}

/// A datum of reinforcement learning.
fn sampled() -> Datum {
    Datum::new(ModelInput::from_ints([72, 105, 33]))
        .with("target_tokens", vec![105i64, 33, 32])
        .with("logprobs", vec![-1.0f32, -2.0, -3.0])
        .with("advantages", vec![0.0f32, 1.0, -1.0])
}

/// A pass and an update, submitted together.
pub(super) fn one_step(client: &TrainingClient) -> Result<(), Error> {
    let pass = client.forward_backward(vec![datum()], LossFn::CrossEntropy);
    let update = client.optim_step(AdamParams { learning_rate: 1e-4, ..Default::default() });
    pass.wait()?;
    update.wait()?;
    Ok(())
}

fn update(it: &Patient, adam: AdamParams) -> Found {
    let client = it.training()?;
    let pass = client.forward_backward(vec![datum()], LossFn::CrossEntropy);
    let update = client.optim_step(adam);
    pass.wait()?;
    update.wait()?;
    fine()
}

fn supervised(it: &Patient, data: Vec<Datum>) -> Found {
    let n = data.len();
    passed(it.training()?.forward_backward(data, LossFn::CrossEntropy).wait()?, n)
}

fn policy(it: &Patient, loss: Loss) -> Found {
    passed(it.training()?.forward_backward(vec![sampled()], loss).wait()?, 1)
}

/// What a pass over `n` data reports.
fn passed(output: ForwardBackwardOutput, n: usize) -> Found {
    if output.loss_fn_outputs.len() != n {
        return wrong(format!("{} outputs for {n} data", output.loss_fn_outputs.len()));
    }
    let odd = |values: &[f32]| values.iter().any(|it| it.is_nan());
    let numbers = output.loss_fn_outputs.iter().flat_map(|it| it.values()).filter_map(|it| it.as_f32());
    if numbers.into_iter().any(odd) {
        return Err(Trouble::Wrong("an output is not a number".into()));
    }
    match output.loss() {
        Some(loss) if loss.is_finite() => told(format!("loss {loss:.3}")),
        Some(loss) => wrong(format!("the loss is {loss}")),
        None if output.loss_fn_outputs.iter().all(|it| it.is_empty()) => {
            ignored("neither a loss nor outputs")
        }
        None => told("the server does not report the loss"),
    }
}
