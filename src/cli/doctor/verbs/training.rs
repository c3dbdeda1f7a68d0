//! Checks of the training client: passes, optimizer steps, saves and loads.

use std::collections::BTreeMap;
use std::time::Duration;

use tinkex::types::{
    AdamParams, CustomLoss, Datum, ForwardBackwardOutput, LoraConfig, Loss, LossFn, ModelInput,
    SaveStateOptions, Ttl,
};
use tinkex::{Error, ErrorKind, TrainingClient};

use super::context::{Context, Found, Trouble, fine, ignored, note, wrong};
use super::{Check, core, endpoint, option};

/// Lifetime of the checkpoints that no later check needs, in case deleting them fails.
pub(super) const ONE_HOUR: Ttl = Ttl::After(Duration::from_secs(3600));

pub(super) fn checks() -> Vec<Check> {
    vec![
        core("get_info", |context| {
            let client = context.training()?;
            match client.get_info().base_model.as_deref() {
                Some(name) => note(name),
                None => note("the server does not name the base model"),
            }
        }),
        core("forward", |context| {
            check_output(context.training()?.forward(vec![datum()], LossFn::CrossEntropy).wait()?, 1)
        }),
        core("forward_backward", |context| supervised(context, vec![datum()])),
        core("forward_backward, several data", |context| {
            supervised(context, vec![datum(), Datum::cross_entropy(&[72], &[105]), datum()])
        }),
        option("forward_backward, importance_sampling", &["importance_sampling", "loss_fn"], |context| {
            policy(context, LossFn::ImportanceSampling.into())
        }),
        option("forward_backward, ppo", &["ppo", "loss_fn"], |context| policy(context, LossFn::Ppo.into())),
        option("forward_backward, ppo with options", &["ppo", "loss_fn", "threshold"], |context| {
            let options = LossFn::Ppo.with("clip_low_threshold", 0.8).with("clip_high_threshold", 1.2);
            policy(context, options)
        }),
        option("forward_backward, cispo", &["cispo", "loss_fn"], |context| {
            policy(context, LossFn::Cispo.into())
        }),
        option("forward_backward, dro", &["dro", "loss_fn"], |context| policy(context, LossFn::Dro.into())),
        option("forward_backward, gspo", &["gspo", "loss_fn", "sequence_ratio_mask"], |context| {
            let datum = rl_datum().with("sequence_ratio_mask", vec![1.0f32; 3]);
            check_output(context.training()?.forward_backward(vec![datum], LossFn::Gspo).wait()?, 1)
        }),
        core("optim_step", |context| {
            one_step(&context.training()?)?;
            fine()
        }),
        option("optim_step, weight_decay", &["weight_decay"], |context| {
            update(context, AdamParams { weight_decay: 0.01, ..Default::default() })
        }),
        option("optim_step, grad_clip_norm", &["grad_clip_norm"], |context| {
            update(context, AdamParams { grad_clip_norm: 1.0, ..Default::default() })
        }),
        core("forward_backward and optim_step, several in flight", |context| {
            let client = context.training()?;
            let steps: Vec<_> = (0..3)
                .map(|_| {
                    let pass = client.forward_backward(vec![datum()], LossFn::CrossEntropy);
                    (pass, client.optim_step(AdamParams::default()))
                })
                .collect();
            for (pass, update) in steps {
                check_output(pass.wait()?, 1)?;
                update.wait()?;
            }
            fine()
        }),
        core("train_step", |context| {
            let step =
                context.training()?.train_step(vec![datum()], LossFn::CrossEntropy, AdamParams::default());
            check_output(step.wait()?.0, 1)
        }),
        core("forward_backward_custom", |context| {
            let pass = context.training()?.forward_backward_custom(vec![datum()], |_, logprobs| {
                let loss =
                    -logprobs.iter().copied().flatten().map(|logprob| f64::from(*logprob)).sum::<f64>();
                let gradients = logprobs.iter().map(|datum| vec![-1.0; datum.len()]).collect();
                Ok::<_, Error>(CustomLoss::new(loss, gradients))
            });
            check_output(pass.wait()?, 1)
        }),
        core("save_state", |context| {
            let saved = context.training()?.save_state(&context.name(), Ttl::Never).wait()?;
            context.delete_later(&saved.path);
            context.made().state = Some(saved.path.clone());
            note(saved.path.as_str())
        }),
        option("save_state, ttl", &["ttl"], |context| {
            let saved = context.training()?.save_state(&context.name(), ONE_HOUR).wait()?;
            context.delete_later(&saved.path);
            fine()
        }),
        option("save_state_with, overwrite and user_metadata", &["overwrite", "user_metadata"], |context| {
            let name = context.name();
            let save = || {
                let metadata = BTreeMap::from([("made_by".into(), "doctor".into())]);
                let options =
                    SaveStateOptions { overwrite: true, user_metadata: Some(metadata), ttl: ONE_HOUR };
                context.training()?.save_state_with(&name, &options).wait().map_err(Trouble::from)
            };
            context.delete_later(&save()?.path);
            match save() {
                Ok(saved) => {
                    context.delete_later(&saved.path);
                    fine()
                }
                // A conflict means that `overwrite` was ignored.
                Err(Trouble::Refused(error)) if *error.kind() == ErrorKind::Conflict => {
                    ignored(format!("the existing checkpoint is not replaced: {}", error.message()))
                }
                // If a save under another name works, the server can save but cannot replace.
                Err(Trouble::Refused(error)) if error.http_status() == Some(500) => {
                    context.give_up_training();
                    context.delete_later(
                        &context.training()?.save_state(&context.name(), ONE_HOUR).wait()?.path,
                    );
                    ignored(format!("the existing checkpoint is not replaced: {}", error.message()))
                }
                Err(other) => Err(other),
            }
        }),
        endpoint("save_weights_external", |context| {
            let saved = context.training()?.save_weights_external(&context.name(), ONE_HOUR, &[]).wait()?;
            context.delete_later(&saved.path);
            note(saved.path.as_str())
        }),
        core("save_weights_for_sampler", |context| {
            let saved = context.training()?.save_weights_for_sampler(&context.name(), Ttl::Never).wait()?;
            context.delete_later(&saved.path);
            context.made().weights = Some(saved.path.clone());
            note(saved.path.as_str())
        }),
        option("save_weights_for_sampler, ttl", &["ttl"], |context| {
            let saved = context.training()?.save_weights_for_sampler(&context.name(), ONE_HOUR).wait()?;
            context.delete_later(&saved.path);
            fine()
        }),
        core("save_weights_and_get_sampling_client", |context| {
            let sampler = context.training()?.save_weights_and_get_sampling_client()?;
            let logprobs = sampler.compute_logprobs(&ModelInput::from_ints([72, 105])).wait()?;
            sampler.close();
            match logprobs.len() {
                2 => fine(),
                n => wrong(format!("{n} log-probabilities of 2 tokens")),
            }
        }),
        // Use a new model: some servers load only into a model that has run no other operation.
        core("load_state", |context| {
            let client = context.new_training(shape())?;
            client.load_state(&context.state()?).wait()?;
            one_step(&client)?;
            context.discard(&client);
            fine()
        }),
        core("load_state_with_optimizer", |context| {
            let client = context.new_training(shape())?;
            client.load_state_with_optimizer(&context.state()?).wait()?;
            one_step(&client)?;
            context.discard(&client);
            fine()
        }),
    ]
}

/// LoRA settings of all models that save or load the state of the check `save_state`: a state can be loaded only into a
/// model with the same settings.
pub(super) fn shape() -> LoraConfig {
    LoraConfig { rank: 8, ..Default::default() }
}

/// A datum with token ids below 256, which exist in every vocabulary.
pub(super) fn datum() -> Datum {
    Datum::cross_entropy(&[72, 105, 33], &[32, 72, 105])
}

/// A datum for the losses of reinforcement learning.
fn rl_datum() -> Datum {
    Datum::new(ModelInput::from_ints([72, 105, 33]))
        .with("target_tokens", vec![105i64, 33, 32])
        .with("logprobs", vec![-1.0f32, -2.0, -3.0])
        .with("advantages", vec![0.0f32, 1.0, -1.0])
}

/// Submits a pass and then an optimizer step, without waiting in between, and waits for both results.
pub(super) fn one_step(client: &TrainingClient) -> Result<(), Error> {
    let pass = client.forward_backward(vec![datum()], LossFn::CrossEntropy);
    let update = client.optim_step(AdamParams { learning_rate: 1e-4, ..Default::default() });
    pass.wait()?;
    update.wait()?;
    Ok(())
}

fn update(context: &Context, adam: AdamParams) -> Found {
    let client = context.training()?;
    let pass = client.forward_backward(vec![datum()], LossFn::CrossEntropy);
    let update = client.optim_step(adam);
    pass.wait()?;
    update.wait()?;
    fine()
}

fn supervised(context: &Context, data: Vec<Datum>) -> Found {
    let n = data.len();
    check_output(context.training()?.forward_backward(data, LossFn::CrossEntropy).wait()?, n)
}

fn policy(context: &Context, loss: Loss) -> Found {
    check_output(context.training()?.forward_backward(vec![rl_datum()], loss).wait()?, 1)
}

/// Checks the output of a pass over `n` data.
fn check_output(output: ForwardBackwardOutput, n: usize) -> Found {
    if output.loss_fn_outputs.len() != n {
        return wrong(format!("{} outputs for {n} data", output.loss_fn_outputs.len()));
    }
    let has_nan = |values: &[f32]| values.iter().any(|value| value.is_nan());
    let tensors = output.loss_fn_outputs.iter().flat_map(|fields| fields.values());
    if tensors.filter_map(|tensor| tensor.as_f32()).any(has_nan) {
        return Err(Trouble::Wrong("an output is NaN".into()));
    }
    match output.loss() {
        Some(loss) if loss.is_finite() => note(format!("loss {loss:.3}")),
        Some(loss) => wrong(format!("the loss is {loss}")),
        None if output.loss_fn_outputs.iter().all(|it| it.is_empty()) => {
            ignored("the result has neither a loss nor outputs")
        }
        None => note("the server does not report the loss"),
    }
}
