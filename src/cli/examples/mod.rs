//! Files of examples: reads and checks all lines before anything is sent, and makes tokens of them.

mod cut;
mod encoder;
mod format;
mod line;
mod options;
mod pairs;
mod reader;
mod shown;
mod source;
mod template;
mod tokenizers;
mod written;

#[allow(unused_imports)] // TEMPORARY: `train` needs some of them
pub(crate) use self::encoder::{Encoded, Encoder, Fate, context_of};
pub(crate) use self::format::DataFormat;
pub(crate) use self::line::{Content, fields as line_fields};
#[allow(unused_imports)] // TEMPORARY: `train` needs some of them
pub(crate) use self::options::{DataOptions, FormatChoice, TooLong, TrainOn};
pub(crate) use self::pairs::Pairs;
#[allow(unused_imports)] // TEMPORARY: `train` needs some of them
pub(crate) use self::reader::{FileFacts, Lines, MOST_PROBLEMS, Record, Scan, file_name, read, scan};
pub(crate) use self::shown::printable;
pub(crate) use self::source::{Source, hash as line_hash};
pub(crate) use self::template::{Template, base_model_of};
pub(crate) use self::tokenizers::load as load_tokenizer;
pub(crate) use self::written::line as written_as;
