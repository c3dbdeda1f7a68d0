//! Reads a secret from the terminal, which does not show it, or from a pipe.

use std::io::{BufRead, IsTerminal};

use crate::failure::Failure;
use crate::notes;

/// Longest secret in bytes.
const LONGEST: usize = 16 * 1024;
const SIGINT: u8 = 2;
const CTRL_C: u8 = 3;
const CTRL_D: u8 = 4;
const CTRL_U: u8 = 0x15;
const BACKSPACE: [u8; 2] = [8, 0x7f];

/// Reads one line from stdin. `prompt` is shown on a terminal.
pub(super) fn read(prompt: &str) -> Result<String, Failure> {
    let line = if std::io::stdin().is_terminal() { ask(prompt)? } else { line_of_pipe()? };
    let text = String::from_utf8(line).map_err(|_| Failure::usage("the key is not valid UTF-8"))?;
    let text = text.trim();
    if text.is_empty() {
        return Err(Failure::usage("no API key was given")
            .with_remedy("type it, or pipe it: tinkex auth login < key.txt"));
    }
    Ok(text.to_owned())
}

fn line_of_pipe() -> Result<Vec<u8>, Failure> {
    bytes_until(std::io::stdin().lock(), |byte, line| match byte {
        b'\n' => Key::End,
        byte => {
            line.push(byte);
            Key::More
        }
    })
}

/// What a byte of the input means.
enum Key {
    More,
    End,
    Interrupt,
}

fn typed(byte: u8, line: &mut Vec<u8>) -> Key {
    match byte {
        b'\n' | b'\r' | CTRL_D => return Key::End,
        CTRL_C => return Key::Interrupt,
        CTRL_U => line.clear(),
        byte if BACKSPACE.contains(&byte) => {
            line.pop();
        }
        byte => line.push(byte),
    }
    Key::More
}

fn bytes_until(
    input: impl BufRead,
    mut read: impl FnMut(u8, &mut Vec<u8>) -> Key,
) -> Result<Vec<u8>, Failure> {
    let mut line = Vec::new();
    for byte in input.bytes() {
        let byte = byte.map_err(|error| Failure::text(format!("cannot read the key: {error}")))?;
        match read(byte, &mut line) {
            Key::More if line.len() <= LONGEST => {}
            Key::More => return Err(Failure::usage(format!("the key is longer than {LONGEST} bytes"))),
            Key::End => break,
            Key::Interrupt => return Err(Failure::signal(SIGINT)),
        }
    }
    Ok(line)
}

/// Asks on the terminal. It neither shows what is typed nor turns Ctrl-C into a signal, which would leave it so.
#[cfg(unix)]
fn ask(prompt: &str) -> Result<Vec<u8>, Failure> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

    let failed = |error: rustix::io::Errno| Failure::text(format!("cannot set up the terminal: {error}"));
    let stdin = std::io::stdin();
    let before = tcgetattr(&stdin).map_err(failed)?;
    let mut silent = before.clone();
    silent.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
    tcsetattr(&stdin, OptionalActions::Flush, &silent).map_err(failed)?;
    notes::write(prompt.trim_end());
    let line = bytes_until(stdin.lock(), typed);
    tcsetattr(&stdin, OptionalActions::Flush, &before).map_err(failed)?;
    line
}

#[cfg(not(unix))]
fn ask(_: &str) -> Result<Vec<u8>, Failure> {
    Err(Failure::usage("the terminal would show the key").with_remedy("pipe it: tinkex auth login < key.txt"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn typed_lines_can_be_corrected_and_interrupted() {
        let read = |text: &str| bytes_until(text.as_bytes(), typed);
        for (text, line) in [("ab\n", "ab"), ("ab\x7fc\rx", "ac"), ("wrong\x15ok\x04", "ok"), ("\x7fa", "a")]
        {
            assert_eq!(read(text).unwrap(), line.as_bytes(), "{text:?}");
        }
        assert!(matches!(read("ab\x03c\n"), Err(Failure::Signal { signal: 2, .. })));
        assert!(matches!(read(&"x".repeat(LONGEST + 2)), Err(Failure::Usage { .. })));
    }
}
