//! Prompts and training examples of rendered messages.

use std::borrow::Cow;

use super::example::Example;
use super::family::{At, Splits};
use super::message::{Message, Part};
use super::pieces::{Pieces, Rendered, Side};
use super::renderer::{Renderer, push};
use super::roles::check_role;
use super::train_on_what::TrainOnWhat;
use crate::error::{Error, Result};
use crate::types::{Chunk, ModelInput};

/// Tokens, and where in them a message begins.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    pub(super) chunks: Vec<Chunk>,
    n: usize,
}

impl Sequence {
    fn begin(renderer: &Renderer) -> Result<Self> {
        let mut sequence = Sequence::default();
        if let Some(id) = renderer.begin()? {
            push(&mut sequence.chunks, &[id]);
            sequence.n = 1;
        }
        Ok(sequence)
    }

    /// Appends pieces and returns their number of tokens.
    fn extend(&mut self, renderer: &Renderer, pieces: &Pieces) -> Result<usize> {
        let before = self.chunks.len().saturating_sub(1);
        let old = len(&self.chunks[before..])?;
        for piece in pieces.iter() {
            renderer.encode_piece(piece, &mut self.chunks)?;
        }
        let added = len(&self.chunks[before..])? - old;
        self.n += added;
        Ok(added)
    }
}

fn len(chunks: &[Chunk]) -> Result<usize> {
    let mut n = 0;
    for chunk in chunks {
        n += match chunk {
            Chunk::EncodedText { tokens } => tokens.len(),
            Chunk::Image { expected_tokens, .. } => expected_tokens.unwrap_or(0) as usize,
            other => ModelInput { chunks: vec![other.clone()] }.len()?,
        };
    }
    Ok(n)
}

/// The prompt for an answer of a role to messages.
pub(super) fn prompt(renderer: &Renderer, messages: &[Message], role: &str) -> Result<Sequence> {
    check_messages(renderer, messages)?;
    check_role("role", role, renderer.family().takes_any_role())?;
    let messages = &*with_unparsed(renderer, messages);
    let family = renderer.family();
    let turn_start = family.turn_start(messages);
    let mut sequence = Sequence::begin(renderer)?;
    let opening = family.opening(messages);
    for (_, pieces) in opening.iter().flat_map(|rendered| &rendered.segments) {
        sequence.extend(renderer, pieces)?;
    }
    let n_history = messages.len();
    let at = |index| At { messages, index, turn_start, n_history, is_first: index == 0 && opening.is_none() };
    for index in 0..messages.len() {
        for (_, pieces) in &family.message(&at(index))?.segments {
            sequence.extend(renderer, pieces)?;
        }
    }
    sequence.extend(renderer, &family.suffix(role, &at(messages.len())))?;
    Ok(sequence)
}

/// The training examples of a conversation, without those in which nothing is trained.
pub(super) fn examples(renderer: &Renderer, messages: &[Message], what: TrainOnWhat) -> Result<Vec<Example>> {
    check_messages(renderer, messages)?;
    check_flags(messages, what)?;
    let mut examples = Vec::new();
    for plan in plans(renderer, messages, what)? {
        let example = build(renderer, &messages[..plan.end], &plan)?;
        if 0 < example.n_trained() {
            examples.push(example);
        }
    }
    Ok(examples)
}

/// The whole conversation as one example.
pub(super) fn example(renderer: &Renderer, messages: &[Message], what: TrainOnWhat) -> Result<Example> {
    check_messages(renderer, messages)?;
    check_flags(messages, what)?;
    if what == TrainOnWhat::AllAssistantMessages && !renderer.has_extension_property() {
        log::warn!(
            target: "tinkex",
            "build_supervised_example of {} trains earlier answers in a form that the model is never asked for; use \
             build_supervised_examples",
            renderer.name()
        );
    }
    build(renderer, messages, &whole(renderer, messages, what))
}

/// Which messages an example has, and which of them it trains.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Plan {
    /// The messages before this one are rendered.
    end: usize,
    /// For each of them, whether it is trained.
    trained: Vec<bool>,
    what: TrainOnWhat,
}

impl Plan {
    /// True if the end of the prompt is not trained where it stands in an answer: the model never writes it.
    fn withholds_prompt(&self, at: &At<'_>, like_cookbook: bool) -> bool {
        match self.what {
            TrainOnWhat::AllMessages | TrainOnWhat::AllTokens => false,
            _ if !like_cookbook => true,
            // The cookbook looks at the message after the last one of the user, or at the last message.
            TrainOnWhat::LastAssistantTurn => at.index == at.last_user().map_or(0, |user| user + 1),
            TrainOnWhat::LastAssistantMessage => at.is_last(),
            _ => false,
        }
    }
}

/// One example of all messages.
fn whole(renderer: &Renderer, messages: &[Message], what: TrainOnWhat) -> Plan {
    let last = messages.len().saturating_sub(1);
    let turn_start = trained_from(renderer, &messages[..last]);
    let trained = messages.iter().enumerate().map(|(i, message)| {
        let is_assistant = message.role == "assistant";
        match what {
            TrainOnWhat::LastAssistantMessage => is_assistant && i == last,
            TrainOnWhat::LastAssistantTurn => is_assistant && turn_start <= i,
            TrainOnWhat::AllAssistantMessages => is_assistant,
            TrainOnWhat::AllMessages | TrainOnWhat::AllTokens => true,
            TrainOnWhat::AllUserAndSystemMessages => matches!(message.role.as_str(), "user" | "system"),
            TrainOnWhat::Customized => message.trainable == Some(true),
        }
    });
    Plan { end: messages.len(), trained: trained.collect(), what }
}

/// Where the answers to messages begin that are trained as their last turn.
fn trained_from(renderer: &Renderer, messages: &[Message]) -> usize {
    let after_user = messages.iter().rposition(|message| message.role == "user").map_or(0, |user| user + 1);
    renderer.family().turn_start(messages).max(after_user)
}

fn plans(renderer: &Renderer, messages: &[Message], what: TrainOnWhat) -> Result<Vec<Plan>> {
    let splits = renderer.family().splits();
    if splits == Splits::Whole {
        return Ok(vec![whole(renderer, messages, what)]);
    }
    let one = |end: usize, trained: &dyn Fn(usize) -> bool| Plan {
        end,
        trained: (0..end).map(|i| messages[i].role == "assistant" && trained(i)).collect(),
        what: if splits == Splits::AtAnswers || what == TrainOnWhat::LastAssistantMessage {
            TrainOnWhat::LastAssistantMessage
        } else {
            TrainOnWhat::LastAssistantTurn
        },
    };
    // The messages that may be trained at all.
    let chosen: Box<dyn Fn(usize) -> bool> = match what {
        TrainOnWhat::AllAssistantMessages => Box::new(|_| true),
        TrainOnWhat::LastAssistantTurn => {
            // A format of one example for each turn takes the last turn that was answered.
            let seen = messages.len().saturating_sub(usize::from(splits == Splits::AtTurns));
            let start = trained_from(renderer, &messages[..seen]);
            Box::new(move |i| start <= i)
        }
        TrainOnWhat::LastAssistantMessage => {
            let last = messages.len().saturating_sub(1);
            Box::new(move |i| i == last)
        }
        TrainOnWhat::Customized => {
            let other = messages
                .iter()
                .position(|message| message.trainable == Some(true) && message.role != "assistant");
            if let Some(i) = other {
                return Err(cannot_split(renderer, &format!("messages[{i}].trainable")));
            }
            Box::new(|i| messages[i].trainable == Some(true))
        }
        TrainOnWhat::AllMessages | TrainOnWhat::AllTokens | TrainOnWhat::AllUserAndSystemMessages => {
            return Err(cannot_split(renderer, "train_on_what"));
        }
    };
    let is_assistant = |i: &usize| messages[*i].role == "assistant";
    let ends = (0..messages.len()).filter(is_assistant);
    Ok(match splits {
        Splits::Whole => Vec::new(),
        Splits::AtAnswers => {
            ends.filter(|i| chosen(*i)).map(|i| one(i + 1, &|trained| trained == i)).collect()
        }
        Splits::AtTurns => {
            let closes = |i: &usize| {
                let later = messages[i + 1..].iter().find(|message| message.role != "tool");
                messages[*i].tool_calls.is_empty() || later.is_none_or(|message| message.role != "assistant")
            };
            let mut start = 0;
            let turn = |i: usize| {
                let start = std::mem::replace(&mut start, i + 1);
                one(i + 1, &|trained| start <= trained && chosen(trained))
            };
            ends.filter(closes).map(turn).collect()
        }
    })
}

fn cannot_split(renderer: &Renderer, path: &str) -> Error {
    let problem = format!(
        "trains other messages than answers of the assistant, but {} needs an example for each answer, because it writes \
         history in another way; build_supervised_example makes one example",
        renderer.name()
    );
    Error::invalid(path, problem)
}

/// The messages with the calls that could not be read as text at the end of the content, where the parser did not leave
/// them there: the model must see what it wrote before it is told what is wrong with it. The cookbook leaves them out.
fn with_unparsed<'a>(renderer: &Renderer, messages: &'a [Message]) -> Cow<'a, [Message]> {
    if renderer.like_cookbook() || messages.iter().all(|message| message.unparsed_tool_calls.is_empty()) {
        return Cow::Borrowed(messages);
    }
    let mut messages = messages.to_vec();
    for message in &mut messages {
        for call in std::mem::take(&mut message.unparsed_tool_calls) {
            if !message.text().contains(&call.raw_text) {
                message.content.push(Part::Text(call.raw_text));
            }
        }
    }
    Cow::Owned(messages)
}

/// Refuses roles that no format has, and what most formats would drop: calls of anybody but the assistant, tools outside a
/// system message, and the name of anything but the result of a tool.
fn check_messages(renderer: &Renderer, messages: &[Message]) -> Result<()> {
    for (i, message) in messages.iter().enumerate() {
        let takes_any = renderer.family().takes_any_role();
        check_role(&format!("messages[{i}].role"), &message.role, takes_any)?;
        let is_speaker = matches!(message.role.as_str(), "system" | "developer" | "user" | "assistant");
        if is_speaker && message.name.is_some() && !renderer.like_cookbook() {
            let problem =
                "only the result of a tool has a name in this format; remove it, or write it into the text";
            return Err(Error::invalid(format!("messages[{i}].name"), problem));
        }
        if !message.tool_calls.is_empty() && message.role != "assistant" {
            let path = format!("messages[{i}].tool_calls");
            return Err(Error::invalid(path, "only an assistant can call tools"));
        }
        if !message.unparsed_tool_calls.is_empty() && message.role != "assistant" {
            let path = format!("messages[{i}].unparsed_tool_calls");
            return Err(Error::invalid(path, "only an assistant can call tools"));
        }
        if !message.tools.is_empty() && message.role != "system" {
            return Err(Error::invalid(
                format!("messages[{i}].tools"),
                "only a system message declares tools",
            ));
        }
    }
    Ok(())
}

/// In the customized mode each message says whether it is trained, in the others none does.
pub(super) fn check_flags(messages: &[Message], what: TrainOnWhat) -> Result<()> {
    let is_customized = what == TrainOnWhat::Customized;
    match messages.iter().position(|message| message.trainable.is_some() != is_customized) {
        None => Ok(()),
        Some(i) => {
            let problem = if is_customized {
                "must be true or false on each message for the mode customized".into()
            } else {
                format!("must not be set for the mode {what}; use customized, or leave it out")
            };
            Err(Error::invalid(format!("messages[{i}].trainable"), problem))
        }
    }
}

fn build(renderer: &Renderer, messages: &[Message], plan: &Plan) -> Result<Example> {
    let messages = &*with_unparsed(renderer, messages);
    let family = renderer.family();
    let n_history = messages.len().saturating_sub(1);
    let turn_start = family.turn_start(&messages[..n_history]);
    let mut sequence = Sequence::begin(renderer)?;
    let mut weights = vec![0.0; sequence.n];
    let all_tokens = plan.what == TrainOnWhat::AllTokens;
    let counts =
        |rendered: &Rendered| !(plan.what == TrainOnWhat::AllUserAndSystemMessages && rendered.of_no_role);
    let opening = family.opening(messages);
    if let Some(rendered) = &opening {
        let trained = matches!(
            plan.what,
            TrainOnWhat::AllMessages | TrainOnWhat::AllTokens | TrainOnWhat::AllUserAndSystemMessages
        );
        append(renderer, rendered, trained && counts(rendered), all_tokens, &mut sequence, &mut weights)?;
    }
    for (index, message) in messages.iter().enumerate() {
        let trained = plan.trained[index];
        let at = At { messages, index, turn_start, n_history, is_first: index == 0 && opening.is_none() };
        if trained && message.role == "assistant" && family.refuses_thinking(&at) {
            refuse_thinking(&at, renderer.name())?;
        }
        let start = sequence.n;
        let mut rendered = family.message(&at)?;
        if at.is_last() && message.role == "assistant" && !rendered.stop_overlap.is_empty() {
            let overlap = rendered.stop_overlap;
            rendered.output().text(overlap);
        }
        append(renderer, &rendered, trained && counts(&rendered), all_tokens, &mut sequence, &mut weights)?;
        if trained && message.role == "assistant" && plan.withholds_prompt(&at, renderer.like_cookbook()) {
            let given = given(renderer, &At { messages: &messages[..index], ..at }, &sequence.chunks, start)?;
            weights[start..start + given].fill(0.0);
        }
    }
    Example::new(ModelInput { chunks: sequence.chunks }, weights)
}

fn append(
    renderer: &Renderer,
    rendered: &Rendered,
    trained: bool,
    all_tokens: bool,
    sequence: &mut Sequence,
    weights: &mut Vec<f32>,
) -> Result<()> {
    for (side, pieces) in &rendered.segments {
        let n = sequence.extend(renderer, pieces)?;
        let counts = match side {
            Side::Header => all_tokens,
            Side::Output => trained,
        };
        weights.resize(weights.len() + n, f32::from(u8::from(counts)));
    }
    Ok(())
}

/// How many tokens of an answer at `start` the prompt gives, so that the model never writes them: an open `<think>` for
/// example. None if the answer does not begin as the prompt ends.
fn given(renderer: &Renderer, at: &At<'_>, chunks: &[Chunk], start: usize) -> Result<usize> {
    let mut suffix = Vec::new();
    for piece in renderer.family().suffix("assistant", at).iter() {
        renderer.encode_piece(piece, &mut suffix)?;
    }
    let [Chunk::EncodedText { tokens: suffix }] = suffix.as_slice() else { return Ok(0) };
    let mut skipped = 0;
    for chunk in chunks {
        let Chunk::EncodedText { tokens } = chunk else {
            skipped += len(std::slice::from_ref(chunk))?;
            continue;
        };
        if start < skipped + tokens.len() {
            let begins = tokens.get(start - skipped..).is_some_and(|answer| answer.starts_with(suffix));
            return Ok(if begins { suffix.len() } else { 0 });
        }
        skipped += tokens.len();
    }
    Ok(0)
}

fn refuse_thinking(at: &At<'_>, name: &str) -> Result<()> {
    match at.message().content.iter().position(|part| matches!(part, Part::Thinking(_))) {
        None => Ok(()),
        Some(i) => {
            let problem = format!(
                "is a thought, but {name} does not ask the model to think here; use the renderer of a model that thinks, or \
                 remove the thought"
            );
            Err(at.invalid(&format!(".content[{i}]"), problem))
        }
    }
}
