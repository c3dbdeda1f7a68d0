//! Base models: `User: …` and `Assistant: …`.

use crate::chat::answer::{Answer, Termination, text_of};
use crate::chat::family::{At, Begin, Ends, Family, Splits};
use crate::chat::message::Message;
use crate::chat::pieces::{Pieces, Rendered};
use crate::error::Result;

const NAME: &str = "role_colon";
const STOP: &str = "\n\nUser:";

#[derive(Debug)]
pub(in crate::chat) struct RoleColon;

impl Family for RoleColon {
    fn markers(&self) -> &'static [&'static str] {
        &[]
    }

    fn begin(&self) -> Begin {
        Begin::Bos
    }

    fn message(&self, at: &At<'_>) -> Result<Rendered> {
        at.no_tools(NAME)?;
        let mut rendered = Rendered { stop_overlap: "User:", ..Rendered::default() };
        rendered.header().text(header(&at.message().role));
        rendered.output().text(" ").text(at.only_text(NAME)?).text("\n\n");
        Ok(rendered)
    }

    fn suffix(&self, role: &str, _at: &At<'_>) -> Pieces {
        let mut pieces = Pieces::default();
        pieces.text(header(role));
        pieces
    }

    fn stop(&self) -> Ends {
        Ends::Text(STOP)
    }

    fn takes_any_role(&self) -> bool {
        true
    }

    fn splits(&self) -> Splits {
        Splits::Whole
    }

    fn parse(&self, answer: Answer) -> Result<(Message, Termination)> {
        let text = text_of(&answer.spans);
        let mut pieces = text.split(STOP);
        let content = pieces.next().unwrap_or_default();
        let content = content.strip_prefix(' ').unwrap_or(content);
        let content = content.strip_suffix("\n\n").unwrap_or(content);
        let termination = match (pieces.count(), answer.ended_with_eos) {
            (0, true) => Termination::Eos,
            (1, false) => Termination::StopSequence,
            _ => Termination::Malformed,
        };
        Ok((Message::assistant(content), termination))
    }
}

/// The role with a capital letter, and a colon.
fn header(role: &str) -> String {
    let mut letters = role.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}:", letters.as_str().to_lowercase())
}
