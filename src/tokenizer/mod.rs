//! Conversion between text and token ids.

#[cfg(feature = "text")]
pub(crate) mod bpe;
mod byte_tokenizer;
#[cfg(feature = "text")]
mod hf_cache;
#[cfg(feature = "hub")]
mod hub;
#[cfg(feature = "text")]
mod in_flight;
mod model_tokenizer;
mod source;
mod token_stream;

use std::fmt::Debug;

#[cfg(feature = "text")]
pub use bpe::Bpe;
pub use byte_tokenizer::ByteTokenizer;
#[cfg(feature = "hub")]
pub use hub::HubOptions;
pub(crate) use model_tokenizer::tokenizer_of;
pub use source::TokenizerSource;
pub use token_stream::TokenStream;

use crate::error::Result;

/// Converts between text and token ids.
///
/// Some tokens are *markers*: they stand for a text such as `<|im_end|>` that structures a conversation. [`encode`] makes
/// markers of such texts, [`encode_ordinary`] never does. So a text that came from a user should be encoded with the
/// latter.
///
/// # Example: encode, decode, and look a marker up
/// ```
/// use tinkex::tokenizer::{ByteTokenizer, Tokenizer};
///
/// let tokenizer: &dyn Tokenizer = &ByteTokenizer;
/// let ids = tokenizer.encode_ordinary("hé")?;
/// assert_eq!(tokenizer.decode(&ids), "hé");
/// assert_eq!(tokenizer.token_id("<|im_end|>"), None);
/// # Ok::<(), tinkex::Error>(())
/// ```
///
/// [`encode`]: Tokenizer::encode
/// [`encode_ordinary`]: Tokenizer::encode_ordinary
pub trait Tokenizer: Debug + Send + Sync {
    /// Encodes a text. The texts of markers become their tokens. No token is added that the text does not contain, such
    /// as a beginning of sequence.
    ///
    /// # Errors
    /// `InvalidInput` if the text cannot be encoded.
    fn encode(&self, text: &str) -> Result<Vec<i32>>;

    /// Encodes a text. The texts of markers are encoded like any other text.
    ///
    /// # Errors
    /// `InvalidInput` if the text cannot be encoded.
    fn encode_ordinary(&self, text: &str) -> Result<Vec<i32>>;

    /// The bytes that a token stands for, or `None` if there is no such token. A token may be a part of a character. The
    /// bytes of a marker are its text.
    fn token_bytes(&self, id: i32) -> Option<Vec<u8>>;

    /// The id of a token by its text, for markers: `<|im_end|>`.
    fn token_id(&self, token: &str) -> Option<i32>;

    /// The token that begins a sequence, if the model has one.
    fn bos_id(&self) -> Option<i32>;

    /// The token that ends a sequence, if the model has one.
    fn eos_id(&self) -> Option<i32>;

    /// Returns true for markers that are not part of the text, such as `<|im_end|>`. Some models have markers that are
    /// part of it, such as `<think>`.
    fn is_special(&self, id: i32) -> bool;

    /// Decodes ids, markers included. Unknown ids are skipped; invalid UTF-8 becomes U+FFFD.
    fn decode(&self, ids: &[i32]) -> String {
        let bytes: Vec<u8> = ids.iter().filter_map(|id| self.token_bytes(*id)).flatten().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}
