//! The options of sampling, and what the samples need of them.

use tinkex::types::{SamplingParams, Stop};

use crate::failure::Failure;

/// Options of sampling that `sample` and `chat` share.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Settings {
    /// Base model, tinker:// path of saved weights, or folder of a training run [default: tinkex/nano with --local]
    #[arg(short, long, value_name = "MODEL|PATH|RUN")]
    pub(crate) model: Option<String>,
    /// Text of the system message
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Largest number of tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_tokens: u32,
    /// Temperature; 0 takes the most likely token
    #[arg(short, long, value_name = "T", default_value_t = 1.0, allow_negative_numbers = true)]
    pub(crate) temperature: f32,
    /// Sample among the most likely tokens with this total probability
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    pub(crate) top_p: f32,
    /// Sample among the K most likely tokens; -1 is all
    #[arg(long, value_name = "K", default_value_t = -1, allow_negative_numbers = true)]
    pub(crate) top_k: i32,
    /// Seed, which makes the samples repeatable
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Text that ends an answer, beside what ends one in the format of the model; may be repeated
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
    /// Tokenizer: `bytes`, a folder, a tokenizer.json, or a name on the Hugging Face hub [default: of the model]
    #[arg(long, value_name = "NAME|PATH")]
    pub(crate) tokenizer: Option<String>,
    /// Format of conversations: a renderer, or a file or folder with a chat template [default: of the model]
    #[arg(long, value_name = "NAME|PATH")]
    pub(crate) template: Option<String>,
}

impl Settings {
    /// The parameters of samples. `of_template` is what ends an answer in the format of the model.
    pub(crate) fn params(&self, of_template: Option<Stop>) -> Result<SamplingParams, Failure> {
        if self.stop.iter().any(String::is_empty) {
            return Err(Failure::usage("--stop: the text is empty"));
        }
        let stop = match of_template {
            None if self.stop.is_empty() => None,
            None => Some(Stop::Strings(self.stop.clone())),
            Some(Stop::Strings(texts)) => {
                Some(Stop::Strings(texts.into_iter().chain(self.stop.iter().cloned()).collect()))
            }
            // Tokens and texts cannot be sent together: answers are cut at the texts when they are here.
            Some(other) => Some(other),
        };
        let range = |name: &str, problem: &str| Failure::usage(format!("--{name}: {problem}"));
        if !self.temperature.is_finite() || self.temperature < 0.0 {
            return Err(range("temperature", "must be at least 0"));
        }
        if !(0.0..=1.0).contains(&self.top_p) {
            return Err(range("top-p", "must be from 0 to 1"));
        }
        if self.top_k < -1 {
            return Err(range("top-k", "must be -1 or at least 0"));
        }
        Ok(SamplingParams {
            max_tokens: Some(self.max_tokens),
            seed: self.seed,
            stop,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
        })
    }
}
