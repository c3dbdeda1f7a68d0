//! Llama 3 Instruct.

use crate::chat::answer::{Answer, Termination, text_of};
use crate::chat::family::{At, Begin, Ends, Family, Splits};
use crate::chat::message::Message;
use crate::chat::pieces::{Pieces, Rendered};
use crate::error::Result;

const NAME: &str = "llama3";
const BEGIN: &str = "<|begin_of_text|>";
const HEADER: &str = "<|start_header_id|>";
const HEADER_END: &str = "<|end_header_id|>";
const END: &str = "<|eot_id|>";

#[derive(Debug)]
pub(in crate::chat) struct Llama3;

impl Family for Llama3 {
    fn markers(&self) -> &'static [&'static str] {
        &[BEGIN, HEADER, HEADER_END, END]
    }

    fn begin(&self) -> Begin {
        Begin::Marker(BEGIN)
    }

    fn message(&self, at: &At<'_>) -> Result<Rendered> {
        at.no_tools(NAME)?;
        let mut rendered = Rendered::default();
        rendered.header().extend(header(&at.message().role));
        rendered.output().text(at.only_text(NAME)?).marker(END);
        Ok(rendered)
    }

    fn suffix(&self, role: &str, _at: &At<'_>) -> Pieces {
        header(role)
    }

    fn stop(&self) -> Ends {
        Ends::Markers(&[END])
    }

    fn splits(&self) -> Splits {
        Splits::Whole
    }

    fn parse(&self, answer: Answer) -> Result<(Message, Termination)> {
        let (spans, termination) = answer.until(self.stop())?;
        Ok((Message::assistant(text_of(&spans)), termination))
    }
}

fn header(role: &str) -> Pieces {
    let mut pieces = Pieces::default();
    pieces.marker(HEADER).text(role).marker(HEADER_END).text("\n\n");
    pieces
}
