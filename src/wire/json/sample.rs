//! Messages about sampling sessions, and the sampling request (PROTOCOL §3.4, §6.6).

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::types::{ModelInput, SampleOptions, SamplingParams, Stop};
use crate::wire::tensor::TensorJson;

use super::ModelInputJson;
use super::fields::{f32_or_infinite, id, or_absent};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "create_sampling_session")]
pub(crate) struct CreateSamplingSessionRequest {
    pub(crate) session_id: String,
    pub(crate) sampling_session_seq_id: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) base_model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) model_path: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "create_sampling_session")]
pub(crate) struct CreateSamplingSessionResponse {
    #[serde(deserialize_with = "id")]
    pub(crate) sampling_session_id: String,
}

/// Joins a sampling session that another client created.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "join_sampling_session")]
pub(crate) struct JoinSamplingSessionRequest {
    #[serde(deserialize_with = "id")]
    pub(crate) sampling_session_id: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "join_sampling_session")]
pub(crate) struct JoinSamplingSessionResponse {
    /// Number that the server assigns to the joining client. The `seq_id`s of its samples begin at this number times
    /// 10^9.
    #[serde(default, deserialize_with = "or_absent", skip_serializing_if = "Option::is_none")]
    pub(crate) client_counter: Option<u64>,
}

/// Answer to `GET samplers/{id}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SamplerResponse {
    #[serde(deserialize_with = "or_absent")]
    pub(crate) sampler_id: String,
    #[serde(deserialize_with = "or_absent", skip_serializing_if = "Option::is_none")]
    pub(crate) base_model: Option<String>,
    #[serde(deserialize_with = "or_absent", skip_serializing_if = "Option::is_none")]
    pub(crate) model_path: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "sample")]
pub(crate) struct SampleRequest {
    #[serde(default = "one")]
    pub(crate) num_samples: u32,
    pub(crate) prompt: ModelInputJson,
    #[serde(default)]
    pub(crate) sampling_params: SamplingParamsJson,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sampling_session_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seq_id: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) base_model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) model_path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_logprobs: Option<bool>,
    #[serde(default)]
    pub(crate) topk_prompt_logprobs: u32,
    #[serde(default)]
    pub(crate) topk_sample_logprobs: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) target_prompt_logprobs: Option<TensorJson>,
    #[serde(default)]
    pub(crate) prompt_alt_tokens_k: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_logprobs_last_n: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) record_stability_info: Option<bool>,
}

fn one() -> u32 {
    1
}

impl SampleRequest {
    pub(crate) fn new(
        sampling_session_id: &str,
        seq_id: u64,
        prompt: &ModelInput,
        num_samples: u32,
        params: &SamplingParams,
        options: &SampleOptions,
    ) -> Result<Self> {
        // JSON has no NaN and no infinity. They would be written as `null`, and the server would use the default.
        if !(params.temperature.is_finite() && params.top_p.is_finite()) {
            return Err(Error::invalid("sampling_params", "temperature and top_p must be finite"));
        }
        Ok(SampleRequest {
            num_samples,
            prompt: prompt.into(),
            sampling_params: params.into(),
            sampling_session_id: Some(sampling_session_id.into()),
            seq_id: Some(seq_id),
            base_model: None,
            model_path: None,
            prompt_logprobs: Some(options.include_prompt_logprobs),
            topk_prompt_logprobs: options.topk_prompt_logprobs,
            topk_sample_logprobs: options.topk_sample_logprobs,
            target_prompt_logprobs: options.target_prompt_logprobs.as_ref().map(TensorJson::from),
            prompt_alt_tokens_k: options.prompt_alt_tokens_k,
            prompt_logprobs_last_n: options.prompt_logprobs_last_n,
            record_stability_info: Some(false),
        })
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SamplingParamsJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_tokens: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seed: Option<i128>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stop: Option<StopJson>,
    #[serde(deserialize_with = "f32_or_infinite")]
    pub(crate) temperature: f32,
    pub(crate) top_k: i32,
    #[serde(deserialize_with = "f32_or_infinite")]
    pub(crate) top_p: f32,
}

/// Stop sequences. A single string is read but never written, because some servers accept only lists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum StopJson {
    One(String),
    Strings(Vec<String>),
    Tokens(Vec<i32>),
}

impl Default for SamplingParamsJson {
    fn default() -> Self {
        (&SamplingParams::default()).into()
    }
}

impl From<&SamplingParams> for SamplingParamsJson {
    fn from(params: &SamplingParams) -> Self {
        SamplingParamsJson {
            max_tokens: params.max_tokens.map(i64::from),
            seed: params.seed.map(i128::from),
            stop: params.stop.as_ref().map(|stop| match stop {
                Stop::Strings(texts) => StopJson::Strings(texts.clone()),
                Stop::Tokens(tokens) => StopJson::Tokens(tokens.clone()),
            }),
            temperature: params.temperature,
            top_k: params.top_k,
            top_p: params.top_p,
        }
    }
}

impl SamplingParamsJson {
    /// Converts and validates the parameters.
    pub(crate) fn read(self) -> Result<SamplingParams> {
        let max_tokens = self.max_tokens.map(|n| {
            u32::try_from(n).ok().filter(|n| 0 < *n).ok_or_else(|| {
                Error::invalid("sampling_params.max_tokens", format!("must be at least 1, is {n}"))
            })
        });
        let params = SamplingParams {
            max_tokens: max_tokens.transpose()?,
            // Any integer is allowed as a seed; the protocol reduces it modulo 2^63 − 1.
            seed: self.seed.map(|seed| seed.rem_euclid(i128::from(i64::MAX)) as u64),
            stop: self.stop.map(|stop| match stop {
                StopJson::One(text) => Stop::Strings(vec![text]),
                StopJson::Strings(texts) => Stop::Strings(texts),
                StopJson::Tokens(tokens) => Stop::Tokens(tokens),
            }),
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
        };
        params.validate()?;
        Ok(params)
    }
}
