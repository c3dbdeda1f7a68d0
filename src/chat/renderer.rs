//! Renderers: from messages to prompts and training examples, and from answers to messages.

use std::collections::HashMap;
use std::sync::Arc;

use super::answer::{Answer, Span, Termination};
use super::assemble;
use super::example::Example;
use super::families;
use super::family::{Begin, Ends, Family, Splits};
use super::message::{Message, Part};
use super::pieces::{Piece, Pieces};
use super::show::show;
use super::tags::{THINK, THINK_END};
use super::train_on_what::TrainOnWhat;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;
use crate::types::{Chunk, ModelInput, Stop};

/// Writes conversations in the format of a model, and reads its answers.
///
/// Text of a message is encoded as ordinary text: whatever it contains, no marker of the format comes from it. Only
/// role_colon has no markers, because base models know none: a message that contains `\n\nUser:` reads like two, and an
/// answer with this text in its middle teaches the model to go on after its stop sequence.
///
/// The roles are `system`, `developer`, `user`, `assistant` and `tool`; deepseekv3 has no `developer`. A role of another
/// name is an error in deepseekv3 and gpt_oss. The other formats write it as it is, and train it only in modes that train
/// more than answers. A name that stands for one of these roles elsewhere, such as `human` or `Assistant`, is an error; of
/// these, role_colon takes those that differ from a role by more than capital letters.
///
/// # Example: a prompt and a training example for a base model
/// ```
/// use std::sync::Arc;
///
/// use tinkex::chat::{Message, Reduction, Renderer, TrainOnWhat};
/// use tinkex::tokenizer::{ByteTokenizer, Tokenizer};
///
/// let renderer = Renderer::new("role_colon", Arc::new(ByteTokenizer))?;
/// let mut messages = vec![Message::user("Hi")];
/// let prompt = renderer.build_generation_prompt(&messages)?;
/// assert_eq!(ByteTokenizer.decode(&prompt.to_ints()?), "User: Hi\n\nAssistant:");
///
/// messages.push(Message::assistant("Hello."));
/// let examples = renderer.build_supervised_examples(&messages, TrainOnWhat::AllAssistantMessages)?;
/// assert_eq!(renderer.show(&examples[0]), "User: Hi\n\nAssistant:⟦ Hello.\n\nUser:⟧");
/// let datum = examples[0].datum(None, Reduction::Mean)?;
/// # let _ = datum;
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Renderer {
    name: &'static str,
    family: Arc<dyn Family>,
    tokenizer: Arc<dyn Tokenizer>,
    markers: HashMap<&'static str, i32>,
    /// The inverse of `markers`.
    names: HashMap<i32, &'static str>,
    like_cookbook: bool,
}

/// Settings of a [`Renderer`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RendererOptions {
    /// Writes exactly what the cookbook 0.6.1 writes, also where it differs from the model's own template. For going on
    /// with a run that was begun in Python. Text stays ordinary text.
    pub like_cookbook: bool,
    /// For the renderers `gpt_oss_*_reasoning`, which need it: the date in the system message, `2026-11-27`.
    pub current_date: Option<String>,
}

impl Renderer {
    /// The renderer of a name of the cookbook; [`Renderer::names`] lists them.
    ///
    /// # Errors
    /// `InvalidInput`: an unknown name, a tokenizer that lacks a marker of the format, or `gpt_oss_*_reasoning` without
    /// a date (see [`Renderer::with_options`]).
    pub fn new(name: &str, tokenizer: Arc<dyn Tokenizer>) -> Result<Self> {
        Renderer::with_options(name, tokenizer, &RendererOptions::default())
    }

    /// The renderer of a name, with settings.
    ///
    /// # Errors
    /// As for [`Renderer::new`].
    pub fn with_options(
        name: &str,
        tokenizer: Arc<dyn Tokenizer>,
        options: &RendererOptions,
    ) -> Result<Self> {
        let (name, family) = families::by_name(name, options)?;
        let mut markers = HashMap::new();
        for marker in family.markers() {
            let Some(id) = tokenizer.token_id(marker) else {
                let problem = format!("has no token {marker}, which the renderer {name:?} needs");
                return Err(Error::invalid("tokenizer", problem));
            };
            markers.insert(*marker, id);
        }
        let optional = family.optional_markers().iter();
        markers.extend(optional.filter_map(|marker| Some((*marker, tokenizer.token_id(marker)?))));
        let names = markers.iter().map(|(marker, id)| (*id, *marker)).collect();
        Ok(Renderer { name, family, tokenizer, markers, names, like_cookbook: options.like_cookbook })
    }

    /// The names of all renderers.
    pub fn names() -> Vec<&'static str> {
        families::names()
    }

    /// The name of the renderer.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Arc<dyn Tokenizer> {
        &self.tokenizer
    }

    /// What ends an answer, for [`SamplingParams::stop`](crate::types::SamplingParams).
    pub fn get_stop_sequences(&self) -> Stop {
        self.family.stop().stop(self.tokenizer.as_ref())
    }

    /// Returns true if a longer conversation always begins with the tokens of the shorter one and the answer to it, so
    /// that a conversation of many answers is one training example.
    pub fn has_extension_property(&self) -> bool {
        self.family.splits() == Splits::Whole
    }

    /// The prompt for an answer of the assistant to these messages.
    ///
    /// # Errors
    /// `InvalidInput` with the path of what the format cannot write, such as `messages[2].content[0]`, or of a role that it
    /// does not have.
    pub fn build_generation_prompt(&self, messages: &[Message]) -> Result<ModelInput> {
        self.build_generation_prompt_with(messages, "assistant", "")
    }

    /// The prompt for an answer of a role that begins with `prefill`. Of the markers in `prefill` only those become
    /// tokens of their own that are part of a text, such as `<think>`.
    ///
    /// # Errors
    /// As for [`Renderer::build_generation_prompt`].
    pub fn build_generation_prompt_with(
        &self,
        messages: &[Message],
        role: &str,
        prefill: &str,
    ) -> Result<ModelInput> {
        let mut prompt = assemble::prompt(self, messages, role)?;
        for piece in self.prefill(prefill).iter() {
            self.encode_piece(piece, &mut prompt.chunks)?;
        }
        Ok(ModelInput { chunks: prompt.chunks })
    }

    /// The training examples of a conversation. There are several if the model's format writes history in another way
    /// than an answer (see [`Renderer::has_extension_property`]): then each example ends with what it trains. Examples in
    /// which nothing is trained are left out.
    ///
    /// # Errors
    /// `InvalidInput`: what the format cannot write; a mode that needs the messages to say whether they are `trainable`,
    /// and messages that do not, or that do in another mode; an answer with a thought where the renderer does
    /// not ask the model to think; for a format of several examples, a mode that trains other messages than answers.
    pub fn build_supervised_examples(&self, messages: &[Message], what: TrainOnWhat) -> Result<Vec<Example>> {
        assemble::examples(self, messages, what)
    }

    /// The whole conversation as one training example. Where the format writes history in another way than an answer,
    /// answers before the last turn are trained in a form that the model is never asked for:
    /// [`Renderer::build_supervised_examples`] avoids that.
    ///
    /// # Errors
    /// As for [`Renderer::build_supervised_examples`].
    pub fn build_supervised_example(&self, messages: &[Message], what: TrainOnWhat) -> Result<Example> {
        assemble::example(self, messages, what)
    }

    /// Makes a message of the tokens that the model wrote after a prompt of this renderer. An answer that did not end
    /// with a stop sequence becomes a message too, as far as it can be read.
    ///
    /// # Errors
    /// `InvalidInput` if a stop sequence comes twice, because the sampling was not given the stop sequences of the
    /// renderer.
    pub fn parse_response(&self, response: &[i32]) -> Result<(Message, Termination)> {
        let (mut message, termination) = self.family.parse(self.answer(response))?;
        message.content.retain(|part| !matches!(part, Part::Text(text) if text.is_empty()));
        Ok((message, termination))
    }

    /// An example as text, to be looked at: trained tokens stand between `⟦` and `⟧`, and an image is `[image]`.
    pub fn show(&self, example: &Example) -> String {
        show(self.tokenizer.as_ref(), example)
    }

    #[cfg(all(test, feature = "text"))]
    pub(super) fn markers(&self) -> Vec<i32> {
        self.markers.values().copied().collect()
    }

    pub(super) fn like_cookbook(&self) -> bool {
        self.like_cookbook
    }

    pub(super) fn family(&self) -> &dyn Family {
        self.family.as_ref()
    }

    /// Appends the tokens of a piece to chunks; the last chunk takes tokens of a text.
    pub(super) fn encode_piece(&self, piece: &Piece, chunks: &mut Vec<Chunk>) -> Result<()> {
        match piece {
            Piece::Marker(marker) => push(chunks, &[self.marker(marker)?]),
            Piece::Text(text) => push(chunks, &self.tokenizer.encode_ordinary(text)?),
            Piece::Image(image) => chunks.push(Chunk::Image {
                data: image.data.clone(),
                format: image.format,
                expected_tokens: match image.expected_tokens.map(u32::try_from) {
                    Some(Ok(n)) => Some(n),
                    Some(Err(_)) => {
                        let problem = "an image of over 4 294 967 295 tokens";
                        return Err(Error::invalid("expected_tokens", problem));
                    }
                    None => None,
                },
            }),
        }
        Ok(())
    }

    /// The tokens that begin a sequence.
    pub(super) fn begin(&self) -> Result<Option<i32>> {
        match self.family.begin() {
            Begin::Nothing => Ok(None),
            Begin::Marker(marker) => self.marker(marker).map(Some),
            Begin::Bos => Ok(self.tokenizer.bos_id()),
        }
    }

    fn marker(&self, marker: &str) -> Result<i32> {
        self.markers.get(marker).copied().ok_or_else(|| {
            let problem = format!(
                "has no token {marker}, which the renderer {:?} needs for what a message contains",
                self.name
            );
            Error::invalid("tokenizer", problem)
        })
    }

    /// Text with the markers that are part of texts.
    fn prefill(&self, prefill: &str) -> Pieces {
        // Tokenizers that are made from a list of ranks take all markers for special.
        let inner = |marker: &&'static str| {
            let is_special = |id: &i32| self.tokenizer.is_special(*id);
            matches!(*marker, THINK | THINK_END)
                || self.markers.get(*marker).is_some_and(|id| !is_special(id))
        };
        let inner: Vec<&'static str> = self.family.markers().iter().copied().filter(inner).collect();
        let mut pieces = Pieces::default();
        let mut rest = prefill;
        while let Some((at, marker)) =
            inner.iter().filter_map(|marker| Some((rest.find(marker)?, *marker))).min()
        {
            pieces.text(&rest[..at]).marker(marker);
            rest = &rest[at + marker.len()..];
        }
        pieces.text(rest);
        pieces
    }

    /// Cuts an answer into texts and the markers of the format.
    fn answer(&self, response: &[i32]) -> Answer {
        let eos = self.tokenizer.eos_id();
        let ended_with_eos = eos.is_some() && response.last().copied() == eos;
        let response = match self.family.stop() {
            Ends::Text(_) if ended_with_eos => &response[..response.len() - 1],
            _ => response,
        };
        let mut spans = Vec::new();
        for run in response.chunk_by(|a, b| !self.names.contains_key(a) && !self.names.contains_key(b)) {
            spans.push(match self.names.get(&run[0]) {
                Some(marker) => Span::Marker(marker),
                None => Span::Text(self.tokenizer.decode(run)),
            });
        }
        Answer { spans, ended_with_eos }
    }
}

/// Appends tokens to the last chunk, if that is text, and makes one otherwise.
pub(super) fn push(chunks: &mut Vec<Chunk>, ids: &[i32]) {
    match chunks.last_mut() {
        _ if ids.is_empty() => {}
        Some(Chunk::EncodedText { tokens }) => tokens.extend_from_slice(ids),
        _ => chunks.push(Chunk::EncodedText { tokens: ids.to_vec() }),
    }
}
