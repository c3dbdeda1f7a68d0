//! Results as JSON, in the shapes of the HTTP interface.

use serde_json::{Value, json};

use super::result::Outcome;
use crate::wire::sample::sample_response_to_json;
use crate::wire::train::forward_backward_output_to_json;

/// The whole result. NaN and infinities become null.
pub(super) fn json(outcome: &Outcome) -> Value {
    match outcome {
        Outcome::Pass(pass) => {
            let mut json = forward_backward_output_to_json(pass);
            // Computed by the client.
            json["loss"] = json!(pass.loss());
            json["loss_per_token"] = json!(pass.loss_per_token());
            json["n_loss_tokens"] = json!(pass.n_loss_tokens);
            with_type(json, "pass")
        }
        Outcome::Optim(step) => with_type(json!({ "metrics": step.metrics }), "optim"),
        Outcome::Save { path, size_bytes } => {
            with_type(json!({ "path": path, "size_bytes": size_bytes }), "save")
        }
        Outcome::Load(path) => with_type(json!({ "path": path }), "load"),
        Outcome::Sample(response) => with_type(sample_response_to_json(response), "sample"),
        Outcome::Logprobs(logprobs) => with_type(json!({ "prompt_logprobs": logprobs }), "logprobs"),
        Outcome::Training(client) => with_type(json!({ "model_id": client.model_id() }), "training"),
        Outcome::Sampling(client) => with_type(
            json!({
                "sampling_session_id": client.sampling_session_id(),
                "base_model": client.get_base_model(),
            }),
            "sampling",
        ),
        Outcome::Loss(handle) => {
            with_type(json!({ "name": handle.name(), "session_id": handle.session_id() }), "loss")
        }
    }
}

fn with_type(mut json: Value, name: &str) -> Value {
    json["type"] = name.into();
    json
}
