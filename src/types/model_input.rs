//! What a model reads.

use crate::error::{Error, Result};

/// The input of a model: a sequence of chunks, most often one chunk of token ids (PROTOCOL §6.1).
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
pub struct ModelInput {
    /// The chunks, in order.
    pub chunks: Vec<Chunk>,
}

/// A piece of a [`ModelInput`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Chunk {
    /// Token ids, each in `0..2^31`.
    EncodedText {
        /// The ids.
        tokens: Vec<i32>,
    },
    /// An image, as the bytes of its file.
    Image {
        /// The file's bytes.
        data: Vec<u8>,
        /// The file's format.
        format: ImageFormat,
        /// How many tokens the image is expected to take; the server counts for itself and may refuse a mismatch.
        expected_tokens: Option<u32>,
    },
    /// An image that the server can fetch. Only for sampling.
    ImageAssetPointer {
        /// Where it is.
        location: String,
        /// The file's format.
        format: ImageFormat,
        /// As for [`Chunk::Image`].
        expected_tokens: Option<u32>,
    },
    /// Audio, as a serialised tensor.
    Dmel {
        /// The tensor's bytes.
        dmel: Vec<u8>,
    },
}

/// The format of an image file.
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
    /// An input of one chunk of token ids. Ids are checked when the input is submitted.
    pub fn from_ints(tokens: impl Into<Vec<i32>>) -> Self {
        ModelInput { chunks: vec![Chunk::EncodedText { tokens: tokens.into() }] }
    }

    /// An input of one chunk of token ids of any integer type.
    ///
    /// # Errors
    /// A negative id, or one that does not fit 31 bits, with its path `tokens[i]`.
    pub fn try_from_ints<I>(tokens: I) -> Result<Self>
    where
        I: IntoIterator,
        I::Item: TryInto<i32>,
    {
        let convert = |(i, it): (usize, I::Item)| match it.try_into() {
            Ok(id) if 0 <= id => Ok(id),
            _ => Err(Error::invalid(format!("tokens[{i}]"), "a token id must be in 0..2^31")),
        };
        Ok(ModelInput::from_ints(tokens.into_iter().enumerate().map(convert).collect::<Result<Vec<_>>>()?))
    }

    /// This input with a chunk added.
    pub fn with_chunk(mut self, chunk: Chunk) -> Self {
        self.chunks.push(chunk);
        self
    }

    /// This input with one token added: to its last chunk if that is text, else in a chunk of its own.
    ///
    /// # Example: a prompt that grows
    /// ```
    /// use tinkex::types::ModelInput;
    ///
    /// let prompt = ModelInput::from_ints([1, 2]).append_int(3);
    /// assert_eq!(prompt, ModelInput::from_ints([1, 2, 3]));
    /// ```
    pub fn append_int(mut self, token: i32) -> Self {
        match self.chunks.last_mut() {
            Some(Chunk::EncodedText { tokens }) => tokens.push(token),
            _ => self.chunks.push(Chunk::EncodedText { tokens: vec![token] }),
        }
        self
    }

    /// All token ids, if every chunk is text.
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

    /// The length in tokens.
    ///
    /// # Errors
    /// An image without `expected_tokens`, or an audio chunk whose header cannot be read.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> Result<usize> {
        let mut total = 0;
        for (i, chunk) in self.chunks.iter().enumerate() {
            total += chunk.len().ok_or_else(|| {
                Error::invalid(
                    format!("chunks[{i}]"),
                    "its length in tokens is not known; set expected_tokens",
                )
            })?;
        }
        Ok(total)
    }

    /// Refuses what no server can read.
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
                    if let Some(j) = tokens.iter().position(|it| *it < 0) {
                        let path = format!("{path}.chunks[{i}].tokens[{j}]");
                        return Err(Error::invalid(path, format!("token id {} is negative", tokens[j])));
                    }
                }
                _ => text_only = false,
            }
        }
        match text_only && total == 0 {
            true => Err(Error::invalid(path, "has no tokens")),
            false => Ok(()),
        }
    }
}

impl Chunk {
    /// The length in tokens, where it is known.
    pub(crate) fn len(&self) -> Option<usize> {
        match self {
            Chunk::EncodedText { tokens } => Some(tokens.len()),
            Chunk::Image { expected_tokens, .. } | Chunk::ImageAssetPointer { expected_tokens, .. } => {
                expected_tokens.map(|it| it as usize)
            }
            Chunk::Dmel { dmel } => tensor_container_rows(dmel),
        }
    }
}

/// Dimension 0 of a serialised tensor: an optional constant mark (254), a dtype byte, the number of dimensions and
/// the dimensions as LEB128 varints.
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
    fn a_token_behind_an_image_begins_a_chunk() {
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
    fn the_length_of_audio_comes_from_its_header() {
        assert_eq!(Chunk::Dmel { dmel: vec![254, 1, 2, 0x85, 0x01, 80] }.len(), Some(133));
        assert_eq!(Chunk::Dmel { dmel: vec![9, 1] }.len(), None);
    }
}
