//! Errors of the library in the words of this program: no names of Rust, and no address of the engine in this process.

use std::borrow::Cow;

use parking_lot::Mutex;
use tinkex::Error;

use super::foreign;

/// The addresses of the engines in this process.
static ENGINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// What the library says, and what a user of this program can do.
const WORDS: [(&str, &str); 14] = [
    (
        "set TINKER_API_KEY or call ServiceClientBuilder::api_key, or set TINKER_CREDENTIAL_CMD, or store a default key \
         in ~/.tinker/credentials.json",
        "none in TINKER_API_KEY, of TINKER_CREDENTIAL_CMD, or in ~/.tinker/credentials.json",
    ),
    (" or call ServiceClientBuilder::api_key", ""),
    (
        "for a server that takes any key, call ServiceClientBuilder::allow_any_key",
        "a server other than the service, which --base-url names, may take any key",
    ),
    ("use a lower rank, unload models, or raise Options::max_memory_bytes", "use a lower rank"),
    ("as many as Options::max_samplers allows; finish a session first", "as many as the engine allows"),
    ("`Bpe::download` or the program `hf`", "the program `hf`"),
    ("; `ignore_unknown_keys` of the reader reads the line without it", ""),
    ("within Timeouts::operation", "within the time limit (--timeout)"),
    ("load a copy with Bpe::from_dir", "name a copy with --tokenizer"),
    ("Options::", "the engine's "),
    ("lora_config.rank: ", "--rank "),
    // Of the standard library, in errors of arguments.
    ("invalid float literal", "not a number"),
    ("number would be zero for non-zero type", "must be at least 1"),
    ("invalid digit found in string", "not a whole number"),
];

/// Says that the engine of `--local` is at this address, which changes with each start and means nothing to the user.
pub(crate) fn engine_is_at(url: &str) {
    ENGINES.lock().push(url.to_owned());
}

/// The options by which another command finds the server that was asked last, each with a space before it.
static PLACE: Mutex<String> = Mutex::new(String::new());

/// Tells by which options another command finds the server.
pub(crate) fn server_is_at(place: String) {
    *PLACE.lock() = place;
}

/// A remedy whose commands ask the same server.
pub(crate) fn with_place(remedy: &str) -> String {
    placed(remedy, &PLACE.lock())
}

fn placed(remedy: &str, place: &str) -> String {
    const COMMANDS: [&str; 5] = ["checkpoint list", "run list", "model list", "session list", "doctor"];
    let command = |text: String, name: &&str| {
        text.replace(&format!("`tinkex {name}`"), &format!("`tinkex {name}{place}`"))
    };
    COMMANDS.iter().fold(remedy.to_owned(), command)
}

/// The message of an error.
pub(crate) fn message(error: &Error) -> String {
    own(error.message())
}

/// An error in a line: what failed, why, and what is known about it. The causes are not a part of it.
pub(crate) fn line(error: &Error) -> String {
    // Of something that does not exist, the server says what it is.
    let operation = error.operation().filter(|_| !error.is_not_found());
    let reason = foreign::reason(error);
    let operation = operation.filter(|_| reason.is_none());
    let mut line = match operation {
        // Some messages begin with the method.
        Some(operation) => match error.message().strip_prefix(operation) {
            Some(rest) => format!("{}{}", verb(operation), own(rest)),
            None => format!("{} failed: {}", verb(operation), message(error)),
        },
        None => reason.unwrap_or_else(|| message(error)),
    };
    let url = error.url().filter(|url| !is_of_engine(url)).map(str::to_owned);
    let attempts = error.attempts().filter(|n| 1 < *n).map(|n| format!("{n} attempts"));
    let elapsed = error.elapsed().map(|it| it.as_secs_f64()).filter(|it| 1.0 <= *it);
    let elapsed = elapsed.map(|it| format!("{it:.1} s"));
    let facts: Vec<String> = url.into_iter().chain(attempts).chain(elapsed).collect();
    if !facts.is_empty() {
        line += &format!(" ({})", facts.join(", "));
    }
    line
}

/// The method of the library that failed, as a verb: `RestClient.get_server_capabilities` is `get server capabilities`.
fn verb(operation: &str) -> String {
    let name = operation.rsplit('.').next().unwrap_or(operation);
    // The library has methods for ids and for paths; for the user they are one.
    let name =
        ["_from_tinker_path", "_by_tinker_path"].iter().find_map(|it| name.strip_suffix(it)).unwrap_or(name);
    name.replace('_', " ")
}

fn is_of_engine(url: &str) -> bool {
    ENGINES.lock().iter().any(|engine| url.starts_with(engine.as_str()))
}

/// A text of the log without names of Rust, and without the cause of what it has said.
pub(crate) fn logged(text: &str) -> String {
    const EARLIER: &str = "does not exist any more, trying the one before it";
    match text.find(EARLIER) {
        Some(at) => text[..at + EARLIER.len()].to_owned(),
        None => own(&waiting(text).unwrap_or_else(|| text.to_owned())),
    }
}

/// A warning about a call that waits, with the call as a verb and without the stages of the library.
fn waiting(text: &str) -> Option<String> {
    const START: &str = "still waiting: ";
    let (operation, rest) = text.strip_prefix(START)?.split_once(" is ")?;
    let (stage, rest) = rest.split_once(" since ")?;
    let is_word = stage.chars().all(char::is_alphabetic);
    is_word.then(|| format!("{START}{}, since {rest}", verb(operation)))
}

/// A text without names of Rust.
pub(crate) fn own(text: &str) -> String {
    let mut text = Cow::Borrowed(text);
    for (of_library, of_program) in WORDS {
        if text.contains(of_library) {
            text = text.replace(of_library, of_program).into();
        }
    }
    for engine in ENGINES.lock().iter() {
        if text.contains(engine.as_str()) {
            text = text.replace(engine.as_str(), "the engine").into();
        }
    }
    text.into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_waits_is_named_as_a_verb() {
        let text = "still waiting: delete_checkpoint_from_tinker_path is Submitting since 30s, http://x has not answered yet";
        assert_eq!(
            logged(text),
            "still waiting: delete checkpoint, since 30s, http://x has not answered yet"
        );
        assert_eq!(logged("still waiting: all is well"), "still waiting: all is well");
    }

    #[test]
    fn a_remedy_asks_the_server_of_the_command() {
        let of = |remedy| placed(remedy, " --local=w");
        assert_eq!(of("`tinkex doctor` examines it"), "`tinkex doctor --local=w` examines it");
        assert_eq!(of("`tinkex checkpoint list --local=x`"), "`tinkex checkpoint list --local=x`");
        assert_eq!(of("-m MODEL; `tinkex model list`"), "-m MODEL; `tinkex model list --local=w`");
    }

    #[test]
    fn names_of_the_library_become_words_of_the_program() {
        for (text, expected) in [
            ("not found", "not found"),
            (
                "4 samplers exist, as many as Options::max_samplers allows; finish a session first",
                "4 samplers exist, as many as the engine allows",
            ),
            (
                "k must start with tml-; for a server that takes any key, call ServiceClientBuilder::allow_any_key",
                "k must start with tml-; a server other than the service, which --base-url names, may take any key",
            ),
            ("Options::threads must be at most 1024", "the engine's threads must be at most 1024"),
            ("download it with `Bpe::download` or the program `hf`", "download it with the program `hf`"),
        ] {
            assert_eq!(own(text), expected);
        }
        assert_eq!(verb("RestClient.get_server_capabilities"), "get server capabilities");
        assert_eq!(verb("sample"), "sample");
        assert_eq!(verb("delete_checkpoint_from_tinker_path"), "delete checkpoint");
    }

    /// The texts of the library that name parts of itself: a new one needs words of the program.
    #[test]
    fn each_text_of_the_library_that_names_a_rust_path_has_words_of_the_program() {
        fn sources(folder: &std::path::Path, all: &mut Vec<String>) {
            for entry in std::fs::read_dir(folder).unwrap().flatten() {
                let path = entry.path();
                let is_other =
                    ["cli", "ffi", "testing", "tests.rs", "_docs"].iter().any(|it| path.ends_with(it));
                if path.is_dir() && !is_other {
                    sources(&path, all);
                } else if path.extension().is_some_and(|it| it == "rs") && !is_other {
                    all.push(std::fs::read_to_string(&path).unwrap());
                }
            }
        }
        let mut all = Vec::new();
        sources(std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut all);
        assert!(100 < all.len());
        // Comments, attributes, and bytes that are quotes.
        let code = |line: &&str| {
            !["//", "#"].iter().any(|it| line.trim_start().starts_with(it)) && !line.contains("b'\"'")
        };
        for line in
            all.iter().flat_map(|text| text.split("#[cfg(test)]").next().unwrap().lines()).filter(code)
        {
            // The texts in quotes are each second part.
            for text in line.split('"').skip(1).step_by(2) {
                let named = |it: &&str| it.contains("::") && it.chars().any(|it| it.is_ascii_uppercase());
                for word in text.split(|it: char| !(it.is_alphanumeric() || ":_".contains(it))).filter(named)
                {
                    assert!(!own(text).contains(word), "{line}");
                }
            }
        }
    }
}
