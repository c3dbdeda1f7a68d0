//! Table of all messages that are read from the network: name, decoder and an example. The property tests and
//! `benches/fuzz.rs` test each entry.

use serde::Serialize;

use super::{json, sample, train};
use crate::error::Result;
use crate::types;

/// Reads a body, writes the message, reads the written bytes, and returns whether both readings are equal. `None` if
/// the body cannot be read.
type RoundTrip = fn(&[u8]) -> Option<bool>;

/// One kind of message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message {
    pub(crate) name: &'static str,
    /// Reads bytes and returns true if this succeeded.
    pub(crate) decode: fn(&[u8]) -> bool,
    /// Checks that writing and reading a message does not change it. `None` for a message that this crate never writes.
    #[cfg_attr(not(test), allow(dead_code, reason = "only the property tests use it"))]
    pub(crate) round_trip: Option<RoundTrip>,
    /// JSON example with all fields. Tests replace each value by a random value of the same type, except strings that
    /// begin with `=`: their rest is used literally.
    pub(crate) example: &'static str,
}

fn round_trip<T: Serialize + PartialEq>(body: &[u8], read: fn(&[u8]) -> Result<T>) -> Option<bool> {
    let first = read(body).ok()?;
    Some(json::encode(&first).and_then(|body| read(&body)).is_ok_and(|again| again == first))
}

macro_rules! message {
    ($read:ident $name:ident $example:literal) => {
        Message {
            name: stringify!($name),
            decode: |it| json::$read::<json::$name>(it).is_ok(),
            round_trip: Some(|it| round_trip(it, json::$read::<json::$name>)),
            example: $example,
        }
    };
    ($read:ident types::$name:ident $example:literal) => {
        Message {
            name: stringify!($name),
            decode: |it| json::$read::<types::$name>(it).is_ok(),
            round_trip: Some(|it| round_trip(it, json::$read::<types::$name>)),
            example: $example,
        }
    };
    // A message that this crate never writes.
    (only $read:ident types::$name:ident $example:literal) => {
        Message {
            name: stringify!($name),
            decode: |it| json::$read::<types::$name>(it).is_ok(),
            round_trip: None,
            example: $example,
        }
    };
}

/// JSON messages. Clients send those marked `request`, servers send those marked `response`.
pub(crate) const JSON: &[Message] = &[
    message!(request ClientConfigRequest r#"{"sdk_version":"a"}"#),
    message!(request AuthTokenRequest "{}"),
    message!(request CreateSessionRequest r#"{"type":"=create_session","tags":["a"],"user_metadata":{"a":"b"},"sdk_version":"a","project_id":"a","display_name":"a"}"#),
    message!(request SessionHeartbeatRequest r#"{"type":"=session_heartbeat","session_id":"a"}"#),
    message!(request FinishSessionRequest r#"{"reason":{"type":"=errored"},"detail":"a"}"#),
    message!(request CreateModelRequest r#"{"type":"=create_model","session_id":"a","model_seq_id":1,"base_model":"a","user_metadata":{"a":"b"},"lora_config":{"rank":3,"seed":4,"train_unembed":true,"train_mlp":true,"train_attn":true},"optimizer_config":{"type":"a","version":1}}"#),
    message!(request GetInfoRequest r#"{"type":"=get_info","model_id":"a"}"#),
    message!(request OptimStepRequest r#"{"type":"=optim_step","model_id":"a","seq_id":1,"adam_params":{"learning_rate":0.5,"beta1":0.5,"beta2":0.5,"eps":0.5,"weight_decay":0.5,"grad_clip_norm":0.5},"optimizer_params":{"type":"a"}}"#),
    message!(request SaveWeightsRequest r#"{"type":"=save_weights","model_id":"a","path":"a","seq_id":1,"ttl_seconds":1,"overwrite":true,"user_metadata":{"a":"b"}}"#),
    message!(request LoadWeightsRequest r#"{"type":"=load_weights","session_id":"a","model_seq_id":1,"model_id":"a","seq_id":1,"path":"a","optimizer":true,"base_model":"a","user_metadata":{"a":"b"},"optimizer_config":{"type":"a"},"weights_access_token":"a"}"#),
    message!(request SaveWeightsForSamplerRequest r#"{"type":"=save_weights_for_sampler","model_id":"a","path":"a","sampling_session_seq_id":1,"kind":"=inflight","seq_id":1,"ttl_seconds":1,"user_metadata":{"a":"b"}}"#),
    message!(request SaveWeightsExternalRequest r#"{"type":"=save_weights_external","model_id":"a","path":"a","seq_id":1,"ttl_seconds":1,"age_encryption_recipients":["a"]}"#),
    message!(request JoinSamplingSessionRequest r#"{"type":"=join_sampling_session","sampling_session_id":"a"}"#),
    message!(request CreateCustomLossRequest r#"{"type":"=create_custom_loss","session_id":"a","custom_loss_seq_id":1,"name":"a","inputs":[{"name":"a","rank":1}],"graph":{"format":1,"nodes":[{"op":"=call_function","name":"a","target":"a","args":[1,{"ref":"a"}],"kwargs":{"a":0.5}}]}}"#),
    message!(request UnloadModelRequest r#"{"type":"=unload_model","model_id":"a"}"#),
    message!(request CreateSamplingSessionRequest r#"{"type":"=create_sampling_session","session_id":"a","sampling_session_seq_id":1,"base_model":"a","model_path":"a"}"#),
    message!(request SampleRequest r#"{"type":"=sample","num_samples":1,"prompt":{"chunks":[{"type":"=encoded_text","tokens":[1,2]},{"type":"=image","data":"a","format":"a","expected_tokens":1},{"type":"=image_asset_pointer","location":"a","format":"a","expected_tokens":1},{"type":"=dmel","dmel":"a"}]},"sampling_params":{"max_tokens":1,"seed":1,"stop":["a"],"temperature":0.5,"top_k":1,"top_p":0.5},"sampling_session_id":"a","seq_id":1,"base_model":"a","model_path":"a","prompt_logprobs":true,"topk_prompt_logprobs":1,"topk_sample_logprobs":1,"target_prompt_logprobs":{"data":[1],"dtype":"a","shape":[1],"sparse_crow_indices":[1],"sparse_col_indices":[1]},"prompt_alt_tokens_k":1,"prompt_logprobs_last_n":1,"record_stability_info":true}"#),
    message!(request RetrieveFutureRequest r#"{"request_id":"a","allow_metadata_only":true}"#),
    message!(request CancelFutureRequest r#"{"request_id":"a"}"#),
    message!(request RetrieveFuturesRequest r#"{"target":{"type":"=sampling_session","sampling_session_id":"a","cloned_sampler_id":1},"prev_cursor":1,"timeout":0.5,"retrieved_request_ids":["a"]}"#),
    message!(request WeightsInfoRequest r#"{"tinker_path":"a"}"#),
    message!(request CheckpointTtlRequest r#"{"ttl_seconds":1}"#),
    message!(request CopyWeightsRequest r#"{"destination_project_id":"a","source_path":"a","ttl_seconds":1}"#),
    message!(request AssignProjectRequest r#"{"project_id":"a"}"#),
    message!(request TelemetryRequest r#"{"events":[{"event":"a"}],"platform":"a","sdk_version":"a","session_id":"a","process_uuid":"a"}"#),
    message!(response ClientConfig r#"{"pjwt_auth_enabled":true,"credential_default_source":"a","sample_dispatch_bytes_semaphore_size":1,"inflight_response_bytes_semaphore_size":1,"parallel_fwdbwd_chunks":true,"proto_compress_fwdbwd":true,"fwdbwd_max_chunk_len":1,"fwdbwd_max_chunk_bytes_count":1,"fwdbwd_dispatch_bytes_semaphore_size":1,"billing_exception_max_pause_duration_sec":0.5,"sample_no_retries":true,"sample_enable_stuck_detection":true,"sample_max_concurrent_requests":1,"sample_use_retrieve_futures":true,"custom_loss_server_side":true,"sample_join_sampling_session":true}"#),
    message!(response DynamicConfig r#"{"refresh_interval_sec":0.5,"sample_cancel_enabled":true,"sample_cancel_max_batch_size":1}"#),
    message!(response AuthTokenResponse r#"{"jwt":"a"}"#),
    message!(response HealthzResponse r#"{"status":"a"}"#),
    message!(response ServerCapabilitiesResponse r#"{"supported_models":[{"model_name":"a","max_context_length":1,"trainable":true,"sampleable":true}]}"#),
    message!(response CreateSessionResponse r#"{"type":"=create_session","session_id":"a","info_message":"a","warning_message":"a","error_message":"a"}"#),
    message!(response SessionHeartbeatResponse r#"{"type":"=session_heartbeat"}"#),
    message!(response UntypedFuture r#"{"request_id":"a","model_id":"a","sample_sequence_ids":["a"]}"#),
    message!(response CreateModelResponse r#"{"type":"=create_model","model_id":"a"}"#),
    message!(response GetInfoResponse r#"{"type":"=get_info","model_id":"a","model_data":{"arch":"a","model_name":"a","tokenizer_id":"a","base_model":"a","lora_config":{"rank":1}},"optimizer_config":{"type":"a"},"is_lora":true,"lora_rank":1,"model_name":"a"}"#),
    message!(response OptimStepResponse r#"{"type":"=optim_step","metrics":{"a":0.5}}"#),
    message!(response SaveWeightsResponse r#"{"type":"=save_weights","path":"a"}"#),
    message!(response LoadWeightsResponse r#"{"type":"=load_weights","path":"a","model_id":"a"}"#),
    message!(response SaveWeightsForSamplerResponse r#"{"type":"=save_weights_for_sampler","path":"a","sampling_session_id":"a"}"#),
    message!(response SaveWeightsExternalResponse r#"{"type":"=save_weights_external","path":"a","size_bytes":1}"#),
    message!(response JoinSamplingSessionResponse r#"{"type":"=join_sampling_session","client_counter":1}"#),
    message!(response CreateCustomLossResponse r#"{"type":"=create_custom_loss","loss_id":"a"}"#),
    message!(response UnloadModelResponse r#"{"type":"=unload_model","model_id":"a"}"#),
    message!(response CreateSamplingSessionResponse r#"{"type":"=create_sampling_session","sampling_session_id":"a"}"#),
    message!(response SamplerResponse r#"{"sampler_id":"a","base_model":"a","model_path":"a"}"#),
    message!(response RetrieveFuturesResponse r#"{"completions":[{"state":"a","request_id":"a","response_payload_uncompressed_size":1}],"cursor":1}"#),
    message!(response WeightsInfoResponse r#"{"base_model":"a","optimizer_config":{"type":"a"},"is_lora":true,"lora_rank":1,"train_unembed":true,"train_mlp":true,"train_attn":true}"#),
    message!(response CopyWeightsResponse r#"{"tinker_path":"a"}"#),
    message!(response TrainingRunsResponse r#"{"training_runs":[{"training_run_id":"a","base_model":"a","model_owner":"a","is_lora":true,"corrupted":true,"lora_rank":1,"last_request_time":"a","last_checkpoint":{"checkpoint_id":"a"},"last_sampler_checkpoint":{"checkpoint_id":"a"},"user_metadata":{"a":"b"}}],"cursor":{"offset":1,"limit":1,"total_count":1}}"#),
    message!(response CheckpointsResponse r#"{"checkpoints":[{"checkpoint_id":"a","checkpoint_type":"a","time":"a","tinker_path":"a","size_bytes":1,"public":true,"user_metadata":{"a":"b"},"expires_at":"a"}],"cursor":{"offset":1,"limit":1,"total_count":1}}"#),
    message!(response SessionsResponse r#"{"sessions":["a"],"cursor":{"offset":1,"limit":1,"total_count":1}}"#),
    message!(response TraceExportResponse r#"{"status":"a","url":"a","error":"a"}"#),
    message!(response AuditResponse r#"{"entries":[{"timestamp":"a","event":"a","event_details":{"a":"b"},"model_id":"a","tinker_path":"a","purpose":"a"}]}"#),
    message!(response TelemetryResponse r#"{"status":"a"}"#),
    message!(response types::ApiKeyInfo r#"{"key_id":1,"name":"a","note":"a","details":{"org_details":{"a":"b"},"user_details":{"a":"b"}}}"#),
    message!(response types::SamplerInfo r#"{"sampler_id":"a","base_model":"a","model_path":"a"}"#),
    message!(response types::SessionInfo r#"{"training_run_ids":["a"],"sampler_ids":["a"],"user_metadata":{"a":"b"},"display_name":"a"}"#),
    message!(response types::ExternalWeightsUrls r#"{"urls":{"a":"b"},"expires":"a"}"#),
    message!(response types::ArchiveUrl r#"{"url":"a","expires":"a"}"#),
    message!(response types::StorageUsage r#"{"effective_rate_usd_per_gigabyte_month":0.5,"data":[{"project_id":"a","org_user_urn":"a","user_email":"a","user_name":"a","checkpoint_count":1,"size_bytes":1,"size_gigabytes":0.5,"estimated_monthly_cost_usd":0.5}]}"#),
    message!(only response types::BillingUsage r#"{"data":[{"bucket_start":"a","bucket_end":"a","base_model":"a","user_id":"a","user_name":"a","session_id":"a","project_id":"a","estimated_cost_usd":0.5,"effective_rate_usd_per_million_tokens":0.5,"effective_rate_usd_per_gigabyte_month":0.5,"event_info":{"type":"a","token_count":1}}],"sessions":{"a":{"user_metadata":{"a":"b"}}},"cost_data_through":"a"}"#),
    message!(only response types::SessionPage r#"{"sessions":[{"session_id":"a","created_at":"a","owner":"a","project_id":"a","status":{"type":"a","detail":"a","reason":{"type":"a"}},"checkpoints_count":1,"display_name":"a","user_metadata":{"a":"b"},"checkpoint_storage_bytes":1}],"next_cursor":{"last_created_at":"a","last_session_id":"a"}}"#),
];

macro_rules! decoder {
    ($name:literal $decode:expr) => {
        Message { name: $name, decode: $decode, round_trip: None, example: "" }
    };
}

fn text(body: &[u8]) -> &str {
    std::str::from_utf8(body).unwrap_or_default()
}

/// Decoders that serde does not derive: they read protobuf messages, or JSON and text by hand-written rules. These
/// entries have no example.
pub(crate) const OTHERS: &[Message] = &[
    decoder!("ForwardBackwardRequest" | it | train::decode_forward_backward_request(it).is_ok()),
    decoder!("ForwardBackwardOutput" | it | train::decode_forward_backward_output(it.to_vec()).is_ok()),
    decoder!("SampleResponse" | it | sample::decode_sample_response(it, &[]).is_ok()),
    decoder!(
        "legacy forward_backward" | it | {
            train::decode_forward_backward_json(it, "forward_backward_input").is_ok()
        }
    ),
    decoder!("legacy forward" | it | train::decode_forward_backward_json(it, "forward_input").is_ok()),
    decoder!(
        "ForwardBackwardOutput in JSON" | it | {
            json::parse(it).is_ok_and(|it| train::forward_backward_output_from_json(&it).is_ok())
        }
    ),
    decoder!(
        "SampleResponse in JSON" | it | {
            json::parse(it).is_ok_and(|it| sample::sample_response_from_json(&it, &[]).is_ok())
        }
    ),
    decoder!(
        "prompt and parameters of a SampleRequest" | it | {
            let request = json::request::<json::SampleRequest>(it);
            request.is_ok_and(|it| it.prompt.read().is_ok() && it.sampling_params.read().is_ok())
        }
    ),
    decoder!("FutureReply" | it | json::FutureReply::read(it).is_ok()),
    decoder!("CheckpointPath" | it | text(it).parse::<types::CheckpointPath>().is_ok()),
    decoder!(
        "Timestamp" | it | {
            let time = json::response::<types::Timestamp>(it);
            time.is_ok_and(|it| it.to_system_time().is_some())
        }
    ),
];
