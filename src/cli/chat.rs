//! `tinkex chat`: a conversation with a model, line by line.

use std::io::{BufRead, IsTerminal};

use tinkex::chat::Message;

use super::connection::App;
use super::failure::Failure;
use super::notes;
use super::sample::{Sampler, Settings, printed};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    settings: Settings,
}

const HELP: &str =
    "/reset begins anew, /system TEXT sets the system message and begins anew, /quit or Ctrl-D ends";

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Nothing,
    Quit,
    Reset,
    System(&'a str),
    Help,
    Unknown(&'a str),
    Say(&'a str),
}

/// A line that begins with `//` is a text that begins with a slash.
fn read(line: &str) -> Line<'_> {
    let line = line.trim_end_matches(['\r', '\n']);
    if line.trim().is_empty() {
        return Line::Nothing;
    }
    let Some(command) = line.strip_prefix('/') else { return Line::Say(line) };
    if command.starts_with('/') {
        return Line::Say(command);
    }
    let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    match name {
        "quit" | "exit" => Line::Quit,
        "reset" => Line::Reset,
        "system" => Line::System(rest.trim()),
        "help" => Line::Help,
        _ => Line::Unknown(name),
    }
}

pub(crate) fn run(args: Args, app: &App) -> Result<(), Failure> {
    let mut sampler = Sampler::open(&args.settings, false, app)?;
    let is_asked = std::io::stdin().is_terminal();
    if is_asked {
        app.note(HELP);
    }
    let mut messages: Vec<Message> = Vec::new();
    let mut stdin = std::io::stdin().lock();
    let mut bytes = Vec::new();
    loop {
        if is_asked {
            notes::ask("> ");
        }
        bytes.clear();
        let n = stdin
            .read_until(b'\n', &mut bytes)
            .map_err(|error| Failure::text(format!("cannot read from stdin: {error}")))?;
        if n == 0 {
            return Ok(());
        }
        let Ok(line) = std::str::from_utf8(&bytes) else {
            app.note("note: the line is not valid UTF-8 and was left out");
            continue;
        };
        let text = match read(line) {
            Line::Nothing => continue,
            Line::Quit => return Ok(()),
            Line::Help => {
                app.note(HELP);
                continue;
            }
            Line::Unknown(name) => {
                app.note(&format!("note: /{name} is not a command; {HELP}; // begins a text with a slash"));
                continue;
            }
            Line::Reset => {
                messages.clear();
                continue;
            }
            Line::System(text) => {
                sampler.set_system(text);
                messages.clear();
                continue;
            }
            Line::Say(text) => text,
        };
        messages.push(Message::user(text));
        let answer = sampler.prompt_of(&messages).map_err(Failure::text).and_then(|prompt| {
            sampler.client.sample(&prompt, 1, &sampler.params).wait().map_err(Failure::from)
        });
        match answer {
            Ok(response) => {
                let Some(sequence) = response.sequences.first() else { continue };
                let answer = sampler.answer(sequence);
                // A conversation has no end at which one document could be written: each answer is a line, with -f json, too.
                let line = if app.out.is_json() {
                    answer.json(false).to_string()
                } else {
                    printed(&answer.text).into_owned()
                };
                app.out.line(&line)?;
                messages.push(sampler.message(sequence));
            }
            // The end of the session has ended the request.
            Err(failure) if app.stop.is_asked() => return Err(failure),
            // A person can try again; a script must not go on with another conversation.
            Err(failure) if is_asked => {
                messages.pop();
                failure.report(app.out.is_json());
            }
            Err(failure) => return Err(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_begin_with_a_slash_are_commands() {
        for (line, expected) in [
            ("Hi\n", Line::Say("Hi")),
            ("  \r\n", Line::Nothing),
            ("/quit\n", Line::Quit),
            ("/exit", Line::Quit),
            ("/reset\r\n", Line::Reset),
            ("/system Be brief. \n", Line::System("Be brief.")),
            ("/system\n", Line::System("")),
            ("/help\n", Line::Help),
            ("/foo bar\n", Line::Unknown("foo")),
            ("//etc/passwd\n", Line::Say("/etc/passwd")),
            ("a /quit\n", Line::Say("a /quit")),
        ] {
            assert_eq!(read(line), expected, "{line:?}");
        }
    }
}
