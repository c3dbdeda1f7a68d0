//! Training runs, and the models that can be trained.

use serde_json::{Value, json};

use super::{checkpoint, time};
use crate::types::{ServerCapabilities, SupportedModel, TrainingRun};

pub fn run(run: &TrainingRun) -> Value {
    json!({
        "training_run_id": run.training_run_id,
        "base_model": run.base_model,
        "model_owner": run.model_owner,
        "is_lora": run.is_lora,
        "corrupted": run.corrupted,
        "lora_rank": run.lora_rank,
        "last_request_time": time(run.last_request_time.as_ref()),
        "last_checkpoint": run.last_checkpoint.as_ref().map(checkpoint),
        "last_sampler_checkpoint": run.last_sampler_checkpoint.as_ref().map(checkpoint),
        "user_metadata": run.user_metadata,
    })
}

pub fn runs(runs: &[TrainingRun]) -> Value {
    json!({ "runs": runs.iter().map(run).collect::<Vec<_>>() })
}

/// The base models of a server.
pub fn capabilities(capabilities: &ServerCapabilities) -> Value {
    json!({ "models": capabilities.supported_models.iter().map(model).collect::<Vec<_>>() })
}

fn model(model: &SupportedModel) -> Value {
    json!({
        "model_name": model.model_name,
        "max_context_length": model.max_context_length,
        "trainable": model.trainable,
        "sampleable": model.sampleable,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn runs_have_all_their_fields() {
        let sent = json!({
            "training_run_id": "s:train:0", "base_model": "a/model", "model_owner": "tml:user:1", "is_lora": true,
            "lora_rank": 32, "last_request_time": "2026-11-20 13:00:00+00:00",
            "last_checkpoint": { "checkpoint_id": "weights/x", "tinker_path": "tinker://s:train:0/weights/x" },
            "user_metadata": { "recipe": "sft" },
        });
        let full: TrainingRun = serde_json::from_value(sent).unwrap();
        let full_shown = json!({
            "training_run_id": "s:train:0", "base_model": "a/model", "model_owner": "tml:user:1", "is_lora": true,
            "corrupted": false, "lora_rank": 32, "last_request_time": "2026-11-20T13:00:00Z",
            "last_checkpoint": {
                "checkpoint_id": "weights/x", "checkpoint_type": null, "time": null,
                "tinker_path": "tinker://s:train:0/weights/x", "size_bytes": null, "public": false,
                "user_metadata": {}, "expires_at": null,
            },
            "last_sampler_checkpoint": null,
            "user_metadata": { "recipe": "sft" },
        });
        let empty_shown = json!({
            "training_run_id": "", "base_model": null, "model_owner": null, "is_lora": null, "corrupted": false,
            "lora_rank": null, "last_request_time": null, "last_checkpoint": null, "last_sampler_checkpoint": null,
            "user_metadata": {},
        });
        assert_eq!(run(&full), full_shown);
        assert_eq!(runs(&[full, TrainingRun::default()]), json!({ "runs": [full_shown, empty_shown] }));
    }

    #[test]
    fn models_have_all_their_fields() {
        let full = SupportedModel {
            model_name: Some("a/model".into()),
            max_context_length: Some(32_768),
            trainable: Some(true),
            sampleable: Some(false),
        };
        let known = ServerCapabilities { supported_models: vec![full, SupportedModel::default()] };
        let shown = json!({ "models": [
            { "model_name": "a/model", "max_context_length": 32_768, "trainable": true, "sampleable": false },
            { "model_name": null, "max_context_length": null, "trainable": null, "sampleable": null },
        ] });
        assert_eq!(capabilities(&known), shown);
    }
}
