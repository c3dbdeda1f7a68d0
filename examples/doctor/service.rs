//! Capabilities, sessions, and the making of the other clients.

use std::collections::BTreeMap;

use tinkex::CloseStatus;
use tinkex::types::{CopyOptions, FromStateOptions, LoraConfig, LossGraph, ModelOptions, SamplingParams};

use super::patient::{fine, ignored, told, wrong};
use super::rest::NO_PROJECT;
use super::sampling::{draw, prompt};
use super::training::ONE_HOUR;
use super::{Check, core, endpoint, option, probe};

pub(super) fn beginning() -> Vec<Check> {
    vec![
        endpoint("get_server_capabilities", |it| {
            let models = it.service.get_server_capabilities()?.supported_models;
            let names = models.iter().filter_map(|it| it.model_name.as_deref());
            told(format!("{} models", names.count()))
        }),
        core("create_lora_training_client", |it| {
            let client = it.training()?;
            told(client.model_id())
        }),
        option("create_lora_training_client, seed", &["seed"], |it| {
            it.discard(&it.new_training(LoraConfig { rank: 8, seed: Some(7), ..Default::default() })?);
            fine()
        }),
        option("create_lora_training_client_with, user_metadata", &["user_metadata"], |it| {
            let metadata = BTreeMap::from([("made_by".into(), "doctor".into())]);
            let options = ModelOptions { user_metadata: Some(metadata), ..Default::default() };
            let model = it.base_model.as_str();
            let lora = LoraConfig { rank: 8, ..Default::default() };
            it.discard(&it.service.create_lora_training_client_with(model, lora, &options)?);
            fine()
        }),
        option("create_lora_training_client, rank 1", &["rank"], |it| {
            let client = it.new_training(LoraConfig { rank: 1, ..Default::default() })?;
            it.discard(&client);
            match client.get_info().lora_rank {
                Some(1) => fine(),
                Some(rank) => ignored(format!("the rank is {rank}")),
                None => told("the server does not say the rank"),
            }
        }),
        option("create_lora_training_client, attention alone", &["train_mlp", "train_unembed"], |it| {
            let lora = LoraConfig { rank: 8, train_mlp: false, train_unembed: false, ..Default::default() };
            it.discard(&it.new_training(lora)?);
            fine()
        }),
        option(
            "build, tags, user_metadata and display_name",
            &["tags", "user_metadata", "display_name"],
            |it| {
                let named =
                    (it.connect)().tags(["doctor"]).user_metadata("made_by", "doctor").display_name("doctor");
                let service = named.build()?;
                service.create_sampling_client(it.base_model.as_str())?;
                service.close(CloseStatus::Success)?;
                fine()
            },
        ),
        endpoint("build, telemetry", |it| {
            let service = (it.connect)().telemetry(true).build()?;
            service.create_sampling_client(it.base_model.as_str())?;
            service.close(CloseStatus::Success)?;
            match service.telemetry() {
                Some(it) if it.delivered == 0 => ignored("no event was acknowledged"),
                Some(it) => told(format!("{} of {} events acknowledged", it.delivered, it.queued)),
                None => wrong("it was asked for and is off"),
            }
        }),
    ]
}

pub(super) fn losses() -> Vec<Check> {
    vec![core("create_custom_loss", |it| {
        let graph = LossGraph::trace("doctor", &[("logprobs", 1), ("weights", 1)], |it| {
            let loss = -(it.logprobs() * it.input("weights")).sum();
            it.metric("custom/doctor:sum", loss);
            loss
        })?;
        let training = it.training()?;
        let loss = it.service.create_custom_loss(graph).wait()?;
        let metrics = training.forward_backward(vec![super::training::datum()], &loss).wait()?.metrics;
        match (loss.loss_id(), metrics.get("custom/doctor:sum")) {
            (_, None) => wrong("its metric is missing"),
            (Some(_), Some(_)) => told("runs on the server"),
            (None, Some(_)) => told("is computed here"),
        }
    })]
}

pub(super) fn from_checkpoints() -> Vec<Check> {
    vec![
        core("create_training_client_from_state", |it| {
            let client = it.service.create_training_client_from_state(&it.state()?)?;
            super::training::one_step(&client)?;
            it.discard(&client);
            fine()
        }),
        option("create_training_client_from_state_with, user_metadata", &["user_metadata"], |it| {
            let metadata = BTreeMap::from([("made_by".into(), "doctor".into())]);
            let options = FromStateOptions { user_metadata: Some(metadata), ..Default::default() };
            it.discard(&it.service.create_training_client_from_state_with(&it.state()?, &options)?);
            fine()
        }),
        core("create_training_client_from_state_with_optimizer", |it| {
            let client = it.service.create_training_client_from_state_with_optimizer(&it.state()?)?;
            super::training::one_step(&client)?;
            it.discard(&client);
            fine()
        }),
        core("create_sampling_client", |it| {
            let client = it.sampling()?;
            told(client.sampling_session_id())
        }),
        core("TrainingClient.create_sampling_client", |it| {
            let client = it.training()?.create_sampling_client(&it.weights()?)?;
            let params = SamplingParams { max_tokens: Some(4), ..Default::default() };
            draw(&client, &prompt(), 1, &params)?;
            client.close();
            fine()
        }),
        probe("ServiceClient.copy_weights", |it| {
            let destination_project_id = Some(NO_PROJECT.into());
            let options = CopyOptions { destination_project_id, ttl: ONE_HOUR, ..Default::default() };
            let copy = it.service.copy_weights(&it.weights()?, &options)?;
            // Last to be deleted: a server that copies into any project may not have it.
            it.made().litter.insert(0, copy);
            told("into a project that does not exist")
        }),
        core("create_sampling_client, from saved weights", |it| {
            let client = it.service.create_sampling_client(&it.weights()?)?;
            let params = SamplingParams { max_tokens: Some(4), ..Default::default() };
            draw(&client, &prompt(), 1, &params)?;
            client.close();
            fine()
        }),
    ]
}

pub(super) fn end() -> Vec<Check> {
    vec![
        endpoint("unload_model", |it| {
            let client = it.training()?;
            client.unload_model().wait()?;
            client.close();
            fine()
        }),
        core("close", |it| {
            it.service.close(CloseStatus::Success)?;
            fine()
        }),
    ]
}
