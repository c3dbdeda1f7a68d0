//! Conversion between text and token ids.

mod byte_tokenizer;

pub use byte_tokenizer::ByteTokenizer;
