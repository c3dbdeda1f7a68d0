//! Checks of the service client: capabilities, sessions, custom losses, and the creation of clients.

use std::collections::BTreeMap;

use tinkex::CloseStatus;
use tinkex::types::{CopyOptions, FromStateOptions, LoraConfig, LossGraph, ModelOptions, SamplingParams};

use super::context::{fine, ignored, note, wrong};
use super::rest::NO_PROJECT;
use super::sampling::{prompt, sample};
use super::training::ONE_HOUR;
use super::{Check, core, endpoint, option, probe};

pub(super) fn beginning() -> Vec<Check> {
    vec![
        endpoint("get_server_capabilities", |context| {
            let models = context.service.get_server_capabilities()?.supported_models;
            let names = models.iter().filter_map(|it| it.model_name.as_deref());
            note(format!("{} models", names.count()))
        }),
        core("create_lora_training_client", |context| {
            let client = context.training()?;
            note(client.model_id())
        }),
        option("create_lora_training_client, seed", &["seed"], |context| {
            context.discard(&context.new_training(LoraConfig {
                rank: 8,
                seed: Some(7),
                ..Default::default()
            })?);
            fine()
        }),
        option("create_lora_training_client_with, user_metadata", &["user_metadata"], |context| {
            let metadata = BTreeMap::from([("made_by".into(), "doctor".into())]);
            let options = ModelOptions { user_metadata: Some(metadata), ..Default::default() };
            let model = context.base_model.as_str();
            let lora = LoraConfig { rank: 8, ..Default::default() };
            context.discard(&context.service.create_lora_training_client_with(model, lora, &options)?);
            fine()
        }),
        option("create_lora_training_client, rank 1", &["rank"], |context| {
            let client = context.new_training(LoraConfig { rank: 1, ..Default::default() })?;
            context.discard(&client);
            match client.get_info().lora_rank {
                Some(1) => fine(),
                Some(rank) => ignored(format!("the rank is {rank}")),
                None => note("the server does not report the rank"),
            }
        }),
        option("create_lora_training_client, attention only", &["train_mlp", "train_unembed"], |context| {
            let lora = LoraConfig { rank: 8, train_mlp: false, train_unembed: false, ..Default::default() };
            context.discard(&context.new_training(lora)?);
            fine()
        }),
        option(
            "build, tags, user_metadata and display_name",
            &["tags", "user_metadata", "display_name"],
            |context| {
                let named = (context.connect)()
                    .tags(["doctor"])
                    .user_metadata("made_by", "doctor")
                    .display_name("doctor");
                let service = named.build()?;
                service.create_sampling_client(context.base_model.as_str())?;
                service.close(CloseStatus::Success)?;
                fine()
            },
        ),
        endpoint("build, telemetry", |context| {
            let service = (context.connect)().telemetry(true).build()?;
            service.create_sampling_client(context.base_model.as_str())?;
            service.close(CloseStatus::Success)?;
            match service.telemetry() {
                Some(status) if status.delivered == 0 => ignored("no event was acknowledged"),
                Some(status) => {
                    note(format!("{} of {} events acknowledged", status.delivered, status.queued))
                }
                None => wrong("telemetry was requested but is off"),
            }
        }),
    ]
}

pub(super) fn losses() -> Vec<Check> {
    vec![core("create_custom_loss", |context| {
        let graph = LossGraph::trace("doctor", &[("logprobs", 1), ("weights", 1)], |tracer| {
            let loss = -(tracer.logprobs() * tracer.input("weights")).sum();
            tracer.metric("custom/doctor:sum", loss);
            loss
        })?;
        let training = context.training()?;
        let loss = context.service.create_custom_loss(graph).wait()?;
        let metrics = training.forward_backward(vec![super::training::datum()], &loss).wait()?.metrics;
        match (loss.loss_id(), metrics.get("custom/doctor:sum")) {
            (_, None) => wrong("the metric of the loss is missing"),
            (Some(_), Some(_)) => note("runs on the server"),
            (None, Some(_)) => note("computed by the client"),
        }
    })]
}

pub(super) fn from_checkpoints() -> Vec<Check> {
    vec![
        core("create_training_client_from_state", |context| {
            let client = context.service.create_training_client_from_state(&context.state()?)?;
            super::training::one_step(&client)?;
            context.discard(&client);
            fine()
        }),
        option("create_training_client_from_state_with, user_metadata", &["user_metadata"], |context| {
            let metadata = BTreeMap::from([("made_by".into(), "doctor".into())]);
            let options = FromStateOptions { user_metadata: Some(metadata), ..Default::default() };
            context.discard(
                &context.service.create_training_client_from_state_with(&context.state()?, &options)?,
            );
            fine()
        }),
        core("create_training_client_from_state_with_optimizer", |context| {
            let client =
                context.service.create_training_client_from_state_with_optimizer(&context.state()?)?;
            super::training::one_step(&client)?;
            context.discard(&client);
            fine()
        }),
        core("create_sampling_client", |context| {
            let client = context.sampling()?;
            note(client.sampling_session_id())
        }),
        core("TrainingClient.create_sampling_client", |context| {
            let client = context.training()?.create_sampling_client(&context.weights()?)?;
            let params = SamplingParams { max_tokens: Some(4), ..Default::default() };
            sample(&client, &prompt(), 1, &params)?;
            client.close();
            fine()
        }),
        probe("ServiceClient.copy_weights", |context| {
            let destination_project_id = Some(NO_PROJECT.into());
            let options = CopyOptions { destination_project_id, ttl: ONE_HOUR, ..Default::default() };
            let copy = context.service.copy_weights(&context.weights()?, &options)?;
            // Insert at the front: the checks that delete one checkpoint take it from the end, and they would fail if
            // the server does not know the copy.
            context.made().to_delete.insert(0, copy);
            note("copied into a project that does not exist")
        }),
        core("create_sampling_client, from saved weights", |context| {
            let client = context.service.create_sampling_client(&context.weights()?)?;
            let params = SamplingParams { max_tokens: Some(4), ..Default::default() };
            sample(&client, &prompt(), 1, &params)?;
            client.close();
            fine()
        }),
    ]
}

pub(super) fn end() -> Vec<Check> {
    vec![
        endpoint("unload_model", |context| {
            let client = context.training()?;
            client.unload_model().wait()?;
            client.close();
            fine()
        }),
        core("close", |context| {
            context.service.close(CloseStatus::Success)?;
            fine()
        }),
    ]
}
