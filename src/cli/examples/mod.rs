//! Files of examples: reads and checks all lines before anything is sent, and makes tokens of them.

mod answer;
mod array;
mod columns;
mod cut;
mod encoder;
mod format;
mod line;
mod options;
mod pairs;
mod problems;
mod reader;
mod remarks;
mod roles;
mod shown;
mod source;
mod split;
mod targets;
mod template;
mod tokenizers;
mod written;

pub(crate) use self::answer::text as answer_text;
pub(crate) use self::encoder::{Encoder, Fate, context_of};
pub(crate) use self::format::DataFormat;
pub(crate) use self::line::{Content, fields as line_fields, spelling};
pub(crate) use self::options::{DataOptions, FormatChoice, TooLong, TrainOn, at_least};
pub(crate) use self::pairs::Pairs;
pub(crate) use self::problems::Problems;
pub(crate) use self::reader::{FileFacts, Keep, Lines, Record, Scan, file_name, read, read_keeping, scan};
pub(crate) use self::remarks::Remarks;
pub(crate) use self::roles::TemplateRoles;
pub(crate) use self::source::{Source, hash as line_hash, sha256_of};
pub(crate) use self::split::{held_out, parse_share};
pub(crate) use self::targets::{n_inputs, n_targets};
pub(crate) use self::template::{Template, base_model_of, renderer_of_run, template_roles};
pub(crate) use self::tokenizers::load as load_tokenizer;
pub(crate) use self::written::{line as written_as, trains_less};
