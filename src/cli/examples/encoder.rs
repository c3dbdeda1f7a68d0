//! From examples to tokens with weights.

use std::path::Path;
use std::sync::Arc;

use ring::digest::{Context, SHA256};
use tinkex::ServiceClient;
use tinkex::chat::{Example, Message, TrainOnWhat};
use tinkex::tokenizer::Tokenizer;
use tinkex::types::{ModelInput, Stop};

use super::answer;
use super::cut::{cut, is_trained};
use super::format::DataFormat;
use super::line::Content;
use super::options::{DataOptions, TooLong, TrainOn};
use super::reader::{Lines, Record};
use super::shown;
use super::source::hex;
use super::template::Template;
use super::tokenizers;
use crate::failure::Failure;

/// Makes tokens of examples.
#[derive(Debug)]
pub(crate) struct Encoder {
    /// Unknown only for lines of tokens.
    tokenizer: Option<Arc<dyn Tokenizer>>,
    /// Only for lines of messages.
    template: Option<Template>,
    /// A digest of all tokens; empty if the tokenizer is unknown.
    pub(crate) tokenizer_fingerprint: String,
    /// The name of the renderer, or the digest of a chat template; empty if there is none.
    pub(crate) template_name: String,
    /// Largest number of tokens of an example.
    pub(crate) max_length: Option<usize>,
    too_long: TooLong,
    train_on: Option<TrainOn>,
    mask_prompt: bool,
}

/// The tokens of a line.
#[derive(Debug)]
pub(crate) struct Encoded {
    /// Several if the format of the model needs that; none if the line is dropped.
    pub(crate) examples: Vec<Example>,
    pub(crate) fate: Fate,
}

/// What became of a line. The number is that of its longest example's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Kept,
    Truncated { n_tokens: usize },
    Dropped { n_tokens: usize },
}

impl Encoder {
    /// The encoder for a model. The largest length is that of the model, which the server is asked for, unless the options
    /// have one.
    pub(crate) fn new(
        model: &str,
        service: &ServiceClient,
        options: &DataOptions,
        format: DataFormat,
    ) -> Result<Self, Failure> {
        let max_length = match options.max_length {
            Some(max) => Some(max),
            None => context_of(service, model)?,
        };
        Encoder::of(Some(model), max_length, options, format)
    }

    /// The encoder for a model, without a server.
    pub(crate) fn of(
        model: Option<&str>,
        max_length: Option<usize>,
        options: &DataOptions,
        format: DataFormat,
    ) -> Result<Self, Failure> {
        if options.no_mask_prompt && format != DataFormat::Completion {
            return Err(Failure::usage(format!(
                "--no-mask-prompt is for completions, and the data have the format {}",
                format.name()
            ))
            .with_remedy("--train-on all trains on all messages of chats"));
        }
        let tokenizer = match tokenizers::load(options.tokenizer.as_deref(), model) {
            Ok(tokenizer) => Some(tokenizer),
            Err(_) if format == DataFormat::Tokens && options.tokenizer.is_none() => None,
            Err(failure) => return Err(failure),
        };
        // Completions need a template only if they are messages, which is seen when one comes.
        let template = match (&tokenizer, format) {
            (Some(tokenizer), DataFormat::Chat | DataFormat::Preference | DataFormat::Completion) => {
                let template = Template::of(options, model, tokenizer);
                match template {
                    Err(_) if format == DataFormat::Completion && options.template.is_none() => None,
                    template => Some(template?),
                }
            }
            _ => None,
        };
        Ok(Encoder {
            tokenizer_fingerprint: tokenizer.as_deref().map(fingerprint).unwrap_or_default(),
            template_name: template.as_ref().map(Template::name).unwrap_or_default(),
            tokenizer,
            template,
            max_length: options.max_length.or(max_length),
            too_long: options.too_long.unwrap_or_default(),
            train_on: options.train_on,
            mask_prompt: !options.no_mask_prompt,
        })
    }

    /// The tokenizer; unknown only for lines of tokens.
    pub(crate) fn tokenizer(&self) -> Option<&dyn Tokenizer> {
        self.tokenizer.as_deref()
    }

    /// The template of conversations, if the format of the data has some.
    pub(crate) fn template(&self) -> Option<&Template> {
        self.template.as_ref()
    }

    /// The examples of a line. A preference has none: see [`pair`](Self::pair).
    pub(crate) fn encode(&self, lines: &Lines, record: &Record) -> Result<Encoded, Failure> {
        let at = |problem: String| Failure::text(format!("{}: {problem}", lines.place(record)));
        self.encoded(&record.content).map_err(at)
    }

    /// The better and the worse answer of a preference, as examples; `None` for a tie, and if one of them is dropped.
    pub(crate) fn pair(&self, lines: &Lines, record: &Record) -> Result<Option<(Example, Example)>, Failure> {
        let at = |problem: String| Failure::text(format!("{}: {problem}", lines.place(record)));
        let Content::Preference(preference) = &record.content else {
            return Err(at("is not a preference".into()));
        };
        let Some((chosen, rejected)) = preference.chosen_and_rejected() else { return Ok(None) };
        let example = |answer: &[Message]| {
            let example = self.answer(&preference.prompt, answer)?;
            self.fit(vec![example]).map(|encoded| encoded.examples.into_iter().next())
        };
        let pair = example(chosen).and_then(|chosen| Ok(chosen.zip(example(rejected)?)));
        pair.map_err(at)
    }

    /// An example as text with its trained tokens marked.
    pub(crate) fn show(&self, example: &Example, color: bool) -> String {
        shown::show(self.tokenizer.as_deref(), example, color)
    }

    fn decode(&self, tokens: &[i32]) -> String {
        self.tokenizer.as_deref().map(|it| it.decode(tokens)).unwrap_or_default()
    }

    /// The prompt for an answer to messages.
    pub(crate) fn prompt(&self, messages: &[Message]) -> Result<ModelInput, Failure> {
        Ok(self.needed_template().map_err(Failure::text)?.prompt(messages)?)
    }

    /// The prompt of a text, without a format of conversations.
    pub(crate) fn text_prompt(&self, text: &str) -> Result<ModelInput, Failure> {
        let tokenizer =
            self.tokenizer.as_deref().ok_or_else(|| Failure::text("the tokenizer is not known"))?;
        let mut tokens: Vec<i32> = tokenizer.bos_id().into_iter().collect();
        tokens.extend(tokenizer.encode_ordinary(text)?);
        Ok(ModelInput::from_ints(tokens))
    }

    /// The text of a continuation, without the token that ends a sequence.
    pub(crate) fn text_of(&self, tokens: &[i32]) -> String {
        let eos = self.tokenizer.as_deref().and_then(Tokenizer::eos_id);
        let end = tokens.iter().position(|id| Some(*id) == eos).unwrap_or(tokens.len());
        self.decode(&tokens[..end])
    }

    /// The text of an answer, without what ended it.
    pub(crate) fn answer_text(&self, tokens: &[i32], is_chat: bool) -> String {
        let Some(tokenizer) = self.tokenizer.as_deref() else { return String::new() };
        let template = self.template.as_ref().filter(|_| is_chat);
        answer::text(tokens, tokenizer, template, self.stop().as_ref())
    }

    /// What ends an answer.
    pub(crate) fn stop(&self) -> Option<Stop> {
        self.template.as_ref().map(Template::stop)
    }

    fn encoded(&self, content: &Content) -> Result<Encoded, String> {
        let problem = |error: tinkex::Error| error.message().to_owned();
        let tokenizer = || self.tokenizer.as_deref().ok_or("the tokenizer is not known".to_owned());
        let examples = match content {
            Content::Chat(chat) => self.chat(&chat.messages)?,
            Content::Completion(completion) => {
                let example = completion.example(tokenizer()?).map_err(problem)?;
                if self.mask_prompt {
                    vec![example]
                } else {
                    let weights = vec![1.0; example.n_tokens()];
                    vec![Example::new(example.tokens().clone(), weights).map_err(problem)?]
                }
            }
            Content::Text(text) => vec![text.example(tokenizer()?).map_err(problem)?],
            Content::Tokens(tokens) => vec![tokens.example().map_err(problem)?],
            Content::Preference(_) => {
                return Err("is a preference, which has no single example".into());
            }
        };
        if !examples.iter().any(is_trained) {
            return Err("nothing of it is trained".into());
        }
        self.fit(examples)
    }

    fn chat(&self, messages: &[Message]) -> Result<Vec<Example>, String> {
        let is_flagged = messages.iter().any(|message| message.trainable.is_some());
        let what = match self.train_on {
            None if is_flagged && self.mask_prompt => TrainOnWhat::Customized,
            None if is_flagged => TrainOnWhat::AllMessages,
            None => TrainOnWhat::AllAssistantMessages,
            Some(TrainOn::Customized) if !is_flagged => {
                return Err("no message says whether it is trained, as --train-on customized needs".into());
            }
            Some(train_on) => train_on.what(),
        };
        let template = self.needed_template()?;
        let result = if is_flagged && what != TrainOnWhat::Customized {
            // The option was given: it decides, not the data.
            let plain: Vec<Message> = messages
                .iter()
                .cloned()
                .map(|mut message| {
                    message.trainable = None;
                    message
                })
                .collect();
            template.examples(&plain, what)
        } else {
            template.examples(messages, what)
        };
        result.map_err(|error| error.message().to_owned())
    }

    /// A prompt and an answer, of which the messages of the assistant are trained, as one example.
    fn answer(&self, prompt: &[Message], answer: &[Message]) -> Result<Example, String> {
        let prompt = prompt.iter().cloned().map(|message| message.with_trainable(false));
        let answer = answer.iter().cloned().map(|message| {
            let is_trained = message.role == "assistant";
            message.with_trainable(is_trained)
        });
        let messages: Vec<Message> = prompt.chain(answer).collect();
        self.needed_template()?.one(&messages)
    }

    fn needed_template(&self) -> Result<&Template, String> {
        let missing = "the format of conversations is not known for this model; name one with --template";
        self.template.as_ref().ok_or_else(|| missing.to_owned())
    }

    fn fit(&self, examples: Vec<Example>) -> Result<Encoded, String> {
        let n_tokens = examples.iter().map(Example::n_tokens).max().unwrap_or(0);
        let Some(max) = self.max_length.filter(|max| *max < n_tokens) else {
            return Ok(Encoded { examples, fate: Fate::Kept });
        };
        match self.too_long {
            TooLong::Error => Err(format!(
                "has {n_tokens} tokens, and {max} are allowed; --too-long truncate or drop allows longer ones"
            )),
            TooLong::Drop => Ok(Encoded { examples: Vec::new(), fate: Fate::Dropped { n_tokens } }),
            TooLong::Truncate => {
                let examples: Vec<Example> =
                    examples.iter().filter_map(|example| cut(example, max)).collect();
                let fate = if examples.is_empty() {
                    Fate::Dropped { n_tokens }
                } else {
                    Fate::Truncated { n_tokens }
                };
                Ok(Encoded { examples, fate })
            }
        }
    }
}

/// The largest number of tokens that a model takes, if the server says it.
pub(crate) fn context_of(service: &ServiceClient, model: &str) -> Result<Option<usize>, Failure> {
    let capabilities = service.create_rest_client().get_server_capabilities()?;
    let known = capabilities.supported_models.iter().find(|known| known.model_name.as_deref() == Some(model));
    Ok(known.and_then(|known| known.max_context_length).and_then(|n| usize::try_from(n).ok()))
}

/// A digest of the bytes of all tokens, and of how a text is cut into tokens.
fn fingerprint(tokenizer: &dyn Tokenizer) -> String {
    const PROBE: &str = "Hello  World's 12345\r\n\tif (x != 0) { naïve 日本語 🙂 }";
    let mut digest = Context::new(&SHA256);
    // Ids have gaps, but no long ones.
    let (mut id, mut gap) = (0, 0);
    while gap < 10_000 {
        match tokenizer.token_bytes(id) {
            Some(bytes) => {
                gap = 0;
                digest.update(&id.to_le_bytes());
                digest.update(&u64::try_from(bytes.len()).unwrap_or_default().to_le_bytes());
                digest.update(&bytes);
            }
            None => gap += 1,
        }
        id += 1;
    }
    for id in tokenizer.encode_ordinary(PROBE).unwrap_or_default() {
        digest.update(&id.to_le_bytes());
    }
    hex(&digest.finish().as_ref()[..16])
}

/// The digest of a chat template.
pub(super) fn digest_of(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let digest = ring::digest::digest(&SHA256, &bytes);
    format!("sha256:{}", hex(digest.as_ref()))
}
