//! A model to sample from, with its tokenizer and the format of its conversations.

use std::sync::Arc;

use tinkex::SamplingClient;
use tinkex::chat::Message;
use tinkex::tokenizer::Tokenizer;
use tinkex::types::{ModelInput, SampledSequence, SamplingParams, Stop, StopReason};

use super::settings::Settings;
use crate::connection::{App, Connection};
use crate::examples::{DataOptions, Template, answer_text, base_model_of, load_tokenizer, renderer_of_run};
use crate::failure::Failure;
use crate::prompts::RAW_MESSAGES;
use crate::run_folder::{unnamed_model, weights_of};

/// A model to sample from.
pub(crate) struct Sampler {
    /// The base model or the path of the weights.
    pub(crate) model: String,
    pub(crate) client: SamplingClient,
    pub(crate) params: SamplingParams,
    tokenizer: Arc<dyn Tokenizer>,
    /// `None` for prompts that are sent as they are.
    template: Option<Template>,
    system: Option<String>,
    /// Texts that end an answer here, because the server was given tokens.
    cut_at: Vec<String>,
    /// After the client, which it serves.
    _connection: Arc<Connection>,
}

/// An answer as text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) tokens: Vec<i32>,
    pub(crate) logprobs: Option<Vec<f32>>,
    pub(crate) stop_reason: String,
}

impl Sampler {
    /// Connects to the model. With `raw`, prompts are texts that are sent as they are.
    pub(crate) fn open(settings: &Settings, raw: bool, app: &App) -> Result<Self, Failure> {
        if raw && settings.system.is_some() {
            return Err(Failure::usage("--system has no place in a prompt that is sent as it is (--raw)"));
        }
        // All that can be wrong without the server is told first.
        settings.params(None)?;
        let model = settings.model.clone().map_or_else(|| unnamed_model(app), Ok)?;
        let (model, app) = weights_of(&model, app)?;
        let connection = app.connect()?;
        connection.check_model(&model)?;
        let connection = Arc::new(connection);
        Sampler::on(&connection, settings, raw, &model).map_err(|it| connection.explained(&model, it))
    }

    fn on(
        connection: &Arc<Connection>,
        settings: &Settings,
        raw: bool,
        model: &str,
    ) -> Result<Self, Failure> {
        let base = base_model_of(&connection.service, model)?;
        let tokenizer = load_tokenizer(settings.tokenizer.as_deref(), Some(&base))?;
        let options = DataOptions {
            tokenizer: settings.tokenizer.clone(),
            template: settings.template.clone().or_else(|| renderer_of_run(&connection.service, model)),
            ..DataOptions::default()
        };
        let template = if raw { None } else { Some(Template::of(&options, Some(&base), &tokenizer)?) };
        let params = settings.params(template.as_ref().map(Template::stop))?;
        let cut_at = match &params.stop {
            Some(Stop::Tokens(_)) => settings.stop.clone(),
            _ => Vec::new(),
        };
        let client = connection.service.create_sampling_client(model)?;
        let system = settings.system.clone();
        let (model, connection) = (model.to_owned(), connection.clone());
        Ok(Sampler { model, client, params, tokenizer, template, system, cut_at, _connection: connection })
    }

    /// The name of the format of conversations; `None` for prompts that are sent as they are.
    pub(crate) fn template_name(&self) -> Option<String> {
        self.template.as_ref().map(Template::name)
    }

    /// Sets the text of the system message; an empty text removes it.
    pub(crate) fn set_system(&mut self, text: &str) {
        self.system = Some(text.to_owned()).filter(|text| !text.is_empty());
    }

    /// The prompt of a text: a message of the user, or the text as it is.
    pub(crate) fn prompt(&self, text: &str) -> Result<ModelInput, String> {
        if self.template.is_some() {
            return self.prompt_of(&[Message::user(text)]);
        }
        let mut tokens: Vec<i32> = self.tokenizer.bos_id().into_iter().collect();
        let ids = self.tokenizer.encode_ordinary(text).map_err(|error| error.message().to_owned())?;
        tokens.extend(ids);
        Ok(ModelInput::from_ints(tokens))
    }

    /// The prompt for an answer to messages. The system message of the options comes first, if they have none.
    pub(crate) fn prompt_of(&self, messages: &[Message]) -> Result<ModelInput, String> {
        let Some(template) = &self.template else {
            return Err(RAW_MESSAGES.into());
        };
        let has_system = messages.first().is_some_and(|first| first.role == "system");
        let system = self.system.as_deref().filter(|_| !has_system).map(Message::system);
        let messages: Vec<Message> = system.into_iter().chain(messages.iter().cloned()).collect();
        template.prompt(&messages).map_err(|error| error.message().to_owned())
    }

    /// The text of a sequence, without what ended it.
    pub(crate) fn answer(&self, sequence: &SampledSequence) -> Answer {
        let n = n_to_stop(&sequence.tokens, &self.cut_at, self.tokenizer.as_ref());
        let tokens = n.map_or(&sequence.tokens[..], |n| &sequence.tokens[..n]);
        let stop_reason = match &sequence.stop_reason {
            _ if n.is_some() => "stop",
            StopReason::Stop => "stop",
            StopReason::Length => "length",
            StopReason::Other(other) => other.as_str(),
            _ => "unknown",
        };
        let logprobs = sequence.logprobs.as_deref();
        let mut text = self.text(tokens);
        if let Some(end) = self.cut_at.iter().filter_map(|stop| text.find(stop.as_str())).min() {
            text.truncate(end);
        }
        Answer {
            text,
            tokens: tokens.to_vec(),
            logprobs: logprobs.map(|it| it[..tokens.len().min(it.len())].to_vec()),
            stop_reason: stop_reason.to_owned(),
        }
    }

    /// The message that a sequence is, for the rest of the conversation.
    pub(crate) fn message(&self, sequence: &SampledSequence) -> Message {
        let parsed = self.template.as_ref().and_then(|template| template.parse(&sequence.tokens).ok());
        parsed.unwrap_or_else(|| Message::assistant(self.answer(sequence).text))
    }

    fn text(&self, tokens: &[i32]) -> String {
        answer_text(tokens, self.tokenizer.as_ref(), self.template.as_ref(), self.params.stop.as_ref())
    }
}

/// The number of tokens up to the end of the first of these texts.
fn n_to_stop(tokens: &[i32], stops: &[String], tokenizer: &dyn Tokenizer) -> Option<usize> {
    let mut bytes = Vec::new();
    for (i, id) in tokens.iter().enumerate() {
        let before = bytes.len();
        bytes.extend(tokenizer.token_bytes(*id).unwrap_or_default());
        let ends = |stop: &String| {
            let from = before.saturating_sub(stop.len());
            bytes[from..].windows(stop.len()).any(|window| window == stop.as_bytes())
        };
        if stops.iter().any(ends) {
            return Some(i + 1);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinkex::tokenizer::ByteTokenizer;

    #[test]
    fn answers_are_cut_after_the_first_text_that_ends_them() {
        let tokens = ByteTokenizer.encode("one END two FIN");
        for (stops, expected) in [
            (&[][..], None),
            (&["END"], Some(7)),
            (&["FIN", "END"], Some(7)),
            (&["o"], Some(1)),
            (&["three"], None),
            (&["one END two FIN and more"], None),
        ] {
            let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
            assert_eq!(n_to_stop(&tokens, &stops, &ByteTokenizer), expected, "{stops:?}");
        }
    }
}
