//! Creation of models and sampling sessions. An actor passes the request to a pool thread, which sends it to the
//! server, waits for the result and answers the caller.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::client::Submitted;
use crate::credentials::Secret;
use crate::error::{Error, ErrorKind, Result};
use crate::http::{Call, Endpoint, Lane, Room, endpoint};
use crate::policy::endpoints::{Names, may_lack_one_step_load};
use crate::session::{Job, Promise, Session, Ticket, is_about_resource, missing_in_answer};
use crate::sync::CancelToken;
use crate::types::{
    AccessToken, FromStateOptions, LoraConfig, ModelInfo, ModelOptions, SamplerPath, TrainingPath,
};
use crate::wire::{json, url};

/// Source of the weights to sample from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SamplingSource {
    /// A base model, by name.
    BaseModel(String),
    /// Saved weights.
    Weights(SamplerPath),
    /// A saved training state. Only some servers can sample from it. A string with the path of a training state
    /// converts to this variant (`TryFrom<&str>`). A [`TrainingPath`] does not convert: write
    /// `SamplingSource::State(path)`.
    State(TrainingPath),
}

impl TryFrom<&str> for SamplingSource {
    type Error = Error;

    fn try_from(text: &str) -> Result<Self> {
        match text {
            "" => Err(Error::invalid("model", "is empty")),
            path if path.contains("://") => match path.parse::<TrainingPath>() {
                Ok(state) => Ok(SamplingSource::State(state)),
                Err(_) => Ok(SamplingSource::Weights(path.parse()?)),
            },
            name => Ok(SamplingSource::BaseModel(name.into())),
        }
    }
}

impl TryFrom<&String> for SamplingSource {
    type Error = Error;

    fn try_from(text: &String) -> Result<Self> {
        text.as_str().try_into()
    }
}

impl From<SamplerPath> for SamplingSource {
    fn from(path: SamplerPath) -> Self {
        SamplingSource::Weights(path)
    }
}

impl From<&SamplerPath> for SamplingSource {
    fn from(path: &SamplerPath) -> Self {
        SamplingSource::Weights(path.clone())
    }
}

impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// What a new model is created from: a base model, or a saved training state.
pub(super) enum ModelSource {
    New { base_model: String, lora: LoraConfig, options: ModelOptions },
    From { path: TrainingPath, options: FromStateOptions },
}

impl ModelSource {
    /// A new model.
    ///
    /// # Errors
    /// Invalid options, or an empty name.
    pub(super) fn new(base_model: &str, lora: LoraConfig, options: &ModelOptions) -> Result<Self> {
        lora.validate()?;
        options.validate(&json::CreateModelRequest::FIELDS)?;
        if base_model.is_empty() {
            return Err(Error::invalid("base_model", "is empty"));
        }
        Ok(ModelSource::New { base_model: base_model.into(), lora, options: options.clone() })
    }

    /// A model from a checkpoint.
    ///
    /// # Errors
    /// Invalid options.
    pub(super) fn saved(path: TrainingPath, options: &FromStateOptions) -> Result<Self> {
        options.validate()?;
        Ok(ModelSource::From { path, options: options.clone() })
    }

    /// The method of the client, for errors and statistics.
    pub(super) fn verb(&self) -> &'static str {
        match self {
            ModelSource::New { .. } => "ServiceClient.create_lora_training_client",
            ModelSource::From { options, .. } if options.restore_optimizer => {
                "ServiceClient.create_training_client_from_state_with_optimizer"
            }
            ModelSource::From { .. } => "ServiceClient.create_training_client_from_state",
        }
    }
}

/// A request to create a model.
pub(super) struct NewModel {
    pub(super) source: ModelSource,
    pub(super) ticket: Ticket<CreatedModel>,
}

/// A created model.
pub(crate) struct CreatedModel {
    pub(super) info: ModelInfo,
    /// Sequence id of the model's next request.
    pub(super) first_seq_id: u32,
}

/// A request to create a sampling session.
pub(super) struct NewSampler {
    pub(super) source: SamplingSource,
    pub(super) ticket: Ticket<CreatedSampler>,
}

/// A created sampling session.
#[derive(Clone)]
pub(crate) struct CreatedSampler {
    pub(super) sampling_session_id: String,
    pub(super) base_model: Option<String>,
}

/// Creates a model, on a thread of the pool.
pub(super) fn spawn_model(session: Arc<Session>, session_id: Arc<str>, job: NewModel) {
    let seq_id = session.next_model_seq_id();
    let NewModel { source, ticket } = job;
    let owner = session.clone();
    // A closed pool drops the job. Dropping the ticket in it answers the caller with an error.
    let _ = owner.pool[Job::Wait].spawn(move || {
        let creation =
            Creation { session: &session, session_id: &session_id, ticket: &ticket, cancel: &ticket.cancel };
        let made = creation.create_model(source, seq_id);
        ticket.answer(made);
    });
}

/// Creates a sampling session, on a thread of the pool.
pub(super) fn spawn_sampler(session: Arc<Session>, session_id: Arc<str>, job: NewSampler) {
    let seq_id = session.next_sampling_session_seq_id();
    let NewSampler { source, ticket } = job;
    let owner = session.clone();
    // A closed pool drops the job. Dropping the ticket in it answers the caller with an error.
    let _ = owner.pool[Job::Send].spawn(move || {
        let made = create_sampler(&session, &session_id, source, seq_id, &ticket);
        ticket.answer(made);
    });
}

/// An accepted request.
pub(super) enum Accepted {
    Promised {
        promise: Promise,
        /// Model id in the promise. It is needed if the result does not contain the model id.
        model_id: Option<String>,
    },
    /// The server answered with the result or an error instead of a promise.
    Done(Result<json::ResultBody>),
}

impl Accepted {
    /// Model id of the result; if the result has none, the model id of the promise.
    fn model_id(&self, of_result: Option<String>) -> Option<String> {
        let of_promise = || match self {
            Accepted::Promised { model_id, .. } => model_id.clone(),
            Accepted::Done(_) => None,
        };
        of_result.filter(|id| !id.is_empty()).or_else(of_promise).filter(|id| !id.is_empty())
    }
}

/// Properties that a model needs so that a checkpoint can be loaded into it.
struct Shape {
    base_model: String,
    lora: LoraConfig,
    optimizer: json::OptimizerConfig,
}

/// What the creation of a model, a sampler or a loss needs: the session, and the ticket of the waiting caller.
pub(super) struct Creation<'a, T: Send + 'static> {
    pub(super) session: &'a Session,
    pub(super) session_id: &'a str,
    pub(super) ticket: &'a Ticket<T>,
    /// Cancels the creation.
    pub(super) cancel: &'a CancelToken,
}

impl Creation<'_, CreatedModel> {
    fn create_model(&self, source: ModelSource, seq_id: u64) -> Result<CreatedModel> {
        let (model_id, first_seq_id) = match source {
            ModelSource::New { base_model, lora, options } => {
                let request = json::CreateModelRequest {
                    session_id: self.session_id.into(),
                    model_seq_id: seq_id,
                    base_model,
                    user_metadata: options.user_metadata.map(values),
                    lora_config: Some(lora),
                    optimizer_config: options.optimizer.into(),
                    more: options.extra_fields,
                };
                (self.create(&request)?, 1)
            }
            ModelSource::From { path, options } => self.load_model(&path, options, seq_id)?,
        };
        let request = json::GetInfoRequest { model_id: model_id.clone() };
        let info: json::GetInfoResponse = self.request(&endpoint::GET_INFO, &request)?;
        let info = ModelInfo { model_id, ..info.into() };
        Ok(CreatedModel { info, first_seq_id })
    }

    fn create(&self, request: &json::CreateModelRequest) -> Result<String> {
        const ENDPOINT: &Endpoint = &endpoint::CREATE_MODEL;
        let http = &self.session.http;
        http.check_offered(ENDPOINT)?;
        let accepted = self.submit(ENDPOINT, request, "CreateModel");
        let accepted = accepted.map_err(|error| http.judged(error, ENDPOINT, ENDPOINT.names))?;
        http.offered().lock().note_present(ENDPOINT.name);
        let made: json::CreateModelResponse = self.result(&accepted)?;
        accepted.model_id(made.model_id).ok_or_else(|| missing_in_answer("the id of the model"))
    }

    /// Creates a model from a checkpoint, with one request if the server supports that. Otherwise sends three requests
    /// (PROTOCOL §11): read the shape of the checkpoint, create a model of that shape, load the checkpoint into the
    /// model.
    fn load_model(
        &self,
        path: &TrainingPath,
        options: FromStateOptions,
        model_seq_id: u64,
    ) -> Result<(String, u32)> {
        const ENDPOINT: &Endpoint = &endpoint::LOAD_WEIGHTS;
        let token = options.weights_access_token.as_ref().map(AccessToken::checked).transpose()?;
        if let Some(token) = token {
            self.session.http.hide(token);
        }
        let optimizer = options.restore_optimizer;
        let request = json::LoadWeightsRequest {
            base_model: options.base_model.clone(),
            user_metadata: options.user_metadata.clone().map(values),
            optimizer_config: options.optimizer.clone().map(Into::into),
            weights_access_token: token.cloned(),
            ..json::LoadWeightsRequest::create(self.session_id, model_seq_id, path.as_str(), optimizer)
        };
        // Fall back to three requests only if the submission fails. If the server accepts the request and the load
        // fails later, a load with three requests would fail too.
        match self.submit(ENDPOINT, &request, "LoadWeights") {
            Ok(accepted) => {
                let loaded: json::LoadWeightsResponse = self.result(&accepted)?;
                let derived = || format!("{}:train:{model_seq_id}", self.session_id);
                Ok((accepted.model_id(loaded.model_id).unwrap_or_else(derived), 1))
            }
            Err(error) if may_lack_one_step_load(error.http_status(), is_about_resource(&error)) => {
                let Shape { base_model, lora, optimizer: saved } = self.checkpoint_shape(path, token)?;
                let model_id = self.create(&json::CreateModelRequest {
                    session_id: self.session_id.into(),
                    model_seq_id: self.session.next_model_seq_id(),
                    base_model: options.base_model.unwrap_or(base_model),
                    user_metadata: options.user_metadata.map(values),
                    lora_config: Some(lora),
                    // An optimizer state can be restored only into an optimizer of the same kind.
                    optimizer_config: if optimizer {
                        saved
                    } else {
                        options.optimizer.map(Into::into).unwrap_or_default()
                    },
                    more: Default::default(),
                })?;
                let request = json::LoadWeightsRequest {
                    weights_access_token: request.weights_access_token,
                    ..json::LoadWeightsRequest::into_model(&model_id, 1, path.as_str(), optimizer)
                };
                self.submit_and_wait::<json::LoadWeightsResponse>(ENDPOINT, &request, "LoadWeights")?;
                Ok((model_id, 2))
            }
            Err(error) => Err(error),
        }
    }

    fn checkpoint_shape(&self, path: &TrainingPath, token: Option<&Secret>) -> Result<Shape> {
        let request = json::WeightsInfoRequest { tinker_path: path.as_str().into() };
        let mut call = Call::post(Lane::Train, &endpoint::WEIGHTS_INFO, &request)?.of(&self.ticket.progress);
        if let Some(token) = token {
            call = call.header(AccessToken::HEADER, token.expose());
        }
        let info: json::WeightsInfoResponse = self.session.http.json(&call, self.cancel)?;
        let default = LoraConfig::default();
        let lora = LoraConfig {
            // Rank 0 stands for a model without an adapter.
            rank: info.lora_rank.unwrap_or(if info.is_lora == Some(false) { 0 } else { default.rank }),
            seed: None,
            train_unembed: info.train_unembed.unwrap_or(default.train_unembed),
            train_mlp: info.train_mlp.unwrap_or(default.train_mlp),
            train_attn: info.train_attn.unwrap_or(default.train_attn),
        };
        let base_model = info.base_model.ok_or_else(|| missing_in_answer("the checkpoint's base model"))?;
        Ok(Shape { base_model, lora, optimizer: info.optimizer_config })
    }

    fn request<R: DeserializeOwned>(
        &self,
        endpoint: &'static Endpoint,
        request: &impl Serialize,
    ) -> Result<R> {
        self.session.request_json(Lane::Train, endpoint, request, &self.ticket.progress, self.cancel)
    }
}

impl<T: Send + 'static> Creation<'_, T> {
    /// Submits a request and waits for its result.
    fn submit_and_wait<R: DeserializeOwned>(
        &self,
        endpoint: &'static Endpoint,
        request: &impl Serialize,
        request_type: &'static str,
    ) -> Result<R> {
        self.result(&self.submit(endpoint, request, request_type)?)
    }

    pub(super) fn submit(
        &self,
        endpoint: &'static Endpoint,
        request: &impl Serialize,
        request_type: &'static str,
    ) -> Result<Accepted> {
        let progress = &self.ticket.progress;
        progress.submitting();
        let call = Call::post(Lane::Train, endpoint, request)?.of(progress).answered_within(Room::SMALL);
        let started = self.session.clock.now();
        let answer = self.session.http.send(&call, self.cancel)?;
        let born = self.session.clock.now();
        progress.contact(born);
        let promised = match Submitted::read(answer, request_type)? {
            Submitted::Done(result) => return Ok(Accepted::Done(result)),
            Submitted::Promised(promised) => promised,
        };
        progress.accepted(&promised.request_id);
        let promise = promise(promised.request_id, request_type, started, born);
        Ok(Accepted::Promised { promise, model_id: promised.model_id })
    }

    pub(super) fn result<R: DeserializeOwned>(&self, accepted: &Accepted) -> Result<R> {
        match accepted {
            Accepted::Done(result) => result.as_ref().map_err(Error::clone)?.read(),
            Accepted::Promised { promise, .. } => {
                self.session.retrieve(promise, &self.ticket.progress, self.cancel)?.body.read()
            }
        }
    }
}

fn values(metadata: BTreeMap<String, String>) -> BTreeMap<String, Value> {
    metadata.into_iter().map(|(key, value)| (key, value.into())).collect()
}

/// Makes the promise of a JSON result.
fn promise(request_id: String, request_type: &'static str, started: Instant, born: Instant) -> Promise {
    let roundtrip = born.saturating_duration_since(started);
    Promise { request_id, request_type, protobuf: false, born, roundtrip, room: Room::SMALL }
}

fn create_sampler(
    session: &Session,
    session_id: &str,
    source: SamplingSource,
    seq_id: u64,
    ticket: &Ticket<CreatedSampler>,
) -> Result<CreatedSampler> {
    let (base_model, model_path) = match source {
        SamplingSource::BaseModel(name) => (Some(name), None),
        SamplingSource::Weights(path) => (None, Some(path.to_string())),
        SamplingSource::State(path) => (None, Some(path.to_string())),
    };
    let request = json::CreateSamplingSessionRequest {
        session_id: session_id.into(),
        sampling_session_seq_id: seq_id,
        base_model: base_model.clone(),
        model_path,
    };
    ticket.progress.submitting();
    let http = &session.http;
    http.check_offered(&endpoint::CREATE_SAMPLING_SESSION)?;
    let call = Call::post(Lane::Session, &endpoint::CREATE_SAMPLING_SESSION, &request)?.of(&ticket.progress);
    let answer = http.send_to_optional(&call, &ticket.cancel)?;
    let made: json::CreateSamplingSessionResponse = http.decode(&call, &answer)?;
    let id = made.sampling_session_id;
    let base_model = match base_model {
        Some(name) => Some(name),
        // This request also checks that the weights exist: some servers create a sampling session for any path.
        None => match base_model_of(session, &id, |call| call.of(&ticket.progress), &ticket.cancel) {
            // If the server lacks the endpoint, the base model stays unknown. If the weights do not exist, the caller
            // learns it only from the first sample.
            Err(error) if *error.kind() == ErrorKind::Incompatible => None,
            other => other?,
        },
    };
    Ok(CreatedSampler { sampling_session_id: id, base_model })
}

/// Reads the base model of a new sampling session.
pub(super) fn base_model_of(
    session: &Session,
    sampling_session_id: &str,
    adjust: impl FnOnce(Call) -> Call,
    cancel: &CancelToken,
) -> Result<Option<String>> {
    let http = &session.http;
    const ENDPOINT: &Endpoint = &endpoint::SAMPLER;
    http.check_offered(ENDPOINT)?;
    let id = url::segment_of_server(sampling_session_id)?;
    let mut call = adjust(Call::get(Lane::Rest, ENDPOINT).at(ENDPOINT.path_with(&[&id])));
    call.names = Names::NoPath;
    let answer = http.send_to_optional(&call, cancel)?;
    Ok(http.decode::<json::SamplerResponse>(&call, &answer)?.base_model)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_a_path_or_the_name_of_a_base_model() {
        let source = |text: &str| SamplingSource::try_from(text);
        assert!(matches!(source("Qwen/Qwen3-8B"), Ok(SamplingSource::BaseModel(_))));
        assert!(matches!(source("tinker://r/sampler_weights/x"), Ok(SamplingSource::Weights(_))));
        assert!(matches!(source("tinker://r/x"), Ok(SamplingSource::Weights(_))));
        assert!(matches!(source("tinker://r/weights/x"), Ok(SamplingSource::State(_))));
        for wrong in ["", "tinker://r/external_weights/x", "tinker://r", "http://h/sampler_weights/x"] {
            assert!(source(wrong).expect_err("an invalid source").is_user_error(), "{wrong}");
        }
    }
}
