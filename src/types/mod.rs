//! The nouns of the API: plain data, one noun per file, checked before anything is sent.
//!
//! Values that a caller fills in are checked when they are submitted, and every problem names the path of the
//! offending value, such as `data[3].loss_fn_inputs["weights"][7]`.

mod checkpoint;
mod datum;
mod loss;
mod model;
mod model_input;
mod optim;
mod path;
mod queue;
mod sample;
mod sampling_params;
mod tensor;
mod train;

pub use checkpoint::{LoadStateOutput, SaveStateOutput, SaveWeightsForSamplerOutput, Ttl};
pub use datum::Datum;
pub use loss::{Loss, LossFn, LossValue};
pub use model::{LoraConfig, ModelInfo, ServerCapabilities, SupportedModel};
pub use model_input::{Chunk, ImageFormat, ModelInput};
pub use optim::{AdamParams, OptimStepOutput};
pub use path::{SamplerPath, TrainingPath};
pub use queue::QueueState;
pub use sample::{SampleResponse, SampledSequence, StopReason, TokenLogprob};
pub use sampling_params::{SampleOptions, SamplingParams, Stop};
pub use tensor::{Sparse, TensorData, Values};
pub use train::ForwardBackwardOutput;
