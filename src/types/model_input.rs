//! Inputs of models.

use crate::error::{Error, Result};

/// Input of a model: a sequence of chunks, usually one chunk of token ids (PROTOCOL §6.1).
///
/// # Example: a prompt of token ids
/// ```
/// use tinkex::types::ModelInput;
///
/// let prompt = ModelInput::from_ints([72, 105]);
/// assert_eq!(prompt.len()?, 2);
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ModelInput {
    /// Chunks in order.
    pub chunks: Vec<Chunk>,
}

/// A piece of a [`ModelInput`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Chunk {
    /// Token ids, each in `0..2^31`.
    EncodedText {
        /// Ids.
        tokens: Vec<i32>,
    },
    /// An image file.
    Image {
        /// Bytes of the file.
        data: Vec<u8>,
        /// Format of the file.
        format: ImageFormat,
        /// Expected number of tokens of the image. The server counts too and may refuse a mismatch.
        expected_tokens: Option<u32>,
    },
    /// An image that the server fetches. For sampling only.
    ImageAssetPointer {
        /// Location of the file.
        location: String,
        /// Format of the file.
        format: ImageFormat,
        /// As for [`Chunk::Image`].
        expected_tokens: Option<u32>,
    },
    /// Audio as a serialised tensor.
    Dmel {
        /// Bytes of the tensor.
        dmel: Vec<u8>,
    },
}

/// Format of an image file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImageFormat {
    /// PNG.
    Png,
    /// JPEG.
    Jpeg,
}

impl ImageFormat {
    pub(crate) fn wire(self) -> &'static str {
        match self {
            ImageFormat::Png => "png",
            ImageFormat::Jpeg => "jpeg",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "png" => Some(ImageFormat::Png),
            "jpeg" => Some(ImageFormat::Jpeg),
            _ => None,
        }
    }
}

impl ModelInput {
    /// An input of one chunk of token ids. The ids are checked when the input is submitted.
    pub fn from_ints(tokens: impl Into<Vec<i32>>) -> Self {
        ModelInput { chunks: vec![Chunk::EncodedText { tokens: tokens.into() }] }
    }

    /// An input of one chunk of token ids of any integer type.
    ///
    /// # Errors
    /// A negative id, or an id of more than 31 bits, with its path `tokens[i]`.
    pub fn try_from_ints<I>(tokens: I) -> Result<Self>
    where
        I: IntoIterator,
        I::Item: TryInto<i32>,
    {
        let convert = |(i, id): (usize, I::Item)| match id.try_into() {
            Ok(id) if 0 <= id => Ok(id),
            _ => Err(Error::invalid(format!("tokens[{i}]"), "must be a token id in 0..2^31")),
        };
        Ok(ModelInput::from_ints(tokens.into_iter().enumerate().map(convert).collect::<Result<Vec<_>>>()?))
    }

    /// Adds a chunk.
    #[must_use]
    pub fn with_chunk(mut self, chunk: Chunk) -> Self {
        self.chunks.push(chunk);
        self
    }

    /// Adds one token: to the last chunk if that is text, otherwise as a new chunk.
    ///
    /// # Example: extend a prompt
    /// ```
    /// use tinkex::types::ModelInput;
    ///
    /// let prompt = ModelInput::from_ints([1, 2]).append_int(3);
    /// assert_eq!(prompt, ModelInput::from_ints([1, 2, 3]));
    /// ```
    #[must_use]
    pub fn append_int(mut self, token: i32) -> Self {
        match self.chunks.last_mut() {
            Some(Chunk::EncodedText { tokens }) => tokens.push(token),
            _ => self.chunks.push(Chunk::EncodedText { tokens: vec![token] }),
        }
        self
    }

    /// Returns all token ids if every chunk is text.
    ///
    /// # Errors
    /// A chunk that is not text.
    pub fn to_ints(&self) -> Result<Vec<i32>> {
        let mut all = Vec::new();
        for (i, chunk) in self.chunks.iter().enumerate() {
            match chunk {
                Chunk::EncodedText { tokens } => all.extend_from_slice(tokens),
                _ => return Err(Error::invalid(format!("chunks[{i}]"), "is not text")),
            }
        }
        Ok(all)
    }

    /// Length in tokens.
    ///
    /// # Errors
    /// An image without `expected_tokens`, or an audio chunk whose header cannot be read.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> Result<usize> {
        let mut total = 0;
        for (i, chunk) in self.chunks.iter().enumerate() {
            total += chunk.len().ok_or_else(|| {
                Error::invalid(format!("chunks[{i}]"), "has an unknown length in tokens; set expected_tokens")
            })?;
        }
        Ok(total)
    }

    /// Refuses an input without chunks or tokens, and negative ids.
    pub(crate) fn validate(&self, path: &str) -> Result<()> {
        if self.chunks.is_empty() {
            return Err(Error::invalid(path, "is empty"));
        }
        let mut text_only = true;
        let mut total = 0;
        for (i, chunk) in self.chunks.iter().enumerate() {
            match chunk {
                Chunk::EncodedText { tokens } => {
                    total += tokens.len();
                    if let Some(j) = tokens.iter().position(|id| *id < 0) {
                        let path = format!("{path}.chunks[{i}].tokens[{j}]");
                        return Err(Error::invalid(path, format!("token id {} is negative", tokens[j])));
                    }
                }
                _ => text_only = false,
            }
        }
        if text_only && total == 0 { Err(Error::invalid(path, "has no tokens")) } else { Ok(()) }
    }
}

impl Chunk {
    /// Length in tokens, if it is known.
    pub(crate) fn len(&self) -> Option<usize> {
        match self {
            Chunk::EncodedText { tokens } => Some(tokens.len()),
            Chunk::Image { expected_tokens, .. } | Chunk::ImageAssetPointer { expected_tokens, .. } => {
                expected_tokens.map(|n_tokens| n_tokens as usize)
            }
            Chunk::Dmel { dmel } => tensor_container_rows(dmel),
        }
    }
}

/// Reads dimension 0 of a serialised tensor. The tensor starts with an optional byte 254, a byte 0 to 7 for the element
/// type, the number of dimensions, and the dimensions; these numbers are LEB128 varints.
fn tensor_container_rows(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes.iter().copied();
    let first = rest.next()?;
    let dtype = if first == 254 { rest.next()? } else { first };
    if 7 < dtype || varint(&mut rest)? == 0 {
        return None;
    }
    usize::try_from(varint(&mut rest)?).ok()
}

fn varint(bytes: &mut impl Iterator<Item = u8>) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = bytes.next()?;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negative_token_id_is_refused_with_its_path() {
        let input = ModelInput::from_ints([1, 2]).with_chunk(Chunk::EncodedText { tokens: vec![3, -4] });
        let error = input.validate("data[3].model_input").expect_err("a negative id");
        assert_eq!(error.violation().expect("a path").path, "data[3].model_input.chunks[1].tokens[1]");
    }

    #[test]
    fn a_token_appended_to_an_image_starts_a_new_chunk() {
        let image = Chunk::ImageAssetPointer {
            location: "x".into(),
            format: ImageFormat::Png,
            expected_tokens: Some(3),
        };
        let input = ModelInput::default().with_chunk(image).append_int(7).append_int(8);
        assert_eq!((input.chunks.len(), input.len().expect("a length")), (2, 5));
        assert_eq!(input.chunks[1], Chunk::EncodedText { tokens: vec![7, 8] });
    }

    #[test]
    fn an_input_without_tokens_is_refused() {
        assert!(ModelInput::default().validate("prompt").is_err());
        assert!(ModelInput::from_ints([]).validate("prompt").is_err());
    }

    #[test]
    fn the_length_of_audio_is_read_from_its_header() {
        assert_eq!(Chunk::Dmel { dmel: vec![254, 1, 2, 0x85, 0x01, 80] }.len(), Some(133));
        assert_eq!(Chunk::Dmel { dmel: vec![9, 1] }.len(), None);
    }
}
