//! What is wrong with an answer.

use super::answer::Termination;
use super::message::Message;

/// What kind of failure an answer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParseFailureKind {
    /// The answer did not end as its format wants, so that the conversation cannot go on from it.
    Structural,
    /// The answer ended well, but a call of a tool in it could not be read. The model can be told and asked again.
    Content,
}

/// The largest number of characters of a [`parse_failure`] detail.
const MAX_DETAIL: usize = 16_384;

/// What is wrong with a parsed answer, and its description of at most 16 384 characters. `None` if nothing is.
///
/// # Example: an answer that was cut
/// ```
/// use tinkex::chat::{Message, ParseFailureKind, Termination, parse_failure};
///
/// let failure = parse_failure(&Message::assistant("And th"), Termination::Malformed);
/// assert_eq!(failure.map(|(kind, _)| kind), Some(ParseFailureKind::Structural));
/// assert_eq!(parse_failure(&Message::assistant("Yes."), Termination::StopSequence), None);
/// ```
pub fn parse_failure(message: &Message, termination: Termination) -> Option<(ParseFailureKind, String)> {
    if !termination.is_clean() {
        let detail = "the answer did not end with a stop sequence; it may have been cut at max_tokens";
        return Some((ParseFailureKind::Structural, detail.into()));
    }
    let errors: Vec<&str> = message.unparsed_tool_calls.iter().map(|call| call.error.as_str()).collect();
    let detail: String = errors.join("\n").chars().take(MAX_DETAIL).collect();
    (!errors.is_empty()).then_some((ParseFailureKind::Content, detail))
}
