//! Model inputs in JSON (PROTOCOL §6.1).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::types::{Chunk, ImageFormat, ModelInput};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ModelInputJson {
    pub(crate) chunks: Vec<ChunkJson>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", try_from = "AnyChunk")]
pub(crate) enum ChunkJson {
    EncodedText {
        tokens: Vec<i32>,
    },
    Image {
        data: String,
        format: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expected_tokens: Option<u32>,
    },
    ImageAssetPointer {
        location: String,
        format: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expected_tokens: Option<u32>,
    },
    Dmel {
        dmel: String,
    },
}

/// The fields of all chunk types together. [`ChunkJson`] is read through this struct, because serde would first store
/// an internally tagged enum in a generic buffer, which takes many times the memory of the tokens. This struct reads
/// the tokens directly into a `Vec<i32>`.
#[derive(Deserialize)]
struct AnyChunk {
    r#type: String,
    tokens: Option<Vec<i32>>,
    data: Option<String>,
    format: Option<String>,
    expected_tokens: Option<u32>,
    location: Option<String>,
    dmel: Option<String>,
}

impl TryFrom<AnyChunk> for ChunkJson {
    type Error = String;

    fn try_from(chunk: AnyChunk) -> std::result::Result<Self, String> {
        fn required<T>(field: Option<T>, name: &str) -> std::result::Result<T, String> {
            field.ok_or_else(|| format!("missing field `{name}`"))
        }
        let expected_tokens = chunk.expected_tokens;
        Ok(match chunk.r#type.as_str() {
            "encoded_text" => ChunkJson::EncodedText { tokens: required(chunk.tokens, "tokens")? },
            "image" => ChunkJson::Image {
                data: required(chunk.data, "data")?,
                format: required(chunk.format, "format")?,
                expected_tokens,
            },
            "image_asset_pointer" => ChunkJson::ImageAssetPointer {
                location: required(chunk.location, "location")?,
                format: required(chunk.format, "format")?,
                expected_tokens,
            },
            "dmel" => ChunkJson::Dmel { dmel: required(chunk.dmel, "dmel")? },
            other => return Err(format!("unknown chunk type {other:?}")),
        })
    }
}

impl From<&ModelInput> for ModelInputJson {
    fn from(input: &ModelInput) -> Self {
        let chunk = |chunk: &Chunk| match chunk {
            Chunk::EncodedText { tokens } => ChunkJson::EncodedText { tokens: tokens.clone() },
            Chunk::Image { data, format, expected_tokens } => ChunkJson::Image {
                data: STANDARD.encode(data),
                format: format.wire().into(),
                expected_tokens: *expected_tokens,
            },
            Chunk::ImageAssetPointer { location, format, expected_tokens } => ChunkJson::ImageAssetPointer {
                location: location.clone(),
                format: format.wire().into(),
                expected_tokens: *expected_tokens,
            },
            Chunk::Dmel { dmel } => ChunkJson::Dmel { dmel: STANDARD.encode(dmel) },
        };
        ModelInputJson { chunks: input.chunks.iter().map(chunk).collect() }
    }
}

impl ModelInputJson {
    pub(crate) fn read(self) -> Result<ModelInput> {
        let chunks =
            self.chunks.into_iter().enumerate().map(|(i, chunk)| chunk.read(i)).collect::<Result<_>>()?;
        Ok(ModelInput { chunks })
    }
}

impl ChunkJson {
    fn read(self, i: usize) -> Result<Chunk> {
        let bytes = |text: String| {
            STANDARD
                .decode(text)
                .map_err(|error| Error::decode(format!("chunks[{i}] is not valid base64: {error}")))
        };
        let image = |text: String| {
            ImageFormat::parse(&text)
                .ok_or_else(|| Error::decode(format!("chunks[{i}] has the unknown image format {text:?}")))
        };
        Ok(match self {
            ChunkJson::EncodedText { tokens } => Chunk::EncodedText { tokens },
            ChunkJson::Image { data, format, expected_tokens } => {
                Chunk::Image { data: bytes(data)?, format: image(format)?, expected_tokens }
            }
            ChunkJson::ImageAssetPointer { location, format, expected_tokens } => {
                Chunk::ImageAssetPointer { location, format: image(format)?, expected_tokens }
            }
            ChunkJson::Dmel { dmel } => Chunk::Dmel { dmel: bytes(dmel)? },
        })
    }
}
