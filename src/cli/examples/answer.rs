//! The text of an answer.

use tinkex::chat::Part;
use tinkex::tokenizer::Tokenizer;
use tinkex::types::Stop;

use super::template::Template;

/// The text of an answer, without what ended it. `template` is the format of the conversation, if it was one.
pub(crate) fn text(
    tokens: &[i32],
    tokenizer: &dyn Tokenizer,
    template: Option<&Template>,
    stop: Option<&Stop>,
) -> String {
    if let Some(template) = template
        && let Ok(message) = template.parse(tokens)
        && message.tool_calls.is_empty()
        && message.unparsed_tool_calls.is_empty()
        && message.content.iter().all(|part| matches!(part, Part::Text(_)))
    {
        return message.text();
    }
    // Thoughts and calls are shown as the model wrote them, up to the token that ended the answer.
    let is_end = |id: &i32| {
        tokenizer.eos_id() == Some(*id) || matches!(stop, Some(Stop::Tokens(stop)) if stop.contains(id))
    };
    let end = tokens.iter().position(is_end).unwrap_or(tokens.len());
    let mut text = tokenizer.decode(&tokens[..end]);
    if let Some(Stop::Strings(stops)) = stop
        && let Some(stop) = stops.iter().find(|stop| text.ends_with(stop.as_str()))
    {
        text.truncate(text.len() - stop.len());
    }
    text
}
