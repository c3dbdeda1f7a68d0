//! A conversation that a template renders, and where in the text answers begin and end.

use minijinja::value::Value;

use super::guard::{Guard, Written};
use super::inputs::{self, Rewrite};
use super::{TemplateRenderer, values};
use crate::chat::json::{Json, Style};
use crate::chat::message::{Message, Part};
use crate::error::{Error, Result};
use crate::types::Stop;

/// The messages of a conversation, ready to be rendered up to any of them.
#[derive(Debug)]
pub(super) struct Conversation<'a> {
    renderer: &'a TemplateRenderer,
    messages: &'a [Message],
    guard: Guard<'a>,
    broken: Inputs,
    guarded: Inputs,
}

/// What the template is given.
#[derive(Debug)]
struct Inputs {
    /// `None` for a message that only declares tools.
    messages: Vec<Option<Value>>,
    tools: Option<Value>,
}

/// An answer: the text of the conversation up to its end.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// The prompt that asks for the answer, without guards.
    pub(super) prompt: String,
    /// The prompt and the answer with its stop token, without guards; or why its end is not known.
    pub(super) text: std::result::Result<String, String>,
}

impl Answer {
    /// True if the text begins with the prompt and the answer.
    pub(super) fn begins(&self, text: &str) -> bool {
        text.starts_with(&self.prompt) && self.text.as_ref().is_ok_and(|answer| text.starts_with(answer))
    }
}

impl<'a> Conversation<'a> {
    pub(super) fn new(renderer: &'a TemplateRenderer, messages: &'a [Message]) -> Result<Self> {
        let json = |rewrite: Rewrite<'_>| -> Result<(Vec<Option<Json>>, Option<Json>)> {
            let list = messages.iter().enumerate();
            let list = list.map(|(i, message)| inputs::message(i, message, &renderer.options, rewrite));
            Ok((list.collect::<Result<_>>()?, inputs::tools(messages, rewrite)?))
        };
        let (list, tools) = json(&|text| Ok(text.to_owned()))?;
        let mut everything = renderer.written.clone();
        for json in list.iter().flatten().chain(&tools) {
            everything += &json.write(Style::TEMPLATE);
        }
        let guard = Guard::new(renderer.tokenizer.as_ref(), &everything)?;
        let inputs = |(messages, tools): (Vec<Option<Json>>, Option<Json>)| -> Result<Inputs> {
            let mut list = Vec::with_capacity(messages.len());
            for (i, message) in messages.iter().enumerate() {
                let path = format!("messages[{i}].tool_calls");
                list.push(message.as_ref().map(|json| value(json, &path)).transpose()?);
            }
            let tools = tools.as_ref().map(|json| value(json, "messages[0].tools")).transpose()?;
            Ok(Inputs { messages: list, tools })
        };
        let broken = inputs(json(&|text| guard.broken(text))?)?;
        let mut guarded = inputs(json(&|text| Ok(guard.guarded(text)))?)?;
        // Templates look into the schemas of tools.
        guarded.tools.clone_from(&broken.tools);
        Ok(Conversation { renderer, messages, guard, broken, guarded })
    }

    pub(super) fn messages(&self) -> &'a [Message] {
        self.messages
    }

    fn render(&self, inputs: &Inputs, tools: bool, n: usize, prompt: bool) -> Result<String> {
        let messages: Vec<Value> = inputs.messages[..n].iter().flatten().cloned().collect();
        let tools = inputs.tools.clone().filter(|_| tools).unwrap_or_else(|| Value::from(()));
        let variables = self.renderer.variables.iter().cloned().chain([
            ("messages".to_owned(), Value::from(messages)),
            ("tools".to_owned(), tools),
            ("documents".to_owned(), Value::from(())),
            ("add_generation_prompt".to_owned(), Value::from(prompt)),
        ]);
        self.renderer.engine.render(Value::from_pairs(variables))
    }

    fn broken(&self, n: usize, prompt: bool) -> Result<Written<'a>> {
        Ok(Written::new(self.guard, self.render(&self.broken, true, n, prompt)?, false))
    }

    /// The text of the first messages, with or without a prompt for an answer to them.
    pub(super) fn written(&self, n: usize, prompt: bool) -> Result<Written<'a>> {
        let broken = self.broken(n, prompt)?;
        let plain = broken.plain();
        if self.broken.tools.is_some() {
            let without = self.render(&self.broken, false, n, prompt);
            if without.is_ok_and(|without| self.guard.plain(&without) == plain) {
                return Err(Error::invalid("messages[0].tools", "the template leaves tools out"));
            }
        }
        // An error here means that the template looks into texts.
        let guarded = self.render(&self.guarded, true, n, prompt);
        let guarded = guarded.ok().map(|text| Written::new(self.guard, text, true));
        match guarded {
            Some(guarded) if guarded.plain() == plain => Ok(guarded),
            Some(guarded) if guarded.markers()? == broken.markers()? => Ok(broken),
            _ => {
                let problem = "contain a text that the template changes or answers to, so that it cannot be told whether \
                               a marker comes from the template or from the text";
                Err(Error::invalid("messages", problem))
            }
        }
    }

    /// An answer, and the prompt that asks for it.
    pub(super) fn answer(&self, index: usize) -> Result<Answer> {
        let prompt = self.broken(index, true)?.plain();
        let written = self.broken(index + 1, false)?;
        let plain = written.plain();
        let text = if plain.starts_with(&prompt) {
            let start = written.place(prompt.len());
            self.end(&written.text()[start..]).map(|end| {
                let answer = self.guard.plain(&written.text()[start..start + end]);
                prompt.clone() + &answer
            })
        } else {
            Err("the template's prompt for this answer is not the beginning of the conversation with it, so that it \
                 cannot be told what the model writes"
                .into())
        };
        Ok(Answer { prompt, text })
    }

    /// Where an answer ends: behind its stop token.
    fn end(&self, answer: &str) -> std::result::Result<usize, String> {
        if let Stop::Strings(stops) = &self.renderer.stop {
            let plain = self.guard.plain(answer);
            // The template may write more than the stop itself at the end, such as a further line break.
            let n_answer = plain.trim_end().len();
            let early =
                |stop: &&String| plain.find(stop.as_str()).is_some_and(|at| at + stop.len() < n_answer);
            return match stops.iter().find(early) {
                Some(stop) => Err(format!(
                    "the stop text {stop:?} stands in this answer before its end, but the model stops at the first"
                )),
                None => Ok(answer.len()),
            };
        }
        let mut ends = Vec::new();
        for (_, text) in &self.renderer.stop_tokens {
            ends.extend(answer.match_indices(text.as_str()).map(|(at, _)| at + text.len()));
        }
        let names = || {
            let names: Vec<&str> = self.renderer.stop_tokens.iter().map(|(_, text)| text.as_str()).collect();
            names.join(", ")
        };
        match ends[..] {
            [end] if self.guard.plain(&answer[end..]).trim().is_empty() => Ok(end),
            [_] => Err(format!(
                "the template writes more than white space after the stop token ({}) of this answer, which the model \
                 never writes",
                names()
            )),
            [] => Err(format!(
                "the template writes no stop token ({}) at the end of this answer; set `stop` in the options to the \
                 token that it writes there",
                names()
            )),
            _ => Err(format!(
                "the template writes {} stop tokens ({}) in this answer, but the model stops at the first",
                ends.len(),
                names()
            )),
        }
    }

    /// Refuses messages of other roles than user and assistant, such as a system message, that the template leaves out.
    pub(super) fn check_others(&self, n: usize, prompt: bool) -> Result<()> {
        let plain = self.broken(n, prompt)?.plain();
        for (i, message) in self.messages[..n].iter().enumerate() {
            if matches!(message.role.as_str(), "user" | "assistant") || message.text().trim().is_empty() {
                continue;
            }
            // Another text tells more than no message: many templates insert a system message where there is none.
            let mut messages = self.messages[..n].to_vec();
            messages[i].content.push(Part::Text("x".into()));
            let other = Conversation::new(self.renderer, &messages)?.broken(n, prompt);
            if other.is_ok_and(|other| other.plain() == plain) {
                let problem = format!(
                    "the template leaves this message out; put its text into a message of the user, or remove the {} \
                     message",
                    message.role
                );
                return Err(Error::invalid(format!("messages[{i}]"), problem));
            }
        }
        Ok(())
    }

    /// Refuses an answer of which the template leaves something out.
    pub(super) fn check_whole(&self, index: usize) -> Result<()> {
        let message = &self.messages[index];
        let has_text = !message.text().trim().is_empty();
        let thinks = message.thinking().is_some_and(|thoughts| !thoughts.trim().is_empty());
        let calls = !message.tool_calls.is_empty();
        let plain = self.broken(index + 1, false)?.plain();
        let check = |remove: &dyn Fn(&mut Message), field: &str, thing: &str| {
            let mut messages = self.messages[..=index].to_vec();
            remove(&mut messages[index]);
            let other = Conversation::new(self.renderer, &messages)?;
            match other.broken(index + 1, false) {
                Ok(other) if other.plain() == plain => {
                    let problem = format!("the template leaves {thing} of this answer out");
                    Err(Error::invalid(format!("messages[{index}].{field}"), problem))
                }
                _ => Ok(()),
            }
        };
        if thinks {
            check(
                &|message| message.content.retain(|part| !matches!(part, Part::Thinking(_))),
                "content",
                "the thought",
            )?;
        }
        if calls {
            check(&|message| message.tool_calls.clear(), "tool_calls", "the calls of tools")?;
        }
        if has_text {
            check(
                &|message| message.content.retain(|part| !matches!(part, Part::Text(_))),
                "content",
                "the text",
            )?;
        }
        Ok(())
    }
}

/// A value for the template. `path` is where its numbers come from.
fn value(json: &Json, path: &str) -> Result<Value> {
    values::value(json)
        .map_err(|number| Error::invalid(path, format!("the number {number} is too large for a template")))
}
