//! The options of data that several commands share.

use clap::ValueEnum;
use tinkex::chat::TrainOnWhat;

use super::format::DataFormat;

/// Options of data. Each is optional, so that a file of settings can fill in what the command line leaves out.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Data")]
pub(crate) struct DataOptions {
    /// Format of the lines [default: auto, by the keys of the first line]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) data_format: Option<FormatChoice>,
    /// Tokenizer: `bytes`, a folder, a tokenizer.json, or a name on the Hugging Face hub [default: of the model]
    #[arg(long, value_name = "NAME|PATH")]
    pub(crate) tokenizer: Option<String>,
    /// Format of conversations: a renderer, or a file or folder with a chat template [default: of the model]
    #[arg(long, value_name = "NAME|PATH")]
    pub(crate) template: Option<String>,
    /// Which messages of a conversation are trained [default: all-assistant, or those that the data mark]
    #[arg(long, value_name = "WHICH")]
    pub(crate) train_on: Option<TrainOn>,
    /// Do not train on prompts, which is the default of completions
    #[arg(long, conflicts_with = "no_mask_prompt")]
    pub(crate) mask_prompt: bool,
    /// Train on the prompts of completions, too
    #[arg(long)]
    pub(crate) no_mask_prompt: bool,
    /// Largest number of tokens of an example [default: the context of the model]
    #[arg(long, value_name = "N", value_parser = at_least(2))]
    pub(crate) max_length: Option<usize>,
    /// What to do with examples that are longer [default: error]
    #[arg(long, value_name = "WHAT")]
    pub(crate) too_long: Option<TooLong>,
    /// Only the first N examples
    #[arg(long, value_name = "N", value_parser = at_least(1))]
    pub(crate) limit: Option<usize>,
}

/// A parser of whole numbers of at least `min`.
pub(crate) fn at_least(min: usize) -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync + 'static {
    move |text| match text.parse() {
        Ok(n) if min <= n => Ok(n),
        _ => Err(format!("give a whole number of at least {min}")),
    }
}

/// The format that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatChoice {
    Auto,
    Chat,
    Completion,
    Text,
    Tokens,
    Preference,
}

impl FormatChoice {
    pub(crate) fn format(self) -> Option<DataFormat> {
        match self {
            FormatChoice::Auto => None,
            FormatChoice::Chat => Some(DataFormat::Chat),
            FormatChoice::Completion => Some(DataFormat::Completion),
            FormatChoice::Text => Some(DataFormat::Text),
            FormatChoice::Tokens => Some(DataFormat::Tokens),
            FormatChoice::Preference => Some(DataFormat::Preference),
        }
    }
}

/// Which messages of a conversation are trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TrainOn {
    // Each message of the assistant.
    AllAssistant,
    // The last message, if it is of the assistant.
    LastAssistant,
    // Each message.
    All,
    // The messages that the data mark.
    Customized,
}

impl TrainOn {
    pub(crate) fn what(self) -> TrainOnWhat {
        match self {
            TrainOn::AllAssistant => TrainOnWhat::AllAssistantMessages,
            TrainOn::LastAssistant => TrainOnWhat::LastAssistantMessage,
            TrainOn::All => TrainOnWhat::AllMessages,
            TrainOn::Customized => TrainOnWhat::Customized,
        }
    }
}

/// What becomes of examples that are too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum TooLong {
    // Cut at the end, and counted.
    Truncate,
    // Left out, and counted.
    Drop,
    // Refused, with the line.
    #[default]
    Error,
}
