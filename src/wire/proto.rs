//! The protobuf messages of PROTOCOL §5, package `tinker_public`. They are written by hand instead of generated, so the
//! build does not need `protoc`. `bytes` fields contain arrays of numbers: little-endian, in row-major order.
//! The exceptions are `ImageChunk::data`, which is an image file, and `DmelChunk::dmel`, which is sent as the caller
//! gave it.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::{Enumeration, Message, Oneof};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub(crate) enum StopReason {
    Stop = 0,
    Length = 1,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub(crate) enum DType {
    Unspecified = 0,
    Float32 = 1,
    Int64 = 2,
    Int32 = 3,
    Bfloat16 = 4,
}

// ---- results ----

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SampleResponse {
    #[prost(message, repeated, tag = "1")]
    pub(crate) sequences: Vec<SampledSequence>,
    /// One `f32` for each token of the prompt; NaN for a token without a log-probability.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) prompt_logprobs: Option<Bytes>,
    #[prost(message, optional, tag = "3")]
    pub(crate) topk_prompt_logprobs: Option<TopkLogprobs>,
    #[prost(int32, tag = "4")]
    pub(crate) prompt_cache_hit_tokens: i32,
    #[prost(message, optional, tag = "5")]
    pub(crate) target_prompt_logprobs: Option<Tensor>,
    #[prost(message, optional, tag = "6")]
    pub(crate) prompt_alt_tokens: Option<PromptAltTokens>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PromptAltTokens {
    #[prost(message, optional, tag = "1")]
    pub(crate) tokens: Option<Tensor>,
    #[prost(message, optional, tag = "2")]
    pub(crate) logprobs: Option<Tensor>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SampledSequence {
    #[prost(enumeration = "StopReason", tag = "1")]
    pub(crate) stop_reason: i32,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) tokens: Bytes,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub(crate) logprobs: Option<Bytes>,
    #[prost(message, optional, tag = "4")]
    pub(crate) topk_sampled_logprobs: Option<TopkLogprobs>,
}

/// The `k` most likely tokens at each of `length` positions: a matrix of `length` rows and `k` columns. An empty cell
/// has the token id 0 and the log-probability −99999.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TopkLogprobs {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) token_ids: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) logprobs: Bytes,
    #[prost(uint32, tag = "3")]
    pub(crate) k: u32,
    #[prost(uint32, tag = "4")]
    pub(crate) length: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ForwardBackwardOutput {
    #[prost(string, tag = "1")]
    pub(crate) loss_fn_output_type: String,
    #[prost(message, repeated, tag = "2")]
    pub(crate) loss_fn_outputs: Vec<ArrayRecord>,
    #[prost(btree_map = "string, double", tag = "3")]
    pub(crate) metrics: BTreeMap<String, f64>,
}

/// Outputs of several datums that follow each other in the request. Each entry of `fields` contains one output of all
/// these datums.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ArrayRecord {
    #[prost(string, tag = "1")]
    pub(crate) type_tag: String,
    #[prost(btree_map = "string, message", tag = "2")]
    pub(crate) fields: BTreeMap<String, BatchedTensor>,
    #[prost(int64, tag = "3")]
    pub(crate) num_datums: i64,
}

/// One entry of [`ArrayRecord::fields`]: the tensors of all datums of the record, concatenated.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct BatchedTensor {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) data: Bytes,
    /// Byte offsets into `data`, as `i64`; one more than the number of datums. The tensor of datum `i` takes the bytes
    /// from offset `i` to offset `i + 1`.
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) offsets: Bytes,
    #[prost(enumeration = "DType", tag = "3")]
    pub(crate) dtype: i32,
    /// Shape of each tensor without its first dimension, which follows from the number of bytes.
    #[prost(int64, repeated, tag = "4")]
    pub(crate) trailing_shape: Vec<i64>,
}

// ---- tensors ----

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Tensor {
    #[prost(oneof = "Encoding", tags = "1, 2")]
    pub(crate) encoding: Option<Encoding>,
    #[prost(enumeration = "DType", tag = "3")]
    pub(crate) dtype: i32,
    #[prost(int64, repeated, tag = "4")]
    pub(crate) shape: Vec<i64>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Encoding {
    #[prost(bytes = "bytes", tag = "1")]
    Dense(Bytes),
    #[prost(message, tag = "2")]
    SparseCsr(SparseCsr),
}

/// A matrix in compressed sparse rows (CSR). `values` has the tensor's element type; the indices are `i64`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SparseCsr {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) values: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) crow_indices: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) col_indices: Bytes,
}

// ---- the request ----

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ForwardBackwardRequest {
    #[prost(string, tag = "1")]
    pub(crate) model_id: String,
    /// Number of the request, from 1. Protobuf reads a missing number as 0, which is refused.
    #[prost(int32, tag = "2")]
    pub(crate) seq_id: i32,
    #[prost(message, repeated, tag = "3")]
    pub(crate) data: Vec<Datum>,
    #[prost(string, tag = "4")]
    pub(crate) loss_fn: String,
    /// Numeric options. They are also in `loss_fn_config_v2`; this map is for servers that do not read the newer one.
    #[prost(btree_map = "string, double", tag = "5")]
    pub(crate) loss_fn_config: BTreeMap<String, f64>,
    #[prost(bool, tag = "6")]
    pub(crate) forward_only: bool,
    #[prost(btree_map = "string, message", tag = "7")]
    pub(crate) loss_fn_config_v2: BTreeMap<String, LossConfigValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct LossConfigValue {
    #[prost(oneof = "LossConfig", tags = "1, 2")]
    pub(crate) value: Option<LossConfig>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum LossConfig {
    #[prost(double, tag = "1")]
    Number(f64),
    #[prost(string, tag = "2")]
    Text(String),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Datum {
    #[prost(message, repeated, tag = "1")]
    pub(crate) model_input: Vec<Chunk>,
    #[prost(btree_map = "string, message", tag = "2")]
    pub(crate) loss_fn_inputs: BTreeMap<String, Tensor>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) model_input_spans: Vec<ProvenanceSpan>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) loss_fn_input_spans: Vec<ProvenanceSpan>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ProvenanceSpan {
    #[prost(oneof = "Span", tags = "1, 2")]
    pub(crate) span: Option<Span>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Span {
    #[prost(message, tag = "1")]
    PromptTokens(SequenceRange),
    #[prost(message, tag = "2")]
    SampledTokens(SequenceRange),
}

/// Fields of both variants of [`Span`]: a range of tokens of a sequence.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SequenceRange {
    #[prost(string, tag = "1")]
    pub(crate) sequence_id: String,
    #[prost(int64, tag = "2")]
    pub(crate) offset: i64,
    #[prost(int64, tag = "3")]
    pub(crate) length: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Chunk {
    #[prost(oneof = "ChunkKind", tags = "1, 2, 3")]
    pub(crate) chunk: Option<ChunkKind>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum ChunkKind {
    #[prost(message, tag = "1")]
    EncodedText(EncodedTextChunk),
    #[prost(message, tag = "2")]
    Image(ImageChunk),
    #[prost(message, tag = "3")]
    Dmel(DmelChunk),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct EncodedTextChunk {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) tokens: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ImageChunk {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) data: Bytes,
    #[prost(string, tag = "2")]
    pub(crate) format: String,
    #[prost(int32, optional, tag = "3")]
    pub(crate) expected_tokens: Option<i32>,
    #[prost(message, optional, tag = "4")]
    pub(crate) override_dimensions: Option<ImageDimensions>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ImageDimensions {
    #[prost(uint32, tag = "1")]
    pub(crate) width: u32,
    #[prost(uint32, tag = "2")]
    pub(crate) height: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DmelChunk {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) dmel: Bytes,
}
