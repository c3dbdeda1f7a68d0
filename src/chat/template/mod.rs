//! A renderer for any model that comes with a chat template.

mod conversation;
mod date;
mod engine;
mod examples;
mod guard;
mod inputs;
mod python;
mod source;
#[cfg(all(test, feature = "text"))]
mod tests;
mod values;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use minijinja::value::Value;

use self::conversation::Conversation;
use self::date::Date;
use self::engine::Engine;
use self::source::Source;
use super::answer::Termination;
use super::assemble::check_flags;
use super::example::Example;
use super::json::Json;
use super::message::Message;
use super::show::show;
use super::train_on_what::TrainOnWhat;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;
use crate::types::{ModelInput, Stop};

/// Writes conversations with the chat template of a model, a program in Jinja that comes with its tokenizer. For models
/// without a [`Renderer`](super::Renderer) of their own.
///
/// The template is rendered as Hugging Face `transformers` renders it. Which tokens are trained is found by prefix: the
/// text of an answer is what stands between the prompt that asks for it and its stop token. Where the template writes
/// history in another way than an answer, a conversation becomes several examples.
///
/// Text of a message is encoded as ordinary text: whatever it contains, no marker comes from it. For the template, too:
/// in a model with the marker `</think>`, an answer with this text has no thought, unless it has a
/// [`Part::Thinking`](super::Part::Thinking). That does not hold for what a template writes without markers, such as a
/// `User:` at the beginning of a line: there, a message can read like several.
///
/// A template has to be rendered once for each answer of a conversation, so that the time of an example grows with the
/// square of the number of its messages. A [`Renderer`](super::Renderer) takes time that grows with the number of tokens.
///
/// # Example: a prompt and a training example
/// ```
/// use std::sync::Arc;
///
/// use tinkex::chat::{Message, TemplateOptions, TemplateRenderer, TrainOnWhat};
/// use tinkex::tokenizer::ByteTokenizer;
///
/// let template = "{% for message in messages %}{{ message.role }}: {{ message.content | trim }}\n\n{% endfor %}\
///                 {% if add_generation_prompt %}assistant:{% endif %}";
/// // The tokenizer of bytes has no token that ends an answer.
/// let options = TemplateOptions { stop: Some("\n\n".into()), ..Default::default() };
/// let renderer = TemplateRenderer::new(template, Arc::new(ByteTokenizer), &options)?;
///
/// let messages = [Message::user("Hi"), Message::assistant("Hello.")];
/// let examples = renderer.build_supervised_examples(&messages, TrainOnWhat::AllAssistantMessages)?;
/// assert_eq!(renderer.show(&examples[0]), "user: Hi\n\nassistant:⟦ Hello.\n\n⟧");
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct TemplateRenderer {
    engine: Arc<Engine>,
    tokenizer: Arc<dyn Tokenizer>,
    options: TemplateOptions,
    /// What the template is given beside the messages.
    variables: Vec<(String, Value)>,
    /// The texts that the template may write by itself.
    written: String,
    stop: Stop,
    /// The stop tokens with their texts.
    stop_tokens: Vec<(i32, String)>,
}

/// Settings of a [`TemplateRenderer`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TemplateOptions {
    /// Variables of the template, such as `enable_thinking`.
    pub variables: BTreeMap<String, serde_json::Value>,
    /// How the template is given the arguments of calls.
    pub arguments: ToolArguments,
    /// The current date, `2026-11-27`. Templates that write it need it, because a prompt must not depend on the day.
    pub current_date: Option<String>,
    /// What ends an answer. `None`: the tokenizer's end of a sequence.
    pub stop: Option<Stop>,
    /// The name by which the template reads the thoughts of a message. `None`: both `reasoning_content` and `thinking`,
    /// as in `transformers`.
    pub thinking_key: Option<String>,
    /// For a model with several templates, the name of the one to use, such as `tool_use`. `None`: `default`.
    pub template_name: Option<String>,
}

/// How a template is given the arguments of a call of a tool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ToolArguments {
    /// As an object.
    #[default]
    Object,
    /// As the text of a JSON object.
    Text,
}

impl TemplateRenderer {
    /// The renderer of a template. The template finds the tokenizer's begin and end of a sequence in `bos_token` and
    /// `eos_token`.
    ///
    /// # Errors
    /// `InvalidInput`: not a valid template, an option that cannot be used, or neither `options.stop` nor a token of the
    /// tokenizer that ends a sequence.
    pub fn new(template: &str, tokenizer: Arc<dyn Tokenizer>, options: &TemplateOptions) -> Result<Self> {
        let token = |id: Option<i32>| Some(tokenizer.decode(&[id?]));
        let tokens = [("bos_token", token(tokenizer.bos_id())), ("eos_token", token(tokenizer.eos_id()))];
        let tokens = tokens.into_iter().filter_map(|(name, token)| Some((name, token?))).collect();
        Self::of_source(Source { template: template.to_owned(), tokens }, tokenizer, options)
    }

    /// The renderer of the template in the text of a `tokenizer_config.json`, which also says what `bos_token` and
    /// `eos_token` are.
    ///
    /// # Errors
    /// As for [`TemplateRenderer::new`]; also a text that is not valid or has no template.
    pub fn from_tokenizer_config(
        json: &str,
        tokenizer: Arc<dyn Tokenizer>,
        options: &TemplateOptions,
    ) -> Result<Self> {
        Self::of_source(source::of_config(json, options.template_name.as_deref())?, tokenizer, options)
    }

    /// The renderer of the template in the folder of a model: `chat_template.jinja`, or else in `tokenizer_config.json`.
    ///
    /// # Errors
    /// As for [`TemplateRenderer::from_tokenizer_config`]; also a folder without a template, and a file that cannot be
    /// read.
    pub fn from_dir(
        path: impl AsRef<Path>,
        tokenizer: Arc<dyn Tokenizer>,
        options: &TemplateOptions,
    ) -> Result<Self> {
        Self::of_source(source::of_dir(path.as_ref(), options.template_name.as_deref())?, tokenizer, options)
    }

    fn of_source(source: Source, tokenizer: Arc<dyn Tokenizer>, options: &TemplateOptions) -> Result<Self> {
        let date = options.current_date.as_deref().map(|text| {
            Date::read(text).ok_or_else(|| {
                let problem = format!("{text:?} is not a date of the form 2026-11-27");
                Error::invalid("options.current_date", problem)
            })
        });
        let date = date.transpose()?;
        let mut written = source.template.clone();
        let mut variables = Vec::new();
        for (name, token) in source.tokens {
            written += &token;
            variables.push((name.to_owned(), Value::from(token)));
        }
        for (name, value) in &options.variables {
            let path = format!("options.variables.{name}");
            if ["messages", "tools", "documents", "add_generation_prompt"].contains(&name.as_str()) {
                return Err(Error::invalid(path, "is given to the template by the renderer"));
            }
            let json = Json::read(&value.to_string()).map_err(|problem| Error::invalid(&path, problem))?;
            let value = values::value(&json)
                .map_err(|number| Error::invalid(&path, format!("the number {number} is too large")))?;
            written += &json.write(super::json::Style::TEMPLATE);
            variables.push((name.clone(), value));
        }
        let stop = match (&options.stop, tokenizer.eos_id()) {
            (Some(stop), _) => stop.clone(),
            (None, Some(eos)) => Stop::Tokens(vec![eos]),
            (None, None) => {
                let problem = "must be set, because the tokenizer has no token that ends a sequence";
                return Err(Error::invalid("options.stop", problem));
            }
        };
        let mut stop_tokens = Vec::new();
        if let Stop::Tokens(ids) = &stop {
            for id in ids {
                let text = tokenizer.decode(&[*id]);
                if tokenizer.token_id(&text) != Some(*id) {
                    return Err(Error::invalid(
                        "options.stop",
                        format!("the token {id} is not a marker of the tokenizer"),
                    ));
                }
                stop_tokens.push((*id, text));
            }
        }
        let is_empty = match &stop {
            Stop::Tokens(ids) => ids.is_empty(),
            Stop::Strings(texts) => texts.is_empty() || texts.iter().any(String::is_empty),
        };
        if is_empty {
            return Err(Error::invalid("options.stop", "must have tokens or texts that are not empty"));
        }
        let engine = Arc::new(Engine::new(&source.template, date)?);
        Ok(TemplateRenderer {
            engine,
            tokenizer,
            options: options.clone(),
            variables,
            written,
            stop,
            stop_tokens,
        })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Arc<dyn Tokenizer> {
        &self.tokenizer
    }

    /// What ends an answer, for [`SamplingParams::stop`](crate::types::SamplingParams).
    pub fn get_stop_sequences(&self) -> Stop {
        self.stop.clone()
    }

    /// Returns true if the template writes each answer of this conversation as it stood when it was the last message,
    /// after the prompt that asks for it. Then the conversation is one training example.
    ///
    /// # Errors
    /// `InvalidInput`: messages that the template refuses or cannot be given.
    pub fn has_extension_property(&self, messages: &[Message]) -> Result<bool> {
        examples::is_extended(&Conversation::new(self, messages)?)
    }

    /// The prompt for an answer of the assistant to these messages.
    ///
    /// # Errors
    /// `InvalidInput`: messages that the template refuses, or cannot be given, such as images; tools that the template
    /// leaves out, and messages of other roles than `user` and `assistant` that it does; a text that the template looks into in such a way that a marker might come from it.
    pub fn build_generation_prompt(&self, messages: &[Message]) -> Result<ModelInput> {
        Ok(ModelInput::from_ints(examples::prompt(&Conversation::new(self, messages)?)?))
    }

    /// The training examples of a conversation: as few as possible, such that each answer stands as the model would write
    /// it, after the prompt that asks for it. Each example ends with an answer that it trains.
    ///
    /// # Errors
    /// `InvalidInput`, as for [`TemplateRenderer::build_generation_prompt`]; also
    /// - an answer that does not begin as the prompt for it ends, or whose end the template does not mark with a stop
    ///   token, so that its tokens are not known,
    /// - an answer of which the template leaves something out, such as a thought,
    /// - an answer that contains a text of `options.stop` before its end, where the model would stop,
    /// - a mode that trains other messages than answers, except for all tokens,
    /// - messages that say whether they are `trainable` in a mode other than customized, or do not say it in that mode.
    pub fn build_supervised_examples(&self, messages: &[Message], what: TrainOnWhat) -> Result<Vec<Example>> {
        check_flags(messages, what)?;
        examples::examples(&Conversation::new(self, messages)?, what, self.tokenizer.bos_id())
    }

    /// Makes a message of the tokens that the model wrote, up to the stop sequence. A template does not tell how answers
    /// are read, so that the message has one text, with the markers of thoughts and calls that the model wrote.
    ///
    /// # Errors
    /// `InvalidInput` if stop sequences come more than once, because the sampling was not given the stop sequences of
    /// the renderer.
    pub fn parse_response(&self, response: &[i32]) -> Result<(Message, Termination)> {
        let eos = self.tokenizer.eos_id();
        let (text, stops) = match &self.stop {
            Stop::Tokens(stop) => {
                let mut answers = response.split(|id| stop.contains(id));
                let text = answers.next().map(|ids| ids.to_vec()).unwrap_or_default();
                (text, answers.count())
            }
            Stop::Strings(texts) => {
                let decoded = self.tokenizer.decode(response);
                let end = texts.iter().filter_map(|text| decoded.find(text.as_str())).min();
                let stops = texts.iter().map(|text| decoded.matches(text.as_str()).count()).sum();
                if let Some(end) = end
                    && stops == 1
                {
                    return Ok((Message::assistant(&decoded[..end]), Termination::StopSequence));
                }
                (response.to_vec(), stops)
            }
        };
        match (stops, text.split_last()) {
            (0, Some((last, before))) if eos == Some(*last) => {
                Ok((Message::assistant(self.tokenizer.decode(before)), Termination::Eos))
            }
            (0, _) => Ok((Message::assistant(self.tokenizer.decode(&text)), Termination::Malformed)),
            (1, _) => Ok((Message::assistant(self.tokenizer.decode(&text)), Termination::StopSequence)),
            (n, _) => {
                let problem =
                    format!("stop sequences come {n} times; sample with the stop sequences of the renderer");
                Err(Error::invalid("response", problem))
            }
        }
    }

    /// An example as text, to be looked at: trained tokens stand between `⟦` and `⟧`.
    pub fn show(&self, example: &Example) -> String {
        show(self.tokenizer.as_ref(), example)
    }
}
