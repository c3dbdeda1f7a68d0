//! Data types of the API.
//!
//! # Checks
//! Values from the caller are checked when they are submitted, before a request is sent. The error names the path of
//! the invalid value, such as `data[3].loss_fn_inputs["weights"][7]`.
//!
//! # New fields
//! A minor version may add fields and variants to all types of this module. Types of results and of data are
//! `#[non_exhaustive]`: build them with their constructors (`new`, `with`, …), or assign fields of their default. Types
//! of settings, such as [`SamplingParams`], are built as struct literals; end such a literal with
//! `..Default::default()`, so that it still compiles with further fields.

mod audit;
mod checkpoint;
mod checkpoint_name;
mod checkpoint_plan;
mod checkpoint_record;
mod copy;
mod datum;
mod datum_losses;
mod day;
mod dense_room;
pub(crate) mod field_reader;
mod identity;
mod model;
mod model_input;
mod model_options;
mod optim;
mod optimizer;
mod page;
mod path;
mod provenance;
mod queue;
mod sample;
mod sample_options;
mod sampler_info;
mod sampling_params;
mod session_info;
mod session_search;
mod session_status;
mod signed_url;
mod storage_usage;
mod tensor;
mod timestamp;
mod train;
mod training_run;
mod usage;
mod weights_info;

pub use crate::loss::{
    Center, Distance, EntropyGoal, KlDirection, Measured, Regularizer, Regularizers, TermReduction,
};
pub use crate::loss::{
    CustomLoss, Loss, LossFn, LossGraph, LossHandle, LossInput, LossMask, LossOperand, LossTensor, LossTrace,
    LossValue,
};
pub use audit::{AuditEntry, AuditEventType};
pub(crate) use checkpoint::check_recipients;
pub use checkpoint::{
    LoadStateOutput, SamplerKind, SaveStateOptions, SaveStateOutput, SaveWeightsExternalOutput,
    SaveWeightsForSamplerOutput, SaveWeightsOptions, Ttl,
};
pub(crate) use checkpoint_name::check_name;
pub use checkpoint_plan::CheckpointPlan;
pub use checkpoint_record::{Checkpoint, CheckpointType};
pub use copy::{AccessToken, CopyOptions};
pub use datum::Datum;
#[cfg(feature = "ffi")]
pub(crate) use datum::check_loss_input;
pub use day::Day;
pub(crate) use dense_room::DenseRoom;
pub use identity::{ApiKeyDetails, ApiKeyInfo, Identity};
pub use model::{LoraConfig, ModelInfo, ServerCapabilities, SupportedModel};
pub use model_input::{Chunk, ImageFormat, ModelInput};
pub use model_options::{FromStateOptions, ModelOptions};
pub use optim::{AdamParams, OptimStepOutput};
pub use optimizer::{DimuonParams, OptimizerConfig, OptimizerParams};
pub use page::{AccessScope, Cursor, Page};
pub use path::{CheckpointPath, ExternalPath, SamplerPath, TrainingPath};
pub use provenance::{Origin, Provenance, ProvenanceSpan};
pub use queue::QueueState;
pub use sample::{PromptAltTokens, SampleResponse, SampledSequence, StopReason, TokenLogprob};
pub use sample_options::SampleOptions;
pub use sampler_info::SamplerInfo;
pub use sampling_params::{SamplingParams, Stop};
pub use session_info::SessionInfo;
pub use session_search::{
    FoundSession, SessionCursor, SessionOwner, SessionPage, SessionSearch, StatusFilter,
};
pub use session_status::{FailureReason, FinishReason, SessionStatus};
pub use signed_url::{ArchiveUrl, ExternalWeightsUrls, SignedUrl};
pub use storage_usage::{StorageEntry, StorageUsage};
pub use tensor::{Sparse, TensorData, Values};
pub use timestamp::Timestamp;
pub use train::ForwardBackwardOutput;
pub use training_run::TrainingRun;
pub use usage::{BillingUsage, UsageEvent, UsageKind, UsageSession};
pub use weights_info::WeightsInfo;
