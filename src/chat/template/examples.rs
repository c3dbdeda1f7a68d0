//! Tokens of conversations, and which of them are trained.

use std::collections::BTreeSet;
use std::ops::Range;

use super::conversation::{Answer, Conversation};
use super::guard::Written;
use crate::chat::example::Example;
use crate::chat::train_on_what::TrainOnWhat;
use crate::error::{Error, Result};
use crate::types::ModelInput;

/// The prompt for an answer to the messages.
pub(super) fn prompt(conversation: &Conversation<'_>) -> Result<Vec<i32>> {
    let n = conversation.messages().len();
    let written = conversation.written(n, true)?;
    let places = places(&answers(conversation, n), &written.plain());
    let ids: Vec<i32> = encoded(&written, &places)?.into_iter().flat_map(|(_, ids)| ids).collect();
    if ids.is_empty() {
        return Err(Error::invalid("messages", "the template writes nothing for them"));
    }
    conversation.check_others(n, true)?;
    Ok(ids)
}

/// Returns true if each answer stands in the whole conversation as the model wrote it, after the prompt for it.
pub(super) fn is_extended(conversation: &Conversation<'_>) -> Result<bool> {
    let n = conversation.messages().len();
    let whole = conversation.written(n, false)?.plain();
    Ok(answers(conversation, n)
        .iter()
        .all(|(_, answer)| answer.as_ref().is_ok_and(|answer| answer.begins(&whole))))
}

/// The examples that train chosen messages.
pub(super) fn examples(
    conversation: &Conversation<'_>,
    what: TrainOnWhat,
    bos: Option<i32>,
) -> Result<Vec<Example>> {
    let messages = conversation.messages();
    let is_assistant = |i: &usize| messages[*i].role == "assistant";
    let indices = (0..messages.len()).filter(is_assistant);
    let last = messages.len().saturating_sub(1);
    let chosen: Vec<usize> = match what {
        TrainOnWhat::LastAssistantMessage => indices.filter(|i| *i == last).collect(),
        TrainOnWhat::LastAssistantTurn => {
            let user = messages[..last].iter().rposition(|message| message.role == "user");
            indices.filter(|i| user.is_none_or(|user| user < *i)).collect()
        }
        TrainOnWhat::AllAssistantMessages => indices.collect(),
        TrainOnWhat::Customized => {
            let trained = |i: &usize| messages[*i].trainable == Some(true);
            if let Some(i) = (0..messages.len()).filter(trained).find(|i| !is_assistant(i)) {
                return Err(no_headers(&format!("messages[{i}].trainable")));
            }
            indices.filter(trained).collect()
        }
        TrainOnWhat::AllTokens => return all_tokens(conversation, bos).map(|example| vec![example]),
        TrainOnWhat::AllMessages | TrainOnWhat::AllUserAndSystemMessages => {
            return Err(no_headers("train_on_what"));
        }
    };
    let Some(end) = chosen.last() else { return Ok(Vec::new()) };
    conversation.check_others(end + 1, false)?;
    let answers = answers(conversation, end + 1);
    let mut left: Vec<(usize, Answer, String)> = Vec::new();
    for (i, answer) in &answers {
        if chosen.contains(i) {
            let answer = answer.clone()?;
            let text = answer.text.clone();
            let text = text.map_err(|problem| Error::invalid(format!("messages[{i}]"), problem))?;
            conversation.check_whole(*i)?;
            left.push((*i, answer, text));
        }
    }
    // An example ends with an answer and trains those before it that stand in it as the model wrote them.
    let mut examples = Vec::new();
    while let Some((end, _, whole)) = left.last().cloned() {
        let (within, outside) = left.into_iter().partition(|(_, answer, _)| answer.begins(&whole));
        left = outside;
        let trained: Vec<Range<usize>> = within
            .iter()
            .map(|(_, answer, text): &(usize, Answer, String)| answer.prompt.len()..text.len())
            .collect();
        let written = conversation.written(end + 1, false)?.part(0..whole.len());
        let before = answers.iter().filter(|(i, _)| *i <= end).cloned().collect::<Vec<_>>();
        let (mut ids, mut weights) = (Vec::new(), Vec::new());
        for (place, part) in encoded(&written, &places(&before, &whole))? {
            let is_trained = trained.iter().any(|range| range.contains(&place));
            weights.resize(weights.len() + part.len(), f32::from(u8::from(is_trained)));
            ids.extend(part);
        }
        examples.push(Example::new(ModelInput::from_ints(ids), weights)?);
    }
    examples.reverse();
    Ok(examples)
}

/// One example that trains everything but the beginning of the sequence.
fn all_tokens(conversation: &Conversation<'_>, bos: Option<i32>) -> Result<Example> {
    let n = conversation.messages().len();
    let written = conversation.written(n, false)?;
    let plain = written.plain();
    let answers = answers(conversation, n);
    let rewritten =
        answers.iter().find(|(_, answer)| !answer.as_ref().is_ok_and(|answer| answer.begins(&plain)));
    if let Some((i, _)) = rewritten {
        let problem = format!(
            "trains other messages than answers, but the template writes the answer messages[{i}] in another way after \
             further messages, or ends it in a way that is not known; train answers only"
        );
        return Err(Error::invalid("train_on_what", problem));
    }
    conversation.check_others(n, false)?;
    for (i, _) in &answers {
        conversation.check_whole(*i)?;
    }
    let ids: Vec<i32> =
        encoded(&written, &places(&answers, &plain))?.into_iter().flat_map(|(_, ids)| ids).collect();
    let mut weights = vec![1.0; ids.len()];
    if let (Some(first), Some(weight)) = (ids.first(), weights.first_mut())
        && bos == Some(*first)
    {
        *weight = 0.0;
    }
    Example::new(ModelInput::from_ints(ids), weights)
}

fn no_headers(path: &str) -> Error {
    let problem = "trains other messages than answers, but a template does not tell where the text of such a message \
                   begins; train answers, or use all_tokens";
    Error::invalid(path, problem)
}

/// The answers among the first messages. An error is one of the template, for a prompt or for an answer.
fn answers(conversation: &Conversation<'_>, n: usize) -> Vec<(usize, Result<Answer>)> {
    let messages = &conversation.messages()[..n];
    let indices = (0..n).filter(|i| messages[*i].role == "assistant");
    indices.map(|i| (i, conversation.answer(i))).collect()
}

/// The places where a text is cut before it is encoded: where the model began and ended to write. So the tokens of a
/// prompt are the first ones of the conversation that goes on after it.
fn places(answers: &[(usize, Result<Answer>)], text: &str) -> BTreeSet<usize> {
    let mut places = BTreeSet::from([0, text.len()]);
    for answer in answers.iter().filter_map(|(_, answer)| answer.as_ref().ok()) {
        if text.starts_with(&answer.prompt) {
            places.insert(answer.prompt.len());
            places.extend(
                answer.text.as_ref().ok().filter(|answer| text.starts_with(*answer)).map(String::len),
            );
        }
    }
    places
}

/// The tokens of the parts of a text, and where each part begins.
fn encoded(written: &Written<'_>, places: &BTreeSet<usize>) -> Result<Vec<(usize, Vec<i32>)>> {
    let starts = places.iter().copied();
    let ends = places.iter().copied().skip(1);
    starts.zip(ends).map(|(start, end)| Ok((start, written.part(start..end).encode()?))).collect()
}
