//! Where the prompt comes from, and how an answer is printed.

use std::borrow::Cow;
use std::io::{IsTerminal, Read};
use std::path::Path;

use crate::failure::Failure;
use crate::{nearby_files, printable};

/// The prompt: `@FILE` names a file, `@@…` is a text that begins with @, and nothing or `-` is stdin.
pub(super) fn read(argument: Option<&str>, raw: bool) -> Result<String, Failure> {
    let (name, bytes) = match argument {
        Some(text) if text.starts_with("@@") => return not_empty(text[1..].to_owned()),
        Some(text) if text.starts_with('@') => {
            let name = &text[1..];
            let bytes = std::fs::read(name).map_err(|error| {
                let failure = Failure::text(format!("cannot read the prompt {name}: {error}"));
                nearby_files::explained(failure, Path::new(name))
            })?;
            (name.to_owned(), bytes)
        }
        Some(text) if text != "-" => return not_empty(text.to_owned()),
        asked => {
            let mut stdin = std::io::stdin();
            if asked.is_none() && stdin.is_terminal() {
                return Err(Failure::usage("no prompt is given").with_remedy("tinkex sample \"a text\""));
            }
            let mut bytes = Vec::new();
            stdin
                .read_to_end(&mut bytes)
                .map_err(|error| Failure::text(format!("cannot read the prompt from stdin: {error}")))?;
            ("stdin".to_owned(), bytes)
        }
    };
    let text = String::from_utf8(bytes).map_err(|error| {
        let n = error.utf8_error().valid_up_to();
        Failure::text(format!("{name}: the prompt is not valid UTF-8 after {n} bytes"))
    })?;
    // The last line of a file ends, which is not a part of what is asked.
    let line = text.strip_suffix('\n').map(|it| it.strip_suffix('\r').unwrap_or(it));
    if let Some(line) = line.filter(|_| !raw) {
        return not_empty(line.to_owned());
    }
    not_empty(text)
}

fn not_empty(text: String) -> Result<String, Failure> {
    if text.is_empty() { Err(Failure::usage("the prompt is empty")) } else { Ok(text) }
}

/// An answer for a terminal without characters that control it; for a program as it is.
pub(crate) fn printed(text: &str) -> Cow<'_, str> {
    if std::io::stdout().is_terminal() { Cow::Owned(printable::text(text)) } else { Cow::Borrowed(text) }
}
